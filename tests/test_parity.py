"""The same cells under microtorch and under PyTorch 2.13 must give the same results.

`data/parity_cells.txt` holds one record per cell: statements, then an expression. Of its value
everything that a program can see is compared: elements, dtype, shape, strides, place in the graph,
printed form; and the warnings and output on the way. In a section marked `(exact)`
every bit must agree, elsewhere all but the last of a chain of roundings.
"""

import ast
import collections
import contextlib
import copy
import io
import itertools
import pathlib
import pickle
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest

import microtorch

CELLS_FILE = pathlib.Path(__file__).parent / "data" / "parity_cells.txt"
# Relative to the largest element of a result, about thirty roundings.
TOLERANCE = {np.dtype("f4"): 2e-6, np.dtype("f8"): 4e-15, np.dtype("f2"): 2e-3}


class Cell(NamedTuple):
    """Statements and a last expression, and whether every bit of its value counts."""

    code: str
    exact: bool
    section: str


def read(text: str) -> list[Cell]:
    """The cells of a file, whose form is described at its head."""
    cells: list[Cell] = []
    section = ""
    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")
        while lines and lines[0].startswith("#"):
            section = lines.pop(0)[2:] or section
        if lines and any(lines):
            cells.append(Cell("\n".join(lines), section.endswith("(exact)"), section))
    return cells


CELLS = read(CELLS_FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pytorch():
    """PyTorch, the oracle."""
    return pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")


class Run(NamedTuple):
    """What came of a cell."""

    value: Any
    warned: list[str]
    printed: str


def run(code: str, torch: Any) -> Run:
    """Run a cell with one of the two libraries as `torch`."""
    names = {
        "torch": torch, "T": torch.tensor, "nn": torch.nn, "np": np, "copy": copy, "pickle": pickle,
        "collections": collections, "__name__": "__main__",
    }  # fmt: skip
    *statements, last = ast.parse(code).body
    assert isinstance(last, ast.Expr), "a cell ends in an expression"
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        exec(compile(ast.Module(statements, []), "<cell>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
        shown = describe(value, torch)
    # PyTorch's own use of NumPy is deprecated in places.
    warned = [w.category.__name__ for w in caught if w.category is not DeprecationWarning]
    return Run(shown, warned, printed.getvalue())


def describe(value: Any, torch: Any) -> Any:
    """A value in terms that both libraries share; arrays are kept as arrays."""
    if isinstance(value, torch.Tensor):
        plain = value.detach()
        return {
            "array": plain.numpy(),
            "dtype": repr(value.dtype),
            "shape": repr(value.shape),
            # Steps that are never taken say nothing.
            "stride": [s for s, n in zip(value.stride(), value.shape, strict=True) if n > 1]
            if value.numel()
            else None,
            "requires_grad": value.requires_grad,
            "is_leaf": value.is_leaf,
            "grad_fn": value.grad_fn and type(value.grad_fn).__name__,
            "type": type(value).__name__,
            "repr": repr(value) if value.dtype is not torch.float16 else "",
        }
    if isinstance(value, np.ndarray):
        return {"array": value}
    if isinstance(value, dict):
        return {repr(k): describe(v, torch) for k, v in value.items()}
    if isinstance(value, torch.Size):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return [describe(v, torch) for v in value]
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    return repr(value)


def agree(mine: Any, theirs: Any, exact: bool, slack: float = 1.0, path: str = "") -> None:
    """Demand that two descriptions are the same."""
    assert type(mine) is type(theirs), f"{path}: {mine!r} against {theirs!r}"
    if isinstance(mine, dict):
        assert list(mine) == list(theirs), path
        same = "array" in mine and np.array_equal(
            mine["array"], theirs["array"], equal_nan=mine["array"].dtype.kind == "f"
        )
        for key in mine:
            if key == "array":
                equal_arrays(mine[key], theirs[key], exact, slack, path)
            elif key != "repr" or same:
                agree(mine[key], theirs[key], exact, slack, f"{path}.{key}")
    elif isinstance(mine, list):
        assert len(mine) == len(theirs), path
        for k, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            agree(a, b, exact, slack, f"{path}[{k}]")
    elif isinstance(mine, float) and not exact:
        assert mine == pytest.approx(theirs, rel=2e-6, nan_ok=True), path
    else:
        assert mine == theirs or (mine != mine and theirs != theirs), path


def equal_arrays(mine: Any, theirs: Any, exact: bool, slack: float, path: str) -> None:
    """Compare elements; dtypes and shapes always exactly."""
    assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, path
    if exact or mine.dtype.kind != "f":
        np.testing.assert_array_equal(mine, theirs, path)
        if mine.dtype.kind == "f":
            zero = mine == 0
            np.testing.assert_array_equal(np.signbit(mine[zero]), np.signbit(theirs[zero]), path)
        return
    finite = theirs[np.isfinite(theirs)]
    rtol = slack * TOLERANCE[mine.dtype]
    atol = rtol * min(1.0, float(np.abs(finite).max(initial=0.0)))
    np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=atol, err_msg=path)


def compare(code: str, pytorch: Any, exact: bool = False, slack: float = 1.0) -> None:
    """Run a cell under both libraries and demand the same results."""
    mine, theirs = run(code, microtorch), run(code, pytorch)
    agree(mine.value, theirs.value, exact, slack)
    assert mine.warned == theirs.warned
    assert mine.printed == theirs.printed


@pytest.mark.parametrize(
    "cell", CELLS, ids=[f"{c.section.split()[0]}-{k}" for k, c in enumerate(CELLS)]
)
def test_cell(cell, pytorch):
    compare(cell.code, pytorch, cell.exact)


# --------------------------------------------------------------------------- trajectories
SGD = [
    {"lr": 0.02, **dict(zip(("momentum", "dampening", "nesterov"), m, strict=True)), **w}
    for m, w in itertools.product(
        [(0, 0, False), (0.9, 0, False), (0.9, 0.5, False), (0.9, 0, True)],
        [{}, {"weight_decay": 0.1}, {"maximize": True}, {"weight_decay": 0.1, "maximize": True}],
    )
]
ADAM = [
    {"lr": 0.05, "amsgrad": a, "weight_decay": w, "maximize": m, **b}
    for a, w, m, b in itertools.product(
        (False, True), (0, 0.1), (False, True), ({}, {"betas": (0.5, 0.9), "eps": 1e-3})
    )
]
RECIPES = [
    *(("SGD", o) for o in SGD), *(("Adam", o) for o in ADAM), *(("AdamW", o) for o in ADAM),
]  # fmt: skip
TRAINING = """
w = T([0.5, -1.5, 2.0], dtype=torch.{dtype}, requires_grad=True)
b = T([[0.3]], dtype=torch.{dtype}, requires_grad=True)
o = torch.optim.{name}([w, b], **{options})
r = []
for k in range(20):
    o.zero_grad()
    (torch.sin(w * 2).sum() + (torch.sin(w.sum() * b)).sum()).backward()
    if k == 7:
        b.grad = None
    o.step()
    r.append(torch.cat([w.detach(), b.detach()[0]]))
(r, o.state_dict(), o)
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r[0]}-{r[1]}")
def test_twenty_steps_of_an_optimizer(recipe, dtype, pytorch):
    name, options = recipe
    # Momentum carries a rounding through all twenty steps.
    compare(TRAINING.format(dtype=dtype, name=name, options=options), pytorch, slack=20)


SUMMARY = """\
----------------------------------------------------------------
        Layer (type)               Output Shape         Param #
================================================================
            Linear-1                  [-1, 100]         100,000
              ReLU-2                  [-1, 100]               0
            Linear-3                   [-1, 10]           1,010
================================================================
Total params: 101,010
Trainable params: 101,010
Non-trainable params: 0
----------------------------------------------------------------
Input size (MB): 0.00
Forward/backward pass size (MB): 0.00
Params size (MB): 0.39
Estimated Total Size (MB): 0.39
----------------------------------------------------------------
"""


def test_summary_prints_the_table_of_torchsummary(capsys):
    nn = microtorch.nn
    model = nn.Sequential(nn.Linear(1000, 100, bias=False), nn.ReLU(), nn.Linear(100, 10))
    assert microtorch.summary(model, (1000,)) is None
    assert capsys.readouterr().out == SUMMARY


def test_the_comparison_notices_differences():
    """Every part of a description counts."""
    base = "x = T([1., 2.], requires_grad=True)\n"
    value = run(base + "x * 2", microtorch).value
    for other in ("x + 1", "x * 2.00001", "(x * 2).detach()", "(x * 2).double()", "(x * 2)[None]"):
        with pytest.raises(AssertionError):
            agree(value, run(base + other, microtorch).value, exact=False)
    agree(value, run(base + "x * 2", microtorch).value, exact=True)
