"""Tensors in a checkpoint: views of numbered storages.

A storage is the memory that a tensor and its views share, saved once however many of them are
saved. A tensor is a storage, an offset, sizes and strides in elements; a file's values for these
are checked against the storage before a view is made.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import dtypes
from ..device import CPU, device
from ..kernels import cpu
from ..nn.parameter import Parameter
from ..tensor import Size, Tensor, device_of, wrap
from .archive import ArchiveReader, Bytes
from .pickler import Call, Global, Persistent
from .unpickler import Function

Array = np.ndarray[Any, Any]

DTYPES = (
    dtypes.float64, dtypes.float32, dtypes.float16, dtypes.int64, dtypes.int32, dtypes.int16,
    dtypes.int8, dtypes.uint8, dtypes.bool,
)  # fmt: skip
STORAGE_NAMES = {d: Global("torch", f"{d.short}Storage") for d in DTYPES}
DTYPE_NAMES = {d: Global("torch", d.name) for d in DTYPES}
REBUILD_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = Global("torch._utils", "_rebuild_parameter")
SIZE = Global("torch", "Size")
DEVICE = Global("torch", "device")


@dataclass(frozen=True, slots=True)
class StorageType:
    """The element type under which a file refers to a storage."""

    dtype: dtypes.dtype


class Saved:
    """The storages of the tensors met while an object is pickled, in order."""

    def __init__(self) -> None:
        self.storages: list[Bytes] = []
        self._known: dict[tuple[int, int], tuple[str, Bytes, dtypes.dtype]] = {}  # by address

    def encode(self, obj: Any) -> Global | Call | None:
        """How to write an object that is no Python built-in; None if it cannot be saved."""
        kind = type(obj)
        if kind is Tensor:
            return self._tensor(obj._array, obj.requires_grad)
        if kind is Parameter:
            data = self._tensor(obj._array, False)
            return Call(REBUILD_PARAMETER, (data, obj.requires_grad, OrderedDict()))
        if kind is Size:
            return Call(SIZE, (tuple(obj),))
        if kind is device:
            place = (obj.type,) if obj.index is None else (obj.type, obj.index)
            return Call(DEVICE, place)
        return DTYPE_NAMES[obj] if kind is dtypes.dtype else None

    def _tensor(self, array: Array, requires_grad: bool) -> Call:
        item = array.itemsize
        place = device_of(array)
        memory, start = _memory(array)
        if any(n < 0 or n % item for n in (start, memory.size, *array.strides)):
            array = array.copy(order="C")  # PyTorch has no negative strides
            memory, start = _memory(array)
        dtype = dtypes.of(array.dtype)
        count = len(self.storages)
        where = (memory.ctypes.data, memory.size) if memory.size else (-count, 0)
        if where not in self._known:
            self._known[where] = (str(count), memory, dtype)
            self.storages.append(memory if place is CPU else cpu.move(memory, CPU))
        key, _, known = self._known[where]
        if known is not dtype:
            raise RuntimeError(
                "Cannot save multiple tensors or storages that view the same data as different "
                f"types: {known!r} and {dtype!r}. Save a clone() of one of them"
            )
        storage = ("storage", STORAGE_NAMES[dtype], key, str(place), memory.nbytes // item)
        strides = tuple(s // item for s in array.strides)
        view = (Persistent(storage), start // item, tuple(array.shape), strides)
        return Call(REBUILD_TENSOR, (*view, requires_grad, OrderedDict()))


def _memory(array: Array) -> tuple[Bytes, int]:
    """The bytes of the ndarray that owns the memory of `array`, and where array begins in them.

    The position is -1 if the owner has gaps, as memory of other libraries may.
    """
    if device_of(array) is not CPU:
        memory = array.whole(np.uint8)  # type: ignore[attr-defined]
        return memory, array.ctypes.data - memory.ctypes.data if array.size else 0
    owner, base = array, array.base
    while base is not None:
        if isinstance(base, np.ndarray):
            owner = base
        base = getattr(base, "base", None)  # as_strided puts a holder between its arrays
    memory = owner.ravel("K").view(np.uint8)
    if memory.ctypes.data != owner.ctypes.data:
        return memory, -1
    return memory, array.ctypes.data - memory.ctypes.data if array.size else 0


class Loaded:
    """The storages that the references in a pickle asked for."""

    def __init__(self, archive: ArchiveReader) -> None:
        self._archive = archive
        self._data: dict[str, Bytes] = {}
        self._places: dict[str, str] = {}  # where each storage was saved from

    def move(self, placed: Callable[[Bytes, str], Bytes]) -> bool:
        """Put each storage where `placed` has it for where it was saved from; whether any moved."""
        moved = {key: placed(data, self._places[key]) for key, data in self._data.items()}
        same = all(moved[key] is data for key, data in self._data.items())
        self._data = moved
        return not same

    def storage(self, identity: Any) -> Array:
        """The elements of a storage, `(numel,)`, for the reference that stands in the pickle."""
        if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
            raise ValueError("only references to storages can be followed")
        _, kind, key, location, numel = identity
        if type(kind) is not StorageType or type(key) is not str or type(location) is not str:
            raise TypeError("a reference to a storage has the wrong types")
        if key not in self._data:
            self._data[key] = self._archive.read(f"data/{key}")
            self._places[key] = location
        size = _count(numel) * kind.dtype.itemsize
        data = self._data[key]
        if size > data.size:
            raise RuntimeError(
                f"record size ({data.size} bytes) does not match expected size ({size} bytes = "
                f"{numel} elements * {kind.dtype.itemsize} bytes/element) for dtype "
                f"{kind.dtype.short}"
            )
        return data[:size].view(kind.dtype.numpy)


def _count(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"a {type(number).__name__} or a negative number stands for a count")
    return number


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any,
    metadata: Any = None,
) -> Tensor:  # fmt: skip
    if not isinstance(storage, np.ndarray) or type(requires_grad) is not bool or metadata:
        raise TypeError("a tensor is described with the wrong types")
    if not isinstance(size, tuple) or type(stride) is not tuple or len(size) != len(stride):
        raise ValueError("sizes and strides do not go together")
    steps = [(_count(n), _count(s)) for n, s in zip(size, stride, strict=True)]
    empty = any(n == 0 for n, _ in steps)
    last = _count(offset) + sum((n - 1) * s for n, s in steps)
    if not empty and last >= storage.size:
        raise ValueError(
            f"a tensor of sizes {size}, strides {stride} and offset {offset} reaches beyond its "
            f"storage of {storage.size} elements"
        )
    item = storage.itemsize
    if empty:
        array = storage[:0].reshape(size)
    elif device_of(storage) is not CPU:
        array = storage[offset:].strided(size, [s * item for s in stride])  # type: ignore[attr-defined]
    else:
        array = np.ndarray(
            size, storage.dtype, storage, offset * item, tuple(s * item for s in stride)
        )
    return wrap(array).requires_grad_(requires_grad)


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> Parameter:
    if type(data) is not Tensor or type(requires_grad) is not bool:
        raise TypeError("a parameter is described with the wrong types")
    return Parameter(data, requires_grad)


def _size(lengths: Any) -> Size:
    if type(lengths) is not tuple:
        raise TypeError("expected a tuple of lengths")
    return Size(_count(n) for n in lengths)


def _device(kind: Any, index: Any = None) -> device:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise TypeError("a device is described with the wrong types")
    return device(kind, index)


def _full(name: Global) -> str:
    return f"{name.module}.{name.name}"


# All that a file may name besides plain containers.
KNOWN: dict[str, Any] = {
    _full(REBUILD_TENSOR): Function(_rebuild_tensor),
    _full(REBUILD_PARAMETER): Function(_rebuild_parameter),
    _full(SIZE): Function(_size),
    _full(DEVICE): Function(_device),
    **{_full(name): StorageType(d) for d, name in STORAGE_NAMES.items()},
    **{_full(name): d for d, name in DTYPE_NAMES.items()},
}
