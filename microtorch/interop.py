"""Arrays of other libraries: DLPack, both ways and without copying.

`microtorch.from_dlpack(x)` takes arrays of NumPy, PyTorch, JAX or CuPy; each of these takes a
Tensor by its own `from_dlpack`. NumPy does the work.
"""

from typing import Any

import numpy as np

from .device import check as check_device
from .device import gpu
from .errors import argument_error
from .tensor import Tensor, wrap

# DLPack's number for NVIDIA's GPUs.
GPU = 2


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

    It is a copy with `copy` True, or on another device. Arrays that may not be written (JAX's)
    give tensors whose in-place changes fail.

    Raises:
        BufferError: for a tensor that requires grad, or memory that the CPU cannot reach.
    """
    found = _shared(ext_tensor, copy)
    return found if device is None else found.to(device)


def _shared(ext_tensor: Any, copy: bool | None) -> Tensor:
    capsule = None
    if type(ext_tensor).__name__ == "PyCapsule":
        capsule, ext_tensor = ext_tensor, _Exporter(ext_tensor)
    elif not hasattr(ext_tensor, "__dlpack__"):
        raise argument_error("from_dlpack", "ext_tensor", 1, "an array with __dlpack__", ext_tensor)
    if getattr(ext_tensor, "__dlpack_device__", tuple)()[:1] == (GPU,):
        check_device("cuda")
        found = wrap(gpu("exchange").from_dlpack(ext_tensor))
        return found.clone() if copy else found
    try:
        return wrap(np.from_dlpack(ext_tensor, copy=copy))
    except (BufferError, RuntimeError):
        if capsule is None or gpu("exchange").device_of(capsule) != GPU:
            raise
    check_device("cuda")
    found = wrap(gpu("exchange").from_capsule(capsule))
    return found.clone() if copy else found


def to_dlpack(tensor: Tensor) -> Any:
    """A DLPack capsule that shares the tensor's memory; it can be taken once."""
    return tensor.__dlpack__()
