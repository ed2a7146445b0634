"""A two-layer net written twice: with autograd, and with NumPy and gradients by hand.

Both start from the same weights, so their losses are one curve; the lower panel shows how far they
are apart. NumPy works in float64, and the tensors are float32: at the end that is what parts them.
"""

from collections.abc import Callable, Sequence

import numpy as np
from _live import BLUE, GREY, INK, ORANGE, Live, compiled, options

import microtorch as torch

N, D_IN, HIDDEN, D_OUT = 64, 1000, 100, 10
LEARNING_RATE = 1e-6


def autograd_step(x, y, w1, w2) -> Callable[[], torch.Tensor]:
    """A gradient step on tensors; returns the loss before it."""

    def step():
        loss = (x.mm(w1).clamp(min=0).mm(w2) - y).pow(2).sum()
        loss.backward()
        with torch.no_grad():
            for w in (w1, w2):
                w -= LEARNING_RATE * w.grad
                w.grad.zero_()
        return loss

    return step


def numpy_step(x, y, w1, w2) -> Callable[[], float]:
    """The same step on arrays, the chain rule written out."""

    def step():
        hidden = x.dot(w1)
        active = np.maximum(hidden, 0)
        difference = active.dot(w2) - y
        g_w2 = active.T.dot(2.0 * difference)
        g_hidden = (2.0 * difference).dot(w2.T)
        g_hidden[hidden < 0] = 0
        w1[...] -= LEARNING_RATE * x.T.dot(g_hidden)
        w2[...] -= LEARNING_RATE * g_w2
        return np.square(difference).sum()

    return step


class Picture:
    """The losses above, their relative difference below."""

    def __init__(self, figure, steps):
        top, bottom = figure.subplots(2, 1, height_ratios=(2.2, 1), sharex=True)
        (self.autograd,) = top.plot([], [], color=BLUE, lw=6, alpha=0.45, label="autograd, float32")
        by_hand = "NumPy, gradients by hand, float64"
        (self.numpy,) = top.plot([], [], color=ORANGE, lw=2, ls="--", label=by_hand)
        (self.difference,) = bottom.plot([], [], color=INK, lw=1)
        bottom.axhline(2**-23, color=GREY, ls="--", lw=1)
        bottom.text(steps * 0.99, 2**-23, "float32 epsilon ", ha="right", va="bottom", size=9)
        note = "here a step is smaller than\nfloat32 weights can show"
        top.text(steps * 0.99, 1e-3, note, ha="right", va="bottom", size=9)
        top.set(yscale="log", ylim=(1e-7, 1e8), ylabel="loss, sum of squares")
        top.legend(loc="upper right")
        bottom.set(yscale="log", ylim=(1e-9, 1e3), ylabel="relative difference")
        bottom.set(xlim=(0, steps), xlabel="iteration")
        self.top = top

    def update(self, losses):
        """The losses so far, (iterations, 2)."""
        a, b = np.array(losses).T
        self.autograd.set_data(range(len(a)), a)
        self.numpy.set_data(range(len(b)), b)
        self.difference.set_data(range(len(b)), np.maximum(abs(a - b) / b, 1e-9))
        title = "Iteration {}:  loss {:.4g} with autograd, {:.4g} with NumPy"
        self.top.set_title(title.format(len(a) - 1, a[-1], b[-1]))


def main(argv: Sequence[str] | None = None) -> tuple[float, float]:
    """Run the demo; the last losses, with autograd and with NumPy."""
    args = options(__doc__, argv, steps=500, seed=10)
    torch.manual_seed(args.seed)
    data = [torch.randn(*s) for s in ((N, D_IN), (N, D_OUT), (D_IN, HIDDEN), (HIDDEN, D_OUT))]
    by_hand = numpy_step(*(t.numpy().astype(np.float64) for t in data))
    weights = [t.requires_grad_() for t in data[2:]]
    by_autograd, losses = compiled(args, autograd_step(*data[:2], *weights)), []
    with Live(args, "two_layer_net") as live:
        picture = Picture(live.figure, args.steps)
        for iteration in live.steps():
            losses.append((by_autograd().item(), by_hand()))
            if iteration % 20 == 0 or iteration == args.steps - 1:
                picture.update(losses)
                live.draw()
    print("Iteration {}: loss {:.4g} and {:.4g} with NumPy".format(iteration, *losses[-1]))
    return losses[-1]


if __name__ == "__main__":
    main()
