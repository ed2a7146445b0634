"""Function, hooks, grad modes, anomaly detection, autograd.functional and gradcheck.

`data/autograd/cells.txt` holds cells with PyTorch's answers: every cell runs under microtorch, and
under PyTorch where that is installed. What PyTorch cannot answer follows below.
"""

import copy
import gc
import importlib
import pathlib
import pickle
import sys
import types
import warnings
import weakref

import pytest
from process import run

import microtorch
from microtorch import nn
from microtorch.graph import engine
from microtorch.graph.node import next_seq

CELLS = pathlib.Path(__file__).parent / "data" / "autograd" / "cells.txt"


def cells():
    """`(code, answer)` of each cell; the answer is None where there is none yet."""
    found = []
    for block in CELLS.read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in block.strip().split("\n") if line and not line.startswith("#")]
        answer = None
        if lines and lines[-1].startswith("=> "):
            answer = lines.pop()[3:]
        if lines:
            found.append(("\n".join(lines), answer))
    return found


def names(torch):
    """What a cell can use."""
    log = []

    def function(fwd=None, bwd=None, **more):
        methods = {"forward": fwd, "backward": bwd, **more}
        methods = {name: staticmethod(f) for name, f in methods.items() if f is not None}
        return types.new_class(
            "Mine", (torch.autograd.Function,), exec_body=lambda space: space.update(methods)
        )

    def keep_k(ctx, inputs, output):
        ctx.k = inputs[1]

    def recorded_inside(ctx, x):
        with torch.enable_grad():
            return x * 2

    def one_without(ctx, x):
        y = x * 2
        ctx.mark_non_differentiable(y)
        return x * 1, y

    def twice_the_same(ctx, x):
        y = x * 1
        return y, y

    def seen(ctx, g, h):
        log.append((g, h))
        return h if g is None else g

    def without_zeros(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 1, x * 2

    def saves(ctx, x):
        ctx.save_for_backward(x)
        log.append((ctx.saved_tensors, ctx.needs_input_grad))
        return x * 1

    def square(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    def exponential(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    def two_exponentials(ctx, x):
        y, z = x.exp(), (2 * x).exp()
        ctx.save_for_backward(y, z, None)
        return y, z

    def two_times_saved(ctx, g, h):
        y, z, nothing = ctx.saved_tensors
        assert nothing is None
        return g * y + h * z * 2

    def in_place(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(3)

    def hooked(y, hook):
        y.register_hook(hook)
        return y

    def named(g):
        return torch.ones(3)

    def forget(p):
        p.grad = None

    def anomaly(f, **options):
        with torch.autograd.set_detect_anomaly(True, **options):
            return f()

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(2) * 3)

        def forward(self, a, b=None, k=2):
            return a * self.w * k if b is None else (a * self.w * k, b)

    class Mapped(torch.nn.Module):
        def forward(self, a):
            return {"a": a * 1}

    tensor = torch.tensor
    return {
        "torch": torch, "log": log, "copy": copy, "A": torch.autograd.functional,
        "x": tensor([1.0, 2.0], requires_grad=True), "w": tensor([3.0, 4.0], requires_grad=True),
        "n": torch.ones(2), "p": tensor([1.0, 2.0]), "q": tensor([3.0, -1.0]),
        "r": tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True),
        "m": Module(), "Mapped": Mapped, "Function": function, "double": lambda c, x, *more: x * 2,
        "keep_k": keep_k, "recorded_inside": recorded_inside, "one_without": one_without,
        "twice_the_same": twice_the_same, "seen": seen, "without_zeros": without_zeros,
        "saves": saves, "square": square, "exponential": exponential,
        "two_exponentials": two_exponentials, "two_times_saved": two_times_saved,
        "times_saved": lambda c, g: g * c.saved_tensors[0], "in_place": in_place, "hooked": hooked,
        "named": named, "forget": forget, "anomaly": anomaly,
        "once": torch.autograd.function.once_differentiable, "cubes": lambda a: (a**3).sum(),
        "gradcheck": torch.autograd.gradcheck, "gradgradcheck": torch.autograd.gradgradcheck,
    }  # fmt: skip


def shown(torch, value):
    """A result as text without the library's types and the last digits."""
    if isinstance(value, torch.Tensor):
        return f"T{rounded(value.detach().tolist())}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(shown(torch, v) for v in value)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {shown(torch, v)}' for k, v in value.items())}}}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return type(value).__name__


def rounded(value):
    # + 0.0 makes -0.0 into 0.0.
    return [rounded(v) for v in value] if isinstance(value, list) else float(f"{value:.4g}") + 0.0


def answer_of(torch, code):
    """What a cell gives: its value or exception, and the first lines of warnings."""
    *statements, expression = code.split("\n")
    scope = names(torch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if expression.startswith(" "):
                statements, expression = [*statements, expression], "None"
            exec("\n".join(statements), scope)
            text = shown(torch, eval(expression, scope))
        except Exception as error:
            text = f"{type(error).__name__}: {error}".replace("\n", " | ")
        finally:
            torch.autograd.set_detect_anomaly(False)
    # PyTorch says where in its C++ a warning comes from; the lines after the first hold paths.
    said = [str(w.message).partition("\n")[0].partition(" (Triggered")[0] for w in caught]
    return (text + "".join(f" ~ {s}" for s in said)).strip()


@pytest.mark.parametrize(("code", "answer"), cells(), ids=[c[:80] for c, _ in cells()])
def test_cell(code, answer):
    assert answer_of(microtorch, code) == answer


def test_cells_hold_what_pytorch_answers():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.*")
    for code, answer in cells():
        assert answer_of(torch, code) == answer, code


def write_answers():
    """Write PyTorch's answers into the file of cells."""
    torch = importlib.import_module("torch")
    blocks = []
    for block in CELLS.read_text(encoding="utf-8").strip().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith("=> ")]
        code = "\n".join(line for line in lines if not line.startswith("#"))
        if code:
            lines.append("=> " + answer_of(torch, code))
        blocks.append("\n".join(lines))
    CELLS.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_answers()
