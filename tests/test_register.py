"""`register` and the derivation of derivatives from formulas."""

import itertools

import numpy as np
import oracle
import pytest
from test_table import DOUBLE, draw

import microtorch as torch
from microtorch import Value, derive
from microtorch.table import CELLS, ROWS, VOCABULARY

NAMES = (f"mine{k}" for k in itertools.count())


def evaluated(formula, values):
    """A formula on arrays of float64."""
    return np.broadcast_to(
        oracle.numpy_value(formula, DOUBLE, values), next(iter(values.values())).shape
    )


# ---------------------------------------------------------------------------- derivation
@pytest.mark.parametrize("name", [n for n, r in {**ROWS, **CELLS}.items() if r.derivatives])
def test_derived_derivatives_are_those_of_the_table(name):
    row = {**ROWS, **CELLS}[name]
    arrays, params = draw(row, np.random.default_rng(0), DOUBLE, 200)
    values = dict(zip(row.operands, [*arrays, *map(np.float64, params)], strict=True))
    values["z"] = evaluated(row.formula, values)
    derived = derive.derivatives(row.formula, row.inputs, row.params)
    for mine, written in zip(derived, row.derivatives, strict=True):
        np.testing.assert_allclose(
            evaluated(mine, values), evaluated(written, values), rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("3", "0"),
        ("x", "1"),
        ("-x", "-1"),
        ("+x", "1"),
        ("x + x", "2"),
        ("2 * x * 3", "6"),
        ("x - inf", "1"),
        ("x / 2", "0.5"),
        ("1 / x", "-z / x"),
        ("exp(x)", "z"),
        ("exp(2 * x)", "z * 2"),
        ("x * exp(0)", "1"),
        ("sin(x) * cos(1)", "cos(x) * 0.5403023058681398"),
        ("tanh(x)", "1 - z * z"),
        ("pow(x, 1)", "1"),
        ("pow(x, 3)", "3 * pow(x, 2)"),
        ("floor(x) + rint(x) + trunc(x)", "0"),
        ("x > 1", "0"),
        ("where(x > 1, 2, 3)", "0"),
        ("where(x > 1, x, 2 * x)", "where(x > 1, 1, 2)"),
        ("fabs(x)", "where(x > 0, 1, where(x < 0, -1, 0))"),
        ("copysign(2, x)", "0"),
        ("maximum(x, 0)", "where(x > 0, 1, where(x == 0, 0.5, 0))"),
    ],
)
def test_derived_text(formula, expected):
    (found,) = derive.derivatives(formula, ["x"])
    assert found == expected


def test_a_branch_that_is_not_taken_does_not_spoil_the_derivative():
    (d,) = derive.derivatives("fabs(sqrt(x))", ["x"])
    assert evaluated(d, {"x": np.zeros(1), "z": np.zeros(1)}) == 0


def test_every_function_of_the_vocabulary_has_a_rule():
    assert set(derive.RULES) | {"where", "inf"} >= VOCABULARY
    assert all(len(rules) == derive.ARITY[name] for name, rules in derive.RULES.items())


@pytest.mark.parametrize("name", sorted(VOCABULARY - {"inf", "where"}))
def test_rules_beside_differences(name):
    arguments = ["x"] if derive.ARITY[name] == 1 else ["x", "y"]
    formula = f"{name}({', '.join(arguments)})"
    offset = 1.3 if name == "acosh" else 0.3
    x = {"x": np.linspace(offset, offset + 0.15, 5), "y": np.linspace(0.6, 0.8, 5)}
    x["z"] = evaluated(formula, x)
    for argument, d in zip(arguments, derive.derivatives(formula, arguments), strict=True):
        high, low = ({**x, argument: x[argument] + h} for h in (1e-6, -1e-6))
        expected = (evaluated(formula, high) - evaluated(formula, low)) / 2e-6
        np.testing.assert_allclose(evaluated(d, x), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("x +", "is no expression"),
        ("", "is no expression"),
        ("x; y", "is no expression"),
        ("y", "names unknown y"),
        ("sin", "names unknown sin"),
        ("gamma(x)", "calls unknown gamma"),
        ("x.real()", "calls unknown x.real"),
        ("pow(x)", "calls pow with 1 arguments, not 2"),
        ("where(x, 1)", "calls where with 2 arguments, not 3"),
        ("sin(x, out=x)", "calls sin with 2 arguments, not 1"),
        ("x ** 2", r"operator other than \+ - \* /"),
        ("not x", "operator other than -"),
        ("0 < x < 1", "compares in a way"),
        ("x in x", "compares in a way"),
        ("'a'", "which is no number"),
        ("True", "which is no number"),
        ("x.T", "not of its grammar"),
        ("x[0]", "not of its grammar"),
        ("x if x else 1", "not of its grammar"),
        ("x and x", "not of its grammar"),
        ("lambda: x", "not of its grammar"),
    ],
)
def test_what_is_no_formula(formula, text):
    with pytest.raises(ValueError, match=text):
        derive.parse(formula, ["x"])


# -------------------------------------------------------------------------- registration
def tensor(*values, dtype=torch.float64):
    return torch.tensor(list(values), dtype=dtype, requires_grad=True)


def test_one_input():
    f = torch.register("smoothabs", "a", "a * a / (1 + fabs(a))", doc="Smooth |a|.")
    assert (f.__name__, f.__doc__) == ("smoothabs", "Smooth |a|.")
    for dtype in (torch.float32, torch.float64):
        x = tensor(-2.0, 0.5, 3.0, dtype=dtype)
        y = f(x)
        assert y.dtype is dtype
        assert type(y.grad_fn).__name__ == "SmoothabsBackward0"
        y.sum().backward()
        a = np.array([-2.0, 0.5, 3.0])
        assert np.allclose(y.tolist(), a * a / (1 + abs(a)))
        assert np.allclose(x.grad.tolist(), (2 * a + a * abs(a)) / (1 + abs(a)) ** 2)
    assert f(torch.tensor([1, 2])).tolist() == pytest.approx([0.5, 4 / 3])
    assert f(torch.tensor([1, 2])).dtype is torch.float32


@pytest.mark.parametrize(
    ("inputs", "params", "formula"),
    [
        ("a", "", "a * sin(a) + where(a > 0, exp(-a), 1)"),
        ("a b", "", "sqrt(a * a + b * b) * atan2(a, b)"),
        ("s n", "", "s * n / (1 + exp(-n))"),
        ("a", "k m", "pow(fabs(a) + k, m)"),
        ("a b", "k", "k * a * a * b"),
        ("i n d", "", "i * n + n * d + tanh(d * i)"),
        ("i n d a", "k", "i * n * d * a * k + rint(i) * d + copysign(n, a) * a + trunc(d)"),
    ],
)
def test_any_number_of_inputs_to_the_second_order(inputs, params, formula):
    f = torch.register(next(NAMES), inputs, formula, params=params)
    numbers = [1.5, 2.0][: len(params.split())]
    shapes = [(2, 3), (3,), (2, 1), ()]
    random = np.random.default_rng(0)
    xs = [
        torch.tensor(random.uniform(0.3, 1.2, shapes[k])).requires_grad_()
        for k in range(len(inputs.split()))
    ]
    values = dict(zip(inputs.split() + params.split(), [*(x.detach() for x in xs), *numbers]))
    expected = oracle.numpy_value(
        formula, DOUBLE, {n: np.asarray(v, DOUBLE) for n, v in values.items()}
    )
    assert np.allclose(f(*xs, *numbers).detach().numpy(), expected)
    assert torch.autograd.gradcheck(lambda *x: f(*x, *numbers), xs)
    assert torch.autograd.gradgradcheck(lambda *x: f(*x, *numbers), xs)
    if len(xs) > 1:
        # Gradients of some inputs only, and numbers among the inputs.
        assert torch.autograd.gradcheck(lambda x: f(x, *[0.7] * (len(xs) - 1), *numbers), xs[0])


def test_broadcasting_is_refused_where_shapes_do_not_fit():
    f = torch.register(next(NAMES), "a b c", "a + b + c")
    with pytest.raises(RuntimeError, match=r"The size of tensor a \(2\) must match"):
        f(torch.ones(2), torch.ones(1), torch.ones(3))
    with pytest.raises(TypeError, match="takes 3 arguments, but 2 were given"):
        f(torch.ones(2), torch.ones(2))
    with pytest.raises(TypeError, match="must be Tensor, not str"):
        f(torch.ones(2), torch.ones(2), "a")


def test_values():
    f = torch.register(next(NAMES), "a", "a * a * a")
    x = Value(3.0)
    y = f(x)
    y.backward()
    assert (y.data, x.grad) == (27.0, 27.0)
    g = torch.register(next(NAMES), "a b c", "a * b / c * k", params="k")
    v = [Value(k) for k in (1.0, 2.0, 4.0)]
    y = g(*v, 3)
    y.backward()
    assert (y.data, [p.grad for p in v]) == (1.5, [1.5, 0.75, -0.375])
    assert g(2, v[1], 1, 1).data == 4.0
    # Beside a tensor a Value is a 0-d tensor.
    x = tensor(1.0, 2.0)
    z = g(x, v[1], v[2], 1)
    z.sum().backward()
    assert x.grad.tolist() == [0.5, 0.5]
    assert v[1].grad == pytest.approx(0.75 + 0.75)
    # As for the table's rows: inf where Python raises.
    e = torch.register(next(NAMES), "a", "exp(a)")
    assert e(Value(1e4)).data == np.inf


def test_written_derivatives_are_taken_as_they_are():
    f = torch.register(next(NAMES), "a b", "a * b", "b; 0")
    x, y = tensor(2.0), tensor(3.0)
    f(x, y).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([3.0], [0.0])


def test_the_same_row_is_the_same_function():
    name = next(NAMES)
    f = torch.register(name, "a", "a + 1")
    assert torch.register(name, "a", "a + 1") is f
    with pytest.raises(ValueError, match=f"{name} is registered already, with .* 'a \\+ 1'"):
        torch.register(name, "a", "a + 2")
    assert f(torch.ones(1)).tolist() == [2.0]


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("sin", "x", "x"), {}, "sin exists already"),
        (("cat", "x", "x"), {}, "cat exists already"),
        (("where", "x", "x"), {}, "where exists already"),
        (("a b", "x", "x"), {}, "'a b' is no name of a function"),
        (("if", "x", "x"), {}, "'if' is no name of a function"),
        (("bad", "", "1"), {}, "bad has no inputs"),
        (("bad", "x x", "x"), {}, "bad: x is there twice"),
        (("bad", "x", "x * k"), {"params": "x"}, "bad: x is there twice"),
        (("bad", "1", "x"), {}, "bad: '1' is no name of an operand"),
        (("bad", "z", "z"), {}, "bad: z means something else"),
        (("bad", "sin", "sin(sin)"), {}, "bad: sin means something else"),
        (("bad", "x", "x + y"), {}, "names unknown y"),
        (("bad", "x", "x + z"), {}, "names unknown z"),
        (("bad", "x", "pow(x)"), {}, "calls pow with 1 arguments, not 2"),
        (("bad", "x", "x", "1; 2"), {}, "bad: 2 derivatives for 1 inputs"),
        (("bad", "x", "x", "y"), {}, "names unknown y"),
        (("bad", "x", "x"), {"domain": "0 1; 0 1"}, "bad: 2 domains for 1 inputs"),
        (("bad", "x", "x"), {"domain": "0"}, "bad: '0' is no domain"),
        (("bad", "x", "x"), {"domain": "1 0"}, "bad: the domain 1.0 0.0 is empty"),
    ],
)
def test_what_cannot_be_registered(arguments, options, text):
    with pytest.raises(ValueError, match=text):
        torch.register(*arguments, **options)
    # Nothing has been: a right row of the name is accepted.
    name = next(NAMES)
    assert torch.register(name, "x", "x") is torch.register(name, "x", "x")
    if arguments[0] == "bad":
        with pytest.raises(ValueError, match=text):
            torch.register(*arguments, **options)


def test_beside_torch():
    pytorch = pytest.importorskip("torch", reason="pip install torch==2.13.*")
    f = torch.register(next(NAMES), "a b", "log1p(exp(a)) * b + maximum(a, b)")
    found = []
    for library, function in (
        (torch, f),
        (pytorch, lambda a, b: a.exp().log1p() * b + pytorch.maximum(a, b)),
    ):
        a = library.tensor([[0.5, -1.0], [2.0, 3.0]], dtype=library.float64, requires_grad=True)
        b = library.tensor([1.0, 0.25], dtype=library.float64, requires_grad=True)
        z = function(a, b)
        first = library.autograd.grad(z.sum(), (a, b), create_graph=True)
        second = library.autograd.grad((first[0] ** 2).sum() + first[1].sum(), (a, b))
        found.append([t.detach().tolist() for t in (z, *first, *second)])
    for mine, theirs in zip(*found):
        assert np.allclose(mine, theirs, rtol=1e-12)
