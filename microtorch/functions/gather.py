"""Reading and writing along one dimension by index tensors."""

from typing import Any

import numpy as np

from .. import dtypes
from ..kernels import cpu
from ..tensor import Tensor, normal_dim, wrap
from .convert import cast, operand, refuse_overflow
from .elementwise import FUNCTIONS
from .index import accumulate_rule, assign_rule, open_grid, place_rule
from .names import public
from .op import Array, Rule, deliver, need_tensor, record
from .view import reshape

Key = tuple[Any, ...]


GATHER = Rule("GatherBackward0", place_rule)
INDEX_SELECT = Rule("IndexSelectBackward0", place_rule)
SCATTER = Rule("ScatterBackward0", assign_rule)
SCATTER_ADD = Rule("ScatterAddBackward0", accumulate_rule)
INDEX_COPY = Rule("IndexCopyBackward0", assign_rule)
INDEX_FILL = Rule("IndexFillBackward0", assign_rule)
INDEX_ADD = Rule("IndexAddBackward0", accumulate_rule)


def key_along(places: Array, dim: int) -> Key:
    """The key of NumPy that takes `places` along dim and stays in place elsewhere."""
    grids = open_grid(places.shape)
    return tuple(places if d == dim else grids[d] for d in range(places.ndim))


def lifted(x: Tensor) -> Tensor:
    """x with at least one dimension."""
    return x if x._array.ndim else reshape(x, (1,))


def in_shape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x in a shape, itself where it has that."""
    return x if x._array.shape == shape else reshape(x, shape)


def _key(name: str, x: Tensor, dim: int, index: Any) -> Key:
    """The key of gather and scatter, for x with at least one dimension."""
    need_tensor(name, "index", 3, index)
    a, places = x._array, np.atleast_1d(index._array)
    dim = normal_dim(dim, a.ndim)
    if places.dtype not in (np.int32, np.int64):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index")
    if not places.size:
        return (places.astype(np.int64),) * a.ndim
    if places.ndim != a.ndim:
        what = "input" if name == "gather" else "self"
        raise RuntimeError(f"Index tensor must have the same number of dimensions as {what} tensor")
    for d, (n, m) in enumerate(zip(places.shape, a.shape, strict=True)):
        if d != dim and n > m:
            gathers = name == "gather"
            start = f"Size does not match at dimension {d} expected" if gathers else "Expected"
            raise RuntimeError(
                f"{start} index {list(places.shape)} to be no larger than self {list(a.shape)} "
                f"apart from dimension {dim}"
            )
    size = a.shape[dim]
    text = f"index {{bad}} is out of bounds for dimension {dim} with size {size}"
    cpu.check_inside(places, size, RuntimeError, text)
    return key_along(places, dim)


@public()
def gather(
    input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False, out: Tensor | None = None
) -> Tensor:
    """`out[i, j] = input[index[i, j], j]`: elements along one dimension by index."""
    need_tensor("gather", "input", 1, input)
    x = lifted(input)
    key = _key("gather", x, dim, index)
    z = record(GATHER, x._array[key], (x,), (index,), (x._array.shape, key))
    return deliver(in_shape(z, index._array.shape), out)


@public(in_place=True)
def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> Tensor:
    """input with `out[index[i, j], j] = src[i, j]`; src may be a number.

    `reduce`, which no gradient goes through, is "add" or "multiply".
    """
    need_tensor("scatter", "input", 1, input)
    if reduce not in (None, "add", "multiply"):
        raise RuntimeError("reduce argument must be either add or multiply.")
    x = lifted(input)
    key = _key("scatter", x, dim, index)
    source = _source(x, index, value if src is None else src, normal_dim(dim, x._array.ndim))
    array = x._array.copy()
    if reduce is not None:
        (np.add if reduce == "add" else np.multiply).at(array, key, source._array)
        return wrap(array.reshape(input._array.shape))
    array[key] = source._array
    z = record(SCATTER, array, (x, source), (index,), (key, source._array.shape))
    return in_shape(z, input._array.shape)


def _source(x: Tensor, index: Tensor, src: Any, dim: int) -> Tensor:
    """What is written at `index`: a number, or the first elements of src along each dimension."""
    a, shape = x._array, np.atleast_1d(index._array).shape
    if isinstance(src, (bool, int, float, np.generic)):
        refuse_overflow(src, src, a.dtype)
        return wrap(np.broadcast_to(np.asarray(src, like=a).astype(a.dtype), shape))
    need_tensor("scatter", "src", 4, src)
    if src._array.dtype != a.dtype:
        raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
    if not index._array.size:
        return wrap(np.empty(shape, a.dtype, like=a))
    source = lifted(src)
    given = source._array.shape
    if len(shape) != len(given):
        raise RuntimeError("Index tensor must have the same number of dimensions as src tensor")
    if any(n > m for n, m in zip(shape, given, strict=True)):
        raise RuntimeError(
            f"Expected index {list(shape)} to be no larger than self {list(a.shape)} apart "
            f"from dimension {dim} and to be no larger size than src {list(given)}"
        )
    return source if given == shape else source[tuple(slice(n) for n in shape)]


@public(in_place=True)
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """input with `out[index[i, j], j] += src[i, j]`."""
    need_tensor("scatter_add", "input", 1, input)
    need_tensor("scatter_add", "src", 4, src)
    x = lifted(input)
    key = _key("scatter_add", x, dim, index)
    source = _source(x, index, src, normal_dim(dim, x._array.ndim))
    return in_shape(added(SCATTER_ADD, x, key, source, (index,)), input._array.shape)


def added(op: Rule, x: Tensor, key: Key, source: Tensor, saved: tuple[Any, ...]) -> Tensor:
    """A copy of x with a source added at a key, again and again where indices repeat; `saved` are
    the index tensors of the key."""
    a = x._array
    values = np.broadcast_to(source._array, a[key].shape)
    array = (a + cpu.put_index(values, key, a.shape)).astype(a.dtype, copy=False)
    return record(op, array, (x, source), saved, (key, source._array.shape))


@public(in_place=True)
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """input and the elements of src that `index` sends to the same place, reduced.

    reduce: "sum", "prod", "mean", "amax" or "amin"; without include_self the elements of input
    count only where nothing is sent.
    """
    need_tensor("scatter_reduce", "input", 1, input)
    need_tensor("scatter_reduce", "src", 4, src)
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError(
            "Expected 'reduce' to be one of 'sum', 'prod', 'mean', 'amax', 'amin' but got "
            f"{reduce}."
        )
    x = lifted(input)
    key = _key("scatter_reduce", x, dim, index)
    source = _source(x, index, src, normal_dim(dim, x._array.ndim))
    z = _scatter_reduced(x, key, index, source, reduce, include_self)
    return in_shape(z, input._array.shape)


def _scatter_reduced(
    x: Tensor, key: Key, index: Tensor, source: Tensor, name: str, include: bool
) -> Tensor:
    a = x._array
    sent = cpu.put_index(np.ones(source._array.shape, np.int64, like=a), key, a.shape)
    if name in ("sum", "mean"):
        start = x if include else FUNCTIONS["mul"](x, wrap((sent == 0).astype(a.dtype)))
        total = added(SCATTER_ADD, start, key, source, (index,))
        if name == "sum":
            return total
        counts = wrap(np.maximum(sent + include, 1).astype(a.dtype))
        if a.dtype.kind != "f":
            return wrap(np.asarray(total._array // counts._array))
        return FUNCTIONS["div"](total, counts)  # type: ignore[no-any-return]
    array = a.copy()
    if not include and source._array.size:
        array[sent > 0] = {"prod": 1, "amax": _least(a.dtype), "amin": _most(a.dtype)}[name]
    {"prod": np.multiply, "amax": np.maximum, "amin": np.minimum}[name].at(  # type: ignore[attr-defined]
        array, key, source._array
    )
    kept = wrap(np.asarray((sent == 0) | include, a.dtype))
    op = SCATTER_PROD if name == "prod" else SCATTER_EXTREME
    return record(op, array, (x, source), (kept, index, x, source, ...), key)


def _least(dtype: Any) -> Any:
    return -np.inf if dtype.kind == "f" else False if dtype.kind == "b" else np.iinfo(dtype).min


def _most(dtype: Any) -> Any:
    return np.inf if dtype.kind == "f" else True if dtype.kind == "b" else np.iinfo(dtype).max


def _scatter_extreme_rule(
    F: Any, g: Any, key: Any, kept: Any, _: Any, x: Any, source: Any, z: Any
) -> tuple[Any, ...]:
    """The gradient shared evenly by all elements that are the extreme of their place."""
    dtype = dtypes.of(F.numpy_dtype(g))
    own = F.mul(F.cast(F.equal_mask(x, z), dtype), kept)
    sent = F.cast(F.equal_mask(source, F.take_index(z, key)), dtype)
    count = F.add(own, F.put_index(sent, key, x.shape))
    share = F.div(g, count)
    return F.mul(share, own), F.mul(F.take_index(share, key), sent)


def _scatter_prod_rule(
    F: Any, g: Any, key: Any, kept: Any, _: Any, x: Any, source: Any, z: Any
) -> tuple[Any, ...]:
    """The products of the others, by division: no element may be 0."""
    whole = F.mul(g, z)
    return F.mul(F.div(whole, x), kept), F.div(F.take_index(whole, key), source)


SCATTER_EXTREME = Rule("ScatterReduceBackward0", _scatter_extreme_rule, True)
SCATTER_PROD = Rule("ScatterReduceBackward0", _scatter_prod_rule, True)


# ------------------------------------------------------------------- a vector of indices
def _vector_key(name: str, x: Tensor, dim: int, index: Any) -> Key:
    """The key of a vector of indices along a dimension, not yet compared with its length."""
    need_tensor(name, "index", 3, index)
    dim = normal_dim(dim, x._array.ndim)
    places = index._array
    if name in ("index_select", "index_add"):
        if places.dtype not in (np.int32, np.int64):
            if name == "index_select":
                raise RuntimeError("index_select(): Expected dtype int32 or int64 for index")
            raise RuntimeError(
                "index_add_(): Expected dtype int32/int64 for index but got: " + index.dtype.short
            )
    elif places.dtype != np.int64:
        if name == "index_copy":
            raise RuntimeError(
                f"index_copy_(): Expected a long tensor for index, but got {index.dtype.short}"
            )
        raise IndexError(f"{name}_(): Expected dtype int64 for index.")
    if places.ndim > 1:
        end = "vector" if name == "index_select" else "vector or scalar"
        raise IndexError(f"{name}(): Index is supposed to be a {end}")
    return (*(slice(None),) * dim, places.reshape(-1))


def _check_vector(key: Key, length: int, text: str) -> None:
    words = text.format(bad="{bad}", dim=len(key) - 1, length=length)
    cpu.check_inside(key[-1], length, IndexError, words)


@public()
def index_select(input: Tensor, dim: int, index: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The slices of a dimension that a vector of indices names, as a copy."""
    need_tensor("index_select", "input", 1, input)
    x = lifted(input)
    key = _vector_key("index_select", x, dim, index)
    a = x._array
    _check_vector(key, a.shape[len(key) - 1], "index out of range in self")
    array = np.ascontiguousarray(a[key])
    z = record(INDEX_SELECT, array, (x,), (index,), (a.shape, key))
    return deliver(z if input._array.ndim else in_shape(z, ()), out)


@public(in_place=True)
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """input with `alpha * source` added at the slices that a vector of indices names."""
    need_tensor("index_add", "input", 1, input)
    need_tensor("index_add", "source", 4, source)
    x, given = lifted(input), lifted(source)
    key = _vector_key("index_add", x, dim, index)
    if x._array.dtype != source._array.dtype:
        raise RuntimeError(
            f"index_add_(): self ({input.dtype.short}) and source ({source.dtype.short}) must have "
            "the same scalar type"
        )
    _check_source("index_add", x, key, given)
    _check_vector(key, x._array.shape[len(key) - 1], "index out of range in self")
    given = given if alpha == 1 else FUNCTIONS["mul"](given, alpha)
    return in_shape(added(INDEX_ADD, x, key, given, (index,)), input._array.shape)


def _check_source(name: str, x: Tensor, key: Key, source: Tensor) -> None:
    """Refuse a source of another shape than that of the slices it goes to."""
    dim, count = len(key) - 1, key[-1].size
    given = source._array.shape
    if dim < len(given) and given[dim] != count:
        what = "self" if name == "index_add" else "tensor"
        raise (RuntimeError if name == "index_add" else IndexError)(
            f"{name}_(): Number of indices ({count}) should be equal to source.size(dim"
            + (f"): ({given[dim]}), for dim: {dim}" if what == "self" else f") ({given[dim]})")
        )
    wanted = x._array.shape
    if given[:dim] + given[dim + 1 :] != wanted[:dim] + wanted[dim + 1 :]:
        if name == "index_copy":
            raise RuntimeError(
                "index_copy_(): Source/destination tensor must have same slice shapes. Destination "
                f"slice shape: {list(wanted[:dim] + wanted[dim + 1 :])} at dimension {dim} and "
                f"source slice shape: {list(given[:dim] + given[dim + 1 :])} at dimension {dim}."
            )
        raise RuntimeError(
            "source tensor shape must match self tensor shape, excluding the specified dimension. "
            f"Got self.shape = {list(wanted)} source.shape = {list(given)}"
        )


@public(in_place=True)
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """input with the slices that a vector of indices names replaced by those of source."""
    need_tensor("index_copy", "input", 1, input)
    need_tensor("index_copy", "source", 4, source)
    x, given = lifted(input), lifted(source)
    key = _vector_key("index_copy", x, dim, index)
    if x._array.dtype != source._array.dtype:
        raise RuntimeError(
            "index_copy_(): self and source expected to have the same dtype, but got (self) "
            f"{input.dtype.short} and (source) {source.dtype.short}"
        )
    _check_source("index_copy", x, key, given)
    text = "index_copy_(): index {bad} is out of bounds for dimension {dim} with size {length}"
    _check_vector(key, x._array.shape[len(key) - 1], text)
    return in_shape(replaced(INDEX_COPY, x, key, given, (index,)), input._array.shape)


@public(in_place=True)
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """input with one number in the slices that a vector of indices names."""
    need_tensor("index_fill", "input", 1, input)
    x = lifted(input)
    key = _vector_key("index_fill", x, dim, index)
    if isinstance(value, Tensor) and value._array.ndim:
        raise RuntimeError(
            "index_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{value._array.ndim} dimension(s)."
        )
    text = "index {bad} is out of bounds for dimension {dim} with size {length}"
    _check_vector(key, x._array.shape[len(key) - 1], text)
    z = replaced(INDEX_FILL, x, key, cast(operand(value, x.dtype), x.dtype), (index,))
    return in_shape(z, input._array.shape)


def replaced(op: Rule, x: Tensor, key: Key, source: Tensor, saved: tuple[Any, ...]) -> Tensor:
    """A copy of x with a source written at a key; `saved` are the index tensors of the key."""
    array = x._array.copy()
    array[key] = source._array
    return record(op, array, (x, source), saved, (key, source._array.shape))
