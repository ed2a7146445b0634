"""`Variable`: since PyTorch 0.4 another name for Tensor."""

import warnings
from typing import Any

from ..graph.node import LEAF
from ..tensor import Tensor, wrap


class _VariableMeta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Tensor)


class Variable(metaclass=_VariableMeta):
    """`Variable(t)` gives a new, detached Tensor that shares t's memory."""

    def __new__(cls, data: Any = None, requires_grad: bool = False, volatile: Any = None) -> Any:
        """A detached tensor.

        Raises:
            TypeError: if data is no Tensor.
        """
        if not isinstance(data, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(data).__name__}")
        if volatile is not None:
            warnings.warn(
                "volatile was removed (Variable.volatile is always False), please use "
                "`with torch.no_grad():` instead.",
                stacklevel=2,
            )
        made = wrap(data._array)
        if requires_grad:
            if not made.is_floating_point():
                raise RuntimeError(
                    "Only Tensors of floating point and complex dtype can require gradients"
                )
            made._node = LEAF
        return made
