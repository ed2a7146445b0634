"""Finding, counting and coding values: unique, bincount, searchsorted, one_hot."""

from typing import Any

import numpy as np

from ..kernels import cpu
from ..tensor import Tensor, normal_dim, wrap
from .names import function, public
from .op import Array, deliver, need_tensor


def _results(
    values: Array, inverse: Array, counts: Array, return_inverse: bool, return_counts: bool
) -> Any:
    """The values, and with them what was asked for."""
    found = [wrap(values)]
    if return_inverse:
        found.append(wrap(np.asarray(inverse, np.int64)))
    if return_counts:
        found.append(wrap(np.asarray(counts, np.int64)))
    return tuple(found) if len(found) > 1 else found[0]


@public()
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The different elements (or slices of a dimension) in order.

    With them, if wanted, where in the result each element of input is, and how often each occurs.
    """
    need_tensor("unique", "input", 1, input)
    a = input._array
    if dim is not None:
        dim = normal_dim(dim, a.ndim)
        if a.shape[dim : dim + 1] == (0,) and a.size == 0 and a.ndim > 1 and a.shape.count(0) > 1:
            raise RuntimeError(
                "There are 0 sized dimensions, and they aren't selected, so unique cannot be "
                "applied"
            )
    rows = a.reshape(-1) if dim is None else np.moveaxis(a, dim, 0)
    values, inverse, counts = np.unique(
        rows, return_inverse=True, return_counts=True, axis=0, equal_nan=False
    )
    values = values if dim is None else np.moveaxis(values, 0, dim)
    inverse = inverse.reshape(a.shape if dim is None else -1)
    return _results(values, inverse, counts, return_inverse, return_counts)


@public()
def unique_consecutive(
    input: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The elements (or slices of a dimension) without those equal to the one before them."""
    need_tensor("unique_consecutive", "input", 1, input)
    a = input._array
    rows = a.reshape(-1) if dim is None else np.moveaxis(a, normal_dim(dim, a.ndim), 0)
    n = len(rows)
    new = np.ones(n, bool, like=a)
    differ = rows[1:] != rows[:-1]
    new[1:] = differ.reshape(len(differ), -1).any(1) if n > 1 else True
    counts = np.diff(np.append(np.flatnonzero(new), n))
    inverse = (np.cumsum(new) - 1).reshape(a.shape if dim is None else -1)
    values = rows[new] if dim is None else np.moveaxis(rows[new], 0, normal_dim(dim, a.ndim))
    return _results(values, inverse, counts, return_inverse, return_counts)


@public()
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, ... occurs in a vector, or the sums of the weights of each."""
    need_tensor("bincount", "input", 1, input)
    a = input._array
    if a.dtype.kind in "fb":
        raise NotImplementedError(f"\"bincount_cpu\" not implemented for '{input.dtype.short}'")
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    if a.ndim != 1 or (a.size and a.min() < 0):
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is None:
        return wrap(np.bincount(a, minlength=minlength).astype(np.int64))
    need_tensor("bincount", "weights", 2, weights)
    w = weights._array
    if w.shape != a.shape:
        raise RuntimeError("weights should be 1-d and have the same length as input")
    dtype = np.float32 if w.dtype == np.float32 else np.float64
    return wrap(np.bincount(a, w, minlength).astype(dtype))


@public()
def histc(
    input: Tensor, bins: int = 100, min: float = 0, max: float = 0, *, out: Tensor | None = None
) -> Tensor:
    """How many elements are in each of `bins` equal parts of [min, max], or of their range."""
    need_tensor("histc", "input", 1, input)
    a = input._array
    if a.dtype.kind != "f":
        raise NotImplementedError(f"\"histogram_cpu\" not implemented for '{input.dtype.short}'")
    if bins <= 0:
        raise RuntimeError("torch.histogram(): bins must be > 0, but got " + str(bins))
    low, high = float(min), float(max)
    if low == high and a.size:
        low, high = float(a.min()), float(a.max())
    if low == high:
        low, high = low - 1, high + 1
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RuntimeError(f"torch.histc: range of [{low}, {high}] is not finite")
    if low > high:
        raise RuntimeError("torch.histc: max must be larger than min")
    there = a[(a >= low) & (a <= high)]
    places = ((there - low) * (bins / (high - low))).astype(np.int64)
    counts = np.bincount(np.minimum(places, bins - 1), minlength=bins)
    return deliver(wrap(counts.astype(a.dtype)), out)


@function()
def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Where values belong in sorted rows: before equal elements, or after them (right)."""
    need_tensor("searchsorted", "sorted_sequence", 1, sorted_sequence)
    if side not in (None, "left", "right"):
        raise RuntimeError(
            f"torch.searchsorted(): side can only be 'left' or 'right' but got {side}"
        )
    if side == "left" and right:
        raise RuntimeError(
            "torch.searchsorted(): side and right can't be set to opposites, got side of left "
            "while right was True"
        )
    rows = sorted_sequence._array
    values = input._array if isinstance(input, Tensor) else np.asarray(input, rows.dtype, like=rows)
    if sorter is not None:
        if sorter._array.shape != rows.shape:
            raise RuntimeError(
                "torch.searchsorted(): boundary and sorter must have the same size, but got "
                f"boundary tensor {list(rows.shape)} and got sorter tensor "
                f"{list(sorter._array.shape)}"
            )
        rows = np.take_along_axis(rows, sorter._array, -1)
    if rows.ndim != 1 and rows.shape[:-1] != values.shape[:-1]:
        raise RuntimeError(
            "torch.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 "
            "dimensions of boundaries tensor and input value tensor must match, but we got "
            f"boundaries tensor {list(rows.shape)} and input value tensor {list(values.shape)}"
        )
    how: Any = "right" if right or side == "right" else "left"
    if rows.ndim == 1:
        found = np.searchsorted(rows, values, how)
    else:
        found = np.empty(values.shape, np.int64, like=rows)
        for place in np.ndindex(rows.shape[:-1]):
            found[place] = np.searchsorted(rows[place], values[place], how)
    return deliver(wrap(np.asarray(found, np.int32 if out_int32 else np.int64)), out)


@function()
def bucketize(
    input: Any,
    boundaries: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Which interval between sorted boundaries each value is in."""
    need_tensor("bucketize", "boundaries", 2, boundaries)
    if boundaries._array.ndim != 1:
        raise RuntimeError(
            f"boundaries tensor must be 1 dimension, but got dim({boundaries._array.ndim})"
        )
    return searchsorted(boundaries, input, out_int32=out_int32, right=right, out=out)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Class numbers as rows of `num_classes` zeros with a 1 at the number; -1 counts them."""
    need_tensor("one_hot", "tensor", 1, tensor)
    a = tensor._array
    if a.dtype != np.int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    if a.size == 0 and num_classes <= 0:
        raise RuntimeError("Can not infer total number of classes from empty tensor.")
    most = np.iinfo(np.int64).max
    cpu.check_inside(a, most, RuntimeError, "Class values must be non-negative.")
    if num_classes != -1 and num_classes < 1:
        raise RuntimeError("num_classes should be positive")
    if num_classes > 0:
        text = "Class values must be smaller than num_classes."
        cpu.check_inside(a, num_classes, RuntimeError, text)
    count = num_classes if num_classes > 0 else int(a.max()) + 1
    return wrap((a[..., None] == np.arange(count, like=a)).astype(np.int64))
