"""Kernel text -> machine code, or a kernel of the CUDA simulator: what names numba.cuda.

A kernel is a function `kernel(...)` whose parameters are all 64-bit: integers (addresses, lengths,
distances in elements), or floats where the name starts with `number_`. Its text may use what
`kernels/jit.py` lists for the CPU (`f32_at(address)` and so on, casts, `where`, `bits`, the
functions of the table), `cuda` with what numba.cuda offers inside kernels (indices, barriers), and
`quotient32(a, b)` of numbers that are not negative, and `shared(n, T_f32)`, an array for all
threads of a block. A first line `# registers 80` is the most that a thread gets. Machine code is
kept on disk as the CPU's is; a later process loads it without Numba.
"""

import ctypes
import functools
import importlib
import math
import operator
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels import store

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
# How far simulated addresses are from those of the host's memory that they stand for: what reads
# one as it is does not work on a GPU either, and ends the process.
FAR = 1 << 60
FUNCTIONS = (
    "exp expm1 log log1p log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh "
    "atanh erf erfc pow sqrt floor fabs copysign rint trunc"
).split()
# What CUDA's library lacks.
_EXTRA = """
def sigmoid(x):
    return F(1) / (F(1) + exp(-x))

def softplus(x):
    return log1p(exp(-fabs(x))) + where(x > F(0), x, F(0))
"""
_IMPORT = re.compile(r"^from vecmath\d+ import .*\n", re.MULTILINE)
_LIMIT = re.compile(r"# registers (\d+)\n")
_SHARED = re.compile(r" = shared\((\w+), (\w+)\)\n")
_HELPER = re.compile(r"^def (\w+)\((.*)\)", re.MULTILINE)
# Types of kernel text, and their names elsewhere.
_TYPES = dict(zip(
    "f32 f64 i8 i16 i32 i64 u8 u16 u32 u64".split(),
    "float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split(),
))  # fmt: skip


def complete(text: str) -> str:
    """The text with functions that are none of the CUDA library's."""
    return _IMPORT.sub(_EXTRA, text)


def words(text: str) -> str:
    """The types of the kernel's parameters as `struct` names them: integers q, floats d."""
    names = dict(_HELPER.findall(text))["kernel"].split(", ")
    return "".join("d" if name.startswith("number_") else "q" for name in names)


# ------------------------------------------------------------------------------------ PTX
def machine_code(text: str, capability: tuple[int, int]) -> tuple[str, bytes]:
    """`(entry, code)` of a kernel text for cards of a compute capability; no driver is needed.

    The simulator's code is the text.
    """
    text = complete(text)
    if SIMULATED:
        return "kernel", text.encode()
    stem = f"cuda-{_key(text, capability)}"
    found = store.read(stem)
    if found is None:
        entry, ptx = _ptx(stem, text, capability)
        limit = _LIMIT.match(text)
        found = entry, _assembled(ptx, capability, [f"-maxrregcount={limit[1]}"] if limit else [])
        store.write(stem, *found, text)
    return found


def _assembled(ptx: bytes, capability: tuple[int, int], options: list[str]) -> bytes:
    """Machine code of PTX by NVIDIA's linker: drivers refuse PTX that is newer than they are."""
    from cuda.bindings import nvjitlink

    options = [f"-arch=sm_{capability[0]}{capability[1]}", *options]
    try:
        handle = nvjitlink.create(len(options), options)
    except nvjitlink.nvJitLinkError:
        # The linker does not know a GPU that is newer; its driver translates PTX itself.
        return ptx + b"\0"
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx, len(ptx), "kernel")
        nvjitlink.complete(handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
    finally:
        nvjitlink.destroy(handle)
    return bytes(code)


def _key(text: str, capability: tuple[int, int]) -> str:
    with open(__file__, "rb") as file:
        own = store.digest(file.read())
    parts = (own, _version(), repr(capability), text)
    return store.digest("\0".join(parts).encode())[:24]


@functools.cache
def _version() -> str:
    # A driver refuses the machine code of a later release of CUDA.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{version('numba-cuda')} for CUDA {version('cuda-bindings')}"
    except PackageNotFoundError:
        return "built into numba " + version("numba")


def _ptx(stem: str, text: str, capability: tuple[int, int]) -> tuple[str, bytes]:
    from numba import types

    cuda: Any = importlib.import_module("numba.cuda")
    text = _SHARED.sub(r" = first_of(cuda.shared.array(\1, \2, alignment=16))\n", text)
    symbol = "mt_" + stem.replace("-", "_")
    scope = {**_vocabulary(), "__name__": "microtorch_" + symbol}
    width = 32 if "F, I, U, D = f32" in text else 64
    scope |= _library(width)
    exec(compile(text, symbol, "exec"), scope)
    for helper in _HELPER.findall(text):
        if helper[0] != "kernel":
            scope[helper[0]] = cuda.jit(device=True, inline="always")(scope[helper[0]])
    kernel = scope["kernel"]
    kernel.__name__ = kernel.__qualname__ = symbol
    kinds = {"q": types.int64, "d": types.float64}
    code, _ = cuda.compile_ptx(kernel, tuple(kinds[k] for k in words(text)), cc=capability)
    entry = re.search(r"\.entry (\S+)\(", code)
    assert entry is not None
    return entry[1], code.encode()


@functools.cache
def _library(width: int) -> dict[str, Any]:
    """CUDA's functions for a width, under the names of the table."""
    from numba.cuda import libdevice

    end = "f" if width == 32 else ""
    return {name: getattr(libdevice, name + end) for name in FUNCTIONS}


@functools.cache
def _vocabulary() -> dict[str, Any]:
    """The other names that kernel text may use."""
    from numba import cuda

    try:
        extending = importlib.import_module("numba.cuda.extending")
        types: Any = importlib.import_module("numba.cuda").types
    except ImportError:
        extending, types = (importlib.import_module(f"numba.{n}") for n in ("extending", "types"))
    intrinsic = extending.intrinsic

    scope: dict[str, Any] = {n: getattr(types, full) for n, full in _TYPES.items()}

    def pointer_to(element: Any) -> Any:
        @intrinsic  # type: ignore[untyped-decorator]
        def at(typing: Any, place: Any) -> Any:
            def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                wide = context.cast(builder, args[0], sig.args[0], types.int64)
                return builder.inttoptr(wide, context.get_value_type(sig.return_type))

            return types.CPointer(element)(place), code

        return at

    @intrinsic  # type: ignore[untyped-decorator]
    def where(typing: Any, condition: Any, a: Any, b: Any) -> Any:
        both = typing.unify_types(a, b)

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            test = context.cast(builder, args[0], sig.args[0], types.boolean)
            yes, no = (context.cast(builder, args[k], sig.args[k], both) for k in (1, 2))
            return builder.select(test, yes, no)

        return both(condition, a, b), code

    @intrinsic  # type: ignore[untyped-decorator]
    def first_of(typing: Any, array: Any) -> Any:
        """A pointer: indices of arrays may be negative in Python, which each would be asked."""

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return context.make_array(array)(context, builder, args[0]).data

        return types.CPointer(array.dtype)(array), code

    def quotient(bits: Any) -> Any:
        @intrinsic  # type: ignore[untyped-decorator]
        def divided(typing: Any, a: Any, b: Any) -> Any:
            def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                pairs = zip(args, sig.args, strict=True)
                both = (context.cast(builder, x, own, bits) for x, own in pairs)
                wide = context.get_value_type(sig.return_type)
                return builder.zext(builder.udiv(*both), wide)

            return types.int64(a, b), code

        return divided

    for n in _TYPES:
        scope[n + "_at"], scope["T_" + n] = pointer_to(scope[n]), scope[n]
    scope |= {f"quotient{bits}": quotient(scope[f"u{bits}"]) for bits in (32, 64)}
    return scope | {"where": where, "first_of": first_of, "cuda": cuda}


# ------------------------------------------------------------------------------ simulator
def simulated(text: str) -> tuple[Callable[..., None], str]:
    """`launch(grid, block, *arguments)`, which runs the kernel thread by thread on host memory.

    And the arguments as `struct` names them.
    """
    from numba import cuda

    scope = {**_simulated_names(), "cuda": cuda}
    exec(compile(text, "kernel", "exec"), scope)
    kernel = cuda.jit(scope["kernel"])
    _wait_for_threads(sys.modules[type(kernel).__module__])

    def launch(grid: tuple[int, int], block: int, *arguments: Any) -> None:
        # Each simulated thread is one of Python's, with NumPy's default warnings.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kernel[grid, block](*arguments)

    return launch, words(text)


@functools.cache
def _wait_for_threads(simulator: Any) -> None:
    """Let the simulator wait for the threads of a block.

    Numba's asks each of them in a loop whether it is done, which takes longer than what they do.
    """

    class Block(simulator.BlockManager):  # type: ignore[misc]
        def run(self, place: Any, *args: Any) -> None:
            self.turns, self.live, self.waiting, self.turn = threading.Condition(), 0, 0, 0

            def work() -> None:
                try:
                    self._f(*args)
                finally:
                    self.arrive(ends=True)

            threads = [simulator.BlockThread(work, self, place, own, self._debug)
                       for own in np.ndindex(*self._block_dim)]  # fmt: skip
            self.live = len(threads)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for thread in threads:
                if thread.exception:
                    raise thread.exception[0].with_traceback(thread.exception[1])

        def arrive(self, ends: bool = False) -> None:
            """A thread is at a barrier, where it waits for all that live, or at its end."""
            with self.turns:
                turn = self.turn
                self.live, self.waiting = self.live - ends, self.waiting + (not ends)
                if self.waiting == self.live:
                    self.waiting, self.turn = 0, turn + 1
                    self.turns.notify_all()
                while not ends and self.turn == turn:
                    self.turns.wait()

    simulator.BlockManager = Block
    simulator.BlockThread.syncthreads = lambda thread: thread._manager.arrive()


class _Pointer:
    """What an address points to, as an array that has no end."""

    def __init__(self, dtype: np.dtype[Any], address: Any) -> None:
        self._dtype, self._first = dtype, int(address) - FAR

    def _at(self, i: Any) -> Any:
        return memory((), self._dtype, self._first + int(i) * self._dtype.itemsize)

    def __getitem__(self, i: Any) -> Any:
        return self._at(i)[()]

    def __setitem__(self, i: Any, value: Any) -> None:
        self._at(i)[...] = value


# All of memory: an array made on it costs 0.3 us, and nothing is read before it is asked for.
_EVERYTHING = (ctypes.c_char * 2**62).from_address(1)


class Ghost(np.ndarray[Any, Any]):
    """An array whose elements nobody reads; not even a debugger, to show it."""

    def __repr__(self) -> str:
        return f"<{self.dtype} of shape {self.shape} at {self.ctypes.data:#x}>"

    __str__ = __repr__


def memory(
    shape: tuple[int, ...], dtype: Any, address: int, strides: tuple[int, ...] | None = None
) -> Ghost:
    """An array that lies at an address, which need not be readable; strides in bytes."""
    return Ghost(shape, dtype, _EVERYTHING, address - 1, strides)  # type: ignore[arg-type]


@functools.cache
def _simulated_names() -> dict[str, Any]:
    from numba import types

    scope: dict[str, Any] = {}
    for n, full in _TYPES.items():
        dtype = np.dtype(full)
        scope[n] = dtype.type if n[0] == "f" else functools.partial(_cast, dtype)
        scope[n + "_at"] = functools.partial(_Pointer, dtype)
        scope["T_" + n] = getattr(types, dtype.name)
    other = {n: n.replace("a", "arc", 1) for n in FUNCTIONS if n[0] == "a"} | {"pow": "power"}
    scope |= {n: getattr(np, other.get(n, n)) for n in FUNCTIONS if not n.startswith("erf")}
    scope["erf"] = lambda x: type(x)(math.erf(x))
    scope["erfc"] = lambda x: type(x)(math.erfc(x))
    scope["where"] = lambda c, x, y: x if c else y
    scope["quotient32"] = scope["quotient64"] = operator.floordiv
    scope["shared"] = _shared
    return scope


def _shared(count: int, kind: Any) -> Any:
    """An array for all threads of a block; Numba's own gives two that ask at once one each."""
    thread: Any = threading.current_thread()
    key = f"shared {thread.blockIdx} {sys._getframe(1).f_lineno}"
    made = np.empty(count, kind.name)
    return vars(thread._manager).setdefault(key, made)


def _cast(dtype: np.dtype[Any], x: Any) -> Any:
    return np.asarray(x).astype(dtype)[()]
