"""Device memory from a pool, in the order of streams.

Freed blocks are kept by size and stream: what a stream did with a block before comes first in that
stream, so the next user need not wait. The driver's own allocation takes longer than most kernels.
"""

import threading
from collections import defaultdict
from typing import Any

from .driver import OutOfMemoryError, start

SMALLEST = 512


class Current(threading.local):
    """The stream of this thread; 0 is the one that all threads begin with."""

    stream: Any = 0


current = Current()


class Block:
    """Memory that goes back to the pool with its last user."""

    __slots__ = ("address", "pool", "size", "stream")

    def __init__(self, pool: "Pool", address: int, size: int, stream: Any) -> None:
        self.pool, self.address, self.size, self.stream = pool, address, size, stream

    def __del__(self) -> None:
        self.pool.keep(self)


class Pool:
    """All device memory of the process."""

    def __init__(self) -> None:
        self._free: dict[Any, list[int]] = defaultdict(list)
        self._lock = threading.RLock()
        self.allocated = self.reserved = self.most = self.most_reserved = 0
        # Blocks of graphs stay where they are: freed ones go here while one is captured.
        self.held: list[Any] | None = None

    def allocate(self, wanted: int) -> Block:
        """A block of at least so many bytes.

        Raises:
            OutOfMemoryError: saying what was asked for, held and free; nothing is lost.
        """
        size, stream = rounded(wanted), current.stream
        with self._lock:
            kept = self._free.get((stream, size))
            if kept:
                address = kept.pop()
            else:
                address = self._new(size)
                self.reserved += size
                self.most_reserved = max(self.most_reserved, self.reserved)
            self.allocated += size
            self.most = max(self.most, self.allocated)
        return Block(self, address, size, stream)

    def _new(self, size: int) -> int:
        driver = start()
        try:
            return int(driver.allocate(size))
        except OutOfMemoryError:
            self.empty()
        try:
            return int(driver.allocate(size))
        except OutOfMemoryError:
            free, total = driver.info()
            raise OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {shown(size)}. GPU 0 has a total capacity "
                f"of {shown(total)} of which {shown(free)} is free. Of the allocated memory "
                f"{shown(self.allocated)} is allocated by microtorch, and "
                f"{shown(self.reserved - self.allocated)} is reserved by microtorch but unallocated."
            ) from None

    def keep(self, block: Block) -> None:
        """Take a block back."""
        with self._lock:
            self.allocated -= block.size
            if self.held is not None:
                self.held.append((block.stream, block.size, block.address))
            else:
                self._free[block.stream, block.size].append(block.address)

    def release(self, held: list[Any]) -> None:
        """Take back what a graph held."""
        with self._lock:
            for stream, size, address in held:
                self._free[stream, size].append(address)

    def empty(self) -> None:
        """Give what is unused back to the driver."""
        with self._lock:
            driver = start()
            driver.wait()
            for (_, size), kept in self._free.items():
                for address in kept:
                    driver.free(address)
                    self.reserved -= size
            self._free.clear()


def rounded(size: int) -> int:
    """The size of the block for so many bytes: few sizes, at most an eighth too large."""
    if size <= SMALLEST:
        return SMALLEST
    step = max(SMALLEST, 1 << (size.bit_length() - 4))
    return -(-size // step) * step


def shown(size: int) -> str:
    """A number of bytes as PyTorch words it."""
    for unit, scale in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << scale:
            return f"{size / (1 << scale):.2f} {unit}"
    return f"{size} bytes"


pool = Pool()
