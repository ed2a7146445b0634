"""Parameter and Buffer: tensors that a Module registers when they are assigned to it."""

from typing import Any

import numpy as np

from .. import dtypes
from ..errors import refuse_foreign
from ..functions.creation import uninitialized
from ..graph.node import LEAF
from ..tensor import TENSORS, Tensor, new, wrap


class Parameter(Tensor):
    """A leaf that requires grad and shares memory with `data`.

    Raises:
        TypeError: for a tensor of PyTorch.
        RuntimeError: for integer data that is to require grad.
    """

    __slots__ = ()

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> "Parameter":
        """A parameter around the tensor `data`."""
        refuse_foreign(data)
        array = np.empty(0, np.float32) if data is None else data._array
        if requires_grad and array.dtype.kind != "f":
            raise RuntimeError(
                "Only Tensors of floating point and complex dtype can require gradients"
            )
        made = new(cls)
        made._array = array
        made._node = LEAF if requires_grad else None
        return made  # type: ignore[no-any-return]

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        """All is done in `__new__`."""

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


TENSORS.add(Parameter)


class _BufferType(type):
    """Says what is a Buffer: a Tensor that was marked as one."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor) and "persistent" in instance.__dict__


class Buffer(Tensor, metaclass=_BufferType):
    """A tensor that is part of a module's state, but not trained; shares memory with `data`.

    persistent: whether it is part of the module's state_dict.
    """

    __slots__ = ()
    persistent: bool

    def __new__(cls, data: Any = None, *, persistent: bool = True) -> Any:
        """A Tensor, marked to be registered."""
        data = wrap(np.empty(0, np.float32)) if data is None else data
        made = data.detach().requires_grad_(data.requires_grad)
        made.persistent = persistent
        return made


def parameter(shape: tuple[int, ...], dtype: Any = None, device: Any = None) -> Parameter:
    """A parameter that is still to be initialized."""
    kind = (dtype or dtypes.get_default_dtype()).numpy
    return Parameter(wrap(uninitialized(shape, kind, device)))


def in_place_of(old: Tensor, given: Tensor) -> Tensor:
    """What is put in the place of a parameter or buffer."""
    if not isinstance(old, Parameter):
        return given
    if isinstance(given, Parameter):
        return given.requires_grad_(old.requires_grad)
    return Parameter(given, old.requires_grad)
