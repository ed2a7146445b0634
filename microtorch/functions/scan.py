"""Running reductions: sums, products, extremes and differences along one dimension."""

from typing import Any

import numpy as np

from .. import dtypes
from ..errors import combination_error
from ..kernels import scans
from ..tensor import Tensor, normal_dim, wrap
from .cat import cat
from .convert import cast
from .elementwise import FUNCTIONS
from .gather import in_shape, key_along, lifted
from .index import place_rule, take_index
from .names import numpy_names, public
from .op import Rule, deliver, need_tensor, primitive, record
from .op import tensors as primitives
from .results import deliver_each, named
from .view import narrow, permute, reshape


def _cumsum_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    dim, reverse = const
    return (F.cumsum(g, dim, not reverse),)


def _recurrence_rule(F: Any, g: Any, const: Any, a: Any, z: Any) -> tuple[Any, ...]:
    """The gradient of s[k] = a[k] s[k-1] + b[k] is such a recurrence the other way."""
    dim, reverse = const
    t = F.recurrence(_shifted(F, a, dim, not reverse), g, dim, not reverse)
    return F.mul(t, _shifted(F, z, dim, reverse)), t


def _shifted(F: Any, x: Any, dim: int, reverse: bool) -> Any:
    """x moved one place up along dim, or down if reverse, with zeros after it."""
    n = x.shape[dim]
    if reverse:
        return F.pad_dim(F.narrow(x, dim, 1, n - 1), dim, 0, 1)
    return F.pad_dim(F.narrow(x, dim, 0, n - 1), dim, 1, 0)


def _cumprod_rule(F: Any, g: Any, dim: int, x: Any, z: Any) -> tuple[Any, ...]:
    n = x.shape[dim]
    if n == 0 or not F.any_zero(x):
        return (F.div(F.cumsum(F.mul(g, z), dim, True), x),)
    # Each product is a[k] s[k-1] + b[k] where b has the first element alone and a the others.
    t = F.recurrence(_shifted(F, x, dim, True), g, dim, True)
    t_first = F.pad_dim(F.narrow(t, dim, 0, 1), dim, 0, n - 1)
    return (F.add(F.mul(t, _shifted(F, z, dim, False)), t_first),)


def _logcumsumexp_rule(F: Any, g: Any, const: Any, x: Any, z: Any) -> tuple[Any, ...]:
    """The sum over i >= k of g[i] exp(x[k] - z[i]), by ratios of neighbours, at most 1."""
    n = x.shape[const]
    if n == 0:
        return (g,)
    steps = F.add(F.narrow(z, const, 0, n - 1), F.neg(F.narrow(z, const, 1, n - 1)))
    ratios = F.pad_dim(F.apply("exp", steps), const, 0, 1)
    total = F.recurrence(ratios, g, const, True)
    return (F.mul(F.apply("exp", F.add(x, F.neg(z))), total),)


CUMSUM = Rule("CumsumBackward0", _cumsum_rule)
RECURRENCE = Rule("RecurrenceBackward0", _recurrence_rule, True)
CUMPROD = Rule("CumprodBackward0", _cumprod_rule, True)
LOGCUMSUMEXP = Rule("LogcumsumexpBackward0", _logcumsumexp_rule, True)
CUM_EXTREME = {name: Rule(f"{name.title()}Backward0", place_rule) for name in ("cummax", "cummin")}
_CUM_RESULTS = {name: named(name, "values", "indices") for name in CUM_EXTREME}


def _as_accumulated(name: str, input: Any, dim: Any, dtype: Any) -> tuple[Tensor, int]:
    """What cumsum and cumprod add up: integers and bools as int64."""
    need_tensor(name, "input", 1, input)
    if not isinstance(dim, int):
        raise combination_error(name, input, dim, expected="(Tensor input, int dim)")
    dim = normal_dim(dim, input._array.ndim)
    if dtype is None and not input.is_floating_point():
        dtype = dtypes.int64
    return lifted(input if dtype is None else cast(input, dtype)), dim


@public(in_place=True)
@numpy_names
def cumsum(input: Tensor, dim: int, *, dtype: Any = None, out: Tensor | None = None) -> Tensor:
    """Running sums along a dimension; integers give int64."""
    x, dim = _as_accumulated("cumsum", input, dim, dtype)
    return deliver(in_shape(_cumsum(x, dim), input._array.shape), out)


def _cumsum(x: Tensor, dim: int, reverse: bool = False) -> Tensor:
    return record(CUMSUM, scans.cumsum(x._array, dim, reverse), (x,), const=(dim, reverse))


@public(in_place=True)
@numpy_names
def cumprod(input: Tensor, dim: int, *, dtype: Any = None, out: Tensor | None = None) -> Tensor:
    """Running products along a dimension; integers give int64."""
    x, dim = _as_accumulated("cumprod", input, dim, dtype)
    z = record(CUMPROD, scans.cumprod(x._array, dim), (x,), (x, ...), dim)
    return deliver(in_shape(z, input._array.shape), out)


@public()
@numpy_names
def logcumsumexp(input: Tensor, dim: int, *, out: Tensor | None = None) -> Tensor:
    """Logarithms of the running sums of exponentials along a dimension."""
    need_tensor("logcumsumexp", "input", 1, input)
    if not input.is_floating_point():
        short = input.dtype.short
        raise NotImplementedError(f"\"logcumsumexp_out_cpu\" not implemented for '{short}'")
    dim = normal_dim(dim, input._array.ndim)
    x = lifted(input)
    with np.errstate(all="ignore"):
        array = np.logaddexp.accumulate(x._array, dim)
    z = record(LOGCUMSUMEXP, array, (x,), (x, ...), dim)
    return deliver(in_shape(z, input._array.shape), out)


@public()
@numpy_names
def cummax(input: Tensor, dim: int, *, out: Any = None) -> Any:
    """Running maxima and where they are, the last of equal ones."""
    return deliver_each(_extremes("cummax", np.maximum, input, dim), out)


@public()
@numpy_names
def cummin(input: Tensor, dim: int, *, out: Any = None) -> Any:
    """Running minima and where they are, the last of equal ones."""
    return deliver_each(_extremes("cummin", np.minimum, input, dim), out)


def _extremes(name: str, operation: Any, input: Tensor, dim: int) -> Any:
    need_tensor(name, "input", 1, input)
    dim = normal_dim(dim, input._array.ndim)
    x = lifted(input)
    a = x._array
    best = operation.accumulate(a, dim)
    hit = (a == best) | (a != a)
    numbers = np.arange(a.shape[dim], like=a).reshape((-1,) + (1,) * (a.ndim - dim - 1))
    places = np.maximum.accumulate(np.where(hit, numbers, 0), dim)
    values = record(CUM_EXTREME[name], best, (x,), const=(a.shape, key_along(places, dim)))
    shape = input._array.shape
    return _CUM_RESULTS[name]((in_shape(values, shape), wrap(places.reshape(shape))))


@public()
@numpy_names
def diff(
    input: Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Differences of neighbours along a dimension, n times; of bools, whether they differ."""
    need_tensor("diff", "input", 1, input)
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    if input._array.ndim == 0:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    dim = normal_dim(dim, input._array.ndim)
    for x in (prepend, append):
        if x is not None and x._array.ndim != input._array.ndim:
            raise RuntimeError("diff expects prepend or append to be the same dimension as input")
    z = input
    if n and (prepend is not None or append is not None):
        z = cat([x for x in (prepend, input, append) if x is not None], dim)
    subtract = FUNCTIONS["ne"] if z.dtype is dtypes.bool else FUNCTIONS["sub"]
    for _ in range(n):
        length = max(z._array.shape[dim] - 1, 0)
        above = narrow(z, dim, z._array.shape[dim] - length, length)
        z = subtract(above, narrow(z, dim, 0, length))
    return deliver(z if n else z.clone(), out)  # type: ignore[attr-defined]


@primitive
def recurrence(a: Tensor, b: Tensor, dim: int, reverse: bool = False) -> Tensor:
    """s[k] = a[k] * s[k-1] + b[k] along dim, from the last element on if reverse."""
    array = scans.recurrence(a._array, b._array, dim, reverse)
    return record(RECURRENCE, array, (a, b), (a, ...), (dim, reverse))


@primitive
def products_of_others(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """For each element, the product of all others reduced with it; zeros are no trouble."""
    if not x._array.size:
        return x
    kept = tuple(d for d in range(x._array.ndim) if d not in dims)
    moved = permute(x, kept + dims)
    rows = reshape(moved, (*(x._array.shape[d] for d in kept), -1))
    last = rows._array.ndim - 1
    n = rows._array.shape[last]
    one = wrap(np.ones((*rows._array.shape[:-1], 1), x._array.dtype, like=x._array))
    before = cumprod(cat([one, narrow(rows, last, 0, n - 1)], last), last)
    turn = (slice(None),) * last + (slice(None, None, -1),)
    after = cumprod(cat([one, narrow(take_index(rows, turn), last, 0, n - 1)], last), last)
    found = FUNCTIONS["mul"](before, take_index(after, turn))
    return permute(reshape(found, moved._array.shape), tuple(np.argsort(kept + dims).tolist()))


@primitive
def any_zero(x: Tensor) -> bool:
    """Whether an element is 0."""
    return scans.any_zero(x._array)


@primitive
def apply(name: str, *operands: Tensor) -> Tensor:
    """A row of the table."""
    return FUNCTIONS[name](*operands)  # type: ignore[no-any-return]


primitives.cumsum = _cumsum
