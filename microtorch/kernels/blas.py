"""NumPy's products in the threads of the kernels: one pool for both.

OpenBLAS has a pool of its own, whose threads go on looking for work after a product, as those of
the kernels do after a loop. With a thread a core each, products and loops in turn took two to ten
times as long, as either pool had to wait until the system took the cores from the other. OpenBLAS
hands its jobs to a function of ours where it has `openblas_set_threads_callback_function`.
"""

import ctypes
import functools
import glob
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from . import jit, link

# The jobs of a product run all at once, as they wait for each other, and under a lock: a number
# stands for a thread's buffers. OpenBLAS's own threads, which some of LAPACK uses beside us, have
# the low ones.
_TEXT = """
def job(context):
    c = i64_at(context)
    s = i64_at(c[4])
    parts = call(s[5], ()) & 0xFFFFFFFF
    k = call(s[4], ()) & 0xFFFFFFFF
    while k < c[3]:
        call(c[0], (c[5] - k, c[1] + k * c[2], 0))
        k += parts

def product(wait, function, count, size, jobs, given):
    w = i64_at(given)
    s = i64_at(w[0])
    call(w[2], (w[4],))
    context = words(6)
    c = i64_at(context)
    c[0] = function
    c[1] = jobs
    c[2] = size
    c[3] = count & 0xFFFFFFFF
    c[4] = w[0]
    c[5] = w[7]
    if call(w[5], ()) & 0xFFFFFFFF:
        # Inside of a parallel region of others, where by default there is one thread.
        call(w[6], (1,))
    call(s[2], (w[1], context, max(c[3], s[0]), 0))
    call(w[3], (w[4],))
"""
_SIX = "void(i64,i64,i64,i64,i64,i64)"
# Where OpenMP may give fewer threads than it is asked for, a product would wait for ever.
_LIMITS = "OMP_THREAD_LIMIT", "OMP_DYNAMIC"
_words, _mutex = np.zeros(8, np.int64), np.zeros(16, np.int64)
# What OpenBLAS is to call, if anything.
_callback = 0


@functools.cache
def _library() -> Any:
    """NumPy's own OpenBLAS, or None."""
    root = os.path.dirname(os.path.dirname(np.__file__))
    places = (
        os.path.join(root, "numpy.libs", "*openblas*"),
        os.path.join(np.__path__[0], ".dylibs", "*openblas*"),
    )
    for path in [found for place in places for found in glob.glob(place)]:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


@functools.cache
def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of OpenBLAS, under whichever name, or None."""
    for known in (f"scipy_{name}64_", name):
        if hasattr(_library(), known):
            found = getattr(_library(), known)
            found.restype, found.argtypes = result, arguments
            return found
    return None


def uses_avx512() -> bool:
    """Whether OpenBLAS has kernels with AVX-512 for this CPU, or it is not known."""
    name = _function("openblas_get_corename", ctypes.c_char_p)
    return name is None or name().decode().lower() in ("skylakex", "cooperlake", "sapphirerapids")


def _most() -> int:
    """The number of threads that OpenBLAS has places for."""
    config = _function("openblas_get_config", ctypes.c_char_p)
    found = config and re.search(rb"MAX_THREADS=(\d+)", config())
    return int(found[1]) if found else 0


def _set_callback(address: int) -> None:
    _function("openblas_set_threads_callback_function", None, ctypes.c_void_p)(address)


def can_share(count: int) -> bool:
    """Whether products can be done in `count` threads of ours."""
    known = _function("openblas_set_threads_callback_function", None, ctypes.c_void_p)
    limited = any(name in os.environ for name in _LIMITS)
    return known is not None and link.available() and not limited and 2 * count <= _most()


def is_shared() -> bool:
    """Whether products are done in threads of ours."""
    return _callback != 0


def share(settings: int, function: Callable[[str], int]) -> None:
    """Have products done in threads of ours.

    settings: the address of those of `threads`. function: the address of a function of OpenMP or
    of the C library.
    """
    global _callback
    job = jit.address("job", _TEXT, "void(i64)")
    names = "pthread_mutex_lock pthread_mutex_unlock", "omp_in_parallel omp_set_nested"
    lock, unlock, inside, nested = map(function, " ".join(names).split())
    last = _most() - 1
    _words[:] = settings, job, lock, unlock, _mutex.ctypes.data, inside, nested, last
    _callback = link.with_last(jit.address("product", _TEXT, _SIX), _words.ctypes.data)
    _set_callback(_callback)
    os.register_at_fork(after_in_child=_alone)


def _alone() -> None:
    """In a child OpenBLAS uses threads of its own, as ours are gone."""
    global _callback
    _callback = _mutex[:] = 0
    _set_callback(0)


def set_num_threads(count: int) -> None:
    """Set the number of threads of NumPy's products, where OpenBLAS makes them."""
    known = _function("openblas_set_num_threads", None, ctypes.c_int)
    if known is not None:
        known(count)
    if _callback:
        _set_callback(_callback if 2 * count <= _most() else 0)
