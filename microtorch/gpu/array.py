"""An array on the GPU that Python code uses like an ndarray.

`ghost` is an ndarray that lies at the device's address and is never read: views, strides and
overlaps are NumPy's own arithmetic on it. `block` keeps the memory. Ufuncs, NumPy functions and
methods come to `ops.perform`.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from ..device import device as Device
from ..errors import DIFFERENT_DEVICES as DIFFERENT
from ..kernels.standin import Host, StandIn
from .compiler import memory
from .driver import start
from .memory import current, later, pool


class Array(StandIn, of="ghost"):
    """An array in device memory."""

    __slots__ = ("block", "ghost")

    def __init__(self, ghost: Any, block: Any) -> None:
        self.ghost = ghost
        self.block = block

    ctypes = property(lambda self: SimpleNamespace(data=self.address))
    address = property(lambda self: self.ghost.ctypes.data)
    device = Device("cuda", 0)
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

    def attempt(self, function: Any, args: Any, options: Any) -> Any:
        """Do a NumPy operation on the GPU."""
        return perform(function, args, options)

    def attribute(self, name: str) -> Any:
        """The real or imaginary part."""
        return perform(getattr(np, name), (self,), {})

    def __array__(self, dtype: Any = None, copy: Any = None) -> Host:
        # NumPy asks where an array on the CPU meets this one: tensors are refused before.
        raise RuntimeError(DIFFERENT)

    # ------------------------------------------------------------------------- to the host
    def host(self, out: Host | None = None, wait: bool = True) -> Host:
        """A copy on the CPU, or in contiguous memory that is there.

        It is complete when the stream has done what it has to do, for which this waits or not.
        """
        dense = self.flags.c_contiguous or (self.flags.f_contiguous and out is None)
        x = self if dense else self.copy("C" if out is not None else "K")
        made = np.empty_like(x.ghost, subok=False) if out is None else out
        if made.size:
            start().copy_out(made, x.address, current.stream, wait)
            if not wait:
                later.after([current.stream], lambda: made)
        return made

    def update(self, name: str, lines: list[list["Array"]], numbers: tuple[float, ...]) -> None:
        """Make an optimizer's update of parameters and their state."""
        step(name, lines, numbers)

    def read(self, what: str) -> Host:
        """The elements."""
        return self.host()

    def __repr__(self) -> str:
        return f"{self.host()!r} on cuda:0"


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
