"""In-place forms: `x.name_(...)` writes a result into x, which takes over its history."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..graph.node import mode
from ..kernels import cpu
from ..table import ROWS
from ..tensor import TENSORS, Tensor, changed, check_in_place, wrap
from .elementwise import FLOATS
from .history import check_history, take_over
from .overlap import check_overlap


def in_place(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`x.name_(...)`: the result is written into x, which takes over its history."""
    row = ROWS.get(name)
    simple = row is not None and not row.params and name not in ("atan2", "hypot")
    kernels: Any = cpu.IN_PLACE.get(name) if simple else None

    def general(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if mode.enabled and (input._node is not None or input._base is not None):
            check_in_place(input)
        check_overlap(input, *args)
        try:
            result = function(input, *args, **kwargs)
        except TypeError as error:
            raise TypeError(_renamed(str(error), name)) from None
        write(input, result)
        return input

    def unary(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        a = input._array
        if (
            args
            or kwargs
            or input._base is not None
            or a.dtype not in FLOATS
            or 0 in a.strides
            or (input._node is not None and mode.enabled)
        ):
            return general(input, *args, **kwargs)
        kernels[a.dtype](a, a)
        changed(input)
        return input

    def binary(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(args) != 1 or kwargs or input._base is not None:
            return general(input, *args, **kwargs)
        a, (other,) = input._array, args
        dtype = a.dtype
        if dtype not in FLOATS or 0 in a.strides:
            return general(input, other)
        kind = other.__class__
        if kind in TENSORS:
            b = other._array
            if (
                b.dtype is not dtype
                or other is input
                or other._base is not None
                or (b.shape != a.shape and b.ndim)
                or (other._node is not None and mode.enabled)
            ):
                return general(input, other)
        elif kind is float or kind is int:
            b = cpu.constant(other, dtype)
        else:
            return general(input, other)
        if input._node is not None and mode.enabled:
            return general(input, other)
        kernels[dtype](a, b, a)
        changed(input)
        return input

    # What is written at once: floats without history that share no memory.
    count = 0 if row is None or kernels is None else len(row.inputs)
    apply = (general, unary, binary)[count]
    apply.__name__ = apply.__qualname__ = name + "_"
    apply.__doc__ = f"In-place form of `{name}`."
    return apply


def _renamed(message: str, name: str) -> str:
    """A message about `name(input, ...)` as one about `input.name_(...)`."""
    message = message.replace(f"{name}()", f"{name}_()", 1)
    return re.sub(r"\(position (\d+)\)", lambda m: f"(position {int(m[1]) - 1})", message)


def write(x: Tensor, z: Tensor) -> None:
    """Copy a result into x and give x its history.

    Raises:
        RuntimeError: if the result has another shape, or a dtype of a higher category.
    """
    a, result = x._array, z._array
    if result.shape != a.shape:
        raise RuntimeError(
            f"output with shape {list(a.shape)} doesn't match the broadcast shape "
            f"{list(result.shape)}"
        )
    if z.dtype.category > x.dtype.category:
        raise RuntimeError(
            f"result type {z.dtype.short} can't be cast to the desired output type {x.dtype.short}"
        )
    node = z._node
    check_history(x, node)
    if node is not None and node.saved:
        # Backward needs x as it was; the result that a node saved is not x's memory.
        node.saved = tuple(_as_it_was(x) if s is x else s for s in node.saved)
    np.copyto(a, result, casting="unsafe")
    changed(x)
    if node is not None:
        take_over(x, node)


def placed(x: Tensor, z: Tensor) -> Tensor:
    """x, with a result written into it."""
    check_in_place(x)
    write(x, z)
    return x


def _as_it_was(x: Tensor) -> Tensor:
    copied = wrap(x._array.copy())
    copied._node = x._node
    return copied
