"""Reading and writing by masks and by positions in the flattened tensor."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import argument_error, broadcast_error
from ..tensor import Tensor, normal_dim, wrap
from .convert import cast, operand
from .gather import added, gather, in_shape, replaced
from .index import ADD_INDEX, ASSIGN_INDEX, accumulate_rule, assign_rule, index_array, place_rule
from .index import take as taken
from .names import function, public
from .op import Array, Rule, deliver, need_tensor, record
from .view import expand, reshape

MASKED_SELECT = Rule("MaskedSelectBackward0", place_rule)
MASKED_FILL = Rule("MaskedFillBackward0", assign_rule)
MASKED_SCATTER = Rule("MaskedScatterBackward0", assign_rule)
TAKE = Rule("TakeBackward0", place_rule)
PUT = Rule("PutBackward0", assign_rule)
PUT_ADD = Rule("PutBackward0", accumulate_rule)


def _common(name: str, input: Tensor, mask: Tensor) -> tuple[Tensor, Array]:
    """The input and the mask in their common shape."""
    need_tensor(name, "input", 1, input)
    need_tensor(name, "mask", 2, mask)
    try:
        shape = np.broadcast_shapes(input._array.shape, mask._array.shape)
    except ValueError:
        raise broadcast_error(mask._array.shape, input._array.shape) from None
    x = expand(input, shape) if input._array.shape != shape else input
    return x, np.broadcast_to(mask._array, shape)


@public()
def masked_select(input: Tensor, mask: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The elements where a mask holds, in row-major order; both are broadcast."""
    if isinstance(mask, Tensor) and mask._array.dtype != np.bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    x, places = _common("masked_select", input, mask)
    array = np.asarray(x._array[places]).reshape(-1)
    return deliver(record(MASKED_SELECT, array, (x,), (mask,), (x._array.shape, (places,))), out)


@public(in_place=True)
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """One number where mask holds, else input; both are broadcast."""
    x, places = _common("masked_fill", input, mask)
    if places.dtype != np.bool_:
        kind = "long int" if places.dtype == np.int64 else mask.dtype.short.lower()
        raise RuntimeError(
            f"masked_fill_ only supports boolean masks, but got mask with dtype {kind}"
        )
    number = operand(value, input.dtype)
    if number._array.ndim:
        raise RuntimeError(
            "masked_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{number._array.ndim} dimension(s)."
        )
    number = cast(number, input.dtype)
    array = np.where(places, number._array, x._array)
    value_shape = None if number._node is None else ()
    return record(MASKED_FILL, array, (x, number), (mask,), ((places,), value_shape))


@public(in_place=True)
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The elements of source, one after the other, where mask holds, else input."""
    x, places = _common("masked_scatter", input, mask)
    need_tensor("masked_scatter", "source", 3, source)
    if places.dtype != np.bool_:
        raise RuntimeError("masked_scatter_ only supports boolean masks")
    if source._array.dtype != x._array.dtype:
        raise RuntimeError(
            "masked_scatter: expected self and source to have same dtypes but got "
            f"{input.dtype.short} and {source.dtype.short}"
        )
    count = int(places.sum())
    if source._array.size < count:
        raise RuntimeError("Number of elements of source < number of ones in mask")
    values = reshape(source, (-1,))[:count]
    array = x._array.copy()
    array[places] = values._array
    return record(MASKED_SCATTER, array, (x, values), (mask,), ((places,), (count,)))


def _flat(name: str, input: Tensor, index: Any) -> tuple[Any, ...]:
    """Positions in the flattened tensor."""
    need_tensor(name, "input", 1, input)
    need_tensor(name, "index", 2, index)
    places, size = index._array, input._array.size
    if places.dtype != np.int64:
        raise RuntimeError(
            f"{name}(): Expected a long tensor for index, but got {index.dtype.short}"
        )
    if places.size and size == 0:
        raise IndexError(f"{name}(): tried to take from an empty tensor")
    if places.size and not (-size <= places.min() and places.max() < size):
        bad = int(places[(places < -size) | (places >= size)][0])
        raise IndexError(
            f"out of range: tried to access index {bad} on a tensor of {size} elements."
        )
    return (places,)


@public()
def take(input: Tensor, index: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The elements at positions of the flattened input, in the shape of index."""
    key = _flat("take", input, index)
    flat = reshape(input, (-1,))
    array = np.asarray(flat._array[key])
    return deliver(record(TAKE, array, (flat,), (index,), (flat._array.shape, key)), out)


@public(in_place=True)
def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """input with source written, or added, at positions of its flattened form."""
    key = _flat("put", input, index)
    need_tensor("put", "source", 3, source)
    if source._array.dtype != input._array.dtype:
        raise RuntimeError(
            "put_(): self and source expected to have the same dtype, but got self.dtype = "
            f"{input.dtype.short} and source.dtype = {source.dtype.short}"
        )
    if source._array.size != index._array.size:
        raise IndexError(
            "put_(): Expected source and index to have the same number of elements, but got "
            f"source.numel() = {source._array.size}, index.numel() = {index._array.size}"
        )
    flat, values = reshape(input, (-1,)), in_shape(source, index._array.shape)
    if accumulate:
        return in_shape(added(PUT_ADD, flat, key, values, (index,)), input._array.shape)
    return in_shape(replaced(PUT, flat, key, values, (index,)), input._array.shape)


@public(in_place=True)
def index_put(
    input: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    """input with values written, or added, at `input[indices]`."""
    need_tensor("index_put", "input", 1, input)
    if isinstance(indices, Tensor) or not isinstance(indices, (tuple, list)):
        raise argument_error("index_put", "indices", 2, "tuple of Tensors", indices)
    need_tensor("index_put", "values", 3, values)
    if len(indices) > input._array.ndim:
        raise IndexError(
            f"too many indices for tensor of dimension {input._array.ndim} (got {len(indices)})"
        )
    if values._array.dtype != input._array.dtype:
        raise RuntimeError(
            "Index put requires the source and destination dtypes match, got "
            f"{input.dtype.short} for the destination and {values.dtype.short} for the source."
        )
    key = tuple(slice(None) if i is None else index_array(i) for i in indices)
    region = taken(input._array, key)
    try:
        np.broadcast_to(values._array, region.shape)
    except ValueError:
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(values._array.shape)} cannot be "
            f"broadcast to indexing result of shape {list(region.shape)}"
        ) from None
    saved = tuple(i for i in indices if i is not None)
    if accumulate:
        return added(ADD_INDEX, input, key, values, saved)
    return replaced(ASSIGN_INDEX, input, key, values, saved)


@public()
def take_along_dim(
    input: Tensor, indices: Tensor, dim: int | None = None, *, out: Tensor | None = None
) -> Tensor:
    """`gather` that broadcasts input and indices; without dim, over the flattened input."""
    need_tensor("take_along_dim", "input", 1, input)
    need_tensor("take_along_dim", "indices", 2, indices)
    if indices._array.dtype != np.int64:
        raise RuntimeError(
            "torch.take_along_dim(): dtype of indices should be Long but got " + indices.dtype.short
        )
    if dim is None:
        return deliver(gather(reshape(input, (-1,)), 0, reshape(indices, (-1,))), out)
    a, places = input._array, indices._array
    if a.ndim != places.ndim:
        raise RuntimeError(
            "torch.take_along_dim(): input and indices should have the same number of dimensions, "
            f"but got {a.ndim} dimensions for input, and {places.ndim} dimensions for indices"
        )
    dim = normal_dim(dim, a.ndim)
    if a.ndim == 0:
        return deliver(gather(input, 0, indices), out)
    rest = [n if d != dim else 1 for d, n in enumerate(a.shape)]
    others = [n if d != dim else 1 for d, n in enumerate(places.shape)]
    try:
        shape = list(np.broadcast_shapes(rest, others))
    except ValueError:
        raise broadcast_error(tuple(rest), tuple(others)) from None
    whole = tuple(a.shape[dim] if d == dim else n for d, n in enumerate(shape))
    index = tuple(places.shape[dim] if d == dim else n for d, n in enumerate(shape))
    return deliver(gather(expand(input, whole), dim, expand(indices, index)), out)


@public()
def nonzero(input: Tensor, *, as_tuple: bool = False, out: Tensor | None = None) -> Any:
    """Where the elements are not zero: a row for each, or a vector for each dimension."""
    need_tensor("nonzero", "input", 1, input)
    a = input._array
    if as_tuple:
        return tuple(wrap(places.copy()) for places in np.nonzero(np.atleast_1d(a)))
    if a.ndim == 0:
        return deliver(wrap(np.empty((int(a != 0), 0), np.int64, like=a)), out)
    return deliver(wrap(np.stack(np.nonzero(a)).T), out)


@public()
def argwhere(input: Tensor) -> Tensor:
    """Where the elements are not zero, a row for each."""
    return nonzero(input)  # type: ignore[no-any-return]


@function()
def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Whether each element is among test_elements; either may be a number."""
    a, b = (t._array if isinstance(t, Tensor) else t for t in (elements, test_elements))
    return wrap(np.asarray(np.isin(a, b, invert=invert)))
