"""Layers that pad."""

from typing import Any

from ..tensor import Tensor
from . import functional as F
from .module import Module


class _Pad(Module):
    rank = 0
    mode = "constant"
    value: float | None = None

    def __init__(self, padding: Any) -> None:
        super().__init__()
        single = isinstance(padding, int)
        self.padding = (padding,) * (2 * self.rank) if single else tuple(padding)

    def forward(self, input: Tensor) -> Tensor:
        """The padded input."""
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """A number before and after the last dimension."""

    rank = 1


class ConstantPad2d(_ConstantPad):
    """A number around the last two dimensions."""

    rank = 2


class ZeroPad1d(ConstantPad1d):
    """Zeros before and after the last dimension."""

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    extra_repr = _Pad.extra_repr


class ZeroPad2d(ConstantPad2d):
    """Zeros around the last two dimensions."""

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    extra_repr = _Pad.extra_repr


class ReflectionPad1d(_Pad):
    """The last dimension, reflected at its ends."""

    rank, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """The last two dimensions, reflected at their ends."""

    rank, mode = 2, "reflect"


class ReplicationPad1d(_Pad):
    """The last dimension, its ends repeated."""

    rank, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """The last two dimensions, their ends repeated."""

    rank, mode = 2, "replicate"


class CircularPad1d(_Pad):
    """The last dimension, wrapped around."""

    rank, mode = 1, "circular"


class CircularPad2d(_Pad):
    """The last two dimensions, wrapped around."""

    rank, mode = 2, "circular"
