"""Joins: `cat` along an existing dimension, `stack` along a new one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, kind_of
from ..tensor import TENSORS, Tensor, normal_dim, wrap
from .names import function
from .op import Rule, deliver, record
from .op import tensors as primitives


def _cat_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    dim, lengths = const
    found, start = [], 0
    for n in lengths:
        if n is None:
            # What was skipped, an empty vector, gets an empty gradient.
            found.append(F.reshape(F.narrow(g, dim, 0, 0), (0,)))
        else:
            found.append(F.narrow(g, dim, start, n))
            start += n
    return tuple(found)


def _stack_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    dim, count, shape = const
    return tuple(F.reshape(F.narrow(g, dim, k, 1), shape) for k in range(count))


CAT = Rule("CatBackward0", _cat_rule)
STACK = Rule("StackBackward0", _stack_rule)


def pad_dim(input: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Zeros before and after along one dimension."""
    shape = list(input._array.shape)
    parts = []
    for count, part in ((before, None), (0, input), (after, None)):
        if part is not None:
            parts.append(part)
        elif count:
            shape[dim] = count
            parts.append(wrap(np.zeros(shape, input._array.dtype, like=input._array)))
    return cat(parts, dim)


def tensor_list(name: str, tensors_: Any) -> list[Tensor]:
    """The tensors of a list or tuple.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(tensors_, Tensor) or not isinstance(tensors_, (list, tuple)):
        raise argument_error(name, "tensors", 1, "tuple of Tensors", tensors_)
    for x in tensors_:
        if x.__class__ not in TENSORS and not isinstance(x, Tensor):
            place = next(k for k, y in enumerate(tensors_) if y is x)
            raise TypeError(
                f"expected Tensor as element {place} in argument 0, but got {kind_of(x)}"
            )
    return list(tensors_)


@function("concat", "concatenate")
def cat(
    tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """Tensors joined along an existing dimension; dtypes promote, 1-d empty ones are skipped."""
    parts = tensor_list("cat", tensors)
    if not parts:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors")
    arrays = [x._array for x in parts]
    shapes = [a.shape for a in arrays]
    if () in shapes:
        raise RuntimeError(
            f"zero-dimensional tensor (at position {shapes.index(())}) cannot be concatenated"
        )
    if len({a.dtype for a in arrays}) > 1:
        dtype = dtypes.result_type([(x.dtype, 2) for x in parts])
        parts = [primitives.cast(x, dtype) for x in parts]
        arrays = [x._array for x in parts]
    kept = [a for a in arrays if a.shape != (0,)] or arrays[:1] if (0,) in shapes else arrays
    rank = kept[0].ndim
    dim = normal_dim(dim if axis is None else axis, rank)
    try:
        joined = np.concatenate(kept, dim)
    except ValueError:
        raise _cat_error([a.shape for a in kept], dim) from None
    lengths = [shape[dim] if len(shape) == rank else None for shape in shapes]
    array = np.asarray(joined, order="C")
    return deliver(record(CAT, array, tuple(parts), const=(dim, lengths)), out)


def _cat_error(shapes: list[tuple[int, ...]], dim: int) -> RuntimeError:
    """Which shape differs elsewhere than along dim."""
    first = shapes[0]
    k, shape = next(
        (k, shape)
        for k, shape in enumerate(shapes)
        if len(shape) != len(first) or any(m != n for m, n in _others(first, shape, dim))
    )
    if len(shape) != len(first):
        return RuntimeError(
            f"Tensors must have same number of dimensions: got {len(first)} and {len(shape)}"
        )
    expected, got = next((m, n) for m, n in _others(first, shape, dim) if m != n)
    return RuntimeError(
        f"Sizes of tensors must match except in dimension {dim}. Expected size {expected} but got "
        f"size {got} for tensor number {k} in the list."
    )


def _others(a: tuple[int, ...], b: tuple[int, ...], dim: int) -> list[tuple[int, int]]:
    return [(m, n) for d, (m, n) in enumerate(zip(a, b, strict=True)) if d != dim]


@function()
def stack(tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None) -> Tensor:
    """Tensors of one shape joined along a new dimension."""
    parts = tensor_list("stack", tensors)
    if not parts:
        raise RuntimeError("stack expects a non-empty TensorList")
    shape = parts[0]._array.shape
    for k, x in enumerate(parts):
        if x._array.shape != shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(shape)} at entry 0 and "
                f"{list(x._array.shape)} at entry {k}"
            )
    dim = normal_dim(dim, len(shape) + 1)
    if len({x._array.dtype for x in parts}) > 1:
        dtype = dtypes.result_type([(x.dtype, 2) for x in parts])
        parts = [primitives.cast(x, dtype) for x in parts]
    array = np.asarray(np.stack([x._array for x in parts], dim), order="C")
    return deliver(record(STACK, array, tuple(parts), const=(dim, len(parts), shape)), out)
