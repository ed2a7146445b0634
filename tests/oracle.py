"""Formulas of the table, evaluated without the package: three readings of one text.

`exact` takes 60-digit numbers and gives the true value. `numpy_value` takes arrays of a dtype and
gives what IEEE arithmetic does with signed zeros, infinities and nan. `Near` is a number of a
dtype with a bound of its rounding error: the sum of what each operation of the formula may add,
by the rule that a function of the vocabulary is wrong by at most 2.5 units in the last place. So
a test needs no tolerance of its own, however badly a formula is conditioned.
"""

import functools
import itertools
import math

import mpmath
import numpy as np

mp = mpmath.mp.clone()
mp.dps = 60


def _softplus(x):
    return mp.log1p(mp.exp(-abs(x))) + max(x, 0)


# word -> the true function; every word of the vocabulary but `where` and `inf`.
EXACT = {
    **{n: getattr(mp, n) for n in "exp expm1 log log1p sin cos tan asin acos atan atan2 sinh cosh"
       " tanh asinh acosh atanh erf sqrt floor".split()},
    "erfc": lambda x: mp.erfc(x) if x < 1e4 else mp.zero,
    "log2": lambda x: mp.log(x, 2),
    "log10": lambda x: mp.log(x, 10),
    "pow": mp.power,
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "softplus": _softplus,
    "fabs": abs,
    "copysign": lambda x, y: abs(x) if y >= 0 else -abs(x),
    "maximum": lambda x, y: x if x > y or x != x else y,
    "minimum": lambda x, y: x if x < y or x != x else y,
    "rint": mp.nint,
    "trunc": lambda x: mp.floor(x) if x > 0 else mp.ceil(x),
}  # fmt: skip
# Words that only choose or clear bits: they round nothing.
UNROUNDED = frozenset("floor fabs copysign maximum minimum rint trunc".split())
# Words that may answer with either zero where both are equal.
EITHER_ZERO = ("maximum", "minimum")
# Words that are accurate up to this |x| only.
LIMITED = {"sin": 1e8, "cos": 1e8, "tan": 1e8}


@functools.cache
def _code(text):
    return compile(text, "<formula>", "eval")


def _run(text, scope, values):
    return eval(_code(text), {"__builtins__": {}}, {**scope, **values})


def exact(text, values):
    """The formula at 60 digits; values: name -> number."""
    scope = {**EXACT, "where": lambda c, a, b: a if c else b, "inf": mp.inf}
    return _run(text, scope, {name: mp.mpf(v) for name, v in values.items()})


# ------------------------------------------------------------------ numbers with an error bound
class Truth:
    """A comparison, and whether rounding errors could turn it round."""

    def __init__(self, value, sure):
        self.value, self.sure = bool(value), sure

    def __mul__(self, other):
        return Truth(self.value and other.value, self.sure and other.sure)

    def __ne__(self, zero):
        return Truth(self.value != zero, self.sure)


class Near:
    """A value of a dtype known up to an error."""

    def __init__(self, dtype, value, error=0, ulps=0):
        finite = np.finfo(dtype)
        if mp.isfinite(value) and abs(value) > finite.max:
            value = mp.inf if value > 0 else -mp.inf
        self.dtype, self.value = dtype, value
        self.error = error + ulps * ulp(dtype, value) if mp.isfinite(value) else mp.zero

    def of(self, x):
        """A number of the formula's text, or a Near as it is."""
        if isinstance(x, Near):
            return x
        return Near(self.dtype, mp.mpf(x), 0, 0 if float(self.dtype.type(x)) == x else 0.5)

    def __neg__(self):
        return Near(self.dtype, -self.value, self.error)

    def __add__(self, other):
        other = self.of(other)
        return Near(self.dtype, self.value + other.value, self.error + other.error, 0.5)

    __radd__ = __add__

    def __sub__(self, other):
        return self + -self.of(other)

    def __rsub__(self, other):
        return self.of(other) + -self

    def __mul__(self, other):
        other = self.of(other)
        error = (
            abs(self.value) * other.error + abs(other.value) * self.error + self.error * other.error
        )
        return Near(self.dtype, self.value * other.value, error, 0.5)

    __rmul__ = __mul__

    def __truediv__(self, other):
        return call(lambda x, y: x / y, 0.5, self, self.of(other))

    def __rtruediv__(self, other):
        return self.of(other) / self

    def _compare(self, other, compare):
        other = self.of(other)
        sure = abs(self.value - other.value) > self.error + other.error
        exact = self.error == 0 == other.error
        return Truth(compare(self.value, other.value), exact or sure)

    def __lt__(self, other):
        return self._compare(other, lambda a, b: a < b)

    def __le__(self, other):
        return self._compare(other, lambda a, b: a <= b)

    def __gt__(self, other):
        return self._compare(other, lambda a, b: a > b)

    def __ge__(self, other):
        return self._compare(other, lambda a, b: a >= b)

    def __eq__(self, other):
        return self._compare(other, lambda a, b: a == b)

    def __ne__(self, other):
        return self._compare(other, lambda a, b: a != b)

    __hash__ = None


def ulp(dtype, value):
    """The distance of numbers of a dtype around a value."""
    finite = np.finfo(dtype)
    exponent = mp.frexp(value)[1] if value else finite.minexp
    return mp.ldexp(1, max(exponent - finite.nmant - 1, finite.minexp - finite.nmant))


def _defined(function, *values):
    """The value, or nan where it is not a real number."""
    if any(mp.isnan(v) for v in values):
        return mp.nan
    try:
        value = function(*values)
    except ZeroDivisionError:
        return mp.nan if values[0] == 0 else mp.inf * mp.sign(values[0])
    except (ValueError, mp.NoConvergence):
        return mp.nan
    return value if isinstance(value, mp.mpf) else mp.nan


def call(function, ulps, *operands):
    """A function of Nears: its own error, and how far the operands' errors move it."""
    dtype = operands[0].dtype
    value = _defined(function, *(x.value for x in operands))
    corners = itertools.product(*((x.value - x.error, x.value + x.error) for x in operands))
    error = mp.zero
    if any(x.error for x in operands):
        moved = [_defined(function, *corner) - value for corner in corners]
        error = max((abs(m) for m in moved if mp.isfinite(m)), default=mp.zero)
    return Near(dtype, value, error, ulps)


def _near_function(name):
    ulps = 0 if name in UNROUNDED else 0.5 if name == "sqrt" else 2.5

    def apply(*operands):
        first = next(x for x in operands if isinstance(x, Near))
        result = call(EXACT[name], ulps, *(first.of(x) for x in operands))
        if name in LIMITED and abs(operands[0].value) > LIMITED[name]:
            result.error = mp.inf
        return result

    return apply


def near(text, dtype, values):
    """The formula as a Near (or a Truth); values: name -> number of the dtype."""
    zero = Near(dtype, mp.zero)

    def where(condition, a, b):
        a, b = zero.of(a), zero.of(b)
        chosen = a if condition.value else b
        if condition.sure or not (mp.isfinite(a.value) and mp.isfinite(b.value)):
            return chosen
        return Near(dtype, chosen.value, a.error + b.error + abs(a.value - b.value))

    scope = {n: _near_function(n) for n in EXACT} | {"where": where, "inf": math.inf}
    operands = {n: Near(dtype, mp.mpf(float(v))) for n, v in values.items()}
    return _run(text, scope, operands)


# ------------------------------------------------------------------------------- NumPy's reading
def _by_element(function):
    """A function of Python floats on arrays."""
    apply = np.frompyfunc(function, 1, 1)
    return lambda x: np.asarray(apply(np.asarray(x, np.float64))).astype(np.longdouble)


_WIDE = {
    **{n: getattr(np, n) for n in "exp expm1 log log1p log2 log10 sin cos tan sinh cosh tanh sqrt"
       " floor fabs copysign maximum minimum rint trunc".split()},
    **{n: getattr(np, "arc" + n[1:]) for n in "asin acos atan atan2 asinh acosh atanh".split()},
    "pow": np.power,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.fabs(x))),
    "erf": _by_element(math.erf),
    "erfc": _by_element(math.erfc),
}  # fmt: skip

_WHOLE = {"fabs": np.abs, "maximum": np.maximum, "minimum": np.minimum,
          "floor": np.positive, "rint": np.positive, "trunc": np.positive}  # fmt: skip


def numpy_value(text, dtype, values):
    """The formula on arrays; a function of the vocabulary is computed in longdouble and rounded."""

    def rounded(function):
        return lambda *x: function(*(np.asarray(v, np.longdouble) for v in x)).astype(dtype)

    scope = {n: rounded(f) for n, f in _WIDE.items()} if dtype.kind == "f" else dict(_WHOLE)
    scope["where"] = lambda c, *two: np.where(c, *(np.asarray(v).astype(dtype) for v in two))
    scope["inf"] = math.inf
    with np.errstate(all="ignore"):
        return np.asarray(_run(text, scope, values))


# ------------------------------------------------------------------------------------- the checks
def check_value(text, dtype, values, got):
    """Demand of each element of `got` that it is within the formula's own rounding error.

    values: name -> array, broadcast as the operands are; got: array of the result.
    """
    names, arrays = list(values), np.broadcast_arrays(*values.values())
    want = np.broadcast_to(numpy_value(text, dtype, values), arrays[0].shape)
    assert got.shape == want.shape
    if got.dtype == bool or dtype.kind != "f":
        expected = want.astype(got.dtype)
        assert np.array_equal(got, expected), f"{text} at {values}: {got}, not {expected}"
        return
    assert got.dtype == dtype
    for place in np.ndindex(got.shape):
        at = {n: a[place] for n, a in zip(names, arrays, strict=True)}
        _check_element(text, dtype, at, got[place], want[place])


def _check_element(text, dtype, at, z, want):
    message = f"{text} at {at}: {z!r}, not {want!r}"
    assert np.isnan(z) == np.isnan(want), message
    if np.isnan(z):
        return
    bound = near(text, dtype, at)
    if np.isinf(want) or np.isinf(z):
        # At the edge of overflow both answers are within the error.
        edge = abs(bound.value) + bound.error >= np.finfo(dtype).max
        assert z == want or (edge and z * want > 0), message
        return
    if z == 0 == want and not any(word in text for word in EITHER_ZERO):
        assert np.signbit(z) == np.signbit(want), message
    if any(v == 0 and np.signbit(v) for v in at.values()):
        # A Near has one zero.
        assert z == want or abs(z - want) <= 8 * np.spacing(abs(want)), message
    elif mp.isfinite(bound.value):
        error = abs(mp.mpf(float(z)) - bound.value)
        assert error <= bound.error, f"{message}: off by {error / ulp(dtype, bound.value)} ulp"


def differences(text, names, values, step="1e-20"):
    """First and second derivatives of the formula at a point, by central differences.

    values: name -> number. Returns ([df/dx], [[d2f/dx dy]]) for x, y in names.
    """
    h = mp.mpf(step)
    point = {n: mp.mpf(float(v)) for n, v in values.items()}

    def at(**moves):
        return exact(text, {n: v + moves.get(n, 0) * h for n, v in point.items()})

    middle = at()
    first = [(at(**{n: 1}) - at(**{n: -1})) / (2 * h) for n in names]
    second = [[_second(at, middle, n, m) / h**2 for m in names] for n in names]
    return [float(d) for d in first], [[float(d) for d in line] for line in second]


def _second(at, middle, n, m):
    if n == m:
        return at(**{n: 1}) - 2 * middle + at(**{n: -1})
    signs = itertools.product((1, -1), repeat=2)
    return sum(a * b * at(**{n: a, m: b}) for a, b in signs) / 4
