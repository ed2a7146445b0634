"""NVIDIA's driver through cuda-python: memory, copies, launches, streams, events and graphs.

`start()` gives the GPU that there is, or one whose driver is `simulator.library`.
"""

import ctypes
import functools
import importlib.util
import os
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import OutOfMemoryError
from . import compiler

Array = np.ndarray[Any, Any]
# After these errors no call to the driver succeeds any more.
LOST = frozenset(
    "CUDA_ERROR_" + name
    for name in "ILLEGAL_ADDRESS LAUNCH_FAILED LAUNCH_TIMEOUT HARDWARE_STACK_ERROR ASSERT "
    "ILLEGAL_INSTRUCTION MISALIGNED_ADDRESS INVALID_ADDRESS_SPACE INVALID_PC ECC_UNCORRECTABLE "
    "NVLINK_UNCORRECTABLE CONTAINED CONTEXT_IS_DESTROYED EXTERNAL_DEVICE".split()
)
# The least compute capability that a release of CUDA makes code for.
OLDEST = {12: (5, 0), 13: (7, 5)}
EXTRAS = "pip install 'microtorch[cuda13]' (or [cuda12], for drivers before release 580)"


class Unavailable(RuntimeError):
    """Why there is no GPU to use, in one sentence."""


class Kernel:
    """A kernel on the device, and room for the words that a launch takes."""

    def __init__(self, handle: Any, kinds: str) -> None:
        self.handle, self.words = handle, struct.Struct(kinds)
        self.room = ctypes.create_string_buffer(8 * len(kinds))
        first = ctypes.addressof(self.room)
        self.places = (ctypes.c_void_p * len(kinds))(*(first + 8 * k for k in range(len(kinds))))
        self.at = ctypes.addressof(self.places)
        # The driver copies the words at each launch; two threads must not mix theirs.
        self.lock = threading.Lock()


class Driver:
    """One GPU, the first that CUDA_VISIBLE_DEVICES shows, in the context that others use too.

    It has the functions of the driver by their names: `cuMemFree(address)`.
    """

    simulated = compiler.SIMULATED
    # Of a block; and the most blocks that a launch has, for each multiprocessor.
    threads, blocks_each = (2, 2) if simulated else (256, 16)

    def __init__(self, cu: Any) -> None:
        """Raises:
        Unavailable: naming what is missing.
        """
        self.cu = cu
        self.process = os.getpid()
        # Waiting for the whole GPU would break off what a thread captures.
        self.whole = threading.RLock()
        try:
            found = cu.cuInit(0)[0]
        except Exception as error:
            words = str(error).partition("\n")[0].partition(". ")[0]
            raise Unavailable(f"No NVIDIA driver was found on this machine ({words}).") from None
        if found == cu.CUresult.CUDA_ERROR_NO_DEVICE:
            raise Unavailable("The NVIDIA driver finds no GPU that this process may use.")
        if found != cu.CUresult.CUDA_SUCCESS:
            raise Unavailable(f"The NVIDIA driver does not start: {self._words(found)}.")
        version, needed = self.cuDriverGetVersion(), toolkit()
        if version // 1000 < needed:
            raise Unavailable(
                f"The NVIDIA driver supports CUDA {version // 1000}.{version % 1000 // 10}, and "
                f"the installed packages need {needed}.0: update the driver, or {EXTRAS}."
            )
        self.count = int(self.cuDeviceGetCount())
        self.device = self.cuDeviceGet(0)
        self.context: Any = None
        kinds = cu.CUdevice_attribute
        read = lambda kind: int(self.cuDeviceGetAttribute(kind, self.device))
        self.capability = (
            read(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            read(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        if self.capability < (oldest := OLDEST.get(needed, (7, 5))):
            found, least = (f"{major}.{minor}" for major, minor in (self.capability, oldest))
            raise Unavailable(
                f"The GPU has compute capability {found}, and the installed packages need {least}: "
                "pip install 'microtorch[cuda12]' for GPUs from 5.0 on."
            )
        self.processors = read(kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.blocks = self.processors * self.blocks_each
        name = self.cuDeviceGetName(128, self.device)
        self.name = name.split(b"\0")[0].decode()

    def _words(self, code: Any) -> str:
        return str(self.cu.cuGetErrorString(code)[1].decode())

    def check(self, answer: tuple[Any, ...]) -> Any:
        """What a call gave: a value, several, or whether what it asks for is done.

        Raises:
            OutOfMemoryError, RuntimeError: if it failed, in the driver's words.
        """
        code, *rest = answer
        if code == self.cu.CUresult.CUDA_SUCCESS:
            return rest[0] if len(rest) == 1 else tuple(rest) or True
        if code == self.cu.CUresult.CUDA_ERROR_NOT_READY:
            return False
        kind = OutOfMemoryError if code.name == "CUDA_ERROR_OUT_OF_MEMORY" else RuntimeError
        lost = code.name in LOST and (
            ". All tensors on the GPU are lost, perhaps to an earlier operation: save what is "
            "on the CPU and start this program anew"
        )
        raise kind(f"CUDA error: {self._words(code)} ({code.name}){lost or ''}")

    def __getattr__(self, name: str) -> Any:
        """A function of the driver, which raises an error instead of giving its code."""
        if not name.startswith("cu"):
            raise AttributeError(name)
        function = getattr(self.cu, name)
        call = self.__dict__[name] = lambda *args: self.check(function(*args))
        return call

    def enter(self) -> None:
        """Make the context current in this thread; the first that enters makes the context."""
        if self.context is None:
            self.context = self.cuDevicePrimaryCtxRetain(self.device)
        self.cuCtxSetCurrent(self.context)

    def wait(self, stream: Any = None) -> None:
        """Wait for a stream, or for everything."""
        if stream is not None:
            self.cuStreamSynchronize(stream)
            return
        with self.whole:
            self.cuCtxSynchronize()

    def copy_in(self, address: int, x: Array, stream: Any, wait: bool = True) -> None:
        """Copy a host array without gaps to the device."""
        self.cuMemcpyHtoDAsync(address, x.ctypes.data, x.nbytes, stream)
        if wait:
            self.wait(stream)

    def copy_out(self, x: Array, address: int, stream: Any, wait: bool = True) -> None:
        """Copy device memory into a host array without gaps."""
        self.cuMemcpyDtoHAsync(x.ctypes.data, address, x.nbytes, stream)
        if wait:
            self.wait(stream)

    # ----------------------------------------------------------------------- launches
    @functools.cache  # noqa: B019
    def load(self, text: str) -> Kernel:
        """The kernel of a text."""
        entry, code = compiler.machine_code(text, self.capability)
        handle = self.cuModuleGetFunction(self.cuModuleLoadData(code), entry.encode())
        return Kernel(handle, compiler.words(text))

    def grid(self, n: int) -> int:
        """Blocks for n elements: enough to fill the GPU, which then strides on."""
        return max(1, min(-(-n // self.threads), self.blocks))

    def launch(
        self, kernel: Kernel, grid: tuple[int, int], block: int, words: Any, stream: Any
    ) -> None:
        """Start a kernel; it runs after all that the stream was given before."""
        with kernel.lock:
            kernel.words.pack_into(kernel.room, 0, *words)
            self.cuLaunchKernel(kernel.handle, *grid, 1, block, 1, 1, 0, stream, kernel.at, 0)

    def captured(self, stream: Any, runs: Iterable[Callable[[], Any]]) -> Any:
        """What functions give a stream, noted instead of done, and ready to run.

        Whatever goes on in other threads, such as memory that is freed, may go on.
        """
        mode = self.cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        with self.whole:
            self.cuStreamBeginCapture(stream, mode)
            try:
                for run in runs:
                    run()
            finally:
                noted = self.cuStreamEndCapture(stream)
        try:
            return self.cuGraphInstantiate(noted, 0)
        finally:
            self.cuGraphDestroy(noted)


def _has_driver() -> bool:
    """Whether NVIDIA's driver is installed."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def toolkit() -> int:
    """The release of CUDA that the installed packages make code for."""
    from importlib.metadata import PackageNotFoundError, version

    for package in ("cuda-bindings", "cuda-python"):
        try:
            return int(version(package).partition(".")[0])
        except PackageNotFoundError:
            continue
    return 0


@functools.cache
def start() -> Any:
    """The GPU, or its simulation where NUMBA_ENABLE_CUDASIM=1.

    Raises:
        Unavailable: where there is none.
    """
    if compiler.SIMULATED:
        from .simulator import library

        return Driver(library)
    if importlib.util.find_spec("numba_cuda") is None:
        lacks = "" if _has_driver() else ", and no NVIDIA driver was found on this machine"
        raise Unavailable(
            f"The packages that microtorch needs for CUDA are not installed{lacks}: {EXTRAS}."
        )
    try:
        from cuda.bindings import driver
    except ImportError as error:
        words = f"NVIDIA's Python packages for CUDA cannot be imported ({error}): {EXTRAS}."
        raise Unavailable(words) from None
    return Driver(driver)


@functools.cache
def problem() -> str | None:
    """Why there is no GPU to use, or None."""
    try:
        start()
    except Unavailable as error:
        return str(error)
    except Exception as error:
        return f"The GPU cannot be used: {error}"
    return None
