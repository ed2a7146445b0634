"""Tensors of numbers in order: arange, linspace, logspace, eye."""

import builtins
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, combination_error
from ..tensor import Array, Tensor
from .arguments import is_int
from .creation import astype, dtype_for, finish
from .names import function


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


@function()
def arange(
    start: Any = None, end: Any = None, step: Any = 1, *, out: Tensor | None = None,
    dtype: dtypes.dtype | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """start, start + step, ... below end; element i is start + i * step, rounded once."""
    if end is None:
        start, end = None, start
    if end is None:
        raise combination_error("arange", expected="(end) or (start, end, step)")
    start, end, step = (_number(v) for v in (0 if start is None else start, end, step))
    for name, value in (("start", start), ("end", end), ("step", step)):
        if not isinstance(value, (builtins.int, builtins.float, np.generic)):
            raise argument_error("arange", name, 1, "Number", value)
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if not (np.isfinite(start) and np.isfinite(end)):
        raise RuntimeError(f"unsupported range: {start} -> {end}")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    whole = builtins.all(isinstance(v, (builtins.int, np.integer)) for v in (start, end, step))
    numpy_dtype = dtype_for(dtype, out, dtypes.int64 if whole else None)
    _refuse_bool("arange", numpy_dtype)
    count = -(-(end - start) // step) if whole else builtins.int(np.ceil((end - start) / step))
    if numpy_dtype.kind in "iu" and not whole:
        # PyTorch rounds the start and the step, for int64 before it counts.
        start, end, step = builtins.int(start), builtins.int(end), builtins.int(step)
        count = -(-(end - start) // step) if numpy_dtype == np.int64 else count
    array = astype(start + np.arange(count) * step, numpy_dtype)
    return finish("arange", array, out, **options)


def _refuse_bool(name: str, dtype: Any) -> None:
    if dtype.kind == "b":
        raise NotImplementedError(f"\"{name}_cpu\" not implemented for 'Bool'")


def _end(name: str, which: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.ndim:
            raise RuntimeError(
                f"{name} only supports 0-dimensional start and end tensors, but got {which} with "
                f"{value.ndim} dimension(s)."
            )
        return value.item()
    if not isinstance(value, (bool, builtins.int, builtins.float, np.generic)):
        raise combination_error(name, value, expected="numbers as start and end")
    return value


def _line(start: Any, end: Any, steps: int, dtype: Any) -> Array:
    """PyTorch's points in the type that it computes in: from both ends towards the middle, each
    rounded once. Integers are the float64 points between the rounded ends."""
    if dtype.kind in "iu":
        start, end = int(start), int(end)
    real = np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize < 8 else np.float64)
    first, last = real.type(start), real.type(end)
    if steps < 2:
        return np.full(steps, first)
    step = (last - first) / real.type(steps - 1)
    wide = np.longdouble if real == np.float64 else np.float64
    i = np.arange(steps)
    with np.errstate(all="ignore"):
        low = i * wide(step) + wide(first)
        high = wide(last) - (steps - 1 - i) * wide(step)
    return np.where(i < steps // 2, low, high).astype(real)


def _steps(name: str, steps: Any) -> builtins.int:
    if not is_int(steps):
        raise combination_error(name, steps, expected="an int as steps")
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    return builtins.int(steps)


@function()
def linspace(
    start: Any, end: Any, steps: Any = None, *, out: Tensor | None = None,
    dtype: dtypes.dtype | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """`steps` points from start to end, both exact."""
    count, numpy_dtype = _steps("linspace", steps), dtype_for(dtype, out)
    first, last = _end("linspace", "start", start), _end("linspace", "end", end)
    _refuse_bool("linspace", numpy_dtype)
    array = astype(_line(first, last, count, numpy_dtype), numpy_dtype)
    return finish("linspace", array, out, **options)


@function()
def logspace(
    start: Any, end: Any, steps: Any = None, base: float = 10.0, *, out: Tensor | None = None,
    dtype: dtypes.dtype | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """base to the power of `steps` points from start to end."""
    numpy_dtype = dtype_for(dtype, out)
    count = _steps("logspace", steps)
    first, last = _end("logspace", "start", start), _end("logspace", "end", end)
    _refuse_bool("logspace", numpy_dtype)
    ends = np.array([first, last]).astype(numpy_dtype).astype(np.float64)
    i = np.arange(count)
    step = (ends[1] - ends[0]) / max(count - 1, 1)
    early = i < max(count // 2, 1)
    points = np.where(early, ends[0] + step * i, ends[1] - step * (count - 1 - i))
    with np.errstate(all="ignore"):
        array = np.power(np.longdouble(base), points).astype(numpy_dtype)
    return finish("logspace", array, out, **options)


@function()
def eye(
    n: Any, m: Any = None, *, out: Tensor | None = None, dtype: dtypes.dtype | None = None,
    **options: Any,
) -> Tensor:  # fmt: skip
    """An n x m matrix with ones on the diagonal; square by default."""
    m = n if m is None else m
    for k, (name, value) in enumerate((("n", n), ("m", m))):
        if not isinstance(value, (builtins.int, np.integer)):
            raise argument_error("eye", name, k + 1, "int", value)
        if value < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {value}")
    return finish("eye", np.eye(n, m, dtype=dtype_for(dtype, out)), out, **options)
