"""Properties that the table promises, for every row: a new row is tested without a new test.

Values are compared with the row's formula by `oracle`, derivatives with differences of the
formula at 60 digits, never with the derivative's text. Inputs come from the row's domain, away
from its kinks. The checks are tested too: a derivative that is 1% off must be refused.
"""

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
from microtorch.table import FOLDS, ROWS, ROWWISE, VOCABULARY, Row

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
    params = [-0.5, 1.5][: len(row.params)]
    z = FUNCTIONS[name](*map(torch.tensor, arrays), *params).numpy()
    oracle.check_value(row.formula, dtype, values_of(row, arrays, params, dtype), z)


def equal_with_zeros(a, b):
    """Equal, nan with nan, and zeros of one sign."""
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(
        np.signbit(a[a == 0]), np.signbit(b[a == 0])
    )


def test_special_points_by_hand():
    """What the definitions say, for the rows that have no one-to-one function in a formula."""
    x = torch.tensor([-math.inf, -1.0, -0.0, 0.0, 1.0, math.inf, math.nan])
    for name, want in {
        "relu": [0.0, 0.0, 0.0, 0.0, 1.0, math.inf, math.nan],
        "sigmoid": [0.0, 1 / (1 + math.e), 0.5, 0.5, 1 / (1 + 1 / math.e), 1.0, math.nan],
        "abs": [math.inf, 1.0, 0.0, 0.0, 1.0, math.inf, math.nan],
        "isnan": [False] * 6 + [True],
        "isinf": [True] + [False] * 4 + [True, False],
    }.items():
        z = FUNCTIONS[name](x).numpy()
        assert np.allclose(z, want, rtol=1e-6, atol=0, equal_nan=True), name
        assert not np.signbit(z.astype(float)).any() or name == "sigmoid", name


# -------------------------------------------------------------------------------- beside PyTorch
def torch_function(name):
    """PyTorch's function of a row."""
    theirs = pytest.importorskip("torch", reason="PyTorch, as an oracle, is not installed")
    functional = theirs.nn.functional
    name = {"pow_number": "pow", "rsqrt": "rsqrt"}.get(name, name)
    if hasattr(functional, name) and name.startswith(("mse", "l1", "binary")):
        return theirs, lambda x, y: getattr(functional, name)(x, y, reduction="none")
    found = getattr(theirs, name, None) or getattr(functional, name, None)
    if found is None:
        pytest.skip(f"PyTorch has no function {name}")
    return theirs, found


def near_torch(z, want):
    """Equal to a few units in the last place, signs of zeros included."""
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


# PyTorch refuses binary_cross_entropy outside [0, 1]. Its sigmoid-like functions take steps of
# their own where everything has saturated.
@pytest.mark.parametrize("name", [n for n in ROWS if n != "binary_cross_entropy"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_points_beside_torch(name, dtype):
    theirs, function = torch_function(name)
    row = ROWS[name]
    arrays = special_operands(row, dtype)
    params = [-0.5, 1.5][: len(row.params)]
    z = FUNCTIONS[name](*map(torch.tensor, arrays), *params).numpy()
    want = function(*map(theirs.tensor, arrays), *params).numpy()
    huge = np.abs(np.broadcast_arrays(*arrays)[0]) > 1e8
    if set("sin cos tan".split()) & {name}:
        z, want = z[~huge], want[~huge]
    assert near_torch(z, want), f"{arrays[0][~np.isclose(z, want, equal_nan=True).all(-1)] if z.ndim == 2 else arrays[0]} {z} {want}"
