"""Functions that move or repeat elements, as copies.

Each is a linear map of arrays, given together with its adjoint: the gradient of one is the other,
to any order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..tensor import Tensor, normal_dim, normal_dims
from .arguments import int_of, ints_of, need_tensor, variadic
from .gather import index_select
from .names import function_as, method, public
from .op import Array, Rule, deliver, primitive, record
from .reduce import sum as sum_
from .view import expand, flatten, reshape, unsqueeze

Maps = tuple[Callable[[Array], Array], Callable[[Array], Array]]


def _adjoint_rule(F: Any, g: Any, maps: Maps) -> tuple[Any, ...]:
    return (F.mapped(g, maps[::-1]),)


MAPPED = Rule("MappedBackward0", _adjoint_rule)
FLIP = Rule("FlipBackward0", _adjoint_rule)
ROT90 = Rule("Rot90Backward0", _adjoint_rule)
ROLL = Rule("RollBackward0", _adjoint_rule)
TRIL = Rule("TrilBackward0", _adjoint_rule)
TRIU = Rule("TriuBackward0", _adjoint_rule)
DIAGONAL_COPY = Rule("DiagonalBackward0_copy", _adjoint_rule)
DIAG_EMBED = Rule("DiagEmbedBackward0", _adjoint_rule)
REPEAT = Rule("RepeatBackward0", _adjoint_rule)


@primitive
def mapped(x: Tensor, maps: Maps, op: Rule = MAPPED) -> Tensor:
    """The first of two linear maps, each the adjoint of the other."""
    return record(op, np.asarray(maps[0](x._array)), (x,), const=maps)


@method()
def flip(input: Tensor, *dims: Any) -> Tensor:
    """In reverse order along dims, as a copy."""
    if not dims:
        raise TypeError('flip() missing 1 required positional arguments: "dims"')
    return _flip(input, variadic("flip", dims, "dims"))


@function_as("flip")
def _flip_function(input: Tensor, dims: Any) -> Tensor:
    """`torch.flip`: unlike the method it takes dims as one sequence."""
    need_tensor("flip", input)
    return _flip(input, ints_of("flip", dims, "dims"))


def _flip(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    places = normal_dims(dims, x._array.ndim) if dims and x._array.ndim else ()

    def reverse(a: Array) -> Array:
        return np.flip(a, places).copy("K")

    return mapped(x, (reverse, reverse), FLIP)


@public()
def fliplr(input: Tensor) -> Tensor:
    """The columns in reverse order."""
    need_tensor("fliplr", input)
    if input._array.ndim < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return _flip(input, (1,))


@public()
def flipud(input: Tensor) -> Tensor:
    """The rows in reverse order."""
    need_tensor("flipud", input)
    if input._array.ndim < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return _flip(input, (0,))


@public()
def rot90(input: Tensor, k: int = 1, dims: Any = (0, 1)) -> Tensor:
    """Turned k times by 90 degrees in the plane of two dimensions, from the first to the second.

    Raises:
        RuntimeError: for another number of dims than two different ones.
    """
    need_tensor("rot90", input)
    plane = ints_of("rot90", dims, "dims", 3)
    if len(plane) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(plane)}")
    if input._array.ndim < 2:
        raise RuntimeError(f"expected total dims >= 2, but got total dims = {input._array.ndim}")
    first, second = (normal_dim(d, input._array.ndim) for d in plane)
    if first == second:
        raise RuntimeError(
            f"expected rotation dims to be different, but got dim0 = {plane[0]} and dim1 = "
            f"{plane[1]}"
        )

    def turn(times: int) -> Callable[[Array], Array]:
        return lambda a: np.rot90(a, times, (first, second)).copy("K")

    return mapped(input, (turn(k), turn(-k)), ROT90)


@public()
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Shifted along dims, what leaves at one end coming in at the other; flat without dims."""
    need_tensor("roll", input)
    steps = ints_of("roll", shifts, "shifts", 2, one=True)
    places = ints_of("roll", () if dims is None else dims, "dims", 3, one=True)
    if len(steps) != len(places) and (len(steps) != 1 or places):
        raise RuntimeError(
            f"shifts and dimensions must align. shifts: {len(steps)}, dims:{len(places)}"
        )
    axes = tuple(normal_dim(d, input._array.ndim) for d in places) or None
    if input._array.ndim == 0:
        axes = None

    def by(sign: int) -> Callable[[Array], Array]:
        moved = tuple(sign * s for s in steps)
        return lambda a: np.roll(a.copy("C"), moved if axes else sum(moved), axes)

    return mapped(input, (by(1), by(-1)), ROLL)


def _triangle(name: str, op: Rule, doc: str) -> Callable[..., Tensor]:
    keep = getattr(np, name)

    def apply(input: Tensor, diagonal: int = 0, *, out: Tensor | None = None) -> Tensor:
        need_tensor(name, input)
        k = int_of(name, diagonal, "diagonal", 2)
        if input._array.ndim < 2:
            raise RuntimeError(f"{name}: input tensor must have at least 2 dimensions")

        def cut(a: Array) -> Array:
            return keep(a, k)

        return deliver(mapped(input, (cut, cut), op), out)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = doc
    return public(in_place=True)(apply)


tril = _triangle("tril", TRIL, "The lower triangles of matrices (*, n, m), zeros elsewhere.")
triu = _triangle("triu", TRIU, "The upper triangles of matrices (*, n, m), zeros elsewhere.")


# ------------------------------------------------------------------------------- diagonals
def diagonal_of(a: Array, offset: int, dim1: int, dim2: int) -> Array:
    """A writable view of the diagonals of the planes of two dimensions, as the last dimension."""
    kept = [d for d in range(a.ndim) if d not in (dim1, dim2)]
    rows, columns = a.shape[dim1], a.shape[dim2]
    start = (max(-offset, 0), max(offset, 0))
    length = max(min(rows - start[0], columns - start[1]), 0)
    key: list[Any] = [slice(None)] * a.ndim
    if length:
        key[dim1], key[dim2] = slice(start[0], None), slice(start[1], None)
    return np.lib.stride_tricks.as_strided(
        a[tuple(key)],
        (*(a.shape[d] for d in kept), length),
        (*(a.strides[d] for d in kept), a.strides[dim1] + a.strides[dim2]),
    )


def diagonal_maps(shape: tuple[int, ...], offset: int, dim1: int, dim2: int) -> Maps:
    """The diagonals of arrays of a shape, and zeros with given diagonals."""

    def take(a: Array) -> Array:
        return diagonal_of(a, offset, dim1, dim2).copy()

    def put(g: Array) -> Array:
        made = np.zeros(shape, g.dtype, like=g)
        diagonal_of(made, offset, dim1, dim2)[...] = g
        return made

    return take, put


def diagonal_dims(ndim: int, dim1: int, dim2: int) -> tuple[int, int]:
    """The two dimensions of diagonals.

    Raises:
        RuntimeError: if they are one.
    """
    first, second = normal_dim(dim1, ndim), normal_dim(dim2, ndim)
    if first == second:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return first, second


@public()
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices with the last dimension of input as their diagonals, zeros elsewhere."""
    need_tensor("diag_embed", input)
    a = input._array
    first, second = diagonal_dims(a.ndim + 1, dim1, dim2)
    side = a.shape[-1] + abs(offset)
    shape = list(a.shape[:-1])
    for d in sorted((first, second)):
        shape.insert(d, side)
    take, put = diagonal_maps(tuple(shape), offset, first, second)
    return mapped(input, (put, take), DIAG_EMBED)


@public()
def diag(input: Tensor, diagonal: int = 0, *, out: Tensor | None = None) -> Tensor:
    """The diagonal of a matrix, as a copy, or the matrix with a vector as its diagonal."""
    need_tensor("diag", input)
    offset = int_of("diag", diagonal, "diagonal", 2)
    ndim = input._array.ndim
    if ndim == 1:
        return deliver(diag_embed(input, offset), out)
    if ndim != 2:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {ndim}D")
    maps = diagonal_maps(input._array.shape, offset, 0, 1)
    return deliver(mapped(input, maps, DIAGONAL_COPY), out)


@public()
def trace(input: Tensor) -> Tensor:
    """Sum of the diagonal of a matrix."""
    need_tensor("trace", input)
    if input._array.ndim != 2:
        raise RuntimeError(f"trace: expected a matrix, but got tensor with dim {input._array.ndim}")
    return sum_(mapped(input, diagonal_maps(input._array.shape, 0, 0, 1), DIAGONAL_COPY))


# ------------------------------------------------------------------------------ repetition
@method()
def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """The whole tensor repeated along each dimension, new leading ones included."""
    counts = variadic("repeat", repeats, "repeats")
    a = input._array
    lead = len(counts) - a.ndim
    if lead < 0:
        raise RuntimeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of "
            "tensor"
        )
    own = (1,) * lead + a.shape
    shape = [n * m for n, m in zip(counts, own, strict=True)]
    if min(shape, default=0) < 0 or min(counts, default=0) < 0:
        bad = next(n for n in (*shape, *counts) if n < 0)
        raise RuntimeError(f"Trying to create tensor with negative dimension {bad}: {shape}")
    pairs = [length for pair in zip(counts, own, strict=True) for length in pair]
    times = tuple(range(0, 2 * len(own), 2))
    before = a.shape
    return mapped(
        input,
        (
            lambda a: np.tile(a, counts),
            lambda g: g.reshape(pairs).sum(axis=times, dtype=g.dtype).reshape(before),
        ),
        REPEAT,
    )


@method()
def tile(input: Tensor, *dims: Any) -> Tensor:
    """`repeat`, where dims that are left out are 1."""
    return _tile(input, variadic("tile", dims, "dims"))


@function_as("tile")
def _tile_function(input: Tensor, dims: Any) -> Tensor:
    """`torch.tile`: unlike the method it takes dims as one sequence."""
    need_tensor("tile", input)
    return _tile(input, ints_of("tile", dims, "dims"))


def _tile(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return repeat(x, (1,) * (x._array.ndim - len(dims)) + dims)


@public()
def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each slice of a dimension repeated; flat without dim. repeats is a number or one a slice.

    With a tensor of repeats alone: the index of each slice, as often as it is repeated.

    Raises:
        RuntimeError: for negative repeats, or another number of them than there are slices.
    """
    need_tensor("repeat_interleave", input)
    if repeats is None:
        return _wrap_indices(input)
    if not isinstance(repeats, Tensor):
        count = int_of("repeat_interleave", repeats, "repeats", 2)
        if count < 0:
            raise RuntimeError("Repeats must be non-negative")
        if dim is None:
            input, dim = flatten(input), 0
        dim = normal_dim(dim, input._array.ndim)
        shape = input._array.shape
        spread = expand(unsqueeze(input, dim + 1), (*shape[: dim + 1], count, *shape[dim + 1 :]))
        if output_size not in (None, shape[dim] * count):
            raise RuntimeError("allocated size does not match required size")
        return flatten(_copied(spread), dim, dim + 1)
    if repeats._array.ndim > 1:
        raise RuntimeError("repeats must be 0-dim or 1-dim tensor")
    if dim is None:
        input, dim = flatten(input), 0
    length = input._array.shape[dim] if input._array.ndim else 1
    if repeats._array.size == 1:
        repeats = expand(reshape(repeats, 1), (length,))
    if repeats._array.size != length:
        raise RuntimeError(
            "repeats must have the same size as input along dim, but got repeats.size(0) = "
            f"{repeats._array.size} and input.size({dim}) = {length}"
        )
    places = _wrap_indices(repeats)
    if output_size not in (None, places._array.size):
        raise RuntimeError("allocated size does not match required size")
    return index_select(input, dim, places)


def _copied(x: Tensor) -> Tensor:
    return mapped(x, (lambda a: a.copy("C"), lambda g: g))


def _wrap_indices(repeats: Tensor) -> Tensor:
    a = repeats._array
    if a.dtype not in (np.int32, np.int64):
        raise NotImplementedError(
            f"\"repeat_interleave_cpu\" not implemented for '{repeats.dtype.short}'"
        )
    if a.ndim != 1:
        raise RuntimeError("repeat_interleave only accept 1D vector as repeat")
    if a.size and a.min() < 0:
        raise RuntimeError("repeats can not be negative")
    return record(MAPPED, np.repeat(np.arange(a.size, dtype=a.dtype, like=a), a), ())


@public()
def kron(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Kronecker product: every element of input times the whole of other, in their places."""
    need_tensor("kron", input)
    need_tensor("kron", other, "other", 2)
    rank = max(input._array.ndim, other._array.ndim)
    a = (1,) * (rank - input._array.ndim) + input._array.shape
    b = (1,) * (rank - other._array.ndim) + other._array.shape
    x = reshape(input, [n for length in a for n in (length, 1)])
    y = reshape(other, [n for length in b for n in (1, length)])
    product = x * y
    return deliver(reshape(product, [n * m for n, m in zip(a, b, strict=True)]), out)
