"""NumPy's own OpenBLAS: its number of threads, and what it uses of this CPU."""

import ctypes
import functools
import glob
import os
from typing import Any

import numpy as np


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


@functools.cache
def uses_avx512() -> bool:
    """Whether OpenBLAS has kernels with AVX-512 for this CPU, or it is not known."""
    name = _function("openblas_get_corename", ctypes.c_char_p)
    return name is None or name().decode().lower() in ("skylakex", "cooperlake", "sapphirerapids")


def set_num_threads(count: int) -> None:
    """Set the number of threads of NumPy's products, where OpenBLAS makes them."""
    known = _function("openblas_set_num_threads", None, ctypes.c_int)
    if known is not None:
        known(count)
