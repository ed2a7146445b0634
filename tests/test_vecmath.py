"""The vector math functions: accuracy over all ranges, special values, the same bits everywhere.

References: 53-bit libm for float32, 40 digits of mpmath for float64. An ulp is the spacing of the
floats at the exact result, so that a correctly rounded result is at most 0.5 away.
"""

import functools
import math

import mpmath
import numpy as np
import pytest

from microtorch.kernels import jit, vecmath

INF, NAN = math.inf, math.nan
FLOAT = {32: np.float32, 64: np.float64}
INT = {32: np.int32, 64: np.int64}
LIMIT = 2.5

# Name -> float64 reference on arrays, mpmath reference on numbers.
UNARY = {
    "exp": (np.exp, mpmath.exp),
    "expm1": (np.expm1, mpmath.expm1),
    "log": (np.log, mpmath.log),
    "log1p": (np.log1p, mpmath.log1p),
    "log2": (np.log2, lambda x: mpmath.log(x) / mpmath.log(2)),
    "log10": (np.log10, mpmath.log10),
    "tanh": (np.tanh, mpmath.tanh),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x: 1 / (1 + mpmath.exp(-x))),
    "softplus": (lambda x: np.logaddexp(x, 0), lambda x: mpmath.log1p(mpmath.exp(x))),
    "sin": (np.sin, mpmath.sin),
    "cos": (np.cos, mpmath.cos),
    "tan": (np.tan, mpmath.tan),
    "asin": (np.arcsin, mpmath.asin),
    "acos": (np.arccos, mpmath.acos),
    "atan": (np.arctan, mpmath.atan),
    "sinh": (np.sinh, mpmath.sinh),
    "cosh": (np.cosh, mpmath.cosh),
    "asinh": (np.arcsinh, mpmath.asinh),
    "acosh": (np.arccosh, mpmath.acosh),
    "atanh": (np.arctanh, mpmath.atanh),
    "erf": (np.vectorize(math.erf, otypes=[float]), mpmath.erf),
    "erfc": (np.vectorize(math.erfc, otypes=[float]), mpmath.erfc),
}
BINARY = {"pow": (np.power, mpmath.power), "atan2": (np.arctan2, mpmath.atan2)}
# Where a function is real, and where its argument is not too large to be reduced.
DOMAIN = {
    **dict.fromkeys(("log", "log2", "log10"), (0, INF)),
    **dict.fromkeys(("asin", "acos", "atanh"), (-1, 1)),
    **dict.fromkeys(("sin", "cos", "tan"), (-1e8, 1e8)),
    "log1p": (-1, INF),
    "acosh": (1, INF),
}
# Where a text changes its formula, or a result overflows or vanishes.
EDGES = (1.0, 0.5, 0.35, 2.0, 87.3, 88.7, 103.9, 10.1, 709.8, 745.1, 26.5, 710.4, 0.7854, 1.5708)


@functools.cache
def compiled(name, width):
    arguments = "x[i], y[i]" if name in BINARY else "x[i]"
    text = f"F, I, U, D = f{width}, i{width}, u{width}, f64\n" + vecmath.source([name], width)
    text += (
        "def loop(a, b, c, n):\n"
        f"    x = f{width}_at(a)\n    y = f{width}_at(b)\n    z = f{width}_at(c)\n"
        f"    for i in range(n):\n        z[i] = {name}({arguments})\n"
    )
    loop = jit.function("loop", text, "void(i64,i64,i64,i64)")

    def call(*inputs):
        inputs = [np.ascontiguousarray(x, FLOAT[width]) for x in inputs]
        z = np.empty_like(inputs[0])
        loop(inputs[0].ctypes.data, inputs[-1].ctypes.data, z.ctypes.data, z.size)
        return z

    return call


def interpreted(name, width):
    """The text run by Python itself, on NumPy scalars."""
    scope = {
        "F": FLOAT[width], "I": INT[width], "D": np.float64, "sqrt": np.sqrt, "floor": np.floor,
        "copysign": np.copysign, "fabs": np.abs, "where": lambda c, a, b: a if c else b,
        "bits": lambda x: x.view(INT[width]), "from_bits": lambda i: i.view(FLOAT[width]),
    }  # fmt: skip
    exec(vecmath.source([name], width), scope)
    return scope[name]


def sample(name, width, count):
    """Floats of every magnitude and near every edge, within the function's domain."""
    draw = np.random.default_rng(5)
    spread = draw.integers(0, 2**width, count, dtype=f"u{width // 8}").view(FLOAT[width])
    edges = np.repeat(EDGES, count // 50)
    parts = [
        spread,
        draw.uniform(-1, 1, count),
        draw.uniform(-12, 12, count),
        draw.uniform(-120, 120, count) * (1 if width == 32 else 6.3),
        np.exp(draw.uniform(-40, 20, count)) * draw.choice([-1, 1], count),
        1 + np.exp(draw.uniform(-30, -1, count)) * draw.choice([-1, 1], count),
        edges * (1 + draw.uniform(-0.05, 0.05, edges.size)) * draw.choice([-1, 1], edges.size),
        np.ldexp(draw.uniform(-1, 1, count), -126 if width == 32 else -1022),
        np.round(draw.uniform(-1e5, 1e5, count)) * (math.pi / 2),
    ]
    with np.errstate(all="ignore"):
        x = np.concatenate([part.astype(FLOAT[width]) for part in parts])
    low, high = DOMAIN.get(name, (-INF, INF))
    return x[(x > low) & (x < high)]


def pairs(name, width, count):
    draw = np.random.default_rng(6)
    sign = draw.choice([-1, 1], count)
    if name == "atan2":
        size = 40 if width == 32 else 300
        yield draw.uniform(-2, 2, count), draw.uniform(-2, 2, count)
        yield np.exp(draw.uniform(-size, size, count)), sign * np.exp(draw.uniform(-9, 9, count))
        return
    lowest, highest = (-103, 88) if width == 32 else (-744, 709)
    for spread in (0.01, 0.3, 2, highest):
        x = np.exp(draw.uniform(-spread, spread, count)).astype(FLOAT[width])
        keep = x != 1
        yield x[keep], (draw.uniform(lowest, highest, count)[keep] / np.log(x[keep].astype(float)))
    yield -draw.integers(1, 40, count), draw.integers(-20, 20, count)


def error(z, exact, width):
    """Distance in ulps; infinite where one of the two is not finite and the other differs."""
    mantissa, lowest = (23, -126) if width == 32 else (52, -1022)
    with np.errstate(over="ignore"):
        rounded = FLOAT[width](float(exact))
    if not (np.isfinite(z) and np.isfinite(rounded)):
        return 0.0 if z == rounded else INF
    if exact == 0:
        return 0.0 if z == 0 else INF
    exponent = max(int(mpmath.frexp(exact)[1]) - 1, lowest)
    return float(abs(mpmath.mpf(float(z)) - exact) * mpmath.mpf(2) ** (mantissa - exponent))


def errors32(z, exact):
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
    both = np.isfinite(rounded) & np.isfinite(z)
    exponent = np.maximum(np.frexp(np.where(exact == 0, 1e-300, exact))[1] - 1, -126)
    with np.errstate(invalid="ignore"):
        distance = np.ldexp(np.abs(z.astype(float) - exact), 23 - exponent)
    return np.where(both, distance, np.where(z == rounded, 0, INF))


def worst(name, width, inputs):
    z = compiled(name, width)(*inputs)
    inputs = [np.asarray(x).astype(FLOAT[width]) for x in inputs]
    fast, exact = (UNARY | BINARY)[name]
    if width == 32:
        with np.errstate(all="ignore"):
            found = errors32(z, fast(*(x.astype(float) for x in inputs)))
    else:
        with mpmath.workdps(40):
            rows = [[mpmath.mpf(float(v)) for v in row] for row in zip(*inputs, strict=True)]
            found = np.array([error(v, exact(*row), 64) for v, row in zip(z, rows, strict=True)])
    at = found.argmax()
    return found[at], [x[at] for x in inputs], z[at]


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("name", UNARY)
def test_error_is_below_the_limit(name, width):
    x = sample(name, width, 20000 if width == 32 else 100)
    if name == "erfc" or name == "erf":
        x = x[np.abs(x) < 100]
    ulps, at, z = worst(name, width, [x])
    assert ulps <= LIMIT, (ulps, at, z)


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("name", BINARY)
def test_error_of_two_inputs_is_below_the_limit(name, width):
    for inputs in pairs(name, width, 20000 if width == 32 else 300):
        ulps, at, z = worst(name, width, inputs)
        assert ulps <= LIMIT, (ulps, at, z)


# Next to a multiple of pi/2 the reduction cancels most bits. The two listed are the float64
# closest to one below 2^28 (found by search over all multiples): 2^-60 and 2^-59 away.
@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_reduction_near_multiples_of_half_pi(name):
    n = np.random.default_rng(7).integers(1, 2**26, 3000)
    x = np.concatenate([n * (math.pi / 2), [45.553093477052, 14461176.67027838]])
    assert worst(name, 64, [x[np.abs(x) < 4e8]])[0] <= LIMIT
    assert worst(name, 32, [x[np.abs(x) < 1e8]])[0] <= LIMIT


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_huge_arguments_stay_in_range(name, width):
    x = np.array([1e9, 1e12, 1e20, 1e38, -1e30], FLOAT[width])
    assert np.all(np.abs(compiled(name, width)(x)) <= 1)


SPECIAL = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (1e30, INF), (-1e30, 0.0)],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1.0), (-1e30, -1.0)],
    "log": [(1.0, 0.0), (0.0, -INF), (-0.0, -INF), (INF, INF), (-1.0, NAN), (-INF, NAN)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (-1.0, -INF), (INF, INF), (-2.0, NAN), (-INF, NAN)],
    "log2": [(8.0, 3.0), (0.125, -3.0), (0.0, -INF), (INF, INF), (-1.0, NAN)],
    "log10": [(1000.0, 3.0), (1.0, 0.0), (0.0, -INF), (INF, INF), (-1.0, NAN)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (1e30, 1.0)],
    "sigmoid": [(0.0, 0.5), (INF, 1.0), (-INF, 0.0), (-1e30, 0.0)],
    "softplus": [(INF, INF), (-INF, 0.0), (1e30, FLOAT), (-1e30, 0.0)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN)],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN)],
    "tan": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN)],
    "asin": [(0.0, 0.0), (-0.0, -0.0), (1.5, NAN), (-1.5, NAN), (INF, NAN)],
    "acos": [(1.0, 0.0), (1.5, NAN), (-1.5, NAN), (-INF, NAN)],
    "atan": [(0.0, 0.0), (-0.0, -0.0), (INF, math.pi / 2), (-INF, -math.pi / 2)],
    "sinh": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF), (1e30, INF)],
    "cosh": [(0.0, 1.0), (INF, INF), (-INF, INF), (-1e30, INF)],
    "asinh": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF)],
    "acosh": [(1.0, 0.0), (INF, INF), (0.5, NAN), (-3.0, NAN), (-INF, NAN)],
    "atanh": [(0.0, 0.0), (-0.0, -0.0), (1.0, INF), (-1.0, -INF), (1.5, NAN), (INF, NAN)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (1e30, 1.0)],
    "erfc": [(0.0, 1.0), (INF, 0.0), (-INF, 2.0), (1e30, 0.0), (-1e30, 2.0)],
}


def same(z, expected):
    """Equal, the sign of zero included; any nan equals any other."""
    nans = np.isnan(z) & np.isnan(expected)
    return np.all(nans | ((z == expected) & (np.signbit(z) == np.signbit(expected))))


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("name", UNARY)
def test_special_values(name, width):
    for x, expected in [*SPECIAL[name], (NAN, NAN)]:
        expected = FLOAT[width](x if expected is FLOAT else expected)
        z = compiled(name, width)([x])
        assert same(z, expected), (x, z[0], expected)


@pytest.mark.parametrize("width", [32, 64])
def test_subnormals(width):
    tiny = np.finfo(FLOAT[width]).smallest_subnormal * np.array([1, -1, 5, 1000, -12345])
    for name in ("expm1", "log1p", "tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh"):
        assert same(compiled(name, width)(tiny), tiny.astype(FLOAT[width])), name


GRID = [0.0, 0.5, 1.0, 2.0, 3.0, 2.5, 1e30, 1e-30, INF]
GRID = [*GRID, *(-x for x in GRID), 16777217.0, NAN]


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("name", BINARY)
def test_special_values_of_two_inputs(name, width):
    x, y = (a.ravel().astype(FLOAT[width]) for a in np.meshgrid(GRID, GRID))
    with np.errstate(all="ignore"):
        exact = BINARY[name][0](x.astype(float), y.astype(float)).astype(FLOAT[width])
    z = compiled(name, width)(x, y)
    clear = ~np.isfinite(exact) | (exact == 0) | (np.abs(exact) == 1)
    assert same(z[clear], exact[clear])
    assert np.allclose(z[~clear], exact[~clear], rtol=4 * np.finfo(FLOAT[width]).eps)


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_interpreted_and_compiled_give_the_same_bits(name, width):
    draw = np.random.default_rng(8)
    x = np.concatenate([GRID, draw.uniform(-4, 4, 60), np.exp(draw.uniform(-80, 80, 40))])
    inputs = [x.astype(FLOAT[width]), draw.permutation(x).astype(FLOAT[width])]
    inputs = inputs[: 2 if name in BINARY else 1]
    function = interpreted(name, width)
    with np.errstate(all="ignore"):
        expected = np.array([function(*v) for v in zip(*inputs, strict=True)], FLOAT[width])
    assert same(compiled(name, width)(*inputs), expected)


@pytest.mark.parametrize("width", [32, 64])
def test_text_is_one_flat_function_a_name(width):
    text = vecmath.source(["softplus", "exp", "exp"], width)
    assert text.count("def ") == 2
    for word in ("if ", "for ", "while ", "import", "math"):
        assert word not in text


def test_unknown_name_and_width():
    with pytest.raises(KeyError):
        vecmath.source(["gamma"], 32)
    with pytest.raises(KeyError):
        vecmath.source(["exp"], 16)
