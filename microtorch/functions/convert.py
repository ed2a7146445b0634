"""Copies and changes of dtype or device."""

import functools
import math
from typing import Any

import numpy as np

from .. import dtypes
from ..device import CPU
from ..device import check as check_device
from ..device import device as Device
from ..errors import argument_error, broadcast_error, combination_error, mismatched
from ..graph.node import mode
from ..kernels import cpu
from ..tensor import Tensor, changed, check_in_place, contiguous_format, device_of, wrap
from .history import check_history, take_over
from .names import function, method, public
from .op import Rule, deliver, primitive, record, tensors
from .overlap import check_overlap


def _cast_rule(F: Any, g: Any, dtype: Any) -> tuple[Any, ...]:
    return (F.cast(g, dtype),)


def _clone_rule(F: Any, g: Any, _: Any) -> tuple[Any, ...]:
    return (g,)


def _nothing_rule(F: Any, g: Any, _: Any) -> tuple[Any, ...]:
    return (F.zeros_of(g),)


def _copied_rule(F: Any, g: Any, _: Any) -> tuple[Any, ...]:
    """Zeros for what was overwritten, g for what it was overwritten with."""
    return F.zeros_of(g), g


TO_COPY = Rule("ToCopyBackward0", _cast_rule)
CLONE = Rule("CloneBackward0", _clone_rule)
FILL = Rule("FillBackward2", _nothing_rule)
ZERO = Rule("ZeroBackward0", _nothing_rule)
COPY = Rule("CopyBackwards", _copied_rule)
WHERE = Rule(
    "WhereBackward0",
    lambda F, g, shapes, c: (
        F.sum_to(F.where(c, g, 0.0), shapes[0]),
        F.sum_to(F.where(c, 0.0, g), shapes[1]),
    ),
)


def cast(input: Tensor, dtype: dtypes.dtype) -> Tensor:
    """The elements as another dtype; the tensor itself if nothing changes."""
    if input._array.dtype == dtype.numpy:
        return input
    array = cpu.cast(input._array, dtype)
    if dtype.category != 2 or input._array.dtype.kind != "f":
        return wrap(array)
    return record(TO_COPY, array, (input,), const=input.dtype)


@functools.cache
def _limits(dtype: Any) -> tuple[float, float]:
    """The least and the largest number of an element type; negative ones wrap in unsigned types."""
    if dtype.kind == "f":
        most = float(np.finfo(dtype).max)
        return -most, most
    if dtype.kind not in "iu":
        return -math.inf, math.inf
    most = int(np.iinfo(dtype).max)
    return -most if dtype.kind == "u" else int(np.iinfo(dtype).min), most


def refuse_overflow(low: Any, high: Any, dtype: Any, name: str = "") -> None:
    """Refuse numbers that an element type, perhaps of another name in C, cannot hold."""
    least, most = _limits(dtype)
    if (low < least or high > most or (low != low and dtype.kind in "iu")) and not (
        dtype.kind == "f" and math.inf in (abs(low), high)
    ):
        name = name or {"float32": "float", "int32": "int"}.get(dtype.name, f"{dtype.name}_t")
        raise RuntimeError(f"value cannot be converted to type {name} without overflow")


def number(value: Any, dtype: Any) -> Any:
    """A number to fill with, as a read-only array of the element type.

    Raises:
        RuntimeError: if the type cannot hold it.
    """
    refuse_overflow(value, value, dtype)
    return cpu.constant(value, dtype)


def operand(value: Any, dtype: dtypes.dtype) -> Tensor:
    """A tensor, or a number as one of the dtype, which is only read."""
    return value if isinstance(value, Tensor) else wrap(number(value, dtype.numpy))


@method()
def to(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The tensor on a device or with a dtype: `to(device)`, `to(dtype)`, `to(other)`."""
    dtype, copy, device = kwargs.get("dtype"), kwargs.get("copy", False), kwargs.get("device")
    for value in args:
        if isinstance(value, dtypes.dtype):
            dtype = value
        elif isinstance(value, Tensor):
            dtype, device = value.dtype, value.device
        elif isinstance(value, (str, Device, int)) and not isinstance(value, bool):
            device = value
        elif value is not None and not isinstance(value, bool):
            raise combination_error("to", value, expected="a device, a dtype or a Tensor")
    z = input if dtype is None else cast(input, dtype)
    if device is not None:
        z = move(z, check_device(device), kwargs.get("non_blocking", False))
    return clone(z) if copy and z is input else z


MOVE = Rule("ToCopyBackward0", lambda F, g, place: (F.move(g, place),))


@primitive
def move(input: Tensor, place: Device, non_blocking: bool = False) -> Tensor:
    """The tensor on a device: itself if it is there."""
    a = input._array
    if device_of(a) is place:
        return input
    return record(MOVE, cpu.move(a, place, not non_blocking), (input,), const=device_of(a))


@public()
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy, through which gradients flow."""
    a = input._array
    # NumPy's "K" would make a repeated dimension the innermost one.
    order: Any = "C" if memory_format is contiguous_format or 0 in a.strides else "K"
    return record(CLONE, a.copy(order), (input,))


@function()
def detach(input: Tensor) -> Tensor:
    """The same storage without history."""
    return input.detach()


@function()
def where(
    condition: Tensor, input: Any = None, other: Any = None, *, out: Tensor | None = None
) -> Any:
    """input where condition holds, else other; with condition alone, its nonzero indices.

    Raises:
        RuntimeError: unless condition is of bools, or for shapes that do not broadcast.
    """
    kinds = (Tensor, bool, int, float, np.generic)
    if isinstance(condition, Tensor) and input is None and other is None:
        return tuple(wrap(a.copy()) for a in np.nonzero(np.atleast_1d(condition._array)))
    if not isinstance(condition, Tensor):
        raise combination_error("where", condition, input, other)
    if not (isinstance(input, kinds) and isinstance(other, kinds)):
        raise combination_error("where", condition, input, other)
    x, y = tensors.same_dtype(input, other, number)
    if condition._array.dtype == np.uint8:
        condition = wrap(condition._array.astype(np.bool_))
    c = condition._array
    if c.dtype != np.bool_:
        raise RuntimeError(
            "where expected condition to be a boolean tensor, but got a tensor with dtype "
            + condition.dtype.short
        )
    a, b = x._array, y._array
    try:
        array = np.where(c, a, b)
    except ValueError:
        wrong = (a.shape, b.shape) if mismatched(a.shape, b.shape) else (c.shape, a.shape)
        raise broadcast_error(*(wrong if mismatched(*wrong) else (c.shape, b.shape))) from None
    if out is not None and out.dtype is not x.dtype:
        raise RuntimeError(f"Expected out type to be {x.dtype.short} but got {out.dtype.short}")
    shapes = (a.shape, b.shape)
    return deliver(record(WHERE, np.asarray(array), (x, y), (condition,), shapes), out)


@method("where")
def _where_method(input: Tensor, condition: Tensor, other: Any) -> Tensor:
    """input where the condition holds, else other."""
    return where(condition, input, other)


@method("cpu")
def cpu_(input: Tensor, *_: Any, **__: Any) -> Tensor:
    """The tensor on the CPU: itself if it is there."""
    return move(input, CPU)


@method()
def cuda(input: Tensor, device: Any = None, non_blocking: bool = False, **_: Any) -> Tensor:
    """The tensor on a GPU.

    Raises:
        AssertionError: if there is none.
    """
    return move(input, check_device("cuda" if device is None else device), non_blocking)


@method()
def copy_(input: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Write src, broadcast and cast, into this tensor, in place."""
    check_in_place(input)
    if isinstance(src, (bool, int, float)):
        src = wrap(np.array(src))
    if not isinstance(src, Tensor):
        raise argument_error("copy_", "other", 1, "Tensor", src)
    if src is not input:
        check_overlap(input, src)
    source, shape = src, input._array.shape
    if src._array.shape != shape:
        try:
            source = tensors.expand(src, shape)
        except RuntimeError:
            if src._array.ndim <= len(shape):
                raise broadcast_error(shape, src._array.shape) from None
            raise RuntimeError(
                f"output with shape {list(shape)} doesn't match the broadcast shape "
                f"{list(src._array.shape)}"
            ) from None
    source = cast(source, input.dtype)
    check_history(input, source._node)
    a, b = input._array, source._array
    if non_blocking and device_of(a) is not device_of(b):
        if device_of(a) is not CPU:
            b = cpu.move(b, input.device, wait=False)
        elif a.flags.c_contiguous and a.shape == b.shape:
            a = b.host(a, wait=False)  # type: ignore[attr-defined]
    if a is not b:
        np.copyto(a, b, casting="unsafe")
    changed(input)
    if mode.enabled:
        node = record(COPY, input._array, (input, source))._node
        if node is not None:
            take_over(input, node)
    return input


@method()
def fill_(input: Tensor, value: Any) -> Tensor:
    """Write a number, or a tensor's only element, everywhere, in place.

    Raises:
        RuntimeError: for a tensor with dimensions.
    """
    check_in_place(input)
    if not isinstance(value, (Tensor, bool, int, float, np.generic)):
        raise combination_error("fill_", value, expected="a number or a Tensor")
    if isinstance(value, Tensor):
        if value._array.ndim:
            raise RuntimeError(
                "fill_ only supports 0-dimension value tensor but got tensor with "
                f"{value._array.ndim} dimensions."
            )
        return copy_(input, value)
    input._array[...] = number(value, input._array.dtype)
    cut(input, FILL)
    return input


def cut(x: Tensor, op: Rule) -> None:
    """Note that x was overwritten in place: its gradient ends here, at zeros."""
    changed(x)
    if mode.enabled and x._node is not None:
        take_over(x, record(op, x._array, (x,))._node)


@method()
def zero_(input: Tensor) -> Tensor:
    """Write zeros, in place."""
    if input._node is None and input._base is None:
        input._array.fill(0)
        changed(input)
    else:
        check_in_place(input)
        input._array.fill(0)
        cut(input, ZERO)
    return input
