"""Indexing: `x[...]` in all its forms, and gathering by index tensors."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import argument_error, broadcast_error
from ..graph.node import mode
from ..kernels import cpu
from ..tensor import Tensor, changed, check_in_place, normal_dim, root_of, wrap
from .convert import copy_
from .history import take_over
from .names import public
from .op import Array, Rule, deliver, record
from .overlap import check_repeated, check_shared
from .view import expand, linked


def _place_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    shape, key = const
    return (F.put_index(g, key, shape),)


def _assign_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    """Gradient of x after x[key] = value: zero where written; the rest went to the value."""
    key, value_shape = const
    if value_shape is None:
        return F.clear_index(g, key), None
    written = F.take_index(g, key)
    # A value may have leading dimensions of length 1 that the region lacks.
    extra = len(value_shape) - written.ndim
    into = F.sum_to(written, value_shape[extra:] if extra > 0 else value_shape)
    return F.clear_index(g, key), F.reshape(into, value_shape) if extra > 0 else into


SELECT = Rule("SelectBackward0", _place_rule)
SLICE = Rule("SliceBackward0", _place_rule)
INDEX = Rule("IndexBackward0", _place_rule)
UNBIND = Rule("UnbindBackward0", _place_rule)
UNSQUEEZE = Rule("UnsqueezeBackward0", _place_rule)
ASSIGN = Rule("CopySlices", _assign_rule)
ASSIGN_INDEX = Rule("IndexPutBackward0", _assign_rule)
INDEX_SELECT = Rule("IndexSelectBackward0", _place_rule)
GATHER = Rule("GatherBackward0", _place_rule)
MASKED_SELECT = Rule("MaskedSelectBackward0", _place_rule)


def _index_array(item: Any) -> Any:
    """One item of a key as NumPy takes it."""
    if isinstance(item, Tensor):
        a = item._array
        if a.dtype.kind == "f":
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
        if a.ndim == 0 and a.dtype.kind in "iu":
            return int(a)
        return a.astype(bool) if a.dtype == np.uint8 else a
    if isinstance(item, (list, np.ndarray)):
        found = np.asarray(
            [i._array if isinstance(i, Tensor) else i for i in item]
            if isinstance(item, list)
            else item
        )
        return found.astype(np.int64) if found.size == 0 else found
    if isinstance(item, slice):
        if item.step is not None and item.step <= 0:
            raise ValueError(
                "step must be greater than zero" if item.step else "slice step cannot be zero"
            )
        return slice(
            *(int(v) if isinstance(v, Tensor) else v for v in (item.start, item.stop, item.step))
        )
    return item


def _key(key: Any) -> tuple[Any, ...]:
    if isinstance(key, tuple):
        return tuple(_index_array(item) for item in key)
    return (_index_array(key),)


def _take(a: Array, key: tuple[Any, ...]) -> Array:
    """`a[key]`, with PyTorch's errors."""
    if a.ndim == 0 and any(isinstance(i, slice) for i in key):
        raise IndexError("slice() cannot be applied to a 0-dim tensor.")
    if a.ndim == 0 and any(isinstance(i, int) and not isinstance(i, bool) for i in key):
        raise IndexError(
            "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or "
            "`tensor.item<T>()` in C++ to convert a 0-dim tensor to a number"
        )
    try:
        return np.asarray(a[key])
    except IndexError as error:
        text = str(error)
        if text.startswith("too many indices"):
            raise IndexError(f"too many indices for tensor of dimension {a.ndim}") from None
        if "out of bounds" in text:
            text = text.replace("axis", "dimension")
            raise IndexError(text) from None
        if "boolean index did not match" in text:
            mask = next(i for i in key if isinstance(i, np.ndarray) and i.dtype == bool)
            k = next((k for k in range(mask.ndim) if mask.shape[k] != a.shape[k]), 0)
            raise IndexError(
                f"The shape of the mask {list(mask.shape)} at index {k} does not match the shape "
                f"of the indexed tensor {list(a.shape)} at index {k}"
            ) from None
        if "shape mismatch" in text:
            shapes = ", ".join(str(list(i.shape)) for i in key if isinstance(i, np.ndarray))
            raise IndexError(
                "shape mismatch: indexing tensors could not be broadcast together with shapes "
                + shapes
            ) from None
        _refuse_kinds(key)
        raise IndexError(text) from None


def _refuse_kinds(key: tuple[Any, ...]) -> None:
    for item in key:
        if isinstance(item, str):
            raise TypeError("new(): invalid data type 'str'")
        if item is not None and not isinstance(item, (int, slice, np.ndarray, type(...))):
            raise IndexError(
                "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables "
                f"are valid indices (got {type(item).__name__})"
            )


def getitem(input: Tensor, key: Any) -> Tensor:
    """`x[key]`: a view for numbers, slices, None and `...`; a copy for index tensors."""
    a = input._array
    places = _key(key)
    array = _take(a, places)
    if any(isinstance(i, np.ndarray) or isinstance(i, bool) for i in places):
        # A copy of its own, in row-major order whatever order NumPy chose.
        array = np.array(array, order="C", copy=array.base is not None or None)
        return record(INDEX, array, (input,), const=(a.shape, places))
    last = places[-1] if places else None
    op = SELECT if isinstance(last, int) else UNSQUEEZE if last is None and places else SLICE
    if array.base is None:
        array = a[(*places, ...)]
    return linked(input, array, op, (a.shape, places))


def setitem(input: Tensor, key: Any, value: Any) -> None:
    """`x[key] = value`, in place; gradients flow to the value and to what was not written."""
    a = input._array
    places = _key(key)
    copies = any(isinstance(i, np.ndarray) or isinstance(i, bool) for i in places)
    try:
        region = _take(a, places)
    except IndexError as error:
        if copies and "out of bounds" in str(error):
            check_in_place(input)
        raise
    check_in_place(input, "a leaf" if copies else "a view of a leaf")
    if not copies and region.ndim:
        check_repeated(region)
        if isinstance(value, Tensor) and root_of(value) is root_of(input):
            check_shared(region, value._array)
        if 0 in a.strides and isinstance(value, (Tensor, bool, int, float)):
            # A repeated element belongs to one history: that of the region written.
            if not isinstance(value, Tensor) or value._array.ndim <= region.ndim:
                copy_(getitem(input, key), value)
                return
    if isinstance(value, str):
        raise TypeError(f"can't assign a str to a {input.type()}")
    if not isinstance(value, Tensor):
        value = wrap(np.asarray(value, a.dtype if not isinstance(value, np.ndarray) else None))
    source = value._array
    lead = source.ndim - region.ndim
    if lead > 0 and all(n == 1 for n in source.shape[:lead]):
        source = source.reshape(source.shape[lead:])
    try:
        a[places] = source
    except ValueError:
        if not copies:
            expand(wrap(source), region.shape)
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(value._array.shape)} cannot be broadcast "
            f"to indexing result of shape {list(region.shape)}"
        ) from None
    if mode.enabled and (input._node is not None or value._node is not None):
        shape = value._array.shape if value._node is not None else None
        op = ASSIGN_INDEX if copies else ASSIGN
        assigned = record(op, a, (input, value), const=(places, shape))
        changed(input)
        take_over(input, assigned._node)
    else:
        changed(input)


@public()
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along a dimension, as views without it."""
    a = input._array
    if a.ndim == 0:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    dim = normal_dim(dim, a.ndim)
    lead: tuple[Any, ...] = (slice(None),) * dim
    return tuple(
        linked(input, a[(*lead, k, ...)], UNBIND, (a.shape, (*lead, k)))
        for k in range(a.shape[dim])
    )


def iterate(input: Tensor) -> Iterator[Tensor]:
    """The slices along the first dimension."""
    if input._array.ndim == 0:
        raise TypeError("iteration over a 0-d tensor")
    return iter(unbind(input, 0))


@public()
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of a dimension that a vector of indices names, as a copy."""
    if not isinstance(input, Tensor):
        raise argument_error("index_select", "input", 1, "Tensor", input)
    if not isinstance(index, Tensor):
        raise argument_error("index_select", "index", 3, "Tensor", index)
    a, places = input._array, index._array
    if places.dtype not in (np.int32, np.int64):
        raise RuntimeError("index_select(): Expected dtype int32 or int64 for index")
    if places.ndim > 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    dim = normal_dim(dim, a.ndim)
    count = a.shape[dim] if a.ndim else 1
    if places.size and not (0 <= places.min() and places.max() < count):
        raise IndexError("index out of range in self")
    if a.ndim == 0:
        return record(INDEX_SELECT, a.copy(), (input,), const=((), ()))
    key: Any = (*(slice(None),) * dim, places.reshape(-1))
    array = np.ascontiguousarray(a[key])
    return record(INDEX_SELECT, array, (input,), const=(a.shape, key))


@public()
def masked_select(input: Tensor, mask: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The elements where a mask holds, in row-major order; both are broadcast."""
    if not isinstance(mask, Tensor):
        raise argument_error("masked_select", "mask", 2, "Tensor", mask)
    if mask._array.dtype != np.bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    try:
        shape = np.broadcast_shapes(input._array.shape, mask._array.shape)
    except ValueError:
        raise broadcast_error(mask._array.shape, input._array.shape) from None
    x = expand(input, shape) if input._array.shape != shape else input
    key = (np.broadcast_to(mask._array, shape),)
    return deliver(record(MASKED_SELECT, x._array[key], (x,), const=(shape, key)), out)


@public()
def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """`out[i, j] = input[index[i, j], j]`: elements along one dimension by index."""
    if index._array.dtype not in (np.int32, np.int64):
        raise RuntimeError("gather(): Expected dtype int32/int64 for index")
    a, places = input._array, index._array
    dim = normal_dim(dim, a.ndim)
    if places.ndim != a.ndim:
        raise RuntimeError("Index tensor must have the same number of dimensions as input tensor")
    if places.size and not (0 <= places.min() and places.max() < a.shape[dim]):
        bad = int(places[(places < 0) | (places >= a.shape[dim])][0])
        raise RuntimeError(
            f"index {bad} is out of bounds for dimension {dim} with size {a.shape[dim]}"
        )
    grids = np.ogrid[tuple(slice(n) for n in places.shape)]
    key = tuple(places if d == dim else grids[d] for d in range(a.ndim))
    return record(GATHER, a[key], (input,), const=(a.shape, key))


def put_index(g: Tensor, key: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of a shape with g added at key: the adjoint of `x[key]`, itself differentiable."""
    array = cpu.put_index(g._array, key, shape)
    return record(PUT, array, (g,), const=key)


def clear_index(g: Tensor, key: Any) -> Tensor:
    """g with zeros at key."""
    return record(CLEAR, cpu.clear_index(g._array, key), (g,), const=key)


PUT = Rule("IndexPutBackward0", lambda F, g, key: (F.take_index(g, key),))
CLEAR = Rule("MaskedFillBackward0", lambda F, g, key: (F.clear_index(g, key),))


def take_index(x: Tensor, key: Any) -> Tensor:
    """`x[key]` for a key in NumPy's terms."""
    return record(INDEX, np.asarray(x._array[key]), (x,), const=(x._array.shape, key))
