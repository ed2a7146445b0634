"""Running reductions along one dimension, on arrays."""

from typing import Any

import numpy as np

__all__ = ["any_true", "any_zero", "cumprod", "cumsum", "recurrence"]

Array = np.ndarray[Any, Any]


def _turned(x: Array, dim: int, reverse: bool) -> Array:
    return np.flip(x, dim) if reverse else x


def cumsum(x: Array, dim: int, reverse: bool = False) -> Array:
    """Running sums, from the last element on if reverse; floats as PyTorch, in float64."""
    with np.errstate(all="ignore"):
        found = np.cumsum(_turned(x, dim, reverse), dim, dtype=_wide(x.dtype))
        return np.ascontiguousarray(_turned(found, dim, reverse), x.dtype)


def cumprod(x: Array, dim: int) -> Array:
    """Running products; floats as PyTorch, in float64."""
    with np.errstate(all="ignore"):
        return np.cumprod(x, dim, dtype=_wide(x.dtype)).astype(x.dtype, copy=False)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64) if dtype.kind == "f" else dtype


def recurrence(a: Array, b: Array, dim: int, reverse: bool = False) -> Array:
    """s[k] = a[k] * s[k-1] + b[k]; from the last element on if reverse."""
    found = np.empty(b.shape, b.dtype, like=b)
    rows, factors, terms = (np.moveaxis(_turned(x, dim, reverse), dim, 0) for x in (found, a, b))
    before: Any = np.zeros((), b.dtype, like=b)
    for k, (factor, term) in enumerate(zip(factors, terms, strict=True)):
        rows[k] = before = factor * before + term
    return found


def any_true(x: Array) -> bool:
    """Whether an element is true."""
    return bool(x.any())


def any_zero(x: Array) -> bool:
    """Whether an element is 0."""
    return not x.all()
