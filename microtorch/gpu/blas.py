"""cuBLAS through nvmath-python, where that is installed."""

import functools
import threading
from typing import Any

import numpy as np

from .driver import start
from .memory import current

# Of the handle: its stream must not be changed between the choice of one and the product.
_lock = threading.Lock()


@functools.cache
def library() -> Any:
    """The bindings and a handle, or None."""
    if start().simulated:
        return None
    try:
        from nvmath.bindings import cublas

        return cublas, cublas.create()
    except Exception:
        # Without the bindings, or the library that they are for, or memory for its handle.
        return None


def product(x: Any, y: Any, z: Any, batch: int, steps: list[list[int]]) -> bool:
    """z = x @ y for a batch of float matrices of fixed distances; False if cuBLAS cannot.

    Raises:
        RuntimeError: if cuBLAS fails.
    """
    found = library()
    if found is None or not x.size:
        return False
    laid = [_laid(v) for v in (x, y)]
    if None in laid:
        return False
    cublas, handle = found
    (turned_x, lead_x), (turned_y, lead_y) = laid  # type: ignore[misc]
    (n, k), m = x.shape[-2:], y.shape[-1]
    if max(n, k, m, lead_x, lead_y, batch) >= 1 << 31:
        return False
    one, zero = np.ones((), x.dtype), np.zeros((), x.dtype)
    run = cublas.sgemm_strided_batched if x.itemsize == 4 else cublas.dgemm_strided_batched
    # cuBLAS counts columns first: it makes the transpose of z from those of y and x.
    try:
        with _lock:
            cublas.set_stream(handle, int(current.stream))
            run(
                handle, turned_y, turned_x, m, n, k,
                one.ctypes.data, y.address, lead_y, steps[1][0], x.address, lead_x, steps[0][0],
                zero.ctypes.data, z.address, m, n * m, batch,
            )  # fmt: skip
    except cublas.cuBLASError as error:
        raise RuntimeError(f"CUDA error: CUBLAS_STATUS_{error}") from None
    return True


def _laid(x: Any) -> tuple[int, int] | None:
    """Whether matrices are transposed (1) or not (0), and their leading dimension."""
    rows, columns = x.shape[-2:]
    down, across = (s // x.itemsize for s in x.strides[-2:])
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):
        return 0, max(down, columns)
    if (down == 1 or rows == 1) and across >= rows:
        return 1, max(across, rows)
    return None
