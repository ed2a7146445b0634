"""Arithmetic that takes more than a row: alpha, out, rounding modes, integer powers, bounds."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import broadcast_error
from ..tensor import Tensor, wrap
from . import convert
from .elementwise import FUNCTIONS
from .names import function, public
from .op import Rule, deliver, record


def same_dtype(x: Any, y: Any) -> list[Tensor]:
    """Two operands, tensors or numbers, as tensors of the dtype of their combination."""
    kinds = [
        (t.dtype, 2 if t.ndim else 1) if isinstance(t, Tensor) else (dtypes.of_number(t), 0)
        for t in (x, y)
    ]
    result = dtypes.result_type(kinds)
    return [
        convert.cast(t, result) if isinstance(t, Tensor) else wrap(np.array(t, result.numpy))
        for t in (x, y)
    ]


@public(in_place=True)
def add(input: Any, other: Any, *, alpha: Any = 1, out: Tensor | None = None) -> Tensor:
    """input + alpha * other."""
    if out is None and alpha.__class__ is int and alpha == 1:
        return FUNCTIONS["add"](input, other)
    return deliver(FUNCTIONS["add"](input, _scaled(input, other, alpha)), out)


@public("subtract", in_place=True)
def sub(input: Any, other: Any, *, alpha: Any = 1, out: Tensor | None = None) -> Tensor:
    """input - alpha * other."""
    return deliver(FUNCTIONS["sub"](input, _scaled(input, other, alpha)), out)


def _scaled(input: Any, other: Any, alpha: Any) -> Any:
    if alpha == 1 and type(alpha) is int:
        return other
    kinds = [t.dtype for t in (input, other) if isinstance(t, Tensor)]
    if isinstance(alpha, bool) and any(k is not dtypes.bool for k in kinds):
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if isinstance(alpha, float) and not any(k.is_floating_point for k in kinds):
        if not isinstance(other, float):
            raise RuntimeError(
                "For integral input tensors, argument alpha must not be a floating point number."
            )
    return FUNCTIONS["mul"](other, alpha) if isinstance(other, Tensor) else other * alpha


def _with_out(name: str) -> Callable[..., Tensor]:
    """A row of two inputs that takes `out`."""
    function = FUNCTIONS[name]

    def apply(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
        z = function(input, other)
        return z if out is None else deliver(z, out)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = function.__doc__
    return apply


@public(in_place=True)
def pow(input: Any, exponent: Any, *, out: Tensor | None = None) -> Tensor:
    """input to the power of exponent; integers stay integers.

    Raises:
        RuntimeError: for an integer to a negative integer power.
    """
    return deliver(_pow(input, exponent), out)


def _pow(x: Any, y: Any) -> Tensor:
    if isinstance(x, Tensor) and isinstance(y, (int, float)) and not isinstance(y, bool):
        if x.is_floating_point():
            return _number_power(x, float(y))
    a, b = same_dtype(x, y)
    if isinstance(x, (int, float)) and x > 0 and b._node is not None:
        array = FUNCTIONS["pow"](a, b.detach())._array
        return record(POWER_OF_NUMBER, array, (b,), (...,), math.log(x))
    if not a.is_floating_point():
        if isinstance(y, int) and y < 0:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        exponent = b._array.astype(np.int64)
        base = a._array.astype(np.int64)
        with np.errstate(all="ignore"):
            result = np.where(exponent < 0, base == 1, np.power(base, np.maximum(exponent, 0)))
        return wrap(np.asarray(result).astype(a._array.dtype))
    return FUNCTIONS["pow"](a, b)


def _number_power(x: Tensor, y: float) -> Tensor:
    """Common exponents are other rows, several times faster than the general power."""
    if y == 2.0:
        return FUNCTIONS["square"](x)
    return FUNCTIONS["pow_number"](x, y)


@public("divide", "true_divide", in_place=True)
def div(input: Any, other: Any, *, rounding_mode: str | None = None, out: Any = None) -> Tensor:
    """input / other, or rounded to the integer below ('floor') or towards zero ('trunc').

    Raises:
        RuntimeError: for another rounding mode, or integers divided by zero and rounded.
    """
    if rounding_mode is None:
        return deliver(FUNCTIONS["div"](input, other), out)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
            f"'{rounding_mode}'"
        )
    a, b = same_dtype(input, other)
    if not a.is_floating_point():
        if (b._array == 0).any():
            raise RuntimeError("ZeroDivisionError")
        x, y = a._array, b._array
        quotient = np.floor_divide(x, y)
        if rounding_mode == "trunc":
            quotient = quotient + ((quotient < 0) & (quotient * y != x)).astype(x.dtype)
        return deliver(wrap(np.asarray(quotient)), out)
    quotient_ = FUNCTIONS["div"](a, b)
    rounded = FUNCTIONS["floor"](quotient_)
    if rounding_mode == "trunc":
        rounded = convert.where(quotient_ < 0, FUNCTIONS["ceil"](quotient_), rounded)
    return deliver(rounded, out)


def _remainder_rule(F: Any, g: Any, shapes: Any, quotient: Any) -> tuple[Any, ...]:
    return F.sum_to(g, shapes[0]), F.neg(F.sum_to(F.mul(g, quotient), shapes[1]))


REMAINDER = Rule("RemainderBackward0", _remainder_rule)


@public(in_place=True)
def remainder(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
    """input - other * floor(input / other): the sign is that of other.

    Raises:
        RuntimeError: for integers divided by zero.
    """
    x, y = same_dtype(input, other)
    a, b = x._array, y._array
    if not x.is_floating_point() and (b == 0).any():
        raise RuntimeError("ZeroDivisionError")
    try:
        with np.errstate(all="ignore"):
            array = np.asarray(np.remainder(a, b))
            quotient = np.asarray(np.floor_divide(a, b))
    except ValueError:
        raise broadcast_error(a.shape, b.shape) from None
    shapes = (a.shape, b.shape)
    return deliver(record(REMAINDER, array, (x, y), (wrap(quotient),), shapes), out)


POWER_OF_NUMBER = Rule(
    "PowBackward2", lambda F, g, log_base, z: (F.mul(F.mul(g, z), log_base),), True
)


@public("clip", in_place=True)
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """input limited to [min, max], numbers or tensors; either may be left out.

    Raises:
        RuntimeError: if both are.
    """
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        result = input if min is None else FUNCTIONS["maximum"](input, min)
        return result if max is None else FUNCTIONS["minimum"](result, max)
    if max is None:
        return FUNCTIONS["clamp_min"](input, min)
    if min is None:
        return FUNCTIONS["clamp_max"](input, max)
    return FUNCTIONS["clamp"](input, min, max)


@public()
def logical_not(input: Tensor) -> Tensor:
    """Whether an element is zero."""
    return wrap(np.logical_not(input._array))


def _bitwise(name: str) -> Callable[..., Tensor]:
    function = getattr(np, name)

    def apply(input: Any, other: Any) -> Tensor:
        a, b = same_dtype(input, other)
        if a.is_floating_point():
            raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{a.dtype.short}'")
        return wrap(np.asarray(function(a._array, b._array)))

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"Elementwise {name.replace('_', ' ')} of integers or bools."
    return apply


@public()
def bitwise_not(input: Tensor) -> Tensor:
    """Elementwise complement of integers or bools."""
    if input.is_floating_point():
        raise TypeError(
            "~ (operator.invert) is only implemented on integer and Boolean-type tensors"
        )
    return wrap(np.invert(input._array))


@public()
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    return bool(np.array_equal(input._array, other._array))


@public()
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether |input - other| <= atol + rtol * |other| everywhere."""
    return bool(np.allclose(input._array, other._array, rtol, atol, equal_nan))


@function()
def numel(input: Tensor) -> int:
    """Number of elements."""
    return input._array.size


for _name in ("mul", "maximum", "minimum", "atan2"):
    public(*{"mul": ("multiply",)}.get(_name, ()), in_place=True)(_with_out(_name))
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    public(in_place=True)(_bitwise(_name))
