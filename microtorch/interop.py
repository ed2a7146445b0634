"""Arrays of other libraries: DLPack, both ways and without copying.

`microtorch.from_dlpack(x)` takes arrays of NumPy, PyTorch, JAX or CuPy's CPU side; each of these
takes a Tensor by its own `from_dlpack`. NumPy does the work.
"""

from typing import Any

import numpy as np

from .errors import argument_error
from .tensor import Tensor, wrap


class _Exporter:
    """A DLPack capsule as an object that NumPy accepts."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor that shares memory with an array of any library that speaks DLPack.

    Arrays that may not be written (JAX's) give tensors whose in-place changes fail.

    Raises:
        BufferError: for a tensor that requires grad, or memory that the CPU cannot reach.
    """
    if type(ext_tensor).__name__ == "PyCapsule":
        ext_tensor = _Exporter(ext_tensor)
    elif not hasattr(ext_tensor, "__dlpack__"):
        raise argument_error("from_dlpack", "ext_tensor", 1, "an array with __dlpack__", ext_tensor)
    array = np.from_dlpack(ext_tensor, copy=copy)
    return wrap(array)


def to_dlpack(tensor: Tensor) -> Any:
    """A DLPack capsule that shares the tensor's memory; it can be taken once."""
    return tensor.__dlpack__()
