"""Properties that the table promises, for every row: a new row is tested without a new test.

Values are compared with the row's formula by `oracle`, derivatives with differences of the
formula at 60 digits, never with the derivative's text. Inputs come from the row's domain, away
from its kinks. The checks are tested too: a derivative that is 1% off must be refused.
"""

import itertools
import math
import operator

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtorch as torch
from microtorch import Value
from microtorch.functions.elementwise import FUNCTIONS, make
from microtorch.table import FOLDS, ROWS, ROWWISE, VOCABULARY, Row, names_in

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
FLOATS = (SINGLE, DOUBLE)
WHOLE = tuple(map(np.dtype, ("int64", "int32", "uint8", "bool")))
DIFFERENTIABLE = {n: r for n, r in ROWS.items() if r.derivatives}
EXACT_TYPES = [n for n, r in ROWS.items() if r.types in ("any", "bool")]
SEEDS = st.integers(0, 2**32 - 1)
steady = settings(deadline=None, derandomize=True, max_examples=3, database=None)

# Operands as (shape, view of it) pairs: for x, for y.
PLAIN = lambda a: a
LAYOUTS = {
    "0-d": (((), PLAIN), ((), PLAIN)),
    "empty": (((0, 3), PLAIN), ((1, 3), PLAIN)),
    "vector": (((37,), PLAIN), ((37,), PLAIN)),
    "number right": (((3, 4), PLAIN), ((), PLAIN)),
    "number left": (((), PLAIN), ((3, 4), PLAIN)),
    "outer": (((3, 1), PLAIN), ((1, 4), PLAIN)),
    "leading": (((4,), PLAIN), ((2, 3, 4), PLAIN)),
    "transposed": (((4, 3), np.transpose), ((3, 4), PLAIN)),
    "both transposed": (((4, 3), np.transpose), ((4, 3), np.transpose)),
    "strided": (((6, 8), lambda a: a[::2, ::2]), ((3, 8), lambda a: a[:, 1::2])),
}


def intervals(row):
    """The domain of each input."""
    return row.domain * len(row.inputs) if len(row.domain) == 1 else row.domain


def params_of(row, random):
    """Ascending numbers but 0 that every floating dtype can hold."""
    return sorted((random.integers(-8, 8, len(row.params)) * 2 + 1) / 8)


def draw(row, random, dtype, count):
    """`count` points of the domain, away from the kinks: arrays of the inputs, and params."""
    params = params_of(row, random)
    kept = [np.empty(0)] * len(row.inputs)
    while kept[0].size < count:
        drawn = [random.uniform(low, high, count).astype(dtype) for low, high in intervals(row)]
        values = dict(zip(row.operands, [*drawn, *params], strict=True))
        good = np.ones(count, bool)
        for kink in row.kinks:
            good &= np.abs(oracle.numpy_value(kink, DOUBLE, values)) > 0.01
        kept = [np.append(k, d[good]) for k, d in zip(kept, drawn, strict=True)]
    return [k[:count].astype(dtype) for k in kept], params


def values_of(row, arrays, params, dtype):
    """Name -> array, as the oracle takes them."""
    return dict(zip(row.operands, [*arrays, *(np.asarray(p).astype(dtype) for p in params)]))


def lay_out(pools, layout):
    """Tensors of a layout, their elements taken from the pools."""
    made = []
    for pool, (shape, view) in zip(pools, LAYOUTS[layout]):
        made.append(torch.from_numpy(view(np.resize(pool, shape))))
    return made


def check_layout(row, pools, params, layout):
    tensors = lay_out(pools, layout)
    z = FUNCTIONS[row.name](*tensors, *params)
    arrays = [t.numpy() for t in tensors]
    values = values_of(row, arrays, params, arrays[0].dtype)
    oracle.check_value(row.formula, arrays[0].dtype, values, z.numpy())


# ------------------------------------------------------------------------------------- values
def test_the_oracle_knows_every_word():
    assert set(oracle.EXACT) | {"where", "inf"} == VOCABULARY


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@steady
@given(data=st.data())
def test_value(name, dtype, data):
    row = ROWS[name]
    width = 8 * dtype.itemsize
    pools = []
    for interval in intervals(row):
        low, high = np.array(interval, dtype).tolist()
        points = st.lists(st.floats(low, high, width=width), min_size=5, max_size=9)
        pools.append(np.array(data.draw(points), dtype))
    params = params_of(row, np.random.default_rng(data.draw(SEEDS)))
    for layout in LAYOUTS:
        check_layout(row, pools, params, layout)


def test_value_of_many():
    """Enough elements for a kernel's SIMD loop and for several threads."""
    x = np.random.default_rng(0).uniform(-4, 4, 100_003)
    z = torch.exp(torch.from_numpy(x)).numpy()
    assert np.allclose(z, np.exp(x), rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", EXACT_TYPES)
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_value_of_integers(name, dtype):
    row, limits = ROWS[name], np.iinfo(dtype)
    pool = np.array([0, 1, 2, 3, 7, 100, limits.max, limits.min, limits.max - 1], dtype)
    pools = [pool, pool[::-1] // 2]
    params = list(range(1, 1 + len(row.params)))
    for layout in LAYOUTS:
        check_layout(row, pools[: len(row.inputs)], params, layout)


# What PyTorch refuses on bools, and what gives no bools.
NO_BOOLS = set("sub rsub neg abs relu hardtanh clamp clamp_min clamp_max floor ceil round"
               " trunc".split())  # fmt: skip


@pytest.mark.parametrize("name", [n for n in EXACT_TYPES if n not in {*NO_BOOLS, "square"}])
def test_value_of_bools(name):
    row = ROWS[name]
    x, y = np.array([[False], [True]]), np.array([False, True])
    operands = [x, y][: len(row.inputs)] + [np.array(True) for _ in row.params]
    z = FUNCTIONS[name](*map(torch.tensor, operands[: len(row.inputs)]), *[True] * len(row.params))
    byte = np.dtype(np.uint8)
    values = {n: a.astype(byte) for n, a in zip(row.operands, operands)}
    assert z.dtype == torch.bool
    assert np.array_equal(z.numpy(), oracle.numpy_value(row.formula, byte, values) != 0)


@pytest.mark.parametrize("name", sorted(NO_BOOLS))
def test_bools_are_refused(name):
    row = ROWS[name]
    with pytest.raises((RuntimeError, NotImplementedError), match="not (supported|implemented)"):
        FUNCTIONS[name](*[torch.tensor([True])] * len(row.inputs), *[True] * len(row.params))


@pytest.mark.parametrize("name", [n for n, r in ROWS.items() if r.types == "real"])
def test_integers_are_refused(name):
    row = ROWS[name]
    with pytest.raises(NotImplementedError, match="not implemented for 'Long'"):
        FUNCTIONS[name](*[torch.tensor([1, 2])] * len(row.inputs), *[1] * len(row.params))


@pytest.mark.parametrize("name", [n for n, r in ROWS.items() if r.types == "float"])
def test_integers_are_promoted(name):
    row = ROWS[name]
    params = [1.0] * len(row.params)
    whole = FUNCTIONS[name](*[torch.tensor([1, 2])] * len(row.inputs), *params)
    plain = FUNCTIONS[name](*[torch.tensor([1.0, 2.0])] * len(row.inputs), *params)
    assert whole.dtype == torch.float32
    assert np.array_equal(whole.numpy(), plain.numpy(), equal_nan=True)


# ------------------------------------------------------------------------------ special points
def special_points(dtype):
    """Zeros, the ends of the range, and where exponentials saturate in either width."""
    finite = np.finfo(dtype)
    sizes = [0, finite.smallest_subnormal, finite.tiny, 0.5, 1, 2, 20, 90, 104, 711, 746]
    sizes += [finite.max, np.inf]
    return np.array([*sizes, *np.negative(sizes), np.nan], dtype)


def special_operands(row, dtype):
    x = special_points(dtype)
    return [x] if len(row.inputs) == 1 else [x[:, None], x]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_points(name, dtype):
    row = ROWS[name]
    arrays = special_operands(row, dtype)
    params = [-0.75, 1.5, 2.25][: len(row.params)]
    z = FUNCTIONS[name](*map(torch.tensor, arrays), *params).numpy()
    oracle.check_value(row.formula, dtype, values_of(row, arrays, params, dtype), z)


def test_special_points_by_hand():
    """What the definitions say, formulas aside."""
    x = torch.tensor([-math.inf, -1.0, -0.0, 0.0, 1.0, math.inf, math.nan])
    for name, want in {
        "relu": [0.0, 0.0, 0.0, 0.0, 1.0, math.inf, math.nan],
        "sigmoid": [0.0, 1 / (1 + math.e), 0.5, 0.5, 1 / (1 + 1 / math.e), 1.0, math.nan],
        "abs": [math.inf, 1.0, 0.0, 0.0, 1.0, math.inf, math.nan],
        "sign": [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 0.0],
        "isnan": [False] * 6 + [True],
        "isinf": [True] + [False] * 4 + [True, False],
    }.items():
        z = FUNCTIONS[name](x).numpy()
        assert np.allclose(z, want, rtol=1e-6, atol=0, equal_nan=True), name
        assert not np.signbit(z.astype(float)[np.equal(want, 0)]).any(), name


# -------------------------------------------------------------------------------- beside PyTorch
def torch_function(name):
    """PyTorch's function of a row."""
    theirs = pytest.importorskip("torch", reason="PyTorch, as an oracle, is not installed")
    functional = theirs.nn.functional
    name = {"pow_number": "pow", "softplus_beta": "softplus"}.get(name, name)
    if name == "gelu_tanh":
        return theirs, lambda x: functional.gelu(x, approximate="tanh")
    if hasattr(functional, name) and name.startswith(("mse", "l1", "binary")):
        return theirs, lambda x, y: getattr(functional, name)(x, y, reduction="none")
    found = getattr(theirs, name, None) or getattr(functional, name, None)
    if found is None:
        pytest.skip(f"PyTorch has no function {name}")
    return theirs, found


def near_torch(z, want):
    """Equal, or to a few units in the last place."""
    assert z.dtype == want.dtype and z.shape == want.shape
    if z.dtype.kind != "f":
        return np.array_equal(z, want)
    eps = np.finfo(z.dtype).eps
    return np.allclose(z, want, rtol=64 * eps, atol=8 * eps, equal_nan=True)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_value_beside_torch(name, dtype):
    theirs, function = torch_function(name)
    row = ROWS[name]
    arrays, params = draw(row, np.random.default_rng(5), dtype, 40)
    z = FUNCTIONS[name](*map(torch.tensor, arrays), *params)
    assert near_torch(z.numpy(), function(*map(theirs.tensor, arrays), *params).numpy())


# PyTorch refuses binary_cross_entropy outside [0, 1], its gelu overflows at the largest numbers,
# it orders binary_cross_entropy_with_logits so that infinite logits give nan elsewhere, and it refuses
# a negative softshrink.
OTHERWISE = {"binary_cross_entropy", "binary_cross_entropy_with_logits", "gelu", "softshrink"}


@pytest.mark.parametrize("name", [n for n in ROWS if n not in OTHERWISE])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_points_beside_torch(name, dtype):
    theirs, function = torch_function(name)
    row = ROWS[name]
    arrays = np.broadcast_arrays(*special_operands(row, dtype))
    if any(word in row.formula for word in oracle.LIMITED):
        arrays = [np.where(np.abs(a) > min(oracle.LIMITED.values()), 1, a) for a in arrays]
    params = [-0.75, 1.5, 2.25][: len(row.params)]
    z = FUNCTIONS[name](*map(torch.tensor, arrays), *params).numpy()
    want = function(*map(theirs.tensor, arrays), *params).numpy()
    assert near_torch(z, want), f"{arrays}: {z}, not {want}"


# -------------------------------------------------------------------------------- derivatives
# A relative error of derivatives that no kernel may reach, and where they are near 0, of this.
TOLERANCE = {SINGLE: 2e-4, DOUBLE: 1e-9}
FLOOR = 1e-3


def close(got, want, size, tolerance):
    """Demand |got - want| <= tolerance * size, where size is the sum of what was added up."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert (np.abs(got - want) <= tolerance * size).all(), f"{got}, not {want}"


def sum_to(a, shape):
    """a summed over the dimensions that broadcasting added or repeated."""
    lead = a.ndim - len(shape)
    dims = [*range(lead), *(lead + k for k, n in enumerate(shape) if n == 1 != a.shape[lead + k])]
    return a.sum(tuple(dims)).reshape(shape)


def differences(row, arrays, params):
    """d[k] and dd[k][j], arrays of the broadcast shape, by differences of the formula."""
    spread = np.broadcast_arrays(*arrays)
    count = len(row.inputs)
    first = np.empty((count, spread[0].size))
    second = np.empty((count, count, spread[0].size))
    known = {}
    for i, point in enumerate(zip(*(a.ravel().tolist() for a in spread))):
        if point not in known:
            values = dict(zip(row.operands, [*point, *params]))
            known[point] = oracle.differences(row.formula, row.inputs, values)
        first[:, i], second[:, :, i] = known[point]
    shape = spread[0].shape
    return first.reshape(count, *shape), second.reshape(count, count, *shape)


def leaves(arrays):
    return [torch.tensor(a, requires_grad=True) for a in arrays]


def check_first(row, function, arrays, params, g):
    """Gradients, by backward and by grad, of sum(g * row); all inputs needed, then one by one."""
    d, _ = differences(row, arrays, params)
    tolerance = TOLERANCE[arrays[0].dtype]
    wanted = [
        (sum_to(g * dk, a.shape), sum_to(np.abs(g) * (np.abs(dk) + FLOOR), a.shape))
        for dk, a in zip(d, arrays)
    ]
    weights = torch.tensor(g.astype(arrays[0].dtype))
    tensors = leaves(arrays)
    function(*tensors, *params).backward(weights)
    for x, (want, size) in zip(tensors, wanted):
        assert x.grad.dtype == x.dtype
        close(x.grad.numpy(), want, size, tolerance)
    found = torch.autograd.grad(function(*tensors, *params), tensors, weights)
    for dx, (want, size) in zip(found, wanted):
        close(dx.numpy(), want, size, tolerance)
    for k, (want, size) in enumerate(wanted):
        tensors = [torch.tensor(a, requires_grad=k == j) for j, a in enumerate(arrays)]
        function(*tensors, *params).backward(weights)
        close(tensors[k].grad.numpy(), want, size, tolerance)


def check_second(row, function, arrays, params, g, v):
    """The gradient of sum(v * gradient), for a direction v; linear in g as well."""
    d, dd = differences(row, arrays, params)
    tensors, weights = leaves(arrays), torch.tensor(g, requires_grad=True)
    z = function(*tensors, *params)
    gradients = torch.autograd.grad(z, tensors, weights, create_graph=True)
    along = torch.tensor(0.0, dtype=torch.float64)
    for dx, vx in zip(gradients, v):
        along = along + (dx * torch.tensor(vx)).sum()
    *found, by_g = torch.autograd.grad(along, [*tensors, weights], allow_unused=True)
    moved = [np.broadcast_to(vx, g.shape) for vx in v]
    for k, (a, dx) in enumerate(zip(arrays, found)):
        terms = [g * dd[k][j] * moved[j] for j in range(len(arrays))]
        size = sum(np.abs(g * moved[j]) * (np.abs(dd[k][j]) + FLOOR) for j in range(len(arrays)))
        got = np.zeros(a.shape) if dx is None else dx.numpy()
        close(got, sum_to(sum(terms), a.shape), sum_to(size, a.shape), 1e-9)
    first = sum(dk * m for dk, m in zip(d, moved))
    size = sum((np.abs(dk) + FLOOR) * np.abs(m) for dk, m in zip(d, moved))
    close(0 * g if by_g is None else by_g.numpy(), first, size, 1e-9)


SHAPES = {
    "0-d": ((), ()),
    "vector": ((7,), (7,)),
    "outer": ((3, 1), (1, 4)),
    "leading": ((4,), (2, 1, 4)),
    "number": ((3, 2), ()),
}


def operands(row, seed, shapes=((7,), (7,)), dtype=DOUBLE):
    """Arrays of the shapes with params, an incoming gradient and a direction."""
    random = np.random.default_rng(seed)
    while True:
        pools, params = draw(row, random, dtype, 24)
        arrays = [np.resize(p, s) for p, s in zip(pools, shapes)]
        # Broadcasting makes new pairs, which may lie at a kink.
        values = values_of(row, arrays, params, DOUBLE)
        if all((np.abs(oracle.numpy_value(k, DOUBLE, values)) > 1e-3).all() for k in row.kinks):
            break
    g = random.normal(size=np.broadcast_shapes(*(a.shape for a in arrays)))
    return arrays, params, np.asarray(g), [random.normal(size=a.shape) for a in arrays]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@steady
@given(seed=SEEDS)
def test_first_derivative(name, seed):
    row = ROWS[name]
    for shapes in SHAPES.values():
        arrays, params, g, _ = operands(row, seed, shapes)
        check_first(row, FUNCTIONS[name], arrays, params, g)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_first_derivative_in_float32(name):
    arrays, params, g, _ = operands(ROWS[name], 1, dtype=SINGLE)
    check_first(ROWS[name], FUNCTIONS[name], arrays, params, g)


@pytest.mark.parametrize("name", [n for n, r in DIFFERENTIABLE.items() if len(r.inputs) == 2])
def test_first_derivative_of_many(name):
    """Many elements take a kernel that gives both gradients in one pass."""
    arrays, params, g, _ = operands(ROWS[name], 2)
    arrays = [np.resize(a, 10_000) for a in arrays]
    check_first(ROWS[name], FUNCTIONS[name], arrays, params, np.resize(g, 10_000))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@steady
@given(seed=SEEDS)
def test_second_derivative(name, seed):
    row = ROWS[name]
    for shapes in SHAPES.values():
        arrays, params, g, v = operands(row, seed, shapes)
        check_second(row, FUNCTIONS[name], arrays, params, g, v)


# ------------------------------------------------------------------------- the checks, checked
def mutants():
    for name, row in DIFFERENTIABLE.items():
        for k, d in enumerate(row.derivatives):
            if d != "0":
                yield pytest.param(row, k, id=f"{name}-{row.inputs[k]}")


def mutated(row, k):
    """A copy of a row whose k-th derivative is 1% off."""
    derivatives = [f"1.01 * ({d})" if i == k else d for i, d in enumerate(row.derivatives)]
    return Row(
        row.name, " ".join(row.inputs), row.formula, ";".join(derivatives), doc=row.doc,
        types=row.types, params=" ".join(row.params), kinks=";".join(row.kinks), node=row.node,
        domain=";".join(" ".join(map(str, interval)) for interval in row.domain),
    )  # fmt: skip


@pytest.mark.parametrize("row, k", [*mutants()])
def test_a_wrong_derivative_is_refused(row, k):
    function = make(mutated(row, k))
    arrays, params, g, v = operands(row, 3)
    with pytest.raises(AssertionError):
        check_first(row, function, arrays, params, g)
    with pytest.raises(AssertionError):
        check_second(row, function, arrays, params, g, v)


def test_a_copied_row_is_accepted():
    row = mutated(ROWS["tanh"], 1)
    arrays, params, g, v = operands(row, 3)
    check_first(row, make(row), arrays, params, g)
    check_second(row, make(row), arrays, params, g, v)


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_value_is_refused(name):
    row = ROWS[name]
    arrays, params = draw(row, np.random.default_rng(4), DOUBLE, 9)
    values = values_of(row, arrays, params, DOUBLE)
    z = FUNCTIONS[name](*map(torch.tensor, arrays), *params).numpy()
    wrong = ~z if z.dtype == bool else z * (1 + 1e-9) + 1e-9 * (z == 0)
    oracle.check_value(row.formula, DOUBLE, values, z)
    with pytest.raises(AssertionError):
        oracle.check_value(row.formula, DOUBLE, values, wrong)


def test_derivatives_at_kinks():
    """Where a derivative jumps, PyTorch's choice."""
    for name, x, params, want in (
        ("relu", [0.0, -0.0], (), [0.0, 0.0]),
        ("abs", [0.0, -0.0], (), [0.0, 0.0]),
        ("sign", [0.0], (), [0.0]),
        ("clamp", [-1.0, 2.0, -1.5, 2.5], (-1.0, 2.0), [1.0, 1.0, 0.0, 0.0]),
        ("clamp_min", [1.0, 0.5], (1.0,), [1.0, 0.0]),
        ("clamp_max", [1.0, 1.5], (1.0,), [1.0, 0.0]),
        ("leaky_relu", [0.0], (0.25,), [0.25]),
        ("elu", [0.0], (0.5,), [0.5]),
        ("floor", [1.0], (), [0.0]),
        ("ceil", [1.0], (), [0.0]),
    ):
        (t,) = leaves([np.array(x)])
        FUNCTIONS[name](t, *params).sum().backward()
        assert t.grad.tolist() == want, name
    for name, want in (("maximum", 0.5), ("minimum", 0.5), ("l1_loss", 0.0)):
        x, y = leaves([np.array([1.0]), np.array([1.0])])
        FUNCTIONS[name](x, y).backward(torch.ones(1, dtype=torch.float64))
        assert (x.grad.item(), y.grad.item()) == (want, want), name


# -------------------------------------------------------------------------------------- Values
def on_values(name, numbers, params=()):
    """The result of a row's method on Values, and the Values."""
    values = [Value(x) for x in numbers]
    return getattr(values[0], name)(*values[1:], *params), values


def on_tensors(name, numbers, params=()):
    tensors = leaves([np.array(x) for x in numbers])
    return FUNCTIONS[name](*tensors, *params), tensors


def same_number(a, b):
    """Equal to 1e-12, nan with nan and infinities with their sign."""
    return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12) or (a != a and b != b)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_value_node(name):
    row = ROWS[name]
    arrays, params = draw(row, np.random.default_rng(6), DOUBLE, 12)
    for numbers in zip(*(a.tolist() for a in arrays)):
        z, values = on_values(name, numbers, params)
        z.backward()
        at = dict(zip(row.operands, [*numbers, *params]))
        oracle.check_value(row.formula, DOUBLE, at, np.array(z.data))
        d, _ = differences(row, [np.array(x) for x in numbers], params)
        for value, want in zip(values, d):
            close(value.grad, want, abs(want) + FLOOR, 1e-9)
        t, tensors = on_tensors(name, numbers, params)
        t.backward()
        for value, x in zip(values, tensors):
            assert same_number(value.grad, x.grad.item())


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_value_node_at_special_points(name):
    """No exception of Python's: inf and nan where the kernels give them."""
    row = ROWS[name]
    params = [-0.75, 1.5, 2.25][: len(row.params)]
    points = [0.0, -0.0, 1.0, -2.5, 40.0, 800.0, -800.0, 1e200, -1e308]
    points += [math.inf, -math.inf, math.nan]
    limit = min((oracle.LIMITED[w] for w in oracle.LIMITED if w in row.formula), default=math.inf)
    for numbers in itertools.product(points, repeat=len(row.inputs)):
        if limit < abs(numbers[0]) < math.inf:
            continue
        z, values = on_values(name, numbers, params)
        z.backward()
        t, tensors = on_tensors(name, numbers, params)
        t.backward()
        assert same_number(z.data, t.item()), (numbers, z.data, t.item())
        for value, x in zip(values, tensors):
            assert same_number(value.grad, x.grad.item()), (numbers, value.grad, x.grad.item())


SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("value_first", [True, False])
def test_value_with_tensor(sign, value_first):
    function = SIGNS[sign]
    v, x = Value(1.5), torch.tensor([0.5, -2.0, 4.0], requires_grad=True)
    a = torch.tensor(1.5, requires_grad=True)
    b = torch.tensor([0.5, -2.0, 4.0], requires_grad=True)
    z, t = (function(v, x), function(a, b)) if value_first else (function(x, v), function(b, a))
    z.sum().backward()
    t.sum().backward()
    assert z.tolist() == t.tolist()
    assert x.grad.tolist() == b.grad.tolist()
    assert v.grad == pytest.approx(a.grad.item(), rel=1e-6)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_value_as_tensor(name):
    """A Value's tensor takes part in every row, and the gradient reaches the Value."""
    row = ROWS[name]
    arrays, params = draw(row, np.random.default_rng(7), SINGLE, 1)
    value = Value(float(arrays[0][0]))
    others = leaves(arrays[1:])
    FUNCTIONS[name](value.as_tensor(), *others, *params).sum().backward()
    d, _ = differences(row, [a[0] for a in arrays], params)
    for found, want in zip([value.grad, *(x.grad.item() for x in others)], d):
        close(found, want, abs(want) + FLOOR, TOLERANCE[SINGLE])


# ------------------------------------------------------------------------------ folds and rows
# Name of a fold -> the function that takes dims, and NumPy's.
FOLDED = {"sum": ("sum", np.sum), "mean": ("mean", np.mean), "prod": ("prod", np.prod),
          "max": ("amax", np.max), "min": ("amin", np.min)}  # fmt: skip
# What rounding may add up to, in eps of the sum of sizes: the kernels add in blocks.
FOLD_EPS = 64


def test_every_fold_is_tested():
    assert set(FOLDED) == set(FOLDS)


def folded(name, x, dims):
    """A fold over dims, by the public functions; prod takes one dim at a time."""
    function = getattr(torch, FOLDED[name][0])
    if name != "prod" or dims is None:
        return function(x) if dims is None else function(x, dims)
    for dim in sorted(dims, reverse=True):
        x = function(x, dim)
    return x


def fold_dims(rank, choice):
    """None, or some of the dimensions by the bits of a number."""
    dims = tuple(d for d in range(rank) if choice >> d & 1)
    return dims or None


def laid_out(array, layout):
    """The same elements as a tensor with other strides."""
    if layout == "transposed":
        return torch.from_numpy(array.T.copy()).permute(tuple(range(array.ndim))[::-1])
    if layout == "strided" and array.ndim:
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return torch.from_numpy(wide)[..., ::2]
    return torch.from_numpy(array)


shapes = st.lists(st.sampled_from([1, 2, 3, 5, 8, 65]), max_size=3).map(tuple)
layouts = st.sampled_from(["plain", "transposed", "strided"])
often = settings(steady, max_examples=25)


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE], ids=str)
@often
@given(shape=shapes, choice=st.integers(0, 7), layout=layouts, seed=SEEDS)
def test_fold(name, dtype, shape, choice, layout, seed):
    if name == "mean" and dtype.kind != "f":
        with pytest.raises(RuntimeError, match="could not infer output dtype"):
            torch.mean(torch.ones(2, dtype=torch.int64))
        return
    random = np.random.default_rng(seed)
    array = random.normal(size=shape) * 3
    if name == "prod" and dtype.kind == "f":
        # No product of any number of these overflows or underflows.
        array = np.exp(array / 300) * np.sign(array)
    array = np.asarray(array).astype(dtype)
    dims = fold_dims(len(shape), choice)
    z = folded(name, laid_out(array, layout), dims).numpy()
    numpy_fold = FOLDED[name][1]
    if dtype.kind == "f":
        want = numpy_fold(array.astype(np.longdouble), axis=dims)
        size = numpy_fold(np.abs(array).astype(np.longdouble), axis=dims)
        steps = 0 if name in ("max", "min") else max(FOLD_EPS, array.size if name == "prod" else 0)
        assert z.dtype == dtype and z.shape == want.shape
        assert (np.abs(z - want) <= steps * np.finfo(dtype).eps * size).all()
    else:
        wide = np.int64 if name in ("sum", "prod") else dtype
        want = numpy_fold(array.astype(wide), axis=dims)
        assert z.dtype == wide and np.array_equal(z, want)


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_fold_of_many(name, dtype):
    """Long rows and columns, which take several blocks."""
    array = np.random.default_rng(8).uniform(0.999, 1.001, (40_001, 3)).astype(dtype)
    numpy_fold = FOLDED[name][1]
    for dims in (None, (0,)):
        z = folded(name, torch.from_numpy(array), dims).numpy()
        want = numpy_fold(array.astype(np.longdouble), axis=dims)
        bound = 40_001 if name == "prod" else FOLD_EPS
        assert np.allclose(z, want.astype(np.float64), rtol=bound * np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", FOLDED)
def test_fold_of_special_values(name):
    for values in ([1.0, math.nan, 2.0], [math.inf, 1.0], [-math.inf, 1.0], [math.inf, -math.inf]):
        z = folded(name, torch.tensor(values), None).item()
        with np.errstate(invalid="ignore"):
            want = FOLDED[name][1](np.array(values)).item()
        assert same_number(z, want) or z == want, values


def check_gradient(function, x, random):
    """First and second derivatives along a direction, by differences of longdouble NumPy.

    function: (tensor function, the same on longdouble arrays).
    """
    on_tensor, on_array = function
    v, h = random.normal(size=x.shape), np.longdouble(2.0**-13)
    wide = [on_array(x.astype(np.longdouble) + k * h * v) for k in (-2, -1, 0, 1, 2)]
    g = random.normal(size=wide[2].shape)
    far, left, middle, right, beyond = ((g * w).sum() for w in wide)
    first = (far - 8 * left + 8 * right - beyond) / (12 * h)
    second = (-far + 16 * left - 30 * middle + 16 * right - beyond) / (12 * h * h)
    t = torch.tensor(x, requires_grad=True)
    weights = torch.tensor(g, requires_grad=True)
    size = np.abs(g * wide[2]).sum() + 1
    (dx,) = torch.autograd.grad(on_tensor(t), t, weights, create_graph=True)
    slope = (dx * torch.tensor(v)).sum()
    close(slope.item(), first, size, 1e-6)
    on_tensor(t).backward(torch.tensor(g))
    close((t.grad.numpy() * v).sum(), first, size, 1e-6)
    (ddx, _) = torch.autograd.grad(slope, [t, weights], allow_unused=True)
    close(0.0 if ddx is None else (ddx.numpy() * v).sum(), second, size, 1e-4)


def stretched(function):
    """The same value with a gradient that is 1% off."""
    return lambda x: 1.01 * function(x) - 0.01 * function(x).detach()


def distinct(shape, random):
    """Elements apart from each other and from 0, in any order: no kink of a fold is near."""
    count = math.prod(shape)
    sizes = (random.permutation(count).reshape(shape) + 1.0) * 4 / count
    return sizes * random.choice([-1, 1], shape)


def fold_pair(name, dims):
    return lambda x: folded(name, x, dims), lambda a: FOLDED[name][1](a, axis=dims)


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("dims", [None, (0,), (1,), (0, 2), (2,)])
def test_gradient_of_a_fold(name, dims):
    random = np.random.default_rng(9)
    x = distinct((2, 3, 4), random)
    on_tensor, on_array = fold_pair(name, dims)
    check_gradient((on_tensor, on_array), x, random)
    with pytest.raises(AssertionError):
        check_gradient((stretched(on_tensor), on_array), x, np.random.default_rng(9))


def test_equal_extremes_share_the_gradient():
    x = torch.tensor([[2.0, 5.0, 5.0], [1.0, 1.0, 1.0]], requires_grad=True)
    torch.amax(x, 1).sum().backward()
    assert np.allclose(x.grad.numpy(), [[0, 0.5, 0.5], [1 / 3] * 3])


def test_gradient_of_a_product_with_zeros():
    for zeros, want in (((1,), [0, 3, 0]), ((0, 1), [0, 0, 0])):
        array = np.array([1.0, 2.0, 3.0])
        array[list(zeros)] = 0
        x = torch.tensor(array, requires_grad=True)
        torch.prod(x).backward()
        assert x.grad.tolist() == want


def softmax_of(a, dim):
    e = np.exp(a - a.max(dim, keepdims=True))
    return e / e.sum(dim, keepdims=True)


# Function of the public API -> NumPy's; each belongs to a Rowwise and to its backward.
NORMALIZED = {"softmax": softmax_of, "log_softmax": lambda a, dim: np.log(softmax_of(a, dim))}


def layer_norm_of(a, w, b):
    d = a - a.mean(-1, keepdims=True)
    return d / np.sqrt((d * d).mean(-1, keepdims=True) + 0.1) * w + b


def rms_norm_of(a, w):
    return a / np.sqrt((a * a).mean(-1, keepdims=True) + 0.1) * w


# Function of nn.functional -> NumPy's, with a weight and a bias, or a weight; eps is 0.1.
WEIGHTED = {"layer_norm": (layer_norm_of, 2), "rms_norm": (rms_norm_of, 1)}


def test_every_rowwise_op_is_tested():
    names = [*NORMALIZED, *WEIGHTED]
    wanted = {n + end for n in names for end in ("", "_backward")}
    assert set(ROWWISE) == wanted | {"layer_norm_weight"}


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@often
@given(shape=shapes.filter(bool), layout=layouts, seed=SEEDS)
def test_weighted_rows(name, dtype, shape, layout, seed):
    function, count = WEIGHTED[name]
    random = np.random.default_rng(seed)
    array = (random.normal(size=shape) * 3).astype(dtype)
    weights = [random.normal(size=shape[-1]).astype(dtype) for _ in range(count)]
    given = [torch.tensor(w) for w in weights]
    z = getattr(torch.nn.functional, name)(laid_out(array, layout), shape[-1:], *given, eps=0.1)
    want = function(array.astype(np.longdouble), *weights) if array.size else array
    eps = np.finfo(dtype).eps
    assert z.numpy().dtype == dtype and z.shape == shape
    assert np.allclose(z.numpy(), want.astype(np.float64), rtol=64 * eps, atol=64 * eps)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("length", [4, 70])
def test_gradient_of_weighted_rows(name, length):
    function, count = WEIGHTED[name]
    apply = getattr(torch.nn.functional, name)
    random = np.random.default_rng(10)
    arrays = [random.normal(size=(3, length)), *random.normal(size=(count, length))]
    for k, x in enumerate(arrays):
        rest = lambda v: [*arrays[:k], v, *arrays[k + 1 :]]
        tensors = lambda t: [v if v is t else torch.tensor(v) for v in rest(t)]
        on_tensor = lambda t: apply(tensors(t)[0], (length,), *tensors(t)[1:], eps=0.1)
        check_gradient((on_tensor, lambda a: function(*rest(a))), x, random)


@pytest.mark.parametrize("name", NORMALIZED)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@often
@given(shape=shapes.filter(bool), layout=layouts, pick=st.integers(0, 2), seed=SEEDS)
def test_rowwise(name, dtype, shape, layout, pick, seed):
    array = (np.random.default_rng(seed).normal(size=shape) * 3).astype(dtype)
    dim = pick % len(shape)
    z = getattr(torch, name)(laid_out(array, layout), dim)
    want = NORMALIZED[name](array.astype(np.longdouble), dim)
    eps = np.finfo(dtype).eps
    assert z.numpy().dtype == dtype and z.shape == shape
    assert np.allclose(z.numpy(), want.astype(np.float64), rtol=32 * eps, atol=32 * eps)


@pytest.mark.parametrize("name", NORMALIZED)
def test_rowwise_does_not_overflow(name):
    z = getattr(torch, name)(torch.tensor([1000.0, 0.0, -1000.0]), 0).tolist()
    assert z == ([1.0, 0.0, 0.0] if name == "softmax" else [0.0, -1000.0, -2000.0])


@pytest.mark.parametrize("name", NORMALIZED)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gradient_of_a_rowwise_op(name, dim):
    random = np.random.default_rng(10)
    x = random.normal(size=(2, 3, 4))
    on_tensor = lambda t: getattr(torch, name)(t, dim)
    on_array = lambda a: NORMALIZED[name](a, dim)
    check_gradient((on_tensor, on_array), x, random)
    with pytest.raises(AssertionError):
        check_gradient((stretched(on_tensor), on_array), x, np.random.default_rng(10))


# -------------------------------------------------------------------------------- rows as data
@pytest.mark.parametrize(
    "arguments, options, text",
    [
        (("bad", "x", "frob(x)"), {}, r"row bad: the formula names unknown \['frob'\]"),
        (("bad", "x", "x + y"), {}, r"row bad: the formula names unknown \['y'\]"),
        (("bad", "x", "z"), {}, r"row bad: the formula names unknown \['z'\]"),
        (("bad", "x", "x", "w"), {}, r"row bad: a derivative names unknown \['w'\]"),
        (("bad", "x", "x", "frob(z)"), {}, r"row bad: a derivative names unknown \['frob'\]"),
        (("bad", "x y", "x + y", "1"), {}, r"row bad: 1 derivatives for inputs \('x', 'y'\)"),
        (("bad", "x", "x", "1; 1"), {}, r"row bad: 2 derivatives for inputs \('x',\)"),
        (("bad", "x", "x"), {"domain": "0 1; 0 1"}, r"row bad: 2 domains, \('x',\) inputs"),
        (("bad", "x", "x * a"), {"params": "b"}, r"row bad: the formula names unknown \['a'\]"),
    ],
)
def test_a_wrong_row_is_refused(arguments, options, text):
    with pytest.raises(ValueError, match=text):
        Row(*arguments, doc="", **options)


CUSTOM = [
    Row("cube", "x", "x * x * x", "3 * x * x", doc="Third power of input."),
    Row("hypotenuse", "x y", "sqrt(x * x + y * y)", "x / z; y / z", domain="0.2 4", doc="Length."),
    Row("soft_abs", "x", "sqrt(x * x + width)", "x / z", params="width", doc="Smooth abs.",
        domain="3 4"),
]  # fmt: skip


@pytest.mark.parametrize("row", CUSTOM, ids=lambda row: row.name)
def test_a_row_of_ones_own(row):
    function = make(row)
    assert (function.__name__, function.__doc__) == (row.name, row.doc)
    for dtype in FLOATS:
        arrays, params, g, v = operands(row, 11, SHAPES["outer"], dtype)
        z = function(*map(torch.tensor, arrays), *params).numpy()
        oracle.check_value(row.formula, dtype, values_of(row, arrays, params, dtype), z)
        check_first(row, function, arrays, params, g)
    check_second(row, function, arrays, params, g, v)
    x = torch.tensor(arrays[0], requires_grad=True)
    z = function(x, *[torch.tensor(a) for a in arrays[1:]], *params)
    assert type(z.grad_fn).__name__ == row.node


def test_every_word_is_in_some_row():
    assert VOCABULARY == set().union(*(names_in(r.formula) for r in ROWS.values())) & VOCABULARY


# A formula for each word, as the derivative of a row of one's own.
WORDS = {
    **{word: f"{word}(x)" for word in VOCABULARY},
    **{word: f"{word}(x, 0.75)" for word in ("atan2", "copysign", "maximum", "minimum", "pow")},
    "where": "where(x > 0.5, x, 0.25)", "inf": "where(x < inf, x * x, x)",
    "acosh": "acosh(1 + x)", "rint": "rint(x) * x", "trunc": "trunc(x) * x",
    "floor": "floor(x) * x",
    "functions of numbers": "log(2) * pow(2, x) + pow(2, 0.5) * where(x < inf, x, 1)",
}  # fmt: skip


@pytest.mark.parametrize("word", sorted(WORDS))
def test_every_word_differentiates(word):
    """Gradients of a row whose derivative names the word are evaluated on Tensors."""
    formula = WORDS[word]
    row = Row("integral", "x", "x", formula, doc="A made-up derivative.")
    points = [0.3, 0.45, 0.7]
    x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(make(row)(x).sum(), x, create_graph=True)
    want = [float(oracle.exact(formula, {"x": p})) for p in points]
    close(first.detach().numpy(), want, np.abs(want) + FLOOR, 1e-14)
    (second,) = torch.autograd.grad(first.sum(), x)
    want = [oracle.differences(formula, ["x"], {"x": p})[0][0] for p in points]
    close(second.numpy(), want, np.abs(want) + FLOOR, 1e-9)
