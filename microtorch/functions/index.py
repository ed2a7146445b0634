"""Indexing: `x[...]` and `x[...] = value` in all their forms.

A key is taken apart into two: numbers, slices, None and `...`, which give a view, and index
tensors and masks, which then copy from that view. So a number beside an index tensor selects
first, as in PyTorch, where NumPy would count it among the index tensors.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import kind_of, refuse_foreign
from ..graph.node import mode
from ..kernels import cpu
from ..tensor import (
    TENSORS,
    Tensor,
    changed,
    check_in_place,
    normal_dim,
    root_of,
)
from .convert import cast, copy_, operand
from .history import check_history, take_over
from .names import public
from .op import Array, Rule, record
from .overlap import check_repeated, check_shared
from .view import expand, linked, reshape


def open_grid(shape: tuple[int, ...]) -> list[Array]:
    """Numbers along each dim, as np.ogrid gives, in a third of its time."""
    rank = len(shape)
    return [np.arange(n).reshape(n, *(1,) * (rank - d - 1)) for d, n in enumerate(shape)]


def place_rule(F: Any, g: Any, const: Any, *_: Any) -> tuple[Any, ...]:
    """Gradient of x for `x[key]`, where const is x's shape and the key; index tensors are saved
    too, so that a change of one is noticed."""
    shape, key = const
    return (F.put_index(g, key, shape),)


def assign_rule(F: Any, g: Any, const: Any, *_: Any) -> tuple[Any, ...]:
    """Gradient of x after x[key] = value: zero where written; the rest went to the value."""
    key, value_shape = const
    if value_shape is None:
        return F.clear_index(g, key), None
    written = F.take_index(g, key)
    # A value may have leading dimensions of length 1 that the region lacks.
    extra = len(value_shape) - written.ndim
    into = F.sum_to(written, value_shape[extra:] if extra > 0 else value_shape)
    return F.clear_index(g, key), F.reshape(into, value_shape) if extra > 0 else into


def accumulate_rule(F: Any, g: Any, const: Any, *_: Any) -> tuple[Any, ...]:
    """Gradient of x after x[key] += value: all of it; value gets its part."""
    key, value_shape = const
    return g, None if value_shape is None else F.sum_to(F.take_index(g, key), value_shape)


SELECT = Rule("SelectBackward0", place_rule)
SLICE = Rule("SliceBackward0", place_rule)
INDEX = Rule("IndexBackward0", place_rule)
UNBIND = Rule("UnbindBackward0", place_rule)
UNSQUEEZE = Rule("UnsqueezeBackward0", place_rule)
ALIAS = Rule("AliasBackward0", place_rule)
ASSIGN = Rule("CopySlices", assign_rule)
PUT = Rule("IndexPutBackward0", lambda F, g, key: (F.take_index(g, key),))
CLEAR = Rule("MaskedFillBackward0", lambda F, g, key: (F.clear_index(g, key),))
ASSIGN_INDEX = Rule("IndexPutBackward0", assign_rule)
INT64, BOOL = np.dtype(np.int64), np.dtype(np.bool_)
ADD_INDEX = Rule("IndexPutBackward0", accumulate_rule)


def index_array(item: Any) -> Array:
    """An index tensor, a mask or a sequence as an array of integers or bools.

    Raises:
        IndexError: for other dtypes.
    """
    if isinstance(item, Tensor):
        a = item._array
    else:
        if not isinstance(item, np.ndarray):
            item = np.asarray([i._array if isinstance(i, Tensor) else i for i in item])
        a = item.astype(np.int64) if item.dtype.kind in "iuf" else item
    if a.dtype == np.uint8:
        return a.astype(bool)
    if a.dtype not in (np.int64, np.int32, np.bool_):
        raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    return a


def _item(item: Any) -> Any:
    """One item of a key: an int, slice, bool, array, None or `...`."""
    if item is None or item is ... or isinstance(item, (bool, int)):
        return item
    if isinstance(item, slice):
        return _slice(item)
    if isinstance(item, (Tensor, np.ndarray)):
        a = index_array(item)
        return a if a.ndim else a.item()
    if isinstance(item, (list, tuple, range)):
        return index_array(item)
    if isinstance(item, str):
        raise TypeError("new(): invalid data type 'str'")
    if isinstance(item, np.generic) and item.dtype.kind in "iub":
        return item.item()
    refuse_foreign(item)
    raise IndexError(
        "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables "
        f"are valid indices (got {type(item).__name__})"
    )


def _slice(item: slice) -> slice:
    parts = []
    for v in (item.start, item.stop, item.step):
        if v is not None and not hasattr(type(v), "__index__"):
            raise TypeError("slice indices must be integers or None or have an __index__ method")
        parts.append(v if v is None else v.__index__())
    if parts[2] == 0:
        raise ValueError("slice step cannot be zero")
    if parts[2] is not None and parts[2] < 0:
        raise ValueError("step must be greater than zero")
    return slice(*parts)


def _is_usual(item: Any) -> bool:
    """Whether an item is a number or a slice that NumPy takes as it is."""
    kind = item.__class__
    if kind is slice:
        step = item.step
        return step is None or (step.__class__ is int and step > 0)
    return kind is int


def _items(key: Any) -> list[Any]:
    """The items of a key; a list that holds more than numbers is one of several items."""
    if isinstance(key, list):
        several = (Tensor, np.ndarray, list, tuple, slice, type(None), type(...))
        if not any(isinstance(i, several) for i in key):
            return [_item(key)]
    elif not isinstance(key, tuple):
        return [_item(key)]
    return [_item(i) for i in key]


def _width(item: Any) -> int:
    """How many dimensions an item takes."""
    if isinstance(item, np.ndarray):
        return item.ndim if item.dtype == np.bool_ else 1
    return int(item is not None and item is not ... and not isinstance(item, bool))


def _keys(a: Array, key: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A key as two in NumPy's terms: one for a view of a, one of index arrays for that view.

    Raises:
        IndexError: where the key does not fit the shape.
    """
    items = _items(key)
    if len(items) == 1 and a.ndim and isinstance(items[0], np.ndarray):
        if items[0].dtype != np.bool_:
            return (), (items[0],)
    free = a.ndim - sum(map(_width, items))
    _check_items(a, items, free)
    views: list[Any] = []
    arrays: list[Any] = []
    for item in items:
        if item is ...:
            views += [slice(None)] * free
            arrays += [slice(None)] * free
            free = 0
        elif isinstance(item, bool):
            views.append(None)
            arrays.append(np.array([item]))
        elif isinstance(item, np.ndarray):
            views += [slice(None)] * _width(item)
            arrays.append(item)
        else:
            views.append(item)
            if not isinstance(item, int):
                arrays.append(slice(None))
    if not any(isinstance(i, np.ndarray) for i in arrays):
        arrays = []
    return tuple(views), tuple(arrays)


def _check_items(a: Array, items: list[Any], free: int) -> None:
    if a.ndim == 0 and any(isinstance(i, slice) for i in items):
        raise IndexError("slice() cannot be applied to a 0-dim tensor.")
    if a.ndim == 0 and any(i.__class__ is int for i in items):
        raise IndexError(
            "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or "
            "`tensor.item<T>()` in C++ to convert a 0-dim tensor to a number"
        )
    if free < 0:
        raise IndexError(f"too many indices for tensor of dimension {a.ndim}")
    place = 0
    for item in items:
        if isinstance(item, np.ndarray) and item.dtype == np.bool_:
            for k, n in enumerate(item.shape):
                if n != a.shape[place + k]:
                    raise IndexError(
                        f"The shape of the mask {list(item.shape)} at index {k} does not match the "
                        f"shape of the indexed tensor {list(a.shape)} at index {place + k}"
                    )
        place += free if item is ... else _width(item)
        free = 0 if item is ... else free


def take(a: Array, key: tuple[Any, ...]) -> Array:
    """`a[key]` for a key in NumPy's terms, with PyTorch's errors."""
    try:
        return np.asarray(a[key])
    except IndexError as error:
        text = str(error)
        if "shape mismatch" in text:
            shapes = ", ".join(str(list(i.shape)) for i in key if isinstance(i, np.ndarray))
            text = "shape mismatch: indexing tensors could not be broadcast together with shapes "
            raise IndexError(text + shapes) from None
        raise IndexError(text.replace("axis", "dimension")) from None


def take_rows(a: Array, places: Array) -> Array:
    """`a[places]` for integers: by `ndarray.take` in a third of the time, where it copies no a."""
    if type(a) is np.ndarray and type(places) is np.ndarray and a.flags.c_contiguous:
        try:
            return a.take(places, 0)
        except IndexError:
            # What follows says it better.
            pass
    return take(a, (places,))


def _view(input: Tensor, key: tuple[Any, ...]) -> Tensor:
    """The view that numbers, slices and None give."""
    a = input._array
    last = key[-1] if key else ...
    op = SELECT if last.__class__ is int else UNSQUEEZE if last is None else SLICE if key else ALIAS
    return linked(input, take(a, (*key, ...)), op, (a.shape, key))


def getitem(input: Tensor, key: Any) -> Tensor:
    """`x[key]`: a view for numbers, slices, None and `...`; a copy for index tensors."""
    a = input._array
    if key.__class__ in TENSORS:
        places = key._array
        kind = places.dtype
        if (kind is INT64 and places.ndim and a.ndim) or (kind is BOOL and places.shape == a.shape):
            # One index tensor or mask, the usual case.
            array = take_rows(a, places) if kind is INT64 else take(a, (places,))
            return record(INDEX, array, (input,), (key,), (a.shape, (places,)))
    items = key if key.__class__ is tuple else (key,)
    if len(items) <= a.ndim and all(map(_is_usual, items)):
        return _view(input, items)
    views, arrays = _keys(a, key)
    if not arrays:
        return _view(input, views)
    if any(i != slice(None) for i in views):
        input = _view(input, views)
    array = take(input._array, arrays)
    # A copy of its own, in row-major order whatever order NumPy chose.
    array = np.array(array, order="C", copy=array.base is not None or None)
    return record(INDEX, array, (input,), _tensors(key), (input._array.shape, arrays))


def _tensors(key: Any) -> tuple[Tensor, ...]:
    """The index tensors of a key."""
    items = key if isinstance(key, (tuple, list)) else (key,)
    return tuple(i for i in items if isinstance(i, Tensor))


def setitem(input: Tensor, key: Any, value: Any) -> None:
    """`x[key] = value`, in place; gradients flow to the value and to what was not written."""
    views, arrays = _keys(input._array, key)
    if not isinstance(value, (Tensor, bool, int, float, np.generic)):
        raise TypeError(f"can't assign a {kind_of(value)} to a {input.type()}")
    if not arrays:
        # A number that is out of range comes before what must not be written.
        region = take(input._array, (*views, ...))
        check_in_place(input, "a view of a leaf")
        if not _overlaps(input, views, region, value):
            _assign(input, (*views, ...), cast(operand(value, input.dtype), input.dtype), ASSIGN)
        return
    if any(i != slice(None) for i in views):
        input = _view(input, views)
    check_in_place(input)
    value = operand(value, input.dtype)
    if value._array.dtype != input._array.dtype:
        raise RuntimeError(
            "Index put requires the source and destination dtypes match, got "
            f"{input.dtype.short} for the destination and {value.dtype.short} for the source."
        )
    _assign(input, arrays, value, ASSIGN_INDEX, _tensors(key))


def _overlaps(input: Tensor, views: tuple[Any, ...], region: Array, value: Any) -> bool:
    """Refuse to write where elements share memory; True if a repeated region was written."""
    if not region.ndim:
        return False
    check_repeated(region)
    if isinstance(value, Tensor) and root_of(value) is root_of(input):
        check_shared(region, value._array)
    if 0 not in input._array.strides:
        return False
    if isinstance(value, Tensor) and value._array.ndim > region.ndim:
        return False
    # A repeated element belongs to one history: that of the region written.
    copy_(getitem(input, (*views, ...)), value)
    return True


def _assign(
    input: Tensor, key: tuple[Any, ...], value: Tensor, op: Rule, saved: tuple[Any, ...] = ()
) -> None:
    """Write a value at a key in NumPy's terms, in place."""
    a, shape = input._array, value._array.shape
    region = take(a, key)
    lead = len(shape) - region.ndim
    if lead > 0 and shape[:lead] == (1,) * lead:
        value = reshape(value, shape[lead:])
    check_history(input, value._node)
    try:
        a[key] = value._array
    except ValueError:
        if op is ASSIGN:
            expand(value, region.shape)
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(shape)} cannot be broadcast to indexing "
            f"result of shape {list(region.shape)}"
        ) from None
    changed(input)
    if mode.enabled and (input._node is not None or value._node is not None):
        shape = value._array.shape
        take_over(input, record(op, a, (input, value), saved, (key, shape))._node)


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


def put_index(g: Tensor, key: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of a shape with g added at key: the adjoint of `x[key]`, itself differentiable."""
    array = cpu.put_index(g._array, key, shape)
    return record(PUT, array, (g,), const=key)


def clear_index(g: Tensor, key: Any) -> Tensor:
    """g with zeros at key."""
    return record(CLEAR, cpu.clear_index(g._array, key), (g,), const=key)


def take_index(x: Tensor, key: Any) -> Tensor:
    """`x[key]` for a key in NumPy's terms."""
    return record(INDEX, np.asarray(x._array[key]), (x,), const=(x._array.shape, key))
