"""The driver's methods on host memory: what tests use where there is no GPU."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import OutOfMemoryError
from . import compiler

Array = np.ndarray[Any, Any]


class Simulator:
    """A GPU of few threads, with a memory of `total` bytes; everything is done at once."""

    threads = 2
    simulated = True
    count, processors, capability, name = 1, 1, (9, 0), "Simulated GPU"
    total = 1 << 30

    def __init__(self) -> None:
        self.process, self._streams = os.getpid(), 1
        self.context: Any = None
        # Its main thread asks in a loop whether the others are done, so let it not run for long.
        sys.setswitchinterval(1e-4)
        self._held: dict[int, Array] = {}
        self._used = 0
        self._notes: list[Callable[[], None]] | None = None
        self._kernels: dict[str, Any] = {}

    def enter(self) -> None:
        """Note that the GPU is in use."""
        self.context = True

    # ------------------------------------------------------------------------- memory
    def allocate(self, size: int) -> int:
        """Address of new memory."""
        self._at_once()
        if self._used + size > self.total:
            raise OutOfMemoryError("CUDA error: out of memory")
        # What is read without being written first is nan.
        made = np.full(size + 256, 255, np.uint8)
        address = -(-made.ctypes.data // 256) * 256 + compiler.FAR
        self._held[address] = made
        self._used += size
        return address

    def free(self, address: int) -> None:
        """Give memory back."""
        self._used -= self._held.pop(address).nbytes - 256

    def info(self) -> tuple[int, int]:
        """Bytes that are free, and all there are."""
        return self.total - self._used, self.total

    def _do(self, work: Callable[[], None]) -> None:
        if self._notes is None:
            work()
        else:
            self._notes.append(work)

    def _at_once(self) -> None:
        """Raises:
        RuntimeError: while a graph is captured, which would not do again what is done at once.
        """
        if self._notes is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def copy_in(self, address: int, x: Array, stream: Any, wait: bool = True) -> None:
        """Copy a host array without gaps to the device."""
        self._at_once()
        bytes_of(address, x.nbytes)[...] = bytes_of(x.ctypes.data + compiler.FAR, x.nbytes)

    def copy_out(self, x: Array, address: int, stream: Any, wait: bool = True) -> None:
        """Copy device memory into a host array without gaps."""
        self._at_once()
        bytes_of(x.ctypes.data + compiler.FAR, x.nbytes)[...] = bytes_of(address, x.nbytes)

    def clear(self, address: int, size: int, stream: Any) -> None:
        """Fill memory with zero bytes."""
        self._do(lambda: bytes_of(address, size).fill(0))

    def pinned(self, size: int) -> int:
        """Address of host memory."""
        return self.allocate(size) - compiler.FAR

    def unpin(self, address: int) -> None:
        """Free host memory."""
        self.free(address + compiler.FAR)

    # ----------------------------------------------------------------------- launches
    def load(self, text: str) -> Any:
        """The kernel of a text."""
        if text not in self._kernels:
            self._at_once()
            self._kernels[text] = compiler.simulated(text)
        return self._kernels[text]

    def grid(self, n: int) -> int:
        """Blocks for n elements."""
        return max(1, min(2, -(-n // self.threads)))

    def launch(self, kernel: Any, grid: tuple[int, int], block: int, words: Any, _: Any) -> None:
        """Run a kernel."""
        words = tuple(words)
        self._do(lambda: kernel(grid, block, *words))

    # ------------------------------------------------------------- streams, events, graphs
    def stream(self) -> int:
        """A new stream."""
        self._streams += 1
        return self._streams

    def wait(self, stream: Any = None) -> None:
        """Nothing: all is done."""
        self._at_once()

    def done(self, stream: Any) -> bool:
        """True."""
        return True

    def event(self, timing: bool) -> Any:
        """A new event."""
        return [0.0]

    def mark(self, event: Any, stream: Any) -> None:
        """Note the time."""
        event[0] = time.perf_counter()

    def wait_event(self, event: Any, stream: Any = None) -> None:
        """Nothing: it is over."""

    def happened(self, event: Any) -> bool:
        """True."""
        return True

    def elapsed(self, first: Any, second: Any) -> float:
        """Milliseconds between two events."""
        return 1e3 * float(second[0] - first[0])

    def capture(self, stream: Any) -> None:
        """Note launches from now on instead of running them."""
        self._notes = []

    def captured(self, stream: Any) -> Any:
        """What was noted."""
        notes, self._notes = self._notes, None
        return notes

    def replay(self, graph: Any, stream: Any) -> None:
        """Run what was noted."""
        for work in graph:
            work()

    def forget(self, graph: Any) -> None:
        """Free what was noted."""


def bytes_of(address: int, size: int) -> Array:
    """The bytes at a simulated address."""
    return compiler.memory((size,), np.uint8, address - compiler.FAR)
