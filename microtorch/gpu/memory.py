"""Memory of the GPU, and page-locked memory of the host, from pools in the order of streams.

Freed blocks are kept by size and stream: what a stream did with a block before comes first in that
stream, so the next user need not wait. The driver's own allocation takes longer than most kernels.
"""

import contextlib
import functools
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import OutOfMemoryError
from .driver import start

SMALLEST = 512
FORKED = (
    "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must "
    "use the 'spawn' start method"
)


class Current(threading.local):
    """The stream of this thread; 0 is the one that all threads begin with."""

    def __getattr__(self, name: str) -> Any:
        """At a thread's first use of the GPU, enter it.

        Raises:
            RuntimeError: in a process that was forked when the GPU was in use.
        """
        if name != "stream":
            raise AttributeError(name)
        driver = start()
        if driver.process != os.getpid():
            raise RuntimeError(FORKED)
        driver.enter()
        self.stream: Any = 0
        return 0


current = Current()
lock = threading.RLock()


def _in_child() -> None:
    """Begin anew in a forked process, where the threads that may have had the lock are not."""
    global lock
    lock = threading.RLock()
    current.__dict__.clear()


os.register_at_fork(after_in_child=_in_child)


class Block:
    """Memory that goes back to its pool with its last user."""

    __slots__ = ("address", "others", "pool", "size", "stream", "wanted")

    def __init__(self, pool: "Pool", address: int, size: int, stream: Any, wanted: int) -> None:
        self.pool, self.address, self.size, self.stream = pool, address, size, stream
        self.wanted = wanted
        # Streams besides its own that use it.
        self.others: tuple[Any, ...] = ()

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # A GPU that is lost takes nothing back.
            self.pool.keep(self)


class Pool:
    """All memory of a kind that the process has: `new` and `drop` name functions of the driver."""

    def __init__(self, new: str, drop: str) -> None:
        self._methods = new, drop
        self._free: dict[Any, list[int]] = defaultdict(list)
        # Streams whose memory a graph goes on to use.
        self._apart: set[Any] = set()
        self.allocated = self.reserved = self.most = self.most_reserved = 0

    def allocate(self, wanted: int) -> Block:
        """A block of at least so many bytes.

        Raises:
            OutOfMemoryError: of the GPU, saying what was asked for, held and free; nothing is lost.
        """
        size, stream = rounded(wanted), current.stream
        with lock:
            kept = self._free.get((stream, size))
            if not kept:
                later.settle()
                kept = self._free.get((stream, size))
            if kept:
                address = kept.pop()
            else:
                address = self._new(size)
                self.reserved += size
                self.most_reserved = max(self.most_reserved, self.reserved)
            self.allocated += size
            self.most = max(self.most, self.allocated)
        return Block(self, address, size, stream, wanted)

    def _new(self, size: int) -> int:
        driver, (new, _) = start(), self._methods
        try:
            return int(getattr(driver, new)(size))
        except OutOfMemoryError:
            self.empty()
        try:
            return int(getattr(driver, new)(size))
        except OutOfMemoryError:
            if self is not pool:
                raise
            free, total = driver.cuMemGetInfo()
            raise OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {shown(size)}. GPU 0 has a total capacity "
                f"of {shown(total)} of which {shown(free)} is free. Of the allocated memory "
                f"{shown(self.allocated)} is allocated by microtorch, and "
                f"{shown(self.reserved - self.allocated)} is reserved by microtorch but "
                "unallocated."
            ) from None

    def keep(self, block: Block) -> None:
        """Take a block back, once the other streams that use it have come so far."""
        with lock:
            self.allocated -= block.size
            place = block.size, block.address
            if block.others:
                later.after(block.others, functools.partial(self.give, block.stream, [place]))
            else:
                self.give(block.stream, [place])

    @contextlib.contextmanager
    def apart(self, stream: Any, places: list[tuple[int, int]]) -> Iterator[None]:
        """Leave what a stream frees to it alone, and add it to `places` in the end: sizes and
        addresses of memory that is nobody else's from then on."""
        self._apart.add(stream)
        try:
            yield
        finally:
            with lock:
                self._apart.remove(stream)
                for key in [key for key in self._free if key[0] == stream]:
                    places += [(key[1], address) for address in self._free.pop(key)]

    def give(self, stream: Any, places: list[tuple[int, int]]) -> None:
        """Let a stream use memory, once it has done what it has been given."""
        with lock:
            for size, address in places:
                self._free[stream, size].append(address)

    def empty(self) -> None:
        """Give what is unused back to the driver."""
        with lock:
            driver = start()
            # Freeing waits for all that the GPU was given, by itself.
            later.settle(wait=True)
            # A collection of garbage in between may give more.
            for stream, size in list(self._free):
                if stream in self._apart:
                    continue
                for address in self._free.pop((stream, size)):
                    getattr(driver, self._methods[1])(address)
                    self.reserved -= size


class Later:
    """What is to be done once streams have come so far."""

    def __init__(self) -> None:
        self._waiting: list[tuple[list[Any], list[Any], Callable[[], Any]]] = []
        # Events to be used again, those that take the time apart.
        self.spare: dict[bool, list[Any]] = {False: [], True: []}

    def event(self, stream: Any, timing: bool = False) -> Any:
        """An event that happens when a stream has done what it has been given."""
        driver, _ = start(), current.stream
        spare = self.spare[timing]
        with lock:
            event = spare.pop() if spare else driver.cuEventCreate(0 if timing else 2)
        driver.cuEventRecord(event, stream)
        return event

    def after(self, streams: Iterable[Any], work: Callable[[], Any]) -> None:
        """Call `work`, which may be there to hold an object only."""
        with lock:
            self.settle()
            streams = list(streams)
            self._waiting.append((streams, [self.event(s) for s in streams], work))

    def settle(self, wait: bool = False) -> None:
        """Do what streams have come to, or have yet to come to."""
        with lock:
            waiting, self._waiting = self._waiting, []
            done = start().cuEventSynchronize if wait else start().cuEventQuery
            # What a stream has not come to, all that follows in it waits for.
            late: set[Any] = set()
            for streams, events, work in waiting:
                if late.isdisjoint(streams) and all(map(done, events)):
                    self.spare[False] += events
                    work()
                else:
                    late.update(streams)
                    self._waiting.append((streams, events, work))

    def follow(self, first: Any, stream: Any) -> None:
        """Let a stream go on only when another has done what it has been given."""
        if first != stream:
            event = self.event(first)
            start().cuStreamWaitEvent(stream, event, 0)
            self.spare[False].append(event)


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


later = Later()
pool = Pool("cuMemAlloc", "cuMemFree")
pins = Pool("cuMemAllocHost", "cuMemFreeHost")
