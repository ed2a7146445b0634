"""Logistic regression: the decision boundary moves between two clouds of points as it trains.

The model is one linear layer and a sigmoid, trained with SGD and momentum on the binary cross
entropy. With seed 10 it separates 99.5 % of the points at iteration 380 and stops.
"""

from collections.abc import Sequence

from _live import Live, compiled, options
from _plane import Plane

import microtorch as torch
from microtorch import nn

N = 100  # points of each class


def main(argv: Sequence[str] | None = None) -> tuple[int, float]:
    """Run the demo; the last iteration drawn and its accuracy."""
    args = options(__doc__, argv, steps=1000, seed=10)
    torch.manual_seed(args.seed)
    x0 = torch.normal(1.7 * torch.ones(N, 2), 1) + 1
    x1 = torch.normal(-1.7 * torch.ones(N, 2), 1) + 1
    x, y = torch.cat((x0, x1)), torch.cat((torch.zeros(N), torch.ones(N)))
    model = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    loss_fn = nn.BCELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step():
        probability = model(x).squeeze()
        loss = loss_fn(probability, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss, probability

    step = compiled(args, step)
    losses: list[float] = []
    with Live(args, "logistic_regression") as live:
        classes = {"class 0": x0.numpy(), "class 1": x1.numpy()}
        plane = Plane(live.figure, classes, x=(-5, 7), y=(-7, 7), low=0, high=1)
        plane.bottom.set_xlim(0, min(400, args.steps))
        for iteration in live.steps():
            loss, probability = step()
            losses.append(loss.item())
            if iteration % 20 == 0:
                accuracy = (probability.ge(0.5).float() == y).sum().item() / len(y)
                with torch.no_grad():
                    field = model(torch.from_numpy(plane.cells)).numpy()
                (w0, w1), b = model[0].weight[0].tolist(), model[0].bias.item()
                title = (f"Iteration {iteration}:  w0 = {w0:.2f},  w1 = {w1:.2f},  b = {b:.2f},  "
                         f"accuracy {accuracy:.2%}")  # fmt: skip
                plane.update(field, losses, "probability of class 1", title)
                live.draw()
                shown = iteration, accuracy
                if accuracy > 0.99:
                    break
    print(f"Iteration {shown[0]}: loss {losses[-1]:.4f}, accuracy {shown[1]:.2%}")
    return shown


if __name__ == "__main__":
    main()
