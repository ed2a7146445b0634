"""Value: micrograd's API on the shared graph, checked against micrograd, Python and differences."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtorch as torch
from microtorch import Value


def close(a, b, tolerance=1e-9):
    return a == pytest.approx(b, rel=tolerance, abs=1e-12, nan_ok=True)


def micrograd_readme(number):
    """The example of micrograd's README."""
    a = number(-4.0)
    b = number(2.0)
    c = a + b
    d = a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + (b + a).relu()
    d += 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    g += 10.0 / f
    g.backward()
    return g, a, b


# ------------------------------------------------------------------------ micrograd's API
def test_micrograd_readme_example():
    g, a, b = micrograd_readme(Value)
    assert [f"{v:.4f}" for v in (g.data, a.grad, b.grad)] == ["24.7041", "138.8338", "645.5773"]


def test_attributes():
    x = Value(2)
    assert (x.data, x.grad) == (2.0, 0.0)
    assert type(x.data) is type(x.grad) is float
    assert repr(x) == "Value(data=2.0, grad=0.0)"
    assert (x._prev, x._op, x.label) == (set(), "", "")
    assert Value(1.0, label="w").label == "w"
    assert (float(x), x.item()) == (2.0, 2.0)
    x.data = 3.0
    x.grad = 1.0
    assert repr(x) == "Value(data=3.0, grad=1.0)"


def test_parents_and_signs():
    x, y = Value(2.0), Value(3.0)
    for made, sign in ((x + y, "+"), (x * y, "*"), (x - y, "-"), (x / y, "/"), (x**y, "**")):
        assert made._prev == {x, y}
        assert made._op == sign
    assert (x + x)._prev == {x}
    assert x.tanh()._op == "tanh"
    assert x in {x} and x != Value(2.0)


OPERATORS = {
    "+": (lambda a, b: a + b, lambda a, b: (1.0, 1.0)),
    "-": (lambda a, b: a - b, lambda a, b: (1.0, -1.0)),
    "*": (lambda a, b: a * b, lambda a, b: (b, a)),
    "/": (lambda a, b: a / b, lambda a, b: (1 / b, -a / b**2)),
    "**": (lambda a, b: a**b, lambda a, b: (b * a ** (b - 1), a**b * math.log(a))),
}
NUMBERS = [2, 3.5, True, np.float64(1.5), np.float32(2.5), np.int64(3)]


@pytest.mark.parametrize("sign", OPERATORS)
def test_operator_of_two_values(sign):
    function, derivatives = OPERATORS[sign]
    a, b = Value(1.7), Value(2.3)
    z = function(a, b)
    z.backward()
    assert close(z.data, function(1.7, 2.3))
    assert close((a.grad, b.grad), derivatives(1.7, 2.3))


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
@pytest.mark.parametrize("sign", OPERATORS)
def test_operator_with_a_number_on_either_side(sign, number):
    function, derivatives = OPERATORS[sign]
    plain = float(number)
    a = Value(1.7)
    z = function(a, number)
    assert type(z) is Value
    z.backward()
    assert close((z.data, a.grad), (function(1.7, plain), derivatives(1.7, plain)[0]))
    b = Value(1.7)
    z = function(number, b)
    assert type(z) is Value
    z.backward()
    assert close((z.data, b.grad), (function(plain, 1.7), derivatives(plain, 1.7)[1]))


@pytest.mark.parametrize("sign", OPERATORS)
@pytest.mark.parametrize("other", ["x", None, [1.0]], ids=repr)
def test_operator_refuses_what_is_no_number(sign, other):
    for pair in ((Value(1.0), other), (other, Value(1.0))):
        with pytest.raises(TypeError):
            OPERATORS[sign][0](*pair)


@pytest.mark.parametrize("power", [-2, -1, -0.5, 0, 0.5, 1, 2, 3, 2.5])
def test_power_of_a_number(power):
    x = Value(1.3)
    z = x**power
    z.backward()
    assert close((z.data, x.grad), (1.3**power, power * 1.3 ** (power - 1)))


def test_negative_and_augmented():
    x = Value(2.0)
    y = -x
    y += 1
    y -= x
    y *= 3
    y /= 2
    y **= 2
    y.backward()
    assert (y.data, x.data) == (((-2.0 + 1 - 2) * 3 / 2) ** 2, 2.0)
    assert x.grad == 2 * (1 - 2 * 2.0) * -2 * 2.25


def test_sum_of_a_list():
    values = [Value(k) for k in range(5)]
    total = sum(values)
    total.backward()
    assert total.data == 10.0
    assert [v.grad for v in values] == [1.0] * 5


# -------------------------------------------------------------------------- every method
UNARY = {
    "abs": math.fabs, "acos": math.acos, "asin": math.asin, "atan": math.atan, "cos": math.cos,
    "cosh": math.cosh, "erf": math.erf, "erfc": math.erfc, "exp": math.exp, "expm1": math.expm1,
    "log": math.log, "log10": math.log10, "log1p": math.log1p, "log2": math.log2,
    "neg": lambda x: -x, "reciprocal": lambda x: 1 / x, "relu": lambda x: max(x, 0.0),
    "rsqrt": lambda x: x**-0.5, "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)), "sin": math.sin, "sinh": math.sinh,
    "sqrt": math.sqrt, "square": lambda x: x * x, "tan": math.tan, "tanh": math.tanh,
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_method_and_its_derivative(name):
    for at in (0.3, 0.7):
        x = Value(at)
        z = getattr(x, name)()
        z.backward()
        assert close(z.data, UNARY[name](at), 1e-14)
        step = 1e-5
        slope = (UNARY[name](at + step) - UNARY[name](at - step)) / (2 * step)
        assert close(x.grad, slope, 1e-7)


def test_relu_of_what_is_not_positive_is_zero():
    for at in (-1.0, -0.0, 0.0, -math.inf):
        x = Value(at)
        z = x.relu()
        z.backward()
        assert repr(z.data) == "0.0"
        assert x.grad == 0.0
    assert math.isnan(Value(math.nan).relu().data)


@pytest.mark.parametrize(
    ("make", "data", "grad"),
    [
        (lambda x: x / 0.0, math.inf, math.inf),
        (lambda x: (x - 2) / 0, math.nan, math.inf),
        (lambda x: (x - 2).log(), -math.inf, math.inf),
        (lambda x: (-x).log(), math.nan, 0.5),
        (lambda x: (x * 500).exp(), math.inf, math.inf),
        (lambda x: (x - 2) ** -1, math.inf, -math.inf),
        (lambda x: (x - 2).sqrt(), 0.0, math.inf),
        (lambda x: (-x).sqrt(), math.nan, math.nan),
        (lambda x: (-x) ** 0.5, math.nan, math.nan),
        (lambda x: (x * 1e200) ** 2, math.inf, math.inf),
    ],
)
def test_where_python_raises_the_answer_is_inf_or_nan_as_for_tensors(make, data, grad):
    x = Value(2.0)
    t = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    z, of_tensor = make(x), make(t)
    z.backward()
    of_tensor.backward()
    assert close(z.data, data) and close(of_tensor.item(), data)
    assert close(x.grad, grad) and close(t.grad.item(), grad)


# ------------------------------------------------------------------------------ backward
def test_second_backward_accumulates():
    a = Value(2.0)
    b = a * a
    c = b + b
    c.backward()
    assert (a.grad, b.grad, c.grad) == (8.0, 2.0, 1.0)
    c.backward()
    assert (a.grad, b.grad, c.grad) == (16.0, 4.0, 2.0)


def test_backward_from_two_roots_accumulates():
    a = Value(2.0)
    b = a * a
    c = b * 3
    c.backward()
    (b * 5).backward()
    assert (a.grad, b.grad, c.grad) == (12.0 + 20.0, 3.0 + 5.0, 1.0)
    b.backward()
    assert (a.grad, b.grad) == (36.0, 9.0)


def test_backward_of_a_leaf():
    a = Value(2.0)
    a.backward()
    a.backward()
    assert a.grad == 2.0


def test_zeroed_gradients_start_anew():
    a = Value(3.0)
    b = a * a
    for _ in range(3):
        a.grad = b.grad = 0.0
        b.backward()
        assert (a.grad, b.grad) == (6.0, 1.0)


def test_diamonds_double_the_gradient_at_each_step():
    x = Value(1.0)
    y = x
    for _ in range(60):
        y = y + y
    y.backward()
    assert x.grad == y.data == 2.0**60


def test_changed_data_is_seen_by_backward_as_in_micrograd():
    x, y = Value(2.0), Value(3.0)
    z = x * y
    y.data = 5.0
    z.backward()
    assert x.grad == 5.0


def test_graph_of_a_lost_value_is_freed():
    import weakref

    x = Value(1.0)
    y = (x * 2).tanh()
    watch = weakref.ref(y)
    del y
    assert watch() is None


# --------------------------------------------------------------------- beside micrograd
LEAVES = st.floats(-3, 3).map(lambda x: round(x, 3))


def expressions(draw, depth):
    """A random expression over x and y, as a function of both."""
    if depth == 0:
        kind = draw(st.sampled_from(["x", "y", "number"]))
        constant = draw(LEAVES)
        return {"x": lambda x, y: x, "y": lambda x, y: y, "number": lambda x, y: x * 0 + constant}[
            kind
        ]
    kind = draw(st.sampled_from(["+", "-", "*", "relu", "neg", "square", "twice", "scaled"]))
    one = expressions(draw, depth - 1)
    if kind in "+-*":
        two = expressions(draw, depth - 1)
        function = OPERATORS[kind][0]
        return lambda x, y: function(one(x, y), two(x, y))

    def twice(x, y):
        shared = one(x, y)
        return shared * shared + shared

    return {
        "relu": lambda x, y: one(x, y).relu(),
        "neg": lambda x, y: -one(x, y),
        "square": lambda x, y: one(x, y) ** 2,
        "twice": twice,
        "scaled": lambda x, y: (3 * one(x, y) - 1) / 4,
    }[kind]


@st.composite
def random_expression(draw):
    return expressions(draw, draw(st.integers(1, 5)))


@settings(max_examples=150, deadline=None)
@given(random_expression(), LEAVES, LEAVES)
def test_same_numbers_as_micrograd(expression, x, y):
    engine = pytest.importorskip("micrograd.engine", reason="pip install micrograd")
    found = []
    for number in (Value, engine.Value):
        a, b = number(x), number(y)
        z = expression(a, b)
        if isinstance(z, number):
            z.backward()
            found.append((z.data, a.grad, b.grad))
    ours, theirs = found
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(random_expression(), LEAVES, LEAVES)
def test_same_numbers_as_tensors(expression, x, y):
    a, b = Value(x), Value(y)
    s, t = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, y))
    z, w = expression(a, b), expression(s, t)
    z.backward()
    w.backward()
    of_tensors = [0.0 if leaf.grad is None else leaf.grad.item() for leaf in (s, t)]
    assert [z.data, a.grad, b.grad] == pytest.approx([w.item(), *of_tensors], rel=1e-12, abs=1e-12)


# ------------------------------------------------------------------------- beside Tensors
@pytest.mark.parametrize("sign", OPERATORS)
def test_tensor_and_value_give_a_tensor_and_both_get_gradients(sign):
    function, derivatives = OPERATORS[sign]
    for value_first in (True, False):
        v = Value(1.5)
        x = torch.tensor([2.0, 3.0], requires_grad=True)
        z = function(v, x) if value_first else function(x, v)
        assert isinstance(z, torch.Tensor)
        z.sum().backward()
        pairs = [(1.5, p) if value_first else (p, 1.5) for p in (2.0, 3.0)]
        found = [derivatives(*pair) for pair in pairs]
        assert close(z.tolist(), [function(*pair) for pair in pairs], 1e-6)
        assert close(v.grad, sum(d[not value_first] for d in found), 1e-6)
        assert close(x.grad.tolist(), [d[value_first] for d in found], 1e-6)


@pytest.mark.parametrize("sign", OPERATORS)
def test_value_beside_a_tensor_that_wants_no_gradient(sign):
    function, derivatives = OPERATORS[sign]
    v, x = Value(1.5), torch.tensor(2.0)
    function(v, x).backward()
    assert close(v.grad, derivatives(1.5, 2.0)[0], 1e-6)
    v = Value(1.5)
    function(x, v).backward()
    assert close(v.grad, derivatives(2.0, 1.5)[1], 1e-6)
    assert x.grad is None


def test_gradients_of_both_kinds_meet_in_one_value():
    v = Value(3.0)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    square = v * v
    z = (square * x).sum() + v * x.sum() + (x / v).sum()
    z.backward()
    assert close(v.grad, 18.0 + 3.0 - 3.0 / 9, 1e-6)
    assert close(square.grad, 3.0, 1e-6)
    assert close(x.grad.tolist(), [9.0 + 3.0 + 1 / 3] * 2, 1e-6)


def test_value_keeps_its_precision_in_a_float64_graph():
    v = Value(1.0 / 3)
    x = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    (v * v * v).as_tensor().backward()
    assert close(v.grad, 1 / 3, 1e-6)
    assert x.grad is None


def test_as_tensor_passes_the_gradient_back():
    v = Value(2.0)
    cube = v**3
    t = cube.as_tensor()
    assert (t.dtype, t.shape, t.item()) == (torch.float32, (), 8.0)
    assert t.requires_grad
    (t * t).backward()
    assert (v.grad, cube.grad) == (192.0, 16.0)
    t.backward()
    assert (v.grad, cube.grad) == (204.0, 17.0)
    with torch.no_grad():
        assert not v.as_tensor().requires_grad


def test_autograd_grad_leaves_values_alone():
    v = Value(3.0)
    x = torch.tensor(2.0, requires_grad=True)
    (g,) = torch.autograd.grad(v * x, x)
    assert (g.item(), v.grad) == (3.0, 0.0)


def test_higher_derivatives_do_not_go_through_values():
    v = Value(3.0)
    square = (v * v).as_tensor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(NotImplementedError, match="use 0-d Tensors"):
            square.backward(create_graph=True)
    assert v.grad == 0.0
