"""Loops over many elements, shared among threads by the OpenMP runtime where there is one.

`share(loop, operands)` wraps a compiled loop: one generic piece of code cuts the elements into
equal parts and hands them to GOMP_parallel. Elementwise loops give the same bits however they are
cut. Large products run in the same threads (`gemm.py`): OpenBLAS has a pool of its own, and two
pools that wait actively slow each other down tenfold. So ours does not wait for long
(GOMP_SPINCOUNT, set while the library is loaded). A forked child runs everything in one thread, as
OpenMP does not survive a fork.
"""

import contextlib
import ctypes
import functools
import os
import sys
from typing import Any

import numpy as np

from . import blas, jit, link

# Below this many elements a loop is not worth waking a thread for: one that calls functions of
# vecmath (0.5 ns an element and more), and one of arithmetic alone (0.05 ns).
LEAST = 40_000
LEAST_CHEAP = 80_000
# Rounds that a thread waits actively for more work, some 100 us.
SPIN = "4000"

# threads, addresses of GOMP_barrier, of GOMP_parallel, of `part`, and of the functions that give
# a thread's number and how many there are.
_settings = np.zeros(6, np.int64)
# How many threads there can be.
_most = sys.maxsize

# A part of a loop over elements, whose ends are rounded, or over rows, which have a length too.
_PART = """
def part(context):
    c = i64_at(context)
    settings = i64_at(c[5])
    me = call(settings[4], ()) & 0xFFFFFFFF
    parts = call(settings[5], ()) & 0xFFFFFFFF
    n = c[2]
    low = ((n * me) // parts) & c[6]
    high = ((n * (me + 1)) // parts) & c[6]
    if me == parts - 1:
        high = n
    operands = words(32)
    a = i64_at(operands)
    for k in range(c[4]):
        a[k] = i64_at(c[1])[k] + low * i64_at(c[3])[k]
    lengths = words(2)
    i64_at(lengths)[0] = high - low
    i64_at(lengths)[1] = c[7]
    call(c[0], (operands, lengths, c[3], 0))
"""

_SHARED = """
def shared(args, dims, steps, data):
    d = i64_at(data)
    settings = i64_at(d[2])
    n = i64_at(dims)[0]
    row = 1
    if d[4]:
        row = i64_at(dims)[1]
    if settings[0] < 2 or n * row < d[3]:
        call(d[0], (args, dims, steps, 0))
    else:
        context = words(8)
        c = i64_at(context)
        c[0] = d[0]
        c[1] = args
        c[2] = n
        c[3] = steps
        c[4] = d[1]
        c[5] = d[2]
        c[6] = -64 + 63 * d[4]
        c[7] = row
        call(settings[2], (settings[3], context, settings[0], 0))
"""


# The first words of a compiled program's table: settings, `program(table, which, me, parts)`, the
# addresses of `member` and of GOMP_barrier, whether threads share it. Its own words come after.
BARRIER, FIRST = 3, 5
_TEAM = """
def member(context):
    c = i64_at(context)
    s = i64_at(c[3])
    me = call(s[4], ()) & 0xFFFFFFFF
    parts = call(s[5], ()) & 0xFFFFFFFF
    call(c[0], (c[1], c[2], me, parts))

def run(t, which):
    table = i64_at(t)
    s = i64_at(table[0])
    if table[4] and s[0] > 1 and s[2]:
        context = words(4)
        c = i64_at(context)
        c[0] = table[1]
        c[1] = t
        c[2] = which
        c[3] = table[0]
        call(s[2], (table[2], context, s[0], 0))
    else:
        call(table[1], (t, which, 0, 1))
"""


def program(address: int, shared: bool) -> tuple[list[int], int]:
    """The first words of a program's table, and the address of `run(table, which)`."""
    shared = start() and shared
    words = [settings(), address, 0, 0, shared]
    if shared:
        words[2:4] = jit.address("member", _TEAM, "void(i64)"), int(_settings[1])
    return words, jit.address("run", _TEAM, "void(i64,i64)")


def share(loop: int, operands: int, cheap: bool, rows: bool = False) -> tuple[int, int]:
    """`(loop, data)` of a ufunc whose long runs, or many rows, are shared among threads."""
    if not start():
        return loop, 0
    least = LEAST_CHEAP if cheap else LEAST
    data = np.array([loop, operands, settings(), least, rows], np.int64)
    link.keep(data)
    return jit.address("shared", _SHARED), data.ctypes.data


@functools.cache
def start() -> bool:
    """Load the OpenMP runtime; False where there is none."""
    before = os.environ.get("GOMP_SPINCOUNT")
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    try:
        gomp = ctypes.CDLL("libgomp.so.1")
        names = "GOMP_barrier GOMP_parallel omp_get_thread_num omp_get_num_threads".split()
        functions = [address(getattr(gomp, name)) for name in names]
    except (OSError, AttributeError):
        return False
    finally:
        if before is None:
            # Another thread may have been here meanwhile.
            os.environ.pop("GOMP_SPINCOUNT", None)
    barrier, parallel, me, parts = functions
    part = jit.address("part", _PART, "void(i64)")
    _settings[:] = (_settings[0] or _cores(), barrier, parallel, part, me, parts)
    link.keep(_settings)
    os.register_at_fork(after_in_child=_alone)
    return True


def address(function: Any) -> int:
    """Where a function of C's is."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def parallel(work: int, context: int, count: int) -> None:
    """Call `work(context)` in `count` threads of a runtime that has been started."""
    _parallel()(work, context, count, 0)


def settings() -> int:
    """The address of the settings."""
    return int(_settings.ctypes.data)


def team() -> tuple[int, int]:
    """Addresses of omp_get_thread_num and omp_get_num_threads."""
    return int(_settings[4]), int(_settings[5])


@functools.cache
def _parallel() -> Any:
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    return kind(int(_settings[2]))


def _alone() -> None:
    global _most
    _settings[0] = _most = 1


def _cores() -> int:
    """As many as OMP_NUM_THREADS says, which OpenBLAS follows too, or the cores that this process
    may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given):
        return int(given)
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_num_threads() -> int:
    """Number of threads that kernels and products use."""
    return int(_settings[0]) or _cores()


def set_num_threads(count: int) -> None:
    """Set the number of threads that kernels, and NumPy's products, use; in a forked child,
    kernels stay in one.

    Raises:
        RuntimeError: if count is not positive.
    """
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"set_num_threads expects an int, but got {type(count).__name__}")
    if count < 1:
        raise RuntimeError("set_num_threads expects a positive integer")
    _settings[0] = min(count, _most)
    blas.set_num_threads(count)
