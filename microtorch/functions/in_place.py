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
    # Kernels that a call may use at once: of rows whose second input, if there is one, is a
    # tensor or a number.
    row = ROWS.get(name)
    count = 0 if row is None else len(row.inputs) - 1
    simple = row is not None and not row.params and name not in ("atan2", "hypot")
    kernels = cpu.IN_PLACE.get(name) if simple else None

    def apply(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        recorded = input._node is not None and mode.enabled
        if recorded or (input._base is not None and mode.enabled):
            check_in_place(input)
        if input._base is not None or (args and args[0].__class__ in TENSORS):
            check_overlap(input, *args)
        if kernels is not None and len(args) == count and not (recorded or kwargs):
            others = plain(input, *args)
            if others is not None:
                a = input._array
                kernels[a.dtype](a, *others, a)
                changed(input)
                return input
        try:
            result = function(input, *args, **kwargs)
        except TypeError as error:
            raise TypeError(_renamed(str(error), name)) from None
        write(input, result)
        return input

    def plain(x: Tensor, y: Any = None) -> tuple[Any, ...] | None:
        """The other operands as arrays, if the result can be written into x at once."""
        dtype = x._array.dtype
        if dtype not in FLOATS:
            return None
        if not count:
            return ()
        if y.__class__ in TENSORS:
            b = y._array
            if b.dtype is not dtype or (y._node is not None and mode.enabled):
                return None
            return (b,) if not b.ndim or b.shape == x._array.shape else None
        return (cpu.constant(y, dtype),) if y.__class__ is float or y.__class__ is int else None

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
