"""Properties that the table promises, for every row: a new row is tested without a new test.

Values are compared with the row's formula by `oracle`, derivatives with differences of the
formula at 60 digits, never with the derivative's text. Inputs come from the row's domain, away
from its kinks. The checks are tested too: a derivative that is 1% off must be refused.
"""

import math

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtorch as torch
from microtorch.functions.elementwise import FUNCTIONS, make
from microtorch.table import ROWS, VOCABULARY, Row

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
FLOATS = (SINGLE, DOUBLE)
DIFFERENTIABLE = {n: r for n, r in ROWS.items() if r.derivatives}
EXACT_TYPES = [n for n, r in ROWS.items() if r.types != "float"]
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
    """Ascending numbers that every dtype can hold."""
    return sorted(random.integers(-8, 9, len(row.params)) / 4)


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
    pools = [
        np.array(data.draw(st.lists(st.floats(*bounds, width=width), min_size=5, max_size=9)), dtype)
        for bounds in (tuple(map(float, np.array(pair, dtype))) for pair in intervals(row))
    ]
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


# PyTorch refuses these on bools, with a reason.
@pytest.mark.parametrize("name", [n for n in EXACT_TYPES if n not in ("sub", "rsub", "neg")])
def test_value_of_bools(name):
    row = ROWS[name]
    x, y = np.array([[False], [True]]), np.array([False, True])
    operands = [x, y][: len(row.inputs)] + [np.array(True) for _ in row.params]
    z = FUNCTIONS[name](*map(torch.tensor, operands[: len(row.inputs)]), *[True] * len(row.params))
    byte = np.dtype(np.uint8)
    values = {n: a.astype(byte) for n, a in zip(row.operands, operands)}
    assert z.dtype == torch.bool
    assert np.array_equal(z.numpy(), oracle.numpy_value(row.formula, byte, values) != 0)


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
    params = [-0.75, 1.5][: len(row.params)]
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
    name = {"pow_number": "pow"}.get(name, name)
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


# PyTorch refuses binary_cross_entropy outside [0, 1]; its gelu overflows at the largest numbers.
@pytest.mark.parametrize("name", [n for n in ROWS if n not in ("binary_cross_entropy", "gelu")])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_points_beside_torch(name, dtype):
    theirs, function = torch_function(name)
    row = ROWS[name]
    arrays = np.broadcast_arrays(*special_operands(row, dtype))
    if any(word in row.formula for word in oracle.LIMITED):
        arrays = [np.where(np.abs(a) > min(oracle.LIMITED.values()), 1, a) for a in arrays]
    params = [-0.75, 1.5][: len(row.params)]
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
    flat, params = [], None
    pools, params = draw(row, random, dtype, 24)
    if len(row.inputs) == 1:
        arrays = [np.resize(pools[0], shapes[0])]
    else:
        # A kink may lie between an element of x and any of y: broadcasting keeps pairs apart
        # only if few are drawn, so it is asked again.
        while True:
            arrays = [np.resize(p, s) for p, s in zip(pools, shapes)]
            values = values_of(row, arrays, params, DOUBLE)
            if all((np.abs(oracle.numpy_value(k, DOUBLE, values)) > 1e-3).all() for k in row.kinks):
                break
            pools, params = draw(row, random, dtype, 24)
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
