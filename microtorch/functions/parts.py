"""Functions that cut a dimension into pieces, which are views."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import argument_error
from ..tensor import Tensor, normal_dim
from .names import function, method, public
from .op import Rule
from .view import narrow_rule, piece

SPLIT = Rule("SplitBackward0", narrow_rule)
SPLIT_SIZES = Rule("SplitWithSizesBackward0", narrow_rule)


@function()
def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of pieces along a dimension: of one length, the last smaller, or of given lengths."""
    a = tensor._array
    if a.ndim == 0:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    dim = normal_dim(dim, a.ndim)
    n = a.shape[dim]
    size = split_size_or_sections
    if isinstance(size, int):
        if size < 0:
            raise RuntimeError(
                f"split expects split_size be non-negative, but got split_size={size}"
            )
        if size == 0 and n:
            raise RuntimeError(
                f"split_size can only be 0 if dimension size is 0, but got dimension size of {n}"
            )
        sizes = [min(size, n - start) for start in range(0, n, size or 1)] or [0]
        return _pieces(tensor, sizes, dim, SPLIT)
    if not isinstance(size, (list, tuple)):
        raise argument_error("split_with_sizes", "split_sizes", 2, "tuple of ints", size)
    return split_with_sizes(tensor, size, dim)


@method("split")
def _split_method(input: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """`torch.split`."""
    return split(input, split_size, dim)


@public()
def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of pieces of given lengths along a dimension."""
    dim = normal_dim(dim, input._array.ndim)
    n = input._array.shape[dim]
    sizes = list(split_sizes)
    if any(s < 0 for s in sizes):
        raise RuntimeError(
            "split_with_sizes expects split_sizes have only non-negative entries, but got "
            f"split_sizes={sizes}"
        )
    if sum(sizes) != n:
        raise RuntimeError(
            f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at "
            f"dimension {dim}), but got split_sizes={sizes}"
        )
    return _pieces(input, sizes, dim, SPLIT_SIZES)


def _pieces(x: Tensor, sizes: list[int], dim: int, op: Rule) -> tuple[Tensor, ...]:
    ends = np.cumsum(sizes).tolist()
    return tuple(
        piece(x, dim, end - n, n, op, k) for k, (end, n) in enumerate(zip(ends, sizes, strict=True))
    )


@public()
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of at most `chunks` pieces of equal length, the last one smaller."""
    if not isinstance(chunks, int):
        raise argument_error("chunk", "chunks", 2, "int", chunks)
    if input._array.ndim == 0:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    dim = normal_dim(dim, input._array.ndim)
    n = input._array.shape[dim]
    if n == 0:
        return _pieces(input, [0] * chunks, dim, SPLIT)
    size = -(-n // chunks)
    return _pieces(input, [min(size, n - s) for s in range(0, n, size)], dim, SPLIT)
