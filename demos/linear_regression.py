"""Linear regression: a line finds its way to 20 noisy points by gradient descent.

The gradient comes from `backward()`; the update is written by hand on `.data`. With seed 10 the
loss falls below 1 at iteration 80, and training stops.
"""

from collections.abc import Sequence

from _live import BLUE, GREY, INK, ORANGE, Live, compiled, options

import microtorch as torch

LEARNING_RATE = 0.05
EVERY = 5  # iterations between two frames; whether to stop is asked every fourth frame


class Picture:
    """Points, line and residuals, with the loss inset."""

    def __init__(self, figure, x, y):
        self.x, self.y = x.flatten().numpy(), y.flatten().numpy()
        self.axes = axes = figure.add_subplot()
        style = {"edgecolors": "white", "linewidths": 0.8, "s": 70, "zorder": 3}
        axes.scatter(self.x, self.y, c=BLUE, label="data: y = 2x + 5 + noise", **style)
        (self.line,) = axes.plot([], [], color=ORANGE, lw=3, label="fitted line")
        self.residuals = axes.vlines(self.x, self.y, self.y, colors=GREY, lw=1.2, label="residuals")
        axes.set(xlim=(0, 10.2), ylim=(0, 30), xlabel="x", ylabel="y")
        axes.legend(loc="upper left")
        self.inset = axes.inset_axes((0.62, 0.11, 0.35, 0.28), facecolor="#F7F9FA")
        (self.loss,) = self.inset.plot([], [], color=INK, lw=2)
        self.inset.axhline(1, color=GREY, ls="--", lw=1)
        self.inset.text(1, 0.85, "stop below 1", color=INK, size=9, va="top")
        self.inset.set(xlabel="iteration", ylabel="loss")

    def update(self, w, b, predicted, losses):
        """The line w x + b, its residuals and the losses so far."""
        ends = zip(self.x, self.y, predicted, strict=True)
        self.residuals.set_segments([((x, y), (x, p)) for x, y, p in ends])
        self.line.set_data((0, 10.2), (b, w * 10.2 + b))
        self.loss.set_data(range(len(losses)), losses)
        self.inset.set(xlim=(0, max(80, len(losses))), ylim=(0, max(8, *losses)))
        self.axes.set_title(f"Iteration {len(losses) - 1}:  w = {w:.3f},  b = {b:.3f},  "
                            f"loss = {losses[-1]:.4f}")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> tuple[int, float]:
    """Run the demo; the last iteration and its loss."""
    args = options(__doc__, argv, steps=1000, seed=10)
    torch.manual_seed(args.seed)
    x = torch.rand(20, 1) * 10
    y = 2 * x + (5 + torch.randn(20, 1))
    w = torch.randn((1), requires_grad=True)
    b = torch.zeros((1), requires_grad=True)

    def step():
        y_pred = torch.add(torch.mul(w, x), b)
        loss = (0.5 * (y - y_pred) ** 2).mean()
        loss.backward()
        b.data.sub_(LEARNING_RATE * b.grad)
        w.data.sub_(LEARNING_RATE * w.grad)
        w.grad.zero_()
        b.grad.zero_()
        return loss

    step = compiled(args, step)
    losses: list[float] = []
    with Live(args, "linear_regression") as live:
        picture = Picture(live.figure, x, y)
        for iteration in live.steps():
            losses.append(step().item())
            if iteration % EVERY == 0:
                predicted = (w * x + b).detach().flatten().tolist()
                picture.update(w.item(), b.item(), predicted, losses)
                live.draw()
            if iteration % (4 * EVERY) == 0 and losses[-1] < 1:
                break
    print(f"Iteration {iteration}: w {w.item():.4f}, b {b.item():.4f}, loss {losses[-1]:.4f}")
    return iteration, losses[-1]


if __name__ == "__main__":
    main()
