"""NumPy's own ufuncs as formulas of the table."""

from typing import Any

import numpy as np

# NumPy's own ufuncs, for floats; those of EXACT for integers too, those of LOGICAL for bools.
FORMULAS = {
    "add": "x + y", "subtract": "x - y", "multiply": "x * y", "divide": "x / y",
    "power": "pow(x, y)", "maximum": "maximum(x, y)", "minimum": "minimum(x, y)",
    "equal": "x == y", "not_equal": "x != y", "less": "x < y", "less_equal": "x <= y",
    "greater": "x > y", "greater_equal": "x >= y", "copysign": "copysign(x, y)",
    "negative": "-x", "absolute": "fabs(x)", "fabs": "fabs(x)", "square": "x * x",
    "sqrt": "sqrt(x)", "exp": "exp(x)", "expm1": "expm1(x)", "log": "log(x)",
    "log1p": "log1p(x)", "sin": "sin(x)", "cos": "cos(x)", "tanh": "tanh(x)",
    "floor": "floor(x)", "ceil": "-floor(-x)", "trunc": "trunc(x)", "rint": "rint(x)",
    "reciprocal": "1 / x", "isnan": "x != x", "isfinite": "x - x == 0",
    "isinf": "(x == x) * (x - x != 0) != 0",
    "sign": "where(x > 0, 1, where(x < 0, -1, x))",
}  # fmt: skip
EXACT = frozenset(
    "add subtract multiply maximum minimum equal not_equal less less_equal greater greater_equal "
    "negative absolute square".split()
)
BITS = {"bitwise_and": "x & y", "bitwise_or": "x | y", "bitwise_xor": "x ^ y", "invert": "~x"}
_AND, _OR = "(x != 0) * (y != 0) != 0", "(x == 0) * (y == 0) == 0"
LOGICAL = {
    "bitwise_and": _AND, "logical_and": _AND, "multiply": _AND,
    "bitwise_or": _OR, "logical_or": _OR, "add": _OR,
    "invert": "x == 0", "logical_not": "x == 0",
    "equal": "(x == 0) == (y == 0)", "not_equal": "(x == 0) != (y == 0)",
    "bitwise_xor": "(x == 0) != (y == 0)", "logical_xor": "(x == 0) != (y == 0)",
}  # fmt: skip
FLOATS = (np.float32, np.float64)


def formula_of(name: str, loop: Any) -> tuple[str, ...] | None:
    """The formula of a ufunc of NumPy's for the dtypes of its loop."""
    first = loop[0]
    if any(d != first for d in loop[1:-1]):
        return None
    if first == np.bool_:
        found = LOGICAL.get(name)
    else:
        exact = first.kind in "iu" and name in EXACT
        found = FORMULAS.get(name) if first in FLOATS or exact else None
        found = BITS.get(name, found) if first.kind in "iu" else found
    return None if found is None else (found,)
