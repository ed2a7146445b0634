"""In-place forms: `x.name_(...)` writes a result into x, which takes over its history."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..graph.node import mode
from ..kernels import cpu
from ..tensor import TENSORS, Tensor, changed, check_in_place, wrap
from .elementwise import FLOATS
from .history import take_over


def in_place(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`x.name_(...)`: the result is written into x, which takes over its history."""
    kernels = cpu.IN_PLACE.get(name)

    def apply(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        recorded = input._node is not None and mode.enabled
        if recorded:
            check_in_place(input)
        if kernels is not None and len(args) == 1 and not (recorded or kwargs):
            b = plain(input, args[0])
            if b is not None:
                a = input._array
                kernels[a.dtype](a, b, a)
                changed(input)
                return input
        write(input, function(input, *args, **kwargs))
        return input

    def plain(x: Tensor, y: Any) -> Any:
        """The operand y as an array that can be written into x at once, or None."""
        dtype = x._array.dtype
        if dtype not in FLOATS:
            return None
        if y.__class__ in TENSORS:
            b = y._array
            if b.dtype is not dtype or (y._node is not None and mode.enabled):
                return None
            return b if not b.ndim or b.shape == x._array.shape else None
        return cpu.constant(y, dtype) if y.__class__ is float or y.__class__ is int else None

    apply.__name__ = apply.__qualname__ = name + "_"
    apply.__doc__ = f"In-place form of `{name}`."
    return apply


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
    if node is not None and node.saved:
        # Backward needs x as it was; the result that a node saved is not x's memory.
        node.saved = tuple(_as_it_was(x) if s is x else s for s in node.saved)
    np.copyto(a, result, casting="unsafe")
    changed(x)
    if node is not None:
        take_over(x, node)


def _as_it_was(x: Tensor) -> Tensor:
    copied = wrap(x._array.copy())
    copied._node = x._node
    return copied
