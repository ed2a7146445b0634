"""Function, hooks, grad modes, anomaly detection, autograd.functional and gradcheck.

`data/autograd/cells.txt` holds cells with PyTorch's answers: every cell runs under microtorch, and
under PyTorch where that is installed. What PyTorch cannot answer follows below.
"""

import copy
import gc
import importlib
import pathlib
import pickle
import types
import warnings
import weakref

import numpy as np
import pytest
from process import run

import microtorch
from microtorch import nn
from microtorch.graph.hooks import live
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


# ------------------------------------------------------------- what PyTorch cannot answer
class Exponential(microtorch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[1]


class SineAndCosine(microtorch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y, z = x.sin(), x.cos()
        ctx.save_for_backward(y, z)
        return y, z

    @staticmethod
    def backward(ctx, g, h):
        y, z = ctx.saved_tensors
        return g * z - h * y


def leaf(*values):
    return microtorch.tensor(list(values), dtype=microtorch.float64, requires_grad=True)


@pytest.mark.parametrize("backward", [False, True])
def test_reference_counts_alone_free_the_graph_of_a_function(backward):
    gc.collect()
    gc.disable()
    try:
        y, z = SineAndCosine.apply(Exponential.apply(leaf(1.0, 2.0)))
        nodes = [weakref.ref(t.grad_fn) for t in (y, z)]
        if backward:
            (y + z).sum().backward()
        del y, z
        assert [node() for node in nodes] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("f", [Exponential.apply, lambda x: sum(SineAndCosine.apply(x))])
def test_functions_differentiate_to_any_order(f):
    plain = (lambda x: x.exp()) if f == Exponential.apply else lambda x: x.sin() + x.cos()
    for function in (f, plain):
        x = leaf(0.3, -1.2)
        g = function(x).sum()
        found = []
        for _ in range(3):
            (g,) = microtorch.autograd.grad(g.sum(), x, create_graph=True)
            found.append(g.tolist())
        if function is f:
            own = found
    assert np.allclose(own, found, rtol=1e-12)


def test_arguments_of_functions_keep_their_gradients_apart():
    class Scale(microtorch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, g):
            x, y = ctx.saved_tensors
            return g * y if ctx.needs_input_grad[0] else None, g * x

    x, y = leaf(1.0, 2.0), microtorch.tensor([3.0, 4.0], dtype=microtorch.float64)
    Scale.apply(x, y).sum().backward()
    assert x.grad.tolist() == [3.0, 4.0]
    assert y.grad is None
    # The same leaf twice.
    x.grad = None
    Scale.apply(x, x).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]


def test_a_gradient_that_backward_keeps_is_copied():
    kept = microtorch.ones(2)

    class Constant(microtorch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            return kept

    x = microtorch.zeros(2, requires_grad=True)
    Constant.apply(x).sum().backward()
    x.grad.add_(1)
    assert kept.tolist() == [1.0, 1.0]


def test_an_error_in_a_hook_leaves_gradients_as_they_were():
    x, y = leaf(1.0), leaf(2.0)

    def refuse(g):
        raise KeyError("no")

    h = (x * 2) * y
    h.register_hook(refuse)
    with pytest.raises(KeyError):
        h.sum().backward()
    assert x.grad is None and y.grad is None
    assert microtorch.is_grad_enabled()


def test_removed_and_dead_hooks_cost_nothing():
    gc.collect()
    before = len(live)
    x = leaf(1.0)
    handle = x.register_hook(print)
    y = x * 2
    # A hook may refer to its tensor.
    y.register_hook(lambda g, y=y: None)
    assert len(live) == before + 2
    handle.remove()
    assert len(live) == before + 1
    del y
    gc.collect()
    assert len(live) == before
    x.register_post_accumulate_grad_hook(print).remove()
    assert len(live) == before


def test_hooks_of_modules_are_copied_and_pickled_with_them():
    net = nn.Linear(2, 2)
    net.register_forward_hook(doubled)
    x = microtorch.ones(1, 2)
    assert pickle.loads(pickle.dumps(net))(x).tolist() == net(x).tolist()
    assert net(x).tolist() == (2 * net.forward(x)).tolist()


def doubled(module, args, output):
    return 2 * output


def test_anomaly_detection_shows_the_forward_line_and_is_off_without_a_trace():
    x = leaf(0.0, 1.0)
    with microtorch.autograd.set_detect_anomaly(True):
        y = (x * 0).sqrt().mul(0)  # the line to be shown
        with pytest.warns(UserWarning, match="the line to be shown") as caught:
            with pytest.raises(RuntimeError, match="'SqrtBackward0' returned nan values in its 0"):
                y.sum().backward()
    text = str(caught[0].message)
    assert "Error detected in SqrtBackward0" in text
    assert f"{__name__.rpartition('.')[2]}.py" in text and "microtorch/functions" not in text
    assert x.grad is None
    for name in ("elementwise", "op", "view"):
        module = importlib.import_module(f"microtorch.functions.{name}")
        assert module.next_seq is next_seq
    assert not importlib.import_module("microtorch.autograd.anomaly")._traces


def test_traces_go_with_their_graphs():
    anomaly = importlib.import_module("microtorch.autograd.anomaly")
    x = leaf(1.0)
    with microtorch.autograd.set_detect_anomaly(True):
        for _ in range(5):
            (x * 2).exp().sum().backward()
        assert not anomaly._traces


def test_big_parts_of_autograd_are_loaded_on_demand(tmp_path):
    code = (
        "import sys, microtorch as torch\n"
        "parts = ('functional', 'gradcheck', 'anomaly')\n"
        "assert not any('microtorch.autograd.' + p in sys.modules for p in parts)\n"
        "assert 'microtorch.derive' not in sys.modules\n"
        "assert callable(torch.autograd.gradcheck) and callable(torch.autograd.gradgradcheck)\n"
        "assert callable(torch.autograd.gradcheck)\n"
        "assert callable(torch.autograd.functional.jacobian)\n"
        "from microtorch.autograd import gradcheck, functional, set_detect_anomaly\n"
        "assert callable(gradcheck) and callable(set_detect_anomaly)\n"
    )
    run(code, tmp_path, "-W", "error")


def test_gradients_of_a_table_row_pass_gradcheck():
    x, y = leaf(0.3, 1.1), leaf(0.7, 2.0)
    assert microtorch.autograd.gradcheck(microtorch.atan2, (x, y))
    assert microtorch.autograd.gradgradcheck(microtorch.atan2, (x, y))


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


PIECEWISE = """
F.relu(x)
(x * 1).relu_()
x.abs()
F.leaky_relu(x)
F.hardtanh(x)
F.relu6(x)
F.threshold(x, 0.5, 1.0)
F.relu(x) ** 2 * 3
F.l1_loss(x, y)
F.l1_loss(x, y, reduction="none")
x.norm(1)
x.clamp(-1, 1)
torch.maximum(x, y)
torch.where(x > 0, x, y)
x.sign()
x.floor()
F.elu(x)
F.hardswish(x)
"""


@pytest.mark.parametrize("code", PIECEWISE.strip().splitlines())
def test_second_derivatives_of_piecewise_functions(code):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def result(torch):
        x = torch.tensor([-2.0, -0.5, 0.3, 1.5], requires_grad=True)
        y = torch.tensor([0.3, -1.0, 2.0, 0.1])
        z = eval(code, {"torch": torch, "F": torch.nn.functional, "x": x, "y": y})
        (g,) = torch.autograd.grad(z.sum(), x, create_graph=True)
        if not g.requires_grad:
            return g.tolist(), None
        # An efficient zero of PyTorch has no elements until something is added.
        (h,) = torch.autograd.grad(g.sum(), x)
        return g.tolist(), (h + torch.zeros(4)).tolist()

    ours, theirs = result(microtorch), result(pytorch)
    np.testing.assert_allclose(ours[0], theirs[0], 1e-5)
    assert (ours[1] is None) == (theirs[1] is None)
    if ours[1] is not None:
        np.testing.assert_allclose(ours[1], theirs[1], 1e-5)


def test_a_gradient_penalty_gives_zeros_to_biases():
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def result(torch):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        x = torch.ones(2, 3, requires_grad=True)
        (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (g * g).sum().backward()
        return [p.grad if p.grad is None else p.grad.tolist() for p in model.parameters()]

    for ours, theirs in zip(result(microtorch), result(pytorch), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, 1e-5)
