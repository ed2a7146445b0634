"""Bitwise functions of integers and bools, and whether tensors are equal or close."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error
from ..tensor import Tensor, wrap
from .arithmetic import operands
from .division import on_arrays
from .names import public
from .op import Array, deliver
from .refusals import not_implemented


def _shift_left(a: Array, b: Array) -> Array:
    """0 where more bits are shifted than there are."""
    bits = 8 * a.itemsize
    inside = (b >= 0) & (b < bits)
    return np.where(inside, np.left_shift(a, np.where(inside, b, 0)), 0).astype(a.dtype)


def _shift_right(a: Array, b: Array) -> Array:
    """The sign where more bits are shifted than there are."""
    bits = 8 * a.itemsize
    inside = (b >= 0) & (b < bits)
    return np.right_shift(a, np.where(inside, b, bits - 1)).astype(a.dtype)


def _bitwise(name: str, function: Callable[..., Any], kernel: str, what: str) -> None:
    shifts = name.endswith("shift")

    def apply(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
        x, y = operands(name, input, other)
        if x.is_floating_point() or (shifts and x.dtype is dtypes.bool):
            raise not_implemented(kernel, x.dtype)
        return deliver(wrap(on_arrays(function, x._array, y._array)), out)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"{what} of integers{'' if shifts else ' or bools'}, an element."
    public(in_place=True)(apply)


_bitwise("bitwise_and", np.bitwise_and, "bitwise_and_cpu", "Bits that are set in both")
_bitwise("bitwise_or", np.bitwise_or, "bitwise_or_cpu", "Bits that are set in either")
_bitwise("bitwise_xor", np.bitwise_xor, "bitwise_xor_cpu", "Bits that are set in one")
_bitwise("bitwise_left_shift", _shift_left, "lshift_cpu", "input * 2 ** other")
_bitwise("bitwise_right_shift", _shift_right, "rshift_cpu", "input / 2 ** other, rounded down,")


@public(in_place=True)
def bitwise_not(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Elementwise complement of integers or bools."""
    if not isinstance(input, Tensor):
        raise argument_error("bitwise_not", "input", 1, "Tensor", input)
    if input.is_floating_point():
        raise not_implemented("bitwise_not_cpu", input.dtype)
    return deliver(wrap(np.asarray(np.invert(input._array))), out)


def invert(input: Tensor) -> Tensor:
    """`~input`.

    Raises:
        TypeError: for floating-point tensors.
    """
    if input.is_floating_point():
        raise TypeError(
            "~ (operator.invert) is only implemented on integer and Boolean-type tensors"
        )
    return bitwise_not(input)


@public()
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    return bool(np.array_equal(input._array, other._array))


@public()
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """Whether |input - other| <= atol + rtol * |other|, an element.

    Raises:
        RuntimeError: for different dtypes, shapes that do not broadcast, or a negative tolerance.
    """
    for position, (name, t) in enumerate((("input", input), ("other", other)), 1):
        if not isinstance(t, Tensor):
            raise argument_error("isclose", name, position, "Tensor", t)
    if input.dtype is not other.dtype:
        raise RuntimeError(f"{input.dtype.short} did not match {other.dtype.short}")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if tolerance < 0:
            raise RuntimeError(
                f"{name} must be greater than or equal to zero, but got {tolerance:g}"
            )
    return wrap(
        on_arrays(lambda a, b: np.isclose(a, b, rtol, atol, equal_nan), input._array, other._array)
    )


@public()
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether |input - other| <= atol + rtol * |other| everywhere.

    Raises:
        RuntimeError: as isclose.
    """
    return bool(isclose(input, other, rtol, atol, equal_nan)._array.all())
