"""Rows added up at places given by numbers: the adjoint of taking rows."""

import math
from typing import Any

import numpy as np

from . import jit
from .ufuncs import Array, ByDtype, make_ufunc

# Operands: places (n), rows (n, w), one element for each of m rows of the result (m, w).
_LOOP = """
def loop(args, dims, steps, data):
    a = i64_at(args)
    d = i64_at(dims)
    s = i64_at(steps)
    for k in range(d[0]):
        places = a[0] + k * s[0]
        rows = a[1] + k * s[1]
        out = a[3] + k * s[3]
        for i in range(d[3]):
            z = {t}_at(out + i * s[8])
            for j in range(d[2]):
                z[j] = {t}(0)
        for i in range(d[1]):
            row = i64_at(places + i * s[4])[0]
            row = where(row < 0, row + d[3], row)
            if (row >= 0) & (row < d[3]):
                z = {t}_at(out + row * s[8])
                x = {t}_at(rows + i * s[5])
                for j in range(d[2]):
                    z[j] = z[j] + x[j]
"""


def _make(dtype: np.dtype[Any]) -> Any:
    loop = jit.address("loop", _LOOP.format(t=f"f{8 * dtype.itemsize}"))
    types = [np.dtype(np.int64), dtype, np.dtype(np.bool_), dtype]
    return make_ufunc("rows_added", loop, 0, types, 1, ("call",), "(n),(n,w),(m)->(m,w)")


_KERNELS = ByDtype(_make)
_ONE, _INT64 = np.ones(1, bool), np.dtype(np.int64)


def rows_added(places: Array, g: Array, shape: tuple[int, ...]) -> Array:
    """Zeros of a shape with the rows g[k] added to the rows numbered places[k], in this order.

    places: of one dimension, negative numbers count from the end. g: float32 or float64.
    """
    rows = g if type(g) is np.ndarray and g.flags.c_contiguous else np.ascontiguousarray(g)
    flat = g.ndim == len(shape) == 2
    if not flat:
        rows = rows.reshape(len(places), math.prod(shape[1:]))
    # np.broadcast_to takes 1.8 us.
    counted = np.ndarray(shape[:1], bool, _ONE, 0, (0,))
    if places.dtype is not _INT64:
        places = places.astype(_INT64)
    added = _KERNELS[g.dtype](places, rows, counted)
    return added if flat else added.reshape(shape)  # type: ignore[no-any-return]
