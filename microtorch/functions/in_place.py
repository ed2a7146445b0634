"""In-place forms: `x.name_(...)` writes a result into x, which takes over its history."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..graph.node import mode
from ..kernels import cpu
from ..tensor import TENSORS, Tensor, changed, check_in_place, wrap
from .elementwise import FLOATS
from .history import take_over
from .overlap import check_overlap


def in_place(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`x.name_(...)`: the result is written into x, which takes over its history."""
    kernels = cpu.IN_PLACE.get(name)

    def apply(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if mode.enabled:
            check_in_place(input)
        if input._base is not None or (args and args[0].__class__ in TENSORS):
            check_overlap(input, *args)
        if kernels is None or len(args) != 1 or kwargs or not silently(input, args[0]):
            write(input, function(input, *args, **kwargs))
        else:
            changed(input)
        return input

    def silently(x: Tensor, y: Any) -> bool:
        """Write at once where there is no graph, no promotion and no larger result."""
        a = x._array
        dtype = a.dtype
        if dtype not in FLOATS or (x._node is not None and mode.enabled):
            return False
        if y.__class__ in TENSORS:
            b = y._array
            if b.dtype is not dtype or (y._node is not None and mode.enabled):
                return False
            if b.ndim and b.shape != a.shape:
                return False
        elif y.__class__ is float or y.__class__ is int:
            b = cpu.constant(y, dtype)
        else:
            return False
        kernels[dtype](a, b, a)  # type: ignore[index]
        return True

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
