"""An array on the GPU that Python code uses like an ndarray.

`ghost` is an ndarray that lies at the device's address and is never read: views, strides and
overlaps are NumPy's own arithmetic on it. `block` keeps the memory. Ufuncs, NumPy functions and
methods come to `ops.perform`.
"""

import operator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..device import device as Device
from ..errors import DIFFERENT_DEVICES as DIFFERENT
from .compiler import memory
from .driver import start
from .memory import current, later, pool

Host = np.ndarray[Any, Any]


class _Address:
    """What `.ctypes` gives."""

    def __init__(self, data: int) -> None:
        self.data = data


class Array(NDArrayOperatorsMixin):
    """An array in device memory."""

    __slots__ = ("__weakref__", "block", "ghost")
    __hash__ = object.__hash__

    def __init__(self, ghost: Any, block: Any) -> None:
        self.ghost = ghost
        self.block = block

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return np.ndarray

    shape, dtype, ndim, size, strides, itemsize, nbytes, flags = (
        property(operator.attrgetter(f"ghost.{name}"))
        for name in "shape dtype ndim size strides itemsize nbytes flags".split()
    )
    ctypes = property(lambda self: _Address(self.ghost.ctypes.data))
    address = property(lambda self: self.ghost.ctypes.data)
    device = Device("cuda", 0)
    T = property(lambda self: self.transpose())

    flat = property(lambda self: self.host().flat)

    @property
    def base(self) -> Any:
        """What owns the memory, for every array: others may share it."""
        return self.block

    def whole(self, dtype: Any = None) -> "Array":
        """All of the memory that this is a part of, as one vector."""
        block, kind = self.block, np.dtype(dtype or self.dtype)
        return Array(memory((block.wanted // kind.itemsize,), kind, block.address), block)

    def strided(self, shape: Any, strides: Any) -> "Array":
        """A view of other lengths and steps (in bytes), of which none may lead outside."""
        return Array(memory(tuple(shape), self.dtype, self.address, tuple(strides)), self.block)

    # ------------------------------------------------------------------- NumPy's protocols
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if _recorded(map(type, inputs)):
            return NotImplemented
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        out = options.get("out")
        if isinstance(out, tuple) and out[0] is not None and out[0] is not ...:
            options["out"] = out[0] if len(out) == 1 else out
        else:
            options.pop("out", None)
        return perform(function, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if _recorded(types):
            return NotImplemented
        return perform(function, args, options)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Host:
        # NumPy asks where an array on the CPU meets this one: tensors are refused before.
        raise RuntimeError(DIFFERENT)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(np.ndarray, name)
        if not callable(found):
            return perform(getattr(np, name), (self,), {})
        return lambda *args, **options: perform(found, (self, *args), options)

    # --------------------------------------------------------------------------- elements
    def __getitem__(self, key: Any) -> Any:
        return perform(operator.getitem, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        perform(operator.setitem, (self, key, value), {})

    def fill(self, value: Any) -> None:
        """Write a number everywhere."""
        self[...] = value

    def __len__(self) -> int:
        return len(self.ghost)

    def __iter__(self) -> Any:
        return (self[k] for k in range(len(self.ghost)))

    # ------------------------------------------------------------------------- to the host
    def host(self, out: Host | None = None, wait: bool = True) -> Host:
        """A copy on the CPU, or in contiguous memory that is there.

        It is complete when the stream has done what it has to do, for which this waits or not.
        """
        dense = self.flags.c_contiguous or (self.flags.f_contiguous and out is None)
        x = self if dense else perform(np.ndarray.copy, (self, "C" if out is not None else "K"), {})
        made = np.empty_like(x.ghost, subok=False) if out is None else out
        if made.size:
            start().copy_out(made, x.address, current.stream, wait)
            if not wait:
                later.after([current.stream], lambda: made)
        return made

    def update(self, name: str, lines: list[list["Array"]], numbers: tuple[float, ...]) -> None:
        """Make an optimizer's update of parameters and their state."""
        step(name, lines, numbers)

    def item(self, *args: Any) -> Any:
        """An element as a Python number."""
        return self.host().item(*args)

    def tolist(self) -> Any:
        """Nested lists."""
        return self.host().tolist()

    def tobytes(self) -> bytes:
        """The elements as bytes."""
        return self.host().tobytes()

    def __bool__(self) -> bool:
        return bool(self.host())

    def __float__(self) -> float:
        return float(self.host())

    def __int__(self) -> int:
        return int(self.host())

    def __index__(self) -> int:
        return self.host().__index__()

    def __contains__(self, value: Any) -> bool:
        return value in self.host()

    def __repr__(self) -> str:
        return f"{self.host()!r} on cuda:0"


def _recorded(types: Any) -> bool:
    """Whether an operand is being recorded, and goes first."""
    return any(getattr(t, "records", False) for t in types)


def empty(shape: Any, dtype: Any, strides: tuple[int, ...] | None = None) -> Array:
    """An array of new memory without gaps; its elements are whatever lies there."""
    dtype = np.dtype(dtype)
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (int(shape),)
    size = dtype.itemsize
    for n in shape:
        size *= n
    block = pool.allocate(size)
    return Array(memory(shape, dtype, block.address, strides), block)


def upload(x: Any, wait: bool = True) -> Array:
    """A copy of a host array on the GPU, its dims in the same order.

    Where it is not waited for, the host's memory is kept until it is done.
    """
    source = np.asarray(x)
    if not source.flags.c_contiguous:
        source = source.copy("K")
    made = empty(source.shape, source.dtype, source.strides)
    if source.size:
        start().copy_in(made.address, source, current.stream, wait)
        if not wait:
            later.after([current.stream], lambda: source)
    return made


def view(x: Array, ghost: Any) -> Array:
    """An array on the memory of another."""
    return Array(ghost, x.block)


def step(name: str, lines: list[list[Array]], numbers: tuple[float, ...]) -> None:
    """The update of many parameters; `launch` puts its own in this place."""
    raise NotImplementedError


def perform(function: Any, args: Any, options: Any) -> Any:
    """Do a NumPy operation on the GPU; `ops` puts its own in this place."""
    raise NotImplementedError
