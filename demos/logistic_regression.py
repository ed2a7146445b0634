"""Logistic regression: the decision boundary moves between two clouds of points as it trains.

The model is one linear layer and a sigmoid, trained with SGD and momentum on the binary cross
entropy. With seed 10 it separates 99.5 % of the points at iteration 380 and stops.
"""

from collections.abc import Sequence

import numpy as np
from _live import BANDS, BLUE, INK, ORANGE, Live, options

import microtorch as torch
from microtorch import nn

N = 100  # points of each class
X_LIMITS, Y_LIMITS = (-5, 7), (-7, 7)
GRID = np.meshgrid(np.linspace(*X_LIMITS, 121), np.linspace(*Y_LIMITS, 141))
CELLS = np.stack([axis.ravel() for axis in GRID], 1).astype(np.float32)


class Picture:
    """Points, probability and boundary above; the loss below."""

    def __init__(self, figure, x0, x1):
        self.top, self.bottom = top, bottom = figure.subplots(2, 1, height_ratios=(3.4, 1))
        style = {"edgecolors": "white", "linewidths": 0.7, "s": 42, "zorder": 3}
        top.scatter(*x0.numpy().T, c=ORANGE, marker="o", label="class 0", **style)
        top.scatter(*x1.numpy().T, c=BLUE, marker="^", label="class 1", **style)
        (self.line,) = top.plot([], [], color=INK, lw=2, label="boundary, p = 0.5", zorder=2)
        top.set(xlim=X_LIMITS, ylim=Y_LIMITS, xlabel="$x_0$", ylabel="$x_1$")
        top.legend(loc="lower left")
        top.grid(False)
        self.shade(np.zeros_like(GRID[0]))
        scale = figure.colorbar(self.field, pad=0.01, aspect=30, label="probability of class 1")
        scale.outline.set_visible(False)
        (self.loss,) = bottom.plot([], [], color=INK, lw=2)
        bottom.set(ylim=(0, 0.45), xlabel="iteration", ylabel="loss")

    def shade(self, p):
        """Ten bands of the probability p on the grid."""
        self.field = self.top.contourf(*GRID, p, levels=np.linspace(0, 1, 11), colors=BANDS)

    def update(self, linear, p, losses, title):
        """The state of the model, and the probability p it gives on the grid."""
        self.field.remove()
        self.shade(p.reshape(GRID[0].shape))
        (w0, w1), b = linear.weight[0].tolist(), linear.bias[0].item()
        x = np.array(X_LIMITS)
        self.line.set_data(x, (-w0 * x - b) / w1)
        self.loss.set_data(range(len(losses)), losses)
        self.bottom.set(xlim=(0, max(400, len(losses))), ylim=(0, max(0.45, *losses)))
        self.top.set_title(title.format(w0=w0, w1=w1, b=b))


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
    losses: list[float] = []
    with Live(args, "logistic_regression") as live:
        picture = Picture(live.figure, x0, x1)
        for iteration in live.steps():
            probability = model(x).squeeze()
            loss = loss_fn(probability, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if iteration % 20 == 0:
                accuracy = (probability.ge(0.5).float() == y).sum().item() / len(y)
                with torch.no_grad():
                    p = model(torch.from_numpy(CELLS)).numpy()
                picture.update(model[0], p, losses, f"Iteration {iteration}:  w0 = {{w0:.2f}},  "
                    f"w1 = {{w1:.2f}},  b = {{b:.2f}},  accuracy {accuracy:.2%}")  # fmt: skip
                live.draw()
                shown = iteration, accuracy
                if accuracy > 0.99:
                    break
    print(f"Iteration {shown[0]}: loss {losses[-1]:.4f}, accuracy {shown[1]:.2%}")
    return shown


if __name__ == "__main__":
    main()
