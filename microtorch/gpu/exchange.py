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
from .install import place
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
        TypeError: for memory that may not be written.
        ValueError: for masked memory, and what no tensor can be.
    """
    said = owner.__cuda_array_interface__
    address, readonly = said["data"]
    if readonly:
        raise TypeError("the read only flag is not supported, should always be False")
    if said.get("mask") is not None:
        raise ValueError("an array with a mask in its __cuda_array_interface__ cannot be a tensor")
    dtype, strides = np.dtype(said["typestr"]), said.get("strides")
    if not dtype.isnative:
        raise ValueError(
            "given array has byte order different from the native byte order. Conversion between "
            "byte orders is currently not supported."
        )
    if any(s % dtype.itemsize for s in strides or ()):
        raise ValueError(
            "given array strides not a multiple of the element byte size. Make a copy of the array "
            "to reallocate the memory."
        )
    if said.get("stream") is not None:
        later.follow(_stream(said["stream"]), current.stream)
    return foreign(memory(tuple(said["shape"]), dtype, address or 64, strides), owner)


def _stream(number: int) -> int:
    """A stream by the number that the protocols give it."""
    return 0 if number == LEGACY else number


# ----------------------------------------------------------------------------------- DLPack
def _device(capsule: Any) -> Any:
    """The type and the number of the device that a capsule names, which may be changed."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    held = ctypes.py_object(capsule)
    name = api.PyCapsule_GetName(held)
    at = api.PyCapsule_GetPointer(held, ctypes.c_char_p(name)) + _DEVICE_AT[name]
    return (ctypes.c_int32 * 2).from_address(at)


def export(x: Array, stream: Any, max_version: Any) -> Any:
    """A DLPack capsule of device memory, whose contents the consumer's stream will find ready.

    Raises:
        AssertionError, BufferError, TypeError: for what is no stream of the consumer's.
    """
    if stream is not None and type(stream) is not int:
        raise TypeError("stream must be ``int`` or ``none``")
    if stream == 0:
        raise AssertionError("unsupported stream on CUDA: 0.")
    if stream == 2:
        raise BufferError("per-thread default stream is not supported.")
    if stream != -1:
        later.follow(current.stream, _stream(stream or LEGACY))
    shared = np.asarray(Owned(x, x, x.address))
    capsule = shared.__dlpack__(max_version=max_version)
    _device(capsule)[0] = GPU
    return capsule


def device_of(capsule: Any) -> int:
    """The type of device of a capsule: 1 for the CPU, 2 for a GPU of NVIDIA's."""
    return int(_device(capsule)[0])


class _Disguised:
    """A capsule of device memory as one of the CPU's, for NumPy to take."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CPU, 0)


def from_capsule(capsule: Any) -> Array:
    """An array on device memory that a DLPack capsule describes.

    Raises:
        RuntimeError: for memory of another GPU.
    """
    device = _device(capsule)
    place(device[1])
    device[0] = CPU
    try:
        ghost = np.from_dlpack(_Disguised(capsule))  # type: ignore[arg-type]
    finally:
        # Whoever gave it may look at it when it is given back.
        device[0] = GPU
    return foreign(ghost, ghost)


def from_dlpack(owner: Any) -> Array:
    """An array on the memory of an object with `__dlpack__`, once it is ready."""
    stream = int(current.stream) or LEGACY
    try:
        capsule = owner.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:
        capsule = owner.__dlpack__(stream=stream)
    return from_capsule(capsule)
