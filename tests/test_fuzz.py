"""Random programs under microtorch and PyTorch must do the same, statement by statement.

A program is lines of text that run under either library: elementwise functions, broadcasting,
reductions, views, products, joins, in-place changes of leaves and of results, detach. What is compared:
the type of what a statement raises, every variable's elements, shape and place in the graph, and
all gradients, of first or second order. A failure prints the shortest program that still fails.

`MICROTORCH_FUZZ=5000 pytest tests/test_fuzz.py` tries more programs than the usual 200.
"""

import os
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from programs import difference, names_of, run_line, tensors, text, usable

PROGRAMS = int(os.environ.get("MICROTORCH_FUZZ", "200"))

# Functions of x alone that are finite and smooth everywhere, so that rounding stays small.
UNARY = (
    "torch.tanh({x})", "torch.sin({x})", "{x} * {x}", "torch.sigmoid({x})", "-{x}",
    "torch.exp(-{x} * {x})", "torch.log({x} * {x} + 1)", "torch.sqrt({x} * {x} + 1)",
    "torch.cos({x})", "{x} ** 2", "2 - {x}", "1 / ({x} * {x} + 1)", "torch.atan({x})",
    "torch.log1p({x} * {x})", "torch.rsqrt({x} * {x} + 1)", "torch.expm1(torch.sin({x}))",
    "torch.erf({x})", "torch.clone({x})", "torch.square({x})", "({x} * {x} + 1).reciprocal().tanh()",
    "torch.softmax({x}, -1)", "torch.nn.functional.softplus({x})", "torch.cosh(torch.sin({x}))",
    "torch.nn.functional.silu({x})", "torch.nn.functional.gelu({x})", "{x} / 3", "{x}.neg()",
    "torch.log_softmax({x}, 0)", "{x}.contiguous()", "{x} ** 3 * 0.1", "{x}.abs().add(1).log()",
)  # fmt: skip
# With a kink at 0, or where two elements are equal: only for values that are far enough from it.
KINKED = (
    "torch.relu({x})", "torch.abs({x})", "{x}.clamp(min=0)", "{x}.amax(0)", "{x}.max()",
    "torch.where({x} > 0, {x}, 0.5)", "torch.nn.functional.leaky_relu({x}, 0.1)", "{x}.min()",
    "torch.nn.functional.elu({x})", "{x}.max(-1).values", "{x}.amin()", "{x}.masked_fill({x} > 0, 0.3).contiguous()",
)  # fmt: skip
BINARY = (
    "{x} + {y}", "{x} * {y}", "{x} - {y}", "{x} / ({y} * {y} + 1)", "torch.add({x}, {y}, alpha=2)",
    "{x} ** 2 * {y}", "torch.atan2({x}, {y} * {y} + 1)", "{x}.clone() @ {y}.clone()", "torch.cat([{x}, {y}])",
    "torch.stack([{x}, {y}], -1)", "torch.cat([{x}, {y}], -1)", "({x} * {x} + 1) ** torch.sin({y}) * 1",
    "torch.where(torch.ones_like({x}) > 0, {x}, {y})", "torch.matmul({x}.sin(), {y}.cos().t())",
    "torch.nn.functional.mse_loss({x}, {y})", "torch.stack([{x}, {y}])",
)  # fmt: skip
REDUCE = (
    "{x}.sum()", "{x}.mean({d})", "{x}.sum({d}, keepdim=True)", "{x}.sum({d})", "{x}.mean()",
    "{x}.tanh().prod() + 0", "({x} * {x}).sum({d}).add(1).sqrt()",
)  # fmt: skip
VIEWS = (
    "{x}.reshape(-1)", "{x}.transpose(0, {d})", "{x}.unsqueeze({d})", "{x}[0]", "{x}[..., 1:]",
    "{x}.narrow({d}, 0, 1)", "{x}.expand(2, *{x}.shape)", "{x}.t()", "{x}[None]", "{x}.squeeze()",
    "{x}.contiguous().view(-1)", "{x}[::2]", "{x}[:, 0]", "{x}.permute([*range({x}.dim())][::-1])", "{x}.flatten()",
    "{x}.chunk(2)[0]", "{x}.split(1, {d})[-1]", "{x}.unbind({d})[0]", "{x}.detach()", "{x}[1:]",
    "{x}[[0, -1]]", "{x}.expand(-1)", "{x}.view(1, *{x}.shape)", "{x}.T", "{x}[..., -1]",
)  # fmt: skip
# Statements that change x.
IN_PLACE = (
    "{x}.add_(1)", "{x}.mul_(torch.sin({y}))", "{x}.add_(torch.tanh({y}))", "{x}[0] = 0.5",
    "{x}.tanh_()", "{x} += torch.cos({y})", "{x}[..., 0] = torch.sin({y})[..., 0]", "{x}.zero_()",
    "{x}[1:] = torch.tanh({x}[:-1])", "{x}.copy_(torch.sin({y}))", "{x} *= 0.5", "{x}.fill_(0.25)",
    "{x}[0].mul_(0.5)", "{x}.neg_()", "{x}[..., :1] *= 2", "{x}.sigmoid_()", "{x}.sub_(0.5, alpha=2)",
    "{x}[:] = torch.cos({y})", "{x}.reshape(-1).add_(0.5)", "{x}.div_({y} * {y} + 1)",
    "{x}[torch.tensor([0])] = 0.125", "{x}.sin_()", "{x}.t().mul_(torch.sin({y}).t())",
    "{x}[{x} > 0] = 0.75", "{x}.exp_().log1p_()", "{x}.pow_(2).add_(1).sqrt_()",
    "{x}.unsqueeze(0).cos_()", "{x}.detach().mul_(0.5)", "{x}.relu_()",
    "{x}.clamp_(min=-0.5)", "{x}.abs_()", "{x}[1:] = {x}[:-1]", "{x}.add_({x}.t())",
    "{x}.copy_({y} * 1)", "{x}.mul_({x}[0])", "{x}.add_({y} * 1, alpha=0.5)",
)  # fmt: skip
KINKED_IN_PLACE = ("{x}[{x} > 0] = 0.75", "{x}.relu_()", "{x}.clamp_(min=-0.5)", "{x}.abs_()")
OVERLAPPING = ("{x}[1:] = {x}[:-1]", "{x}.add_({x}.t())", "{x}.mul_({x}[0])")
# PyTorch warns that this makes no sense for expanded tensors; neither does writing a part of one.
INDEX_PUT = ("{x}[torch.tensor([0])] = 0.125", "{x}[{x} > 0] = 0.75")
# Of a tensor without history, only PyTorch refuses to change such a view.
SEVERAL = ("{x}.chunk", "{x}.split", "{x}.unbind")
FAMILIES = (UNARY, BINARY, VIEWS, REDUCE, IN_PLACE, KINKED)
SHAPES = ((2, 3), (3,), (), (3, 3), (1, 3), (2, 1), (1,), (2, 3, 1), (0,), (2, 2))


class Gene(NamedTuple):
    """What a statement is made from; `write` reads the numbers modulo what there is."""

    family: int
    function: int
    x: int
    y: int
    dim: int
    under_no_grad: bool


number = st.integers(0, 47)
gene = st.builds(
    Gene, st.integers(0, 8), number, number, number, st.integers(0, 2), st.sampled_from([False] * 5 + [True])
)  # fmt: skip
programs = st.tuples(
    st.lists(st.integers(0, 13), min_size=1, max_size=3),
    st.lists(gene, min_size=1, max_size=12),
    st.booleans(),
)


def write(torch: Any, shapes: list[int], genes: list[Gene]) -> list[str]:
    """A program as text. It runs under PyTorch on the way, which knows the shapes."""
    names = names_of(torch)
    program: list[str] = []
    for k, place in enumerate(shapes):
        shape = SHAPES[place % len(SHAPES)]
        values = np.random.default_rng(place).uniform(-2, 2, shape).round(2)
        line = (
            f"{'abc'[k]} = torch.tensor({values.tolist()}, dtype=torch.float64, requires_grad=True)"
        )
        if place > 10:
            line = line.replace(", requires_grad=True", "")
        exec(line, names)
        program.append(line)
    for g in genes:
        line = statement(g, names, torch, len(program))
        if line is not None:
            run_line(line, names)
            program.append(line)
    return program


def statement(g: Gene, names: dict[str, Any], torch: Any, count: int) -> str | None:
    """The line of a gene; None where it would be too sensitive to rounding."""
    family = FAMILIES[(0, 1, 2, 3, 4, 5, 2, 4, 1)[g.family]]
    known = {k: v for k, v in tensors(names, torch).items() if usable(v)}
    order = list(known)[::-1]
    x = order[g.x % len(order)]
    y = order[g.y % len(order)]
    form = family[g.function % len(family)]
    a = known[x]
    if family is KINKED or form in KINKED_IN_PLACE:
        values = np.sort(np.append(a.detach().numpy().ravel(), 0.0))
        if np.any(np.diff(values) < 1e-6):
            return None
    if form in OVERLAPPING and not a.is_contiguous():
        # Where PyTorch does not refuse, the order of copying decides.
        return None
    if 0 in a.stride() and (form in INDEX_PUT or (family is IN_PLACE and "[" in form)):
        return None
    if form.startswith(SEVERAL) and not a.requires_grad:
        form += ".clone()"
    line = form.format(x=x, y=y, d=g.dim % (a.dim() or 1))
    if family is IN_PLACE:
        return f"with torch.no_grad(): {line}" if g.under_no_grad else line
    try:
        value = eval(line, dict(names))
    except Exception:
        # Half of what is refused goes: two shapes that do not fit say little.
        return f"v{count} = {line}" if g.function % 2 else None
    if value.numel() > 500:
        return None
    if value.numel() and float(value.detach().abs().max()) > 20:
        line = f"torch.tanh({line})"
    if g.under_no_grad:
        # PyTorch says that a view of no_grad requires grad, though no gradient reaches it.
        return f"with torch.no_grad(): v{count} = {line}" + ".clone()" * (family is VIEWS)
    return f"v{count} = {line}"


ENDS = (
    ["loss.backward()"],
    [
        "first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)",
        "known = [g for g in first if g is not None and g.requires_grad]",
        "sum([(g * g).sum() for g in known], loss * 0).backward()",
    ],
)


def ending(torch: Any, program: list[str], twice: bool) -> list[str]:
    """The lines that differentiate a weighted sum of everything that requires grad."""
    names = names_of(torch)
    for line in program:
        run_line(line, names)
    terms, leaves = [], []
    for name, t in tensors(names, torch).items():
        if usable(t) and t.requires_grad:
            terms.append(f"({name} * {1 + len(terms) / 8}).sum()")
            if t.is_leaf:
                leaves.append(name)
    if not terms or not leaves:
        return []
    return [f"loss = {' + '.join(terms)}", f"leaves = [{', '.join(leaves)}]", *ENDS[twice]]


def whole(torch: Any, shapes: list[int], genes: list[Gene], twice: bool) -> list[str]:
    """A program and its ending."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = write(torch, shapes, genes)
        return program + ending(torch, program, twice)


@pytest.fixture(scope="module")
def pytorch():
    """PyTorch, the oracle."""
    if find_spec("torch") is None:
        pytest.skip("the fuzzer compares with PyTorch: pip install torch==2.13.0")
    torch = import_module("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


@settings(
    max_examples=PROGRAMS,
    deadline=None,
    derandomize="MICROTORCH_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
)
@given(drawn=programs)
def test_random_programs(drawn, pytorch):
    program = whole(pytorch, *drawn)
    found = difference(program, pytorch)
    if found:
        raise AssertionError(f"{text(program)}\n{found}")


def test_a_difference_is_noticed(pytorch):
    """The comparison sees values, gradients, versions and exceptions."""
    program = [
        "a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)",
        "b = a * a",
        "b.sum().backward()",
    ]
    assert not difference(program, pytorch)
    mine = "torch.__name__ == 'microtorch'"
    for extra in (
        f"b = b + ({mine})", f"a.grad.add_({mine})", 
        f"b = b.detach() if {mine} else b", f"1 / (not {mine})", f"b = b[:1] if {mine} else b",
    ):  # fmt: skip
        assert difference([*program, extra], pytorch), extra
