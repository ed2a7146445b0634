"""Quotients that are rounded, and remainders."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import broadcast_error, combination_error
from ..kernels import cpu
from ..tensor import Tensor
from .arithmetic import operands
from .elementwise import FUNCTIONS
from .names import public
from .op import Array, Rule, deliver, primitive, record
from .refusals import not_implemented


def on_arrays(function: Callable[..., Any], a: Array, b: Array) -> Array:
    """A function of NumPy on two arrays of one dtype, without its warnings.

    Raises:
        RuntimeError: if the shapes do not broadcast.
    """
    try:
        with np.errstate(all="ignore"):
            return np.asarray(function(a, b))
    except ValueError:
        raise broadcast_error(a.shape, b.shape) from None


def _divided(name: str, input: Any, other: Any, kernel: str) -> list[Tensor]:
    """The operands, of one dtype.

    Raises:
        NotImplementedError: for bools.
        RuntimeError: for integers divided by zero.
    """
    x, y = operands(name, input, other)
    if x.dtype is dtypes.bool:
        raise not_implemented(kernel, x.dtype)
    if not x.is_floating_point() and (y._array == 0).any():
        raise RuntimeError("ZeroDivisionError")
    return [x, y]


def _rounded_rule(F: Any, g: Any, shapes: Any) -> tuple[Any, ...]:
    zeros = F.mul(g, 0.0)
    return F.sum_to(zeros, shapes[0]), F.sum_to(zeros, shapes[1])


def _remainder_rule(F: Any, g: Any, const: Any, *saved: Any) -> tuple[Any, ...]:
    x_shape, y_shape, mode = const
    if not saved:
        return F.sum_to(g, x_shape), None
    by_y = F.neg(F.mul(g, F.divide_rounded(*saved, mode)))
    return F.sum_to(g, x_shape), F.sum_to(by_y, y_shape)


ROUNDED = Rule("DivBackward3", _rounded_rule)
REMAINDER = Rule("RemainderBackward1", _remainder_rule)
FMOD = Rule("FmodBackward1", _remainder_rule)


@public("divide", "true_divide", in_place=True)
def div(input: Any, other: Any, *, rounding_mode: str | None = None, out: Any = None) -> Tensor:
    """input / other, or rounded to the integer below ('floor') or towards zero ('trunc').

    Raises:
        RuntimeError: for another rounding mode, or integers divided by zero and rounded.
    """
    if rounding_mode is None:
        return FUNCTIONS["div"](input, other, out=out)
    if not isinstance(rounding_mode, str):
        raise combination_error("div", input, other, rounding_mode)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
            f"'{rounding_mode}'"
        )
    x, y = _divided("div", input, other, f"div_{rounding_mode}_cpu")
    a, b = x._array, y._array
    array = on_arrays(lambda a, b: cpu.divide_rounded(a, b, rounding_mode), a, b)
    return deliver(record(ROUNDED, array, (x, y), const=(a.shape, b.shape)), out)


@primitive
def divide_rounded(x: Tensor, y: Tensor, mode: str) -> Tensor:
    """`div` with a rounding mode, for the gradient of a remainder."""
    return div(x, y, rounding_mode=mode)


@public(in_place=True)
def floor_divide(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
    """input / other, rounded to the integer below.

    Raises:
        RuntimeError: for integers divided by zero.
    """
    return div(input, other, rounding_mode="floor", out=out)


def _remainder(op: Rule, function: Any, mode: str, input: Any, other: Any) -> Tensor:
    name = function.__name__
    x, y = _divided(name, input, other, f"{name}_cpu")
    a, b = x._array, y._array
    const = (a.shape, b.shape, mode)
    saved = () if y._node is None else (x, y)
    return record(op, on_arrays(function, a, b), (x, y), saved, const)


@public(in_place=True)
def remainder(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
    """input - other * floor(input / other): the sign is that of other.

    Raises:
        RuntimeError: for integers divided by zero.
    """
    return deliver(_remainder(REMAINDER, np.remainder, "floor", input, other), out)


@public(in_place=True)
def fmod(input: Tensor, other: Any, *, out: Tensor | None = None) -> Tensor:
    """input - other * trunc(input / other): the sign is that of input.

    Raises:
        RuntimeError: for integers divided by zero.
    """
    if not isinstance(input, Tensor):
        raise combination_error("fmod", input, other)
    return deliver(_remainder(FMOD, np.fmod, "trunc", input, other), out)
