"""Arithmetic that takes more than a row: alpha, integer powers, operands that are no numbers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, combination_error
from ..kernels import cpu
from ..tensor import Tensor, wrap
from . import convert
from .elementwise import FUNCTIONS
from .names import function, public
from .op import Rule, deliver, record
from .refusals import not_implemented


def same_dtype(x: Any, y: Any, number: Any = None) -> list[Tensor]:
    """Two operands, tensors or numbers, as tensors of the dtype of their combination."""
    kinds = [
        (t.dtype, 2 if t.ndim else 1) if isinstance(t, Tensor) else (dtypes.of_number(t), 0)
        for t in (x, y)
    ]
    result, number = dtypes.result_type(kinds), number or cpu.constant
    return [
        convert.cast(t, result) if isinstance(t, Tensor) else wrap(number(t, result.numpy))
        for t in (x, y)
    ]


def operands(name: str, x: Any, y: Any) -> list[Tensor]:
    """`same_dtype` for a function's two arguments.

    Raises:
        TypeError: unless both are tensors or numbers, and one is a tensor.
    """
    kinds = (Tensor, bool, int, float, np.generic)
    if not (isinstance(x, kinds) and isinstance(y, kinds)) or not (
        isinstance(x, Tensor) or isinstance(y, Tensor)
    ):
        raise combination_error(name, x, y)
    return same_dtype(x, y)


@public(in_place=True)
def add(input: Any, other: Any, *, alpha: Any = 1, out: Tensor | None = None) -> Tensor:
    """input + alpha * other."""
    if out is None and alpha.__class__ is int and alpha == 1:
        return FUNCTIONS["add"](input, other)
    return deliver(FUNCTIONS["add"](input, _scaled("add", input, other, alpha)), out)


@public("subtract", in_place=True)
def sub(input: Any, other: Any, *, alpha: Any = 1, out: Tensor | None = None) -> Tensor:
    """input - alpha * other."""
    return deliver(FUNCTIONS["sub"](input, _scaled("sub", input, other, alpha)), out)


def _scaled(name: str, input: Any, other: Any, alpha: Any) -> Any:
    if alpha.__class__ is int and alpha == 1:
        return other
    if not isinstance(alpha, (bool, int, float, np.generic)):
        raise TypeError(f"{name}(): argument 'alpha' must be Number, not {type(alpha).__name__}")
    kinds = [t.dtype for t in (input, other) if isinstance(t, Tensor)]
    of_bools = all(k is dtypes.bool for k in kinds)
    if isinstance(alpha, bool) and not of_bools:
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if of_bools and len(kinds) == 2:
        alpha = bool(alpha)
    if isinstance(alpha, float) and not any(k.is_floating_point for k in kinds):
        if not isinstance(other, float):
            raise RuntimeError(
                "For integral input tensors, argument alpha must not be a floating point number."
            )
    return FUNCTIONS["mul"](other, alpha) if isinstance(other, Tensor) else other * alpha


def _of_tensors(name: str) -> Callable[..., Tensor]:
    """A row of two inputs that takes no numbers."""
    function = FUNCTIONS[name]

    def apply(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
        if not isinstance(input, Tensor):
            raise argument_error(name, "input", 1, "Tensor", input)
        if not isinstance(other, Tensor):
            raise argument_error(name, "other", 2, "Tensor", other)
        return function(input, other, out=out)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = function.__doc__
    return apply


@public(in_place=True)
def pow(input: Any, exponent: Any, *, out: Tensor | None = None) -> Tensor:
    """input to the power of exponent; integers stay integers.

    Raises:
        RuntimeError: for an integer to a negative integer power.
    """
    return deliver(power(input, exponent), out)


def power(x: Any, y: Any) -> Tensor:
    """x ** y."""
    if isinstance(x, Tensor) and isinstance(y, (int, float)) and not isinstance(y, bool):
        if x.is_floating_point():
            return _number_power(x, y * 1.0)
    a, b = operands("pow", x, y)
    if a.dtype is dtypes.bool:
        raise not_implemented("pow", a.dtype)
    if isinstance(x, (int, float)) and x > 0 and b._node is not None:
        array = FUNCTIONS["pow"](a, b.detach())._array
        return record(POWER_OF_NUMBER, array, (b,), (...,), math.log(x))
    if not a.is_floating_point():
        convert.operand(y, a.dtype)
        if isinstance(y, int) and y < 0:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        exponent = b._array.astype(np.int64)
        base = a._array.astype(np.int64)
        with np.errstate(all="ignore"):
            # 1 / base ** n is 0 but for 1 and -1, for which the sign of n does not matter.
            size = np.where(np.abs(base) == 1, np.abs(exponent), np.maximum(exponent, 0))
            result = np.where((exponent < 0) & (size == 0), 0, np.power(base, size))
        return wrap(np.asarray(result).astype(a._array.dtype))
    return FUNCTIONS["pow"](a, b)


def _number_power(x: Tensor, y: float) -> Tensor:
    """Common exponents are other rows, several times faster than the general power."""
    if y == 2.0:
        return FUNCTIONS["square"](x)
    return FUNCTIONS["pow_number"](x, y)


POWER_OF_NUMBER = Rule(
    "PowBackward2", lambda F, g, log_base, z: (F.mul(F.mul(g, z), log_base),), True
)


@function()
def numel(input: Tensor) -> int:
    """Number of elements."""
    return input._array.size


# Those that PyTorch has no in-place form of come first.
for _name in ("maximum", "minimum", "fmax", "fmin", "logaddexp"):
    public()(_of_tensors(_name))
for _name in ("atan2", "hypot", "logical_and", "logical_or", "logical_xor"):
    public(in_place=True)(_of_tensors(_name))
