"""Memory that others have a part in: pinned memory of the host, and arrays of other libraries.

DLPack's structures are NumPy's work: a `ghost` is exported or imported as an array of the CPU, and
the place of the device in the structure says that it is one of the GPU while others can see it.
"""

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

from .array import Array
from .compiler import Ghost, memory
from .memory import current, later, pins

Host = np.ndarray[Any, Any]
LEGACY = 1
# Where a structure of DLPack names its device, by the name of its capsule.
_DEVICE_AT = {b"dltensor": 8, b"dltensor_versioned": 40}
CPU, GPU = 1, 2


class Owned:
    """Memory as NumPy takes it, together with what keeps it."""

    def __init__(self, owner: Any, x: Any, address: int, pinned: bool = False) -> None:
        self.owner, self.pinned = owner, pinned
        self.__array_interface__ = {
            "shape": x.shape, "typestr": x.dtype.str, "strides": x.strides, "version": 3,
            "data": (address, False),
        }  # fmt: skip


def pinned(shape: tuple[int, ...], dtype: Any) -> Host:
    """A new array in page-locked memory of the host."""
    x = memory(shape, dtype, 64)
    block = pins.allocate(x.nbytes)
    return np.asarray(Owned(block, x, block.address, True))


def foreign(ghost: Host, owner: Any) -> Array:
    """An array on device memory of others, which `owner` keeps."""
    low, high = np.lib.array_utils.byte_bounds(ghost)
    block: Any = SimpleNamespace(address=low, wanted=high - low, owner=owner, others=())
    return Array(ghost.view(Ghost), block)


# ----------------------------------------------------------------- __cuda_array_interface__
def interface(x: Array) -> dict[str, Any]:
    """What `__cuda_array_interface__` gives (version 3)."""
    return {
        "shape": x.shape, "typestr": x.dtype.str, "data": (x.address if x.size else 0, False),
        "version": 3, "strides": None if x.flags.c_contiguous else x.strides,
        "stream": int(current.stream) or LEGACY,
    }  # fmt: skip


def from_interface(owner: Any) -> Array:
    """An array on the memory of an object with `__cuda_array_interface__`, once it is ready.

    Raises:
        ValueError: for masked memory.
    """
    said = owner.__cuda_array_interface__
    if said.get("mask") is not None:
        raise ValueError("an array with a mask in its __cuda_array_interface__ cannot be a tensor")
    if said.get("stream") is not None:
        later.follow(_stream(said["stream"]), current.stream)
    dtype = np.dtype(said["typestr"])
    ghost = memory(tuple(said["shape"]), dtype, said["data"][0] or 64, said.get("strides"))
    return foreign(ghost, owner)


def _stream(number: int) -> int:
    """A stream by the number that the protocols give it."""
    return 0 if number == LEGACY else number


# ----------------------------------------------------------------------------------- DLPack
def _device(capsule: Any) -> ctypes.c_int32:
    """The type of device that a capsule names, which may be changed."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    held = ctypes.py_object(capsule)
    name = api.PyCapsule_GetName(held)
    at = api.PyCapsule_GetPointer(held, ctypes.c_char_p(name)) + _DEVICE_AT[name]
    return ctypes.c_int32.from_address(at)


def export(x: Array, stream: Any, max_version: Any) -> Any:
    """A DLPack capsule of device memory, whose contents the consumer's stream will find ready."""
    if stream != -1:
        later.follow(current.stream, _stream(stream or LEGACY))
    shared = np.asarray(Owned(x, x, x.address))
    capsule = shared.__dlpack__(max_version=max_version)
    _device(capsule).value = GPU
    return capsule


def device_of(capsule: Any) -> int:
    """The type of device of a capsule: 1 for the CPU, 2 for a GPU of NVIDIA's."""
    return int(_device(capsule).value)


class _Disguised:
    """A capsule of device memory as one of the CPU's, for NumPy to take."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CPU, 0)


def from_capsule(capsule: Any) -> Array:
    """An array on device memory that a DLPack capsule describes."""
    device = _device(capsule)
    device.value = CPU
    try:
        ghost = np.from_dlpack(_Disguised(capsule))  # type: ignore[arg-type]
    finally:
        # Whoever gave it may look at it when it is given back.
        device.value = GPU
    return foreign(ghost, ghost)


def from_dlpack(owner: Any) -> Array:
    """An array on the memory of an object with `__dlpack__`, once it is ready."""
    stream = int(current.stream) or LEGACY
    try:
        capsule = owner.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:
        capsule = owner.__dlpack__(stream=stream)
    return from_capsule(capsule)
