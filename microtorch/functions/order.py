"""Sorting and what is found by it: the largest k, medians, quantiles, modes."""

from typing import Any

import numpy as np

from ..kernels import cpu
from ..tensor import Tensor, normal_dim, wrap
from .elementwise import FUNCTIONS
from .gather import gather, in_shape, key_along, lifted
from .index import place_rule
from .names import numpy_names, public
from .op import Array, Rule, deliver, need_tensor, record
from .reduce import MEDIAN, need_dim, shared
from .results import deliver_each, named
from .view import permute, reshape

SORT = Rule("SortBackward0", place_rule)
TOPK = Rule("TopkBackward0", place_rule)
_PICKED = {
    name: Rule(f"{name.title()}Backward{k}", place_rule)
    for name, k in (("kthvalue", 0), ("median", 1), ("nanmedian", 1), ("mode", 0))
}
_RESULTS = {
    name: named(name, "values", "indices")
    for name in ("sort", "topk", "kthvalue", "median", "nanmedian", "mode")
}


def _order(a: Array, dim: int, descending: bool) -> Array:
    """The indices that sort along dim; equal elements keep their order, nan counts as largest."""
    if not descending:
        return np.argsort(a, dim, stable=True)
    found = np.flip(np.argsort(np.flip(a, dim), dim, stable=True), dim)
    return a.shape[dim] - 1 - found


def _known(a: Array) -> bool:
    """Whether an array has no nan."""
    return a.dtype.kind != "f" or not cpu.any_true(np.isnan(a))


def _ranked(a: Array, dim: int, rank: int) -> Array:
    """The index, along dim, of the element that would have this rank; equal ones in order."""
    if not _known(a) or not a.size:
        return np.take(_order(a, dim, False), [rank], dim)
    rows = np.moveaxis(a, dim, -1)
    value = np.partition(rows, rank, -1)[..., rank, None]
    same = rows == value
    below = (rows < value).sum(-1, keepdims=True)
    if cpu.any_true(below < rank):
        # Some of the equal elements come before.
        same &= same.cumsum(-1) == rank - below + 1
    return np.moveaxis(same.argmax(-1)[..., None], -1, dim)


def _first(a: Array, dim: int, k: int, largest: bool) -> Array:
    """The indices, along dim, of the first k elements in order; equal ones in their order."""
    n = a.shape[dim]
    if not 0 < k <= n // 8 or not a.size or not _known(a):
        return _order(a, dim, largest)[(slice(None),) * dim + (slice(k),)]
    rows = np.moveaxis(a, dim, -1)
    last = n - k if largest else k - 1
    value = np.partition(rows, last, -1)[..., last, None]
    chosen = rows >= value if largest else rows <= value
    if chosen.sum() > k * (a.size // n):
        # Of those that equal the last one, the first ones.
        same = rows == value
        chosen ^= same
        chosen |= same & (same.cumsum(-1) <= k - chosen.sum(-1, keepdims=True))
    places = np.nonzero(chosen)[-1].reshape(*rows.shape[:-1], k)
    values = np.take_along_axis(rows, places, -1)
    places = np.take_along_axis(places, _order(values, rows.ndim - 1, largest), -1)
    return np.moveaxis(places, -1, dim)


def _taken(name: str, op: Rule, x: Tensor, places: Array, dim: int, shape: Any) -> Any:
    """The values at places along dim and the places, in a shape."""
    a = x._array
    key = key_along(places, dim)
    values = record(op, np.ascontiguousarray(a[key]), (x,), const=(a.shape, key))
    indices = np.ascontiguousarray(places).reshape(shape)
    return _RESULTS[name]((in_shape(values, shape), wrap(indices)))


@public()
@numpy_names
def sort(
    input: Tensor,
    dim: int = -1,
    descending: bool = False,
    stable: bool = False,
    *,
    out: Any = None,
) -> Any:
    """The elements in order along a dimension, and where they were; always stable."""
    need_tensor("sort", "input", 1, input)
    dim = normal_dim(dim, input._array.ndim)
    x = lifted(input)
    places = _order(x._array, dim, descending)
    return deliver_each(_taken("sort", SORT, x, places, dim, input._array.shape), out)


@public()
@numpy_names
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices that sort along a dimension."""
    need_tensor("argsort", "input", 1, input)
    dim = normal_dim(dim, input._array.ndim)
    places = _order(np.atleast_1d(input._array), dim, descending)
    return wrap(np.ascontiguousarray(places).reshape(input._array.shape))


@public()
def msort(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The elements in order along the first dimension."""
    return deliver(sort(input, 0)[0], out)


@public()
@numpy_names
def topk(
    input: Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
    *,
    out: Any = None,
) -> Any:
    """The k largest (or smallest) elements along a dimension in order, and where they are."""
    need_tensor("topk", "input", 1, input)
    dim = normal_dim(dim, input._array.ndim)
    x = lifted(input)
    if not 0 <= k <= x._array.shape[dim]:
        raise RuntimeError("selected index k out of range")
    places = _first(x._array, dim, k, largest)
    shape = places.shape if input._array.ndim or not k else ()
    return deliver_each(_taken("topk", TOPK, x, places, dim, shape), out)


def _picked(name: str, x: Tensor, places: Array, dim: int, keepdim: bool, rank: int) -> Any:
    """One element a row, by its index in the row."""
    shape = tuple(n for d, n in enumerate(places.shape) if (keepdim and rank) or d != dim)
    return _taken(name, _PICKED[name], x, places, dim, shape)


def _need_row(name: str, a: Array, dim: int) -> None:
    if a.shape[dim] == 0:
        raise IndexError(f"{name}(): Expected reduction dim {dim} to have non-zero size.")


@public()
@numpy_names
def kthvalue(
    input: Tensor, k: int, dim: int = -1, keepdim: bool = False, *, out: Any = None
) -> Any:
    """The k-th smallest element along a dimension, k from 1 on, and where it is."""
    need_tensor("kthvalue", "input", 1, input)
    rank = input._array.ndim
    dim = normal_dim(dim, rank)
    x = lifted(input)
    _need_row("kthvalue", x._array, dim)
    if not 1 <= k <= x._array.shape[dim]:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {dim}")
    places = _ranked(x._array, dim, k - 1)
    return deliver_each(_picked("kthvalue", x, places, dim, keepdim, rank), out)


def _middle(a: Array, dim: int, skip: bool) -> Array:
    """Where the lower median of each row is; the first nan, unless nan are skipped."""
    n = a.shape[dim]
    if _known(a):
        return _ranked(a, dim, (n - 1) // 2)
    order = _order(a, dim, False)
    unknown = np.isnan(a).sum(dim, keepdims=True)
    if skip:
        middle = np.maximum(n - unknown - 1, 0) // 2
    else:
        middle = np.where(unknown > 0, n - unknown, (n - 1) // 2)
    return np.take_along_axis(order, middle, dim)


def _median(name: str, input: Tensor, dim: int | None, keepdim: bool) -> Any:
    need_tensor(name, "input", 1, input)
    skip = name == "nanmedian"
    if dim is None:
        need_dim(name, dim, keepdim)
        a = input._array.reshape(-1)
        if not a.size:
            least = np.nan if a.dtype.kind == "f" else np.iinfo(a.dtype).min
            return wrap(np.asarray(least, a.dtype, like=a))
        array = a[_middle(a, 0, skip)[0]]
        return shared(MEDIAN[name], input, np.asarray(array))
    rank = input._array.ndim
    dim = normal_dim(dim, rank)
    x = lifted(input)
    _need_row(name, x._array, dim)
    return _picked(name, x, _middle(x._array, dim, skip), dim, keepdim, rank)


@public()
@numpy_names
def median(input: Tensor, dim: int | None = None, keepdim: bool = False, *, out: Any = None) -> Any:
    """The lower median of all elements; with dim (values, indices); nan if there is one."""
    return deliver_each(_median("median", input, dim, keepdim), out)


@public()
@numpy_names
def nanmedian(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, out: Any = None
) -> Any:
    """The lower median of all elements but nan; with dim (values, indices)."""
    return deliver_each(_median("nanmedian", input, dim, keepdim), out)


@public()
@numpy_names
def mode(input: Tensor, dim: int = -1, keepdim: bool = False, *, out: Any = None) -> Any:
    """The most frequent element along a dimension, the smallest of several, and its last place."""
    need_tensor("mode", "input", 1, input)
    rank = input._array.ndim
    dim = normal_dim(dim, rank)
    x = lifted(input)
    _need_row("mode", x._array, dim)
    order = np.moveaxis(_order(x._array, dim, False), dim, -1)
    values = np.take_along_axis(np.moveaxis(x._array, dim, -1), order, -1)
    n = values.shape[-1]
    # Of each element, the number of equal ones that end with it in the sorted row.
    starts = np.ones(values.shape, bool, like=values)
    starts[..., 1:] = values[..., 1:] != values[..., :-1]
    numbers = np.arange(n, like=values)
    runs = numbers - np.maximum.accumulate(np.where(starts, numbers, 0), -1)
    places = np.take_along_axis(order, np.argmax(runs, -1)[..., None], -1)
    places = np.moveaxis(places, -1, dim)
    return deliver_each(_picked("mode", x, places, dim, keepdim, rank), out)


@public()
@numpy_names
def quantile(
    input: Tensor,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
    out: Tensor | None = None,
) -> Tensor:
    """Quantiles of all elements or along a dimension, for a number or a vector q in [0, 1]."""
    return deliver(_quantile(input, q, dim, keepdim, interpolation, False), out)


@public()
@numpy_names
def nanquantile(
    input: Tensor,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
    out: Tensor | None = None,
) -> Tensor:
    """`quantile` of the elements that are not nan."""
    return deliver(_quantile(input, q, dim, keepdim, interpolation, True), out)


def _quantile(x: Tensor, q: Any, dim: Any, keepdim: bool, kind: str, skip: bool) -> Tensor:
    need_tensor("quantile", "input", 1, x)
    if not x.is_floating_point():
        raise RuntimeError("quantile() input tensor must be either float or double dtype")
    if kind not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError(
            "quantile() interpolation must be one of linear, lower, higher, midpoint or nearest, "
            f"but got {kind}"
        )
    if not x._array.size:
        raise RuntimeError("quantile() input tensor must be non-empty")
    if isinstance(q, Tensor):
        if q._array.ndim > 1:
            raise RuntimeError("quantile() q must be a scalar or 1D tensor")
        if q._array.dtype != x._array.dtype:
            raise RuntimeError("quantile() q tensor must be same dtype as the input tensor")
        wanted = q._array
    else:
        if not 0 <= q <= 1:
            raise RuntimeError(f"quantile() q must be in the range [0, 1] but got {q}")
        wanted = np.asarray(q, x._array.dtype, like=x._array)
    if not np.all((wanted >= 0) & (wanted <= 1)):
        raise RuntimeError("quantile() q values must be in the range [0, 1]")
    shape: tuple[int, ...] = x._array.shape
    rest: tuple[int, ...] = ()
    if dim is None:
        rows, kept = reshape(x, (-1,)), (1,) * len(shape)
    else:
        dim = normal_dim(dim, len(shape))
        others = [d for d in range(len(shape)) if d != dim]
        rows = permute(lifted(x), (*others, dim))
        rest = tuple(shape[d] for d in others)
        kept = tuple(n if d != dim else 1 for d, n in enumerate(shape))
    found = _between(rows, np.atleast_1d(wanted), kind, skip)
    last = found._array.ndim - 1
    return reshape(permute(found, (last, *range(last))), wanted.shape + (kept if keepdim else rest))


def _between(rows: Tensor, q: Array, kind: str, skip: bool) -> Tensor:
    """Quantiles q of each row, along the last dimension."""
    a = rows._array
    unknown = np.isnan(a).sum(-1, keepdims=True)
    last = a.shape[-1] - 1
    if skip:
        ranks = q * np.maximum(last - unknown, 0)
    else:
        ranks = np.where(unknown > 0, last, q * last)
    if kind in ("lower", "higher", "nearest"):
        ranks = {"lower": np.floor, "higher": np.ceil, "nearest": np.rint}[kind](ranks)
    below = np.floor(ranks)
    weight = np.full(ranks.shape, 0.5, like=ranks) if kind == "midpoint" else ranks - below
    values = sort(rows)[0]
    low, high = (gather(values, -1, wrap(r.astype(np.int64))) for r in (below, np.ceil(ranks)))
    step = FUNCTIONS["mul"](FUNCTIONS["sub"](high, low), wrap(weight.astype(a.dtype)))
    return FUNCTIONS["add"](low, step)  # type: ignore[no-any-return]
