"""Joins and splits in NumPy's manner, built on `cat` and slices."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import combination_error
from ..tensor import Tensor, normal_dim, wrap
from .arguments import int_of, is_int, need_tensor
from .cat import cat, pad_dim, stack, tensor_list
from .creation import finish
from .names import function, public
from .op import tensors as primitives
from .strided import atleast_1d, atleast_2d, atleast_3d, meshgrid
from .view import flatten, narrow, reshape


def _nonempty(name: str, tensors: Any) -> list[Tensor]:
    found = tensor_list(name, tensors)
    if not found:
        raise RuntimeError(f"{name} expects a non-empty TensorList")
    return found


@function()
def hstack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """Joined along the second dimension, vectors along their only one."""
    parts = [atleast_1d(x) for x in _nonempty("hstack", tensors)]
    return cat(parts, min(1, parts[0].ndim - 1), out=out)


@function("row_stack")
def vstack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """Joined along the first dimension; vectors are rows."""
    return cat([atleast_2d(x) for x in _nonempty("vstack", tensors)], 0, out=out)


@function()
def dstack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """Joined along the third dimension."""
    return cat([atleast_3d(x) for x in _nonempty("dstack", tensors)], 2, out=out)


@function()
def column_stack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """Joined along the second dimension; vectors are columns."""
    parts = [
        x if x.ndim > 1 else reshape(x, (x.numel(), 1)) for x in _nonempty("column_stack", tensors)
    ]
    return hstack(parts, out=out)


@public()
def tensor_split(
    input: Tensor, indices_or_sections: Any = None, dim: int = 0, *, sections: Any = None,
    indices: Any = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Views of pieces along a dimension: so many of nearly equal length, or cut at given indices.

    Raises:
        RuntimeError: for fewer than one section.
    """
    need_tensor("tensor_split", input)
    given = (c for c in (indices_or_sections, sections, indices) if c is not None)
    cuts: Any = next(given, None)
    if not input.ndim:
        raise RuntimeError(
            "tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims"
        )
    dim = normal_dim(dim, input.ndim)
    n = input._array.shape[dim]
    if isinstance(cuts, Tensor):
        if cuts.dtype is not dtypes.int64 or cuts.ndim > 1:
            raise RuntimeError(
                "tensor_split expected tensor_indices_or_sections to have dtype of long and to be "
                f"a zero-dimensional or one-dimensional tensor, but got {cuts.dtype.short}"
            )
        cuts = cuts.tolist()
    if is_int(cuts):
        if cuts <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {cuts}")
        short, longer = divmod(n, int(cuts))
        lengths = [short + (k < longer) for k in range(int(cuts))]
        ends = np.cumsum(lengths).tolist()
        return tuple(narrow(input, dim, e - m, m) for e, m in zip(ends, lengths, strict=True))
    if not isinstance(cuts, (tuple, list)):
        raise combination_error("tensor_split", input, cuts, expected="sections or indices")
    starts = [0, *cuts]
    found = []
    for start, end in zip(starts, [*cuts, n], strict=True):
        first, last, _ = slice(start, end).indices(n)
        found.append(narrow(input, dim, first, max(last - first, 0)))
    return tuple(found)


def _axis_split(name: str, rank: int, doc: str) -> Callable[..., tuple[Tensor, ...]]:
    def apply(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
        need_tensor(name, input)
        if input.ndim < rank:
            raise RuntimeError(
                f"torch.{name} requires a tensor with at least {rank} dimension, but got a tensor "
                f"with {input.ndim} dimensions!"
            )
        dim = 0 if input.ndim == 1 or rank == 2 else rank - 1 if rank == 3 else 1
        n = input._array.shape[dim]
        if is_int(indices_or_sections) and n % indices_or_sections:
            raise RuntimeError(
                f"torch.{name} attempted to split along dimension {dim}, but the size of the "
                f"dimension {n} is not divisible by the split_size {indices_or_sections}!"
            )
        return tensor_split(input, indices_or_sections, dim)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = doc
    return public()(apply)


hsplit = _axis_split("hsplit", 1, "`tensor_split` of columns, or of a vector.")
vsplit = _axis_split("vsplit", 2, "`tensor_split` of rows.")
dsplit = _axis_split("dsplit", 3, "`tensor_split` along the third dimension.")


@function()
def block_diag(*tensors: Tensor) -> Tensor:
    """A matrix with the given ones along its diagonal, zeros elsewhere."""
    blocks = []
    for k, x in enumerate(tensors):
        need_tensor("block_diag", x, "tensors")
        if x.ndim > 2:
            raise RuntimeError(
                "torch.block_diag: Input tensors must have 2 or fewer dimensions. "
                f"Input {k} has {x.ndim} dimensions"
            )
        blocks.append(atleast_2d(x))
    if not blocks:
        return wrap(np.zeros((1, 0), dtypes.get_default_dtype().numpy))
    dtype = dtypes.result_type([(x.dtype, 2) for x in tensors])
    ends = np.cumsum([x.shape[1] for x in blocks]).tolist()
    return cat(
        [
            pad_dim(primitives.cast(x, dtype), 1, end - x.shape[1], ends[-1] - end)
            for x, end in zip(blocks, ends, strict=True)
        ]
    )


@function()
def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of an element of each vector, as rows; of one vector: the vector."""
    for x in tensors:
        _need_vector(x)
    if len(tensors) == 1:
        return tensors[0]
    return stack([flatten(grid) for grid in meshgrid(*tensors, indexing="ij")], 1)


@function()
def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All combinations of r elements of a vector, as rows."""
    need_tensor("combinations", input)
    _need_vector(input)
    if r < 0:
        raise RuntimeError(f"Expect a non-negative number, but got {r}")
    if r == 0:
        return wrap(np.empty(0, input._array.dtype, like=input._array))
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = list(choose(range(input.numel()), r))
    places = np.array(rows, np.int64).reshape(len(rows), r)
    return primitives.take_index(input, (places,))


def _need_vector(x: Tensor) -> None:
    if x.ndim != 1:
        raise RuntimeError(f"Expect a 1D vector, but got shape {list(x.shape)}")


def _triangle_indices(name: str, keep: Callable[..., Any]) -> Callable[..., Tensor]:
    def apply(
        row: int, col: int, offset: int = 0, *, dtype: dtypes.dtype = dtypes.int64, **options: Any
    ) -> Tensor:
        for word, value, position in (("row", row, 1), ("col", col, 2)):
            if int_of(name, value, word, position) < 0:
                raise RuntimeError(f"{word} must be non-negative, got{value}")
        if dtype.category != 1:
            raise NotImplementedError(f"\"{name}\" not implemented for '{dtype.short}'")
        places = np.nonzero(keep(np.ones((row, col), bool), offset))
        return finish(name, np.stack(places).astype(dtype.numpy), None, **options)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"Rows and columns (2, n) of the {name[:4]} part of a matrix."
    return function()(apply)


tril_indices = _triangle_indices("tril_indices", np.tril)
triu_indices = _triangle_indices("triu_indices", np.triu)
