"""Variances, norms and sums that skip nan: what is built on the folds."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import combination_error
from ..kernels import cpu
from ..tensor import Tensor, normal_dims, wrap
from .convert import cast, where
from .elementwise import FUNCTIONS
from .names import need_bool, numpy_names, public
from .op import Rule, deliver, need_tensor, record
from .reduce import Dims, amax, amin, mean, sum

abs_, div, eq, sub = (FUNCTIONS[name] for name in ("abs", "div", "eq", "sub"))


def _dims(dim: Dims, ndim: int) -> tuple[int, ...]:
    """Dimensions counted from the front; none for a 0-d tensor."""
    dims = normal_dims(dim, ndim)
    return dims if ndim else ()


def kept_shape(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with length 1 along the dimensions that were reduced."""
    return tuple(1 if k in dims else n for k, n in enumerate(shape))


# ------------------------------------------------------------------------------ variance
def _var_gradient(F: Any, g: Any, const: Any, x: Any) -> Any:
    """2 g (x - mean) / (n - correction)."""
    dims, correction = const
    kept = kept_shape(x.shape, dims)
    n = _count(x.shape, dims)
    center = F.div(F.reshape(F.reduce("sum", x, dims), kept), n)
    slope = F.div(F.add(x, F.neg(F.expand(center, x.shape))), n - correction)
    return F.mul(F.mul(slope, 2.0), F.expand(F.reshape(g, kept), x.shape))


def _var_rule(F: Any, g: Any, const: Any, x: Any) -> tuple[Any, ...]:
    return (_var_gradient(F, g, const, x),)


def _std_rule(F: Any, g: Any, const: Any, x: Any, z: Any) -> tuple[Any, ...]:
    """As of the root of a variance, but 0 where that is 0."""
    zero = F.equal_mask(z, 0)
    slope = F.div(g, F.mul(F.where(zero, 1.0, z), 2.0))
    return (_var_gradient(F, F.where(zero, 0.0, slope), const, x),)


VAR = Rule("VarBackward0", _var_rule)
STD = Rule("StdBackward0", _std_rule, True)


def _count(shape: tuple[int, ...], dims: tuple[int, ...]) -> int:
    return math.prod([shape[d] for d in dims])


def _spread(
    name: str, input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any
) -> Tensor:
    """The variance or standard deviation."""
    what = name if name.endswith("mean") else "std and var"
    name = name.removesuffix("_mean")
    need_tensor(name, "input", 1, input)
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None and not isinstance(unbiased, bool):
        raise combination_error(
            name, dim, unbiased, expected="(tuple of ints dim, bool unbiased, bool keepdim)"
        )
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    if not input.is_floating_point():
        raise RuntimeError(f"{what} only support floating point and complex dtypes")
    a = input._array
    dims = _dims(dim, a.ndim)
    n = _count(a.shape, dims)
    if n <= correction:
        warnings.warn(
            f"{name}(): degrees of freedom is <= 0. Correction should be strictly less than the "
            "reduction factor (input numel divided by output numel).",
            stacklevel=3,
        )
    kept = kept_shape(a.shape, dims)
    freedom = max(n - correction, 0)
    with np.errstate(all="ignore"):
        center = np.divide(cpu.reduce("sum", a, dims), n).astype(a.dtype).reshape(kept)
        total = cpu.reduce("sum", np.square(a - center), dims)
        array = np.divide(total, freedom).astype(a.dtype)
        array = np.sqrt(array) if name == "std" else array
    array = np.asarray(array).reshape(kept) if keepdim else np.asarray(array)
    const = (dims, correction)
    if name == "std":
        return record(STD, array, (input,), (input, ...), const)
    return record(VAR, array, (input,), (input,), const)


@public()
@numpy_names
def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
    out: Tensor | None = None,
) -> Tensor:
    """Variance over all elements or over dimensions: squares divided by n - correction (1)."""
    return deliver(_spread("var", input, dim, unbiased, keepdim, correction), out)


@public()
@numpy_names
def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
    out: Tensor | None = None,
) -> Tensor:
    """Standard deviation over all elements or over dimensions."""
    return deliver(_spread("std", input, dim, unbiased, keepdim, correction), out)


def _with_mean(
    name: str, input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any
) -> tuple[Tensor, Tensor]:
    z = _spread(name, input, dim, unbiased, keepdim, correction)
    return z, mean(input, None if isinstance(dim, bool) else dim, keepdim)


@public()
@numpy_names
def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """Variance and mean."""
    return _with_mean("var_mean", input, dim, unbiased, keepdim, correction)


@public()
@numpy_names
def std_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean."""
    return _with_mean("std_mean", input, dim, unbiased, keepdim, correction)


# --------------------------------------------------------------------------------- norms
def _logsumexp_rule(F: Any, g: Any, dims: Any, x: Any, z: Any) -> tuple[Any, ...]:
    kept = kept_shape(x.shape, dims)
    share = F.apply("exp", F.add(x, F.neg(F.expand(F.reshape(z, kept), x.shape))))
    return (F.mul(share, F.expand(F.reshape(g, kept), x.shape)),)


def _norm_rule(F: Any, g: Any, dims: Any, x: Any, z: Any) -> tuple[Any, ...]:
    """g x / norm, but 0 where the norm is 0."""
    kept = kept_shape(x.shape, dims)
    zero = F.equal_mask(z, 0)
    slope = F.reshape(F.where(zero, 0.0, F.div(g, F.where(zero, 1.0, z))), kept)
    return (F.mul(x, F.expand(slope, x.shape)),)


LOGSUMEXP = Rule("LogsumexpBackward0", _logsumexp_rule, True)
NORM = Rule("LinalgVectorNormBackward0", _norm_rule, True)


@public()
@numpy_names
def logsumexp(
    input: Tensor, dim: int | Sequence[int], keepdim: bool = False, *, out: Tensor | None = None
) -> Tensor:
    """Logarithm of the sum of exponentials over dimensions, without overflow."""
    need_tensor("logsumexp", "input", 1, input)
    x = input if input.is_floating_point() else cast(input, dtypes.get_default_dtype())
    a = x._array
    dims = _dims(dim, a.ndim)
    kept = kept_shape(a.shape, dims)
    with np.errstate(all="ignore"):
        top = np.max(a, dims, keepdims=True, initial=-np.inf)
        top = np.where(np.isinf(top), 0, top).astype(a.dtype)
        total = np.log(cpu.reduce("sum", np.exp(a - top), dims))
        array = np.asarray(total + top.reshape(total.shape))
    array = array.reshape(kept) if keepdim else array
    return deliver(record(LOGSUMEXP, array, (x,), (x, ...), dims), out)


@public()
def norm(
    input: Tensor,
    p: Any = "fro",
    dim: Dims = None,
    keepdim: bool = False,
    out: Tensor | None = None,
    dtype: Any = None,
) -> Tensor:
    """The p-norm over all elements or over dimensions: p a number, or "fro" for 2.

    Raises:
        RuntimeError: for integer tensors.
    """
    need_tensor("norm", "input", 1, input)
    need_bool("norm", keepdim, 3)
    if isinstance(p, str) and p != "fro":
        if p == "nuc":
            raise NotImplementedError("the nuclear norm is not part of microtorch")
        raise RuntimeError(f"linalg.matrix_norm: Order {p} not supported.")
    x = input if dtype is None else cast(input, dtype)
    if not x.is_floating_point():
        raise RuntimeError(
            "linalg.vector_norm: Expected a floating point or complex tensor as input. Got "
            + x.dtype.short
        )
    order = 2.0 if p is None or p == "fro" else float(p)
    return deliver(vector_norm(x, order, dim, keepdim), out)


def vector_norm(x: Tensor, order: float, dim: Dims, keepdim: bool) -> Tensor:
    """The norm of a given order over dimensions, of a float tensor."""
    dims = _dims(dim, x._array.ndim)
    if order == 2:
        return _euclidean(x, dims, keepdim)
    if order == 1:
        return sum(abs_(x), dims or None, keepdim)
    if order == 0:
        # The gradient of sign is 0, of a comparison there is none.
        return sum(FUNCTIONS["square"](FUNCTIONS["sign"](x)), dims or None, keepdim)
    if np.isinf(order):
        if _count(x._array.shape, dims) == 0:
            raise RuntimeError(
                f"linalg.vector_norm cannot compute the {order} norm on an empty tensor because "
                "the operation does not have an identity"
            )
        return (amax if order > 0 else amin)(abs_(x), dims, keepdim)
    powers = FUNCTIONS["pow_number"](*_not_zero(abs_(x)), order)
    total = sum(where(eq(x, 0), 0.0 if order > 0 else np.inf, powers), dims or None, keepdim)
    return where(eq(total, 0), 0.0, FUNCTIONS["pow_number"](*_not_zero(total), 1 / order))


def _not_zero(x: Tensor) -> tuple[Tensor]:
    """x with 1 for 0, where the derivative of a root is infinite."""
    return (where(eq(x, 0), 1.0, x),)


def _euclidean(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    a = x._array
    squares = cpu.ROW_KERNELS["square"][a.dtype](a, out=...)
    array = np.sqrt(cpu.reduce("sum", squares, dims) if a.ndim else squares)
    if keepdim:
        array = array.reshape(kept_shape(a.shape, dims))
    return record(NORM, np.asarray(array), (x,), (x, ...), dims)


@public()
def dist(input: Tensor, other: Tensor, p: Any = 2) -> Tensor:
    """The p-norm of input - other."""
    need_tensor("dist", "input", 1, input)
    need_tensor("dist", "other", 2, other)
    return norm(sub(input, other), p)


# ----------------------------------------------------------------------------- about nan
@public()
@numpy_names
def nansum(
    input: Tensor,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Tensor | None = None,
) -> Tensor:
    """Sum over all elements or over dimensions, nan taken for 0."""
    need_tensor("nansum", "input", 1, input)
    x = input
    if input.is_floating_point():
        x = where(FUNCTIONS["isnan"](input), 0.0, input)
    return deliver(sum(x, dim, keepdim, dtype=dtype), out)


@public()
@numpy_names
def nanmean(
    input: Tensor,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Tensor | None = None,
) -> Tensor:
    """Mean over all elements or over dimensions of those that are not nan."""
    need_tensor("nanmean", "input", 1, input)
    if not input.is_floating_point():
        raise RuntimeError(
            "nanmean(): expected input to have floating point or complex dtype but got "
            + input.dtype.short
        )
    there = wrap(np.asarray(~np.isnan(input._array)))
    total = nansum(input, dim, keepdim, dtype=dtype)
    return deliver(div(total, sum(there, dim, keepdim)), out)
