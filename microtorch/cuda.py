"""`torch.cuda`: whether there is a GPU, its streams, events, memory and random numbers.

microtorch uses one GPU, `cuda:0`, the first that CUDA_VISIBLE_DEVICES shows. Where there is none,
`is_available()` is False, seeds are accepted, nothing is allocated, and whatever needs a GPU raises
PyTorch's AssertionError with the reason. Nothing of `microtorch.gpu` is loaded before it is needed.
"""

import contextlib
import importlib.util
import os
import sys
from typing import Any, NamedTuple

from . import random
from .device import check as check_device
from .device import device as Device
from .device import gpu
from .errors import OutOfMemoryError as OutOfMemoryError
from .errors import unknown_names
from .random import seed_gpu
from .tensor import Tensor

# As many streams as PyTorch makes; then they are given out again.
MOST_STREAMS = 32


def is_available() -> bool:
    """Whether tensors can live on a GPU."""
    simulated = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
    installed = simulated or importlib.util.find_spec("numba_cuda") is not None
    return installed and gpu("driver").problem() is None


def why_unavailable() -> str | None:
    """One sentence that says why `is_available()` is False; None where it is True."""
    return gpu("driver").problem()  # type: ignore[no-any-return]


def device_count() -> int:
    """Number of GPUs that can be used: 1 or 0."""
    return int(is_available())


def is_initialized() -> bool:
    """Whether this process has used the GPU."""
    driver = sys.modules.get("microtorch.gpu.driver")
    if driver is None or not driver.start.cache_info().currsize:
        return False
    used = driver.start()
    return used.context is not None and used.process == os.getpid()


def _driver(device: Any = None) -> Any:
    """The driver, after it was made ready for this thread.

    Raises:
        AssertionError: without a GPU, saying why.
        RuntimeError: for the number of a GPU that there is not, and in a forked process.
        ValueError: for a device that is no GPU.
    """
    place = Device("cuda" if device is None else device)
    if place.type != "cuda":
        raise ValueError(f"Expected a cuda device, but got: {place}")
    check_device(place)
    _ = gpu("memory").current.stream
    return gpu("driver").start()


def init() -> None:
    """Begin to use the GPU, which its first use does as well."""
    _driver()


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has done all that it was given."""
    _driver(device).wait()


# -------------------------------------------------------------------------------- devices
class _CudaDeviceProperties(NamedTuple):
    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int


def get_device_properties(device: Any = None) -> _CudaDeviceProperties:
    """What the GPU is: name, compute capability, bytes of memory, multiprocessors."""
    driver = _driver(device)
    (major, minor), (_, total) = driver.capability, driver.cuMemGetInfo()
    return _CudaDeviceProperties(driver.name, major, minor, total, driver.processors)


def get_device_name(device: Any = None) -> str:
    """The GPU's name."""
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The GPU's compute capability, such as (9, 0)."""
    return _driver(device).capability  # type: ignore[no-any-return]


def current_device() -> int:
    """0: the number of the GPU in use."""
    _driver()
    return 0


def set_device(device: Any) -> None:
    """Choose the GPU, of which there is one; a negative number chooses nothing."""
    if not isinstance(device, int) or device >= 0:
        _driver(device)


class device:
    """A block of code in which a GPU is the current one: `with torch.cuda.device(0):`."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __enter__(self) -> None:
        set_device(-1 if self._device is None else self._device)

    def __exit__(self, *_: Any) -> None:
        pass


# --------------------------------------------------------------------- streams and events
class Stream:
    """A queue of work for the GPU, which is done in its order: `with torch.cuda.stream(s):`."""

    _made: list[int] = []
    _next = 0

    def __init__(self, device: Any = None, priority: int = 0, *, stream_ptr: Any = None) -> None:
        self.driver = _driver(device)
        self.device = Device("cuda", 0)
        if stream_ptr is None:
            if len(self._made) < MOST_STREAMS:
                self._made.append(int(self.driver.cuStreamCreate(1)))
            stream_ptr = self._made[Stream._next % len(self._made)]
            Stream._next = (Stream._next + 1) % MOST_STREAMS
        self.cuda_stream: int = stream_ptr

    def query(self) -> bool:
        """Whether nothing is left to do."""
        return self.driver.cuStreamQuery(self.cuda_stream)  # type: ignore[no-any-return]

    def synchronize(self) -> None:
        """Wait until nothing is left to do."""
        self.driver.wait(self.cuda_stream)

    def wait_stream(self, stream: "Stream") -> None:
        """Do what comes now only when another stream has done what it has by now."""
        gpu("memory").later.follow(stream.cuda_stream, self.cuda_stream)

    def wait_event(self, event: "Event") -> None:
        """Do what comes now only when an event has happened."""
        event.wait(self)

    def record_event(self, event: "Event | None" = None) -> "Event":
        """Let an event, or a new one, happen when what the stream has by now is done."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def __enter__(self) -> "Stream":
        current = gpu("memory").current
        current.__dict__.setdefault("before", []).append(current.stream)
        current.stream = self.cuda_stream
        return self

    def __exit__(self, *_: Any) -> None:
        current = gpu("memory").current
        current.stream = current.__dict__["before"].pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.cuda_stream == other.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device=cuda:0 cuda_stream={self.cuda_stream:#x}>"


def current_stream(device: Any = None) -> Stream:
    """The stream of this thread."""
    _driver(device)
    return Stream(stream_ptr=gpu("memory").current.stream)


def default_stream(device: Any = None) -> Stream:
    """The stream that threads begin with."""
    return Stream(device, stream_ptr=0)


def stream(stream: Stream | None) -> Any:
    """A block of code that gives its work to a stream; None changes nothing."""
    return contextlib.nullcontext() if stream is None else stream


def set_stream(stream: Stream) -> None:
    """Give the work of this thread to a stream from now on."""
    _driver()
    gpu("memory").current.stream = stream.cuda_stream


class Event:
    """A place in a stream, to wait for or to take the time at."""

    _handle: Any = None

    def __init__(self, enable_timing: bool = False, blocking: bool = False, **_: Any) -> None:
        self.driver, self._timing = _driver(), enable_timing
        self._spare = gpu("memory").later.spare[enable_timing]

    def record(self, stream: Stream | None = None) -> None:
        """Happen when the stream has done what it has by now."""
        stream, later = stream or current_stream(), gpu("memory").later
        if self._handle is None:
            self._handle = later.event(stream.cuda_stream, self._timing)
        else:
            self.driver.cuEventRecord(self._handle, stream.cuda_stream)

    def query(self) -> bool:
        """Whether it has happened; True if it was not recorded."""
        return self._handle is None or self.driver.cuEventQuery(self._handle)

    def wait(self, stream: Stream | None = None) -> None:
        """Let a stream do what comes now only when this has happened."""
        if self._handle is not None:
            to = (stream or current_stream()).cuda_stream
            self.driver.cuStreamWaitEvent(to, self._handle, 0)

    def synchronize(self) -> None:
        """Wait until it has happened."""
        if self._handle is not None:
            self.driver.cuEventSynchronize(self._handle)

    def elapsed_time(self, end_event: "Event") -> float:
        """Milliseconds from this event to another.

        Raises:
            RuntimeError: unless both have happened.
            ValueError: unless both were made with enable_timing=True and recorded.
        """
        if not (self._timing and end_event._timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self._handle is None or end_event._handle is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        if not (self.query() and end_event.query()):
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return self.driver.cuEventElapsedTime(self._handle, end_event._handle)  # type: ignore[no-any-return]

    def __del__(self) -> None:
        if self._handle is not None:
            self._spare.append(self._handle)


# --------------------------------------------------------------------------------- memory
def memory_stats(device: Any = None) -> dict[str, int]:
    """Bytes in use and held, now and at most, by PyTorch's names; empty before the first use."""
    if not is_initialized():
        return {}
    pool = gpu("memory").pool
    return {
        "allocated_bytes.all.current": pool.allocated, "allocated_bytes.all.peak": pool.most,
        "reserved_bytes.all.current": pool.reserved,
        "reserved_bytes.all.peak": pool.most_reserved,
    }  # fmt: skip


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors occupy."""
    return memory_stats().get("allocated_bytes.all.current", 0)


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that tensors have occupied since `reset_peak_memory_stats`."""
    return memory_stats().get("allocated_bytes.all.peak", 0)


def memory_reserved(device: Any = None) -> int:
    """Bytes that microtorch holds, for tensors that are and tensors to come."""
    return memory_stats().get("reserved_bytes.all.current", 0)


def max_memory_reserved(device: Any = None) -> int:
    """The most bytes that microtorch has held since `reset_peak_memory_stats`."""
    return memory_stats().get("reserved_bytes.all.peak", 0)


def reset_peak_memory_stats(device: Any = None) -> None:
    """Count the most from now on."""
    _driver(device)
    pool = gpu("memory").pool
    pool.most, pool.most_reserved = pool.allocated, pool.reserved


def empty_cache() -> None:
    """Give memory that no tensor occupies back to the driver."""
    if is_initialized():
        _driver()
        gpu("memory").pool.empty()
        gpu("memory").pins.empty()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Bytes of the GPU that are free, and all there are."""
    return _driver(device).cuMemGetInfo()  # type: ignore[no-any-return]


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """What the GPU's memory is used for, in a few lines."""
    free, total = mem_get_info(device)
    shown = gpu("memory").shown
    lines = [f"{get_device_name()}: {shown(free)} of {shown(total)} free"]
    lines += [f"{name}: {shown(size)}" for name, size in memory_stats().items()]
    return "\n".join(lines)


# ------------------------------------------------------------------------- random numbers
def manual_seed(seed: int) -> None:
    """Restart the GPU's default generator, now or when there is one."""
    seed_gpu(seed)


def seed() -> None:
    """Restart the GPU's default generator from the operating system's entropy."""
    seed_gpu()


manual_seed_all, seed_all = manual_seed, seed


def _generator(device: Any = None) -> random.Generator:
    _driver(device)
    return random.default_for(check_device("cuda"))


def initial_seed() -> int:
    """The seed that the GPU's default generator last started from."""
    return _generator().initial_seed()


def get_rng_state(device: Any = "cuda") -> Tensor:
    """The state of the GPU's default generator, 16 bytes on the CPU."""
    return _generator(device).get_state()


def set_rng_state(new_state: Tensor, device: Any = "cuda") -> None:
    """Continue the GPU's default generator from a state of `get_rng_state`."""
    _generator(device).set_state(new_state)


__getattr__ = unknown_names(__name__)
