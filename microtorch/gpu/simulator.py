"""The functions of NVIDIA's driver that `Driver` calls, on host memory: for tests without a GPU."""

import ctypes
import enum
import struct
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import compiler
from .compiler import FAR

CUresult = enum.Enum(
    "CUresult", "CUDA_SUCCESS CUDA_ERROR_OUT_OF_MEMORY CUDA_ERROR_NO_DEVICE CUDA_ERROR_NOT_READY "
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
)  # fmt: skip
DONE = CUresult.CUDA_SUCCESS


class _Library:
    """A GPU with a memory of `total` bytes; what is not done at once is noted, for a graph."""

    CUresult = CUresult
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)
    # Attributes as their own values.
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=9,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=0,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT=1,
    )
    answers: dict[str, Callable[..., Any]] = {
        "cuDriverGetVersion": lambda: 10**6, "cuDeviceGetCount": lambda: 1,
        "cuDeviceGet": lambda number: number, "cuDeviceGetName": lambda *_: b"Simulated GPU\0",
        "cuDeviceGetAttribute": lambda kind, device: kind, "cuEventCreate": lambda flags: [0.0],
        "cuEventElapsedTime": lambda first, second: 1e3 * (second[0] - first[0]),
        "cuModuleGetFunction": lambda module, name: module,
        "cuGraphInstantiate": lambda notes, flags: notes,
    }  # fmt: skip
    total = 1 << 30

    def __init__(self) -> None:
        self.streams, self.used = 1, 0
        self._held: dict[int, Any] = {}
        self._notes: list[Callable[[], Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        """What has nothing to do succeeds."""
        answer = self.answers.get(name)
        if not name.startswith("cu"):
            raise AttributeError(name)
        return lambda *args: (DONE,) if answer is None else (DONE, answer(*args))

    def _done(self, work: Callable[[], Any]) -> tuple[Any, ...]:
        if self._notes is None:
            work()
        else:
            self._notes.append(work)
        return (DONE,)

    def _at_once(self, work: Callable[[], Any] = lambda: None) -> tuple[Any, ...]:
        """An error while a graph is captured, which would not do this again."""
        if self._notes is not None:
            return CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None
        found = work()
        return (DONE,) if found is None else (DONE, found)

    def cuGetErrorString(self, code: Any) -> tuple[Any, bytes]:
        capturing = code is CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        words = "operation not permitted when stream is capturing" if capturing else code.name
        return DONE, words.encode()

    def cuMemAlloc(self, size: int) -> tuple[Any, Any]:
        if self.used + size > self.total:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY, None

        def allocate() -> int:
            # What is read without being written first is nan.
            made = np.full(size + 256, 255, np.uint8)
            address = -(-made.ctypes.data // 256) * 256 + FAR
            self._held[address] = made
            self.used += size
            return address

        return self._at_once(allocate)  # type: ignore[return-value]

    def cuMemFree(self, address: int) -> tuple[Any]:
        self.used -= self._held.pop(address).nbytes - 256
        return (DONE,)

    def cuMemAllocHost(self, size: int) -> tuple[Any, Any]:
        code, address = self.cuMemAlloc(size)
        return code, address and address - FAR

    def cuMemFreeHost(self, address: int) -> tuple[Any]:
        return self.cuMemFree(address + FAR)

    def cuMemGetInfo(self) -> tuple[Any, int, int]:
        return DONE, self.total - self.used, self.total

    def cuMemcpyHtoDAsync(self, address: int, x: int, size: int, _: Any) -> tuple[Any, ...]:
        return self._at_once(lambda: ctypes.memmove(address - FAR, x, size))

    def cuMemcpyDtoHAsync(self, x: int, address: int, size: int, _: Any) -> tuple[Any, ...]:
        return self._at_once(lambda: ctypes.memmove(x, address - FAR, size))

    def cuMemsetD8Async(self, address: int, byte: int, size: int, _: Any) -> tuple[Any, ...]:
        return self._done(lambda: ctypes.memset(address - FAR, byte, size))

    def cuStreamCreate(self, flags: int) -> tuple[Any, int]:
        self.streams += 1
        return DONE, self.streams

    def cuStreamSynchronize(self, stream: Any = None) -> tuple[Any, ...]:
        return self._at_once()

    cuCtxSynchronize = cuStreamSynchronize

    def cuEventRecord(self, event: Any, stream: Any) -> tuple[Any]:
        event[0] = time.perf_counter()
        return (DONE,)

    def cuModuleLoadData(self, code: bytes) -> tuple[Any, ...]:
        return self._at_once(lambda: compiler.simulated(code.decode()))

    def cuLaunchKernel(self, kernel: Any, *how: Any) -> tuple[Any, ...]:
        run, kinds = kernel
        first = ctypes.c_void_p.from_address(how[8]).value or 0
        words = struct.unpack(kinds, ctypes.string_at(first, 8 * len(kinds)))
        return self._done(lambda: run(how[:2], how[3], *words))

    def cuStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any]:
        self._notes = []
        return (DONE,)

    def cuStreamEndCapture(self, stream: Any) -> tuple[Any, Any]:
        notes, self._notes = self._notes, None
        return DONE, notes

    def cuGraphLaunch(self, graph: Any, stream: Any) -> tuple[Any]:
        for work in graph:
            work()
        return (DONE,)


library = _Library()
