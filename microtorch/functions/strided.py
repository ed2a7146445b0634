"""More views over the same memory, with other dimensions or strides; in-place changes of shape."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import broadcast_error
from ..graph.node import clock
from ..tensor import Size, Tensor, changed, check_in_place, normal_dim, root_of
from .arguments import int_of, ints_of, need_tensor
from .history import offsets
from .index import getitem
from .names import function, method, public
from .op import Array, Rule
from .rearrange import Maps, diagonal_dims, diagonal_maps, diagonal_of
from .view import expand, flatten, linked, permute, reshape, squeeze, t, transpose, unsqueeze, view_


def _adjoint_rule(F: Any, g: Any, maps: Maps) -> tuple[Any, ...]:
    return (F.mapped(g, maps[::-1]),)


DIAGONAL = Rule("DiagonalBackward0", _adjoint_rule)
UNFOLD = Rule("UnfoldBackward0", _adjoint_rule)
AS_STRIDED = Rule("AsStridedBackward0", _adjoint_rule)


@public("swapdims")
def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """With two dimensions exchanged."""
    need_tensor("swapaxes", input)
    return transpose(input, axis0, axis1)


@public()
def adjoint(input: Tensor) -> Tensor:
    """The last two dimensions exchanged."""
    need_tensor("adjoint", input)
    return transpose(input, -2, -1)


@public("moveaxis")
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved to other places, the rest in their order.

    Raises:
        RuntimeError: for repeated dimensions, or more sources than destinations.
    """
    need_tensor("movedim", input)
    given = ints_of("movedim", source, "source", 2, one=True)
    places = ints_of("movedim", destination, "destination", 3, one=True)
    if len(given) != len(places):
        raise RuntimeError(
            f"movedim: Invalid source or destination dims: source ({list(given)} dims) should "
            f"contain the same number of dims as destination ({list(places)} dims)"
        )
    ndim = input._array.ndim
    sources = [normal_dim(d, ndim) for d in given]
    targets = [normal_dim(d, ndim) for d in places]
    for name, dims, shown in (("source", sources, given), ("destination", targets, places)):
        if len(set(dims)) != len(dims):
            raise RuntimeError(f"movedim: repeated dim in `{name}` ({list(shown)})")
    if ndim == 0:
        return view_(input, ())
    order = [d for d in range(ndim) if d not in sources]
    for target, d in sorted(zip(targets, sources, strict=True)):
        order.insert(target, d)
    return permute(input, order)


@public()
def ravel(input: Tensor) -> Tensor:
    """All dimensions as one."""
    need_tensor("ravel", input)
    return reshape(input, (-1,)) if input._array.size else reshape(input, (0,))


@public()
def unflatten(input: Tensor, dim: int, sizes: Any) -> Tensor:
    """One dimension as several; one length may be -1.

    Raises:
        RuntimeError: if the lengths do not multiply to that of the dimension.
    """
    need_tensor("unflatten", input)
    lengths = ints_of("unflatten", sizes, "sizes")
    if not lengths:
        raise RuntimeError("unflatten: sizes must be non-empty")
    shape = input._array.shape
    place = normal_dim(dim, len(shape))
    n = shape[place]
    known = math.prod([m for m in lengths if m != -1])
    if lengths.count(-1) == 1 and known and n % known == 0:
        lengths = tuple(n // known if m == -1 else m for m in lengths)
    elif lengths.count(-1) > 1:
        raise RuntimeError("only one dimension can be inferred")
    elif -1 in lengths or known != n:
        raise RuntimeError(
            f"unflatten: Provided sizes {list(lengths)} don't multiply up to the size of dim "
            f"{place} ({n}) in the input tensor"
        )
    return view_(input, (*shape[:place], *lengths, *shape[place + 1 :]))


@public()
def broadcast_to(input: Tensor, size: Any) -> Tensor:
    """`expand` to a shape."""
    need_tensor("broadcast_to", input)
    return expand(input, ints_of("broadcast_to", size, "size"))


@function()
def broadcast_shapes(*shapes: Any) -> Size:
    """The shape to which all of these broadcast."""
    found: tuple[int, ...] = ()
    for k, shape in enumerate(shapes):
        lengths = (shape,) if isinstance(shape, int) else tuple(shape)
        try:
            found = np.broadcast_shapes(found, lengths)
        except ValueError:
            pairs = enumerate(zip(reversed(found), reversed(lengths)), 1)
            back, n = next((d, m) for d, (n, m) in pairs if n != m and 1 not in (n, m))
            raise RuntimeError(
                f"Attempting to broadcast a dimension of length {n} at {-back}! Mismatching "
                f"argument at index {k} had {lengths}; but expected shape should be broadcastable "
                f"to {list(found)}"
            ) from None
    return Size(found)


@function()
def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """Views of all tensors, expanded to one shape."""
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    for x in tensors:
        need_tensor("broadcast_tensors", x, "tensors")
    shape: tuple[int, ...] = ()
    for x in tensors:
        try:
            shape = np.broadcast_shapes(shape, x._array.shape)
        except ValueError:
            raise broadcast_error(shape, x._array.shape) from None
    return tuple(expand(x, shape) for x in tensors)


@public()
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """One slice of a dimension, as a view without it."""
    need_tensor("select", input)
    place, k = int_of("select", dim, "dim", 2), int_of("select", index, "index", 3)
    shape = input._array.shape
    if not shape:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    place = normal_dim(place, len(shape))
    if not -shape[place] <= k < shape[place]:
        raise IndexError(
            f"select(): index {k} out of range for tensor of size {list(shape)} at dimension "
            f"{place}"
        )
    return getitem(input, (*(slice(None),) * place, k))


@public()
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonals of the planes of two dimensions, as the last dimension of a view."""
    need_tensor("diagonal", input)
    a = input._array
    first, second = diagonal_dims(a.ndim, dim1, dim2)
    seen = diagonal_of(a, offset, first, second)
    return linked(input, seen, DIAGONAL, diagonal_maps(a.shape, offset, first, second))


def diagonal_of_matrices(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The diagonals of matrices, by default of the last two dimensions, as a view."""
    return diagonal(A, offset, dim1, dim2)


@method()
def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """All windows of a length along a dimension, `step` apart; the window is the last dimension."""
    a = input._array
    dim = normal_dim(dimension, a.ndim)
    n = a.shape[dim] if a.ndim else 1
    if size < 0:
        raise RuntimeError(f"size is {size} but must be >= 0")
    if size > n:
        raise RuntimeError(f"maximum size for tensor at dimension {dim} is {n} but size is {size}")
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    count = (n - size) // step + 1
    shape = a.shape

    def windows(a: Array) -> Array:
        a = a.reshape(1) if a.ndim == 0 else a
        steps = [s * step if d == dim else s for d, s in enumerate(a.strides)]
        lengths = [count if d == dim else m for d, m in enumerate(a.shape)]
        seen = np.lib.stride_tricks.as_strided(a, (*lengths, size), (*steps, a.strides[dim]))
        return seen if shape else seen[0]

    def put(g: Array) -> Array:
        made = np.zeros(shape or (1,), g.dtype, like=g)
        lead = (slice(None),) * dim
        g = g if shape else g[None]
        for k in range(size):
            made[(*lead, slice(k, k + step * (count - 1) + 1, step))] += g[..., k]
        return made.reshape(shape)

    return linked(input, windows(a), UNFOLD, (windows, put))


@public()
def as_strided(input: Tensor, size: Any, stride: Any, storage_offset: int | None = None) -> Tensor:
    """A view of the storage with any shape and strides, counted in elements.

    Raises:
        RuntimeError: for negative strides, or a view that leaves the storage.
    """
    need_tensor("as_strided", input)
    shape, steps = ints_of("as_strided", size, "size"), ints_of("as_strided", stride, "stride", 3)
    if len(shape) != len(steps):
        raise RuntimeError("mismatch in length of strides and shape")
    if min(steps, default=0) < 0:
        raise RuntimeError(
            "as_strided: Negative strides are not supported at the moment, got strides: "
            f"{list(steps)}"
        )
    a, whole = input._array, root_of(input)._array
    item = a.itemsize
    own = (a.ctypes.data - whole.ctypes.data) // item
    start = own if storage_offset is None else storage_offset
    if min(shape, default=0) < 0:
        raise RuntimeError(f"as_strided: lengths must not be negative, got {list(shape)}")
    if start < 0:
        raise RuntimeError(f"Tensor: invalid storage offset {start}")
    last = start + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
    reach = sum((n - 1) * s for n, s in zip(whole.shape, whole.strides, strict=True))
    count = reach // item + 1 if whole.size else 0
    if 0 not in shape and last >= count:
        raise RuntimeError(
            f"setStorage: sizes {list(shape)}, strides {list(steps)}, storage offset {start}, and "
            f"itemsize {item} requiring a storage size of {(last + 1) * item} are out of bounds "
            f"for storage of size {count * item}"
        )
    flat = np.lib.stride_tricks.as_strided(whole, (count,), (item,))
    seen = np.lib.stride_tricks.as_strided(flat[start:], shape, [s * item for s in steps])

    def places(array: Array, first: int) -> Array:
        return offsets(array) // item + first

    def take(x: Array) -> Array:
        storage = np.zeros(count, x.dtype, like=x)
        storage[places(a, own)] = x
        return np.asarray(storage[places(seen, start)])

    def put(g: Array) -> Array:
        storage = np.zeros(count, g.dtype, like=g)
        np.add.at(storage, places(seen, start), g)
        return np.asarray(storage[places(a, own)])

    return linked(input, seen, AS_STRIDED, (take, put))


def _atleast(rank: int, widen: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def apply(*tensors: Any) -> Any:
        if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
            return tuple(apply(x) for x in tensors[0])
        if len(tensors) != 1:
            return tuple(apply(x) for x in tensors)
        need_tensor(f"atleast_{rank}d", tensors[0], "tensors")
        return widen(tensors[0])

    apply.__name__ = apply.__qualname__ = f"atleast_{rank}d"
    apply.__doc__ = f"Tensors as views of at least {rank} dimensions; a tuple of several."
    return function()(apply)


def _to_2d(x: Tensor) -> Tensor:
    if x._array.ndim == 0:
        return reshape(x, (1, 1))
    return unsqueeze(x, 0) if x._array.ndim == 1 else x


def _to_3d(x: Tensor) -> Tensor:
    if x._array.ndim == 0:
        return reshape(x, (1, 1, 1))
    if x._array.ndim == 1:
        return unsqueeze(unsqueeze(x, 0), -1)
    return unsqueeze(x, -1) if x._array.ndim == 2 else x


atleast_1d = _atleast(1, lambda x: x if x._array.ndim else reshape(x, (1,)))
atleast_2d = _atleast(2, _to_2d)
atleast_3d = _atleast(3, _to_3d)


@function()
def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Vectors spread over the grid of all of them; 'xy' exchanges the first two dimensions.

    Raises:
        RuntimeError: for tensors of more than one dimension, or of different dtypes.
    """
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    if not tensors:
        raise RuntimeError("meshgrid expects a non-empty TensorList")
    for x in tensors:
        need_tensor("meshgrid", x, "tensors")
    for x in tensors:
        if x._array.ndim > 1:
            raise RuntimeError(
                "torch.meshgrid: Expected 0D or 1D tensor in the tensor list but got: "
                f"{x._array.ndim}D"
            )
        if x.dtype is not tensors[0].dtype:
            raise RuntimeError("meshgrid expects all tensors to have the same dtype")
    if indexing not in ("ij", "xy"):
        raise RuntimeError(
            f'torch.meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}'
        )
    order = list(range(len(tensors)))
    if indexing == "xy" and len(tensors) > 1:
        order[:2] = [1, 0]
    shape = [tensors[k]._array.size for k in order]
    grids = []
    for k, x in enumerate(tensors):
        lengths = [1] * len(shape)
        lengths[order.index(k)] = -1 if x._array.size else 0
        grids.append(expand(view_(flatten(x), lengths), shape))
    return tuple(grids)


# -------------------------------------------------------------------- in-place forms
def _reshaping(name: str, make_view: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        z = make_view(input, *args, **kwargs)
        check_in_place(input, "a view of a leaf")
        input._array = z._array
        clock.epoch += 1
        input._node = z._node
        changed(input)
        return input

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"`{name[:-1]}` that changes the tensor's own shape, in place."
    return apply


_IN_PLACE: Sequence[tuple[str, Callable[..., Tensor]]] = (
    ("squeeze_", squeeze), ("unsqueeze_", unsqueeze), ("t_", t), ("transpose_", transpose),
    ("swapaxes_", swapaxes), ("swapdims_", swapaxes),
)  # fmt: skip
for _name, _view in _IN_PLACE:
    method(_name)(_reshaping(_name, _view))
