"""Products of matrices of any strides, with fused multiply-add.

A block of rows by two vectors of columns is summed in registers over up to DEPTH of the inner
dimension; the columns are copied into a panel first, which stays in the nearest cache. Threads take
parts of the longer of rows and columns, or some of a stack. It takes about OpenBLAS's time, half of
it where that does not use the CPU's AVX-512 (as on CPUs that are newer than it), and runs in the
threads that loops run in. Large products of eager mode are these, and those of compiled programs.
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from . import blas, jit, native, threads
from .ufuncs import Array, ByDtype

DEPTH = 256
# Products of fewer rows are OpenBLAS's.
FEW = 4
# Of so many multiplications on, products are these, up to so many where OpenBLAS is as fast.
LEAST, MOST = 1 << 18, 1 << 27
# Of more multiplications, they are shared among threads, and other Python threads may run.
SHARED = 1 << 19
# Of fewer elements in the first matrix, they need not be asked about.
FIRST = 2048
_DTYPES = np.dtype(np.float32), np.dtype(np.float64)

_GEMM = """
def packed(panel, b, by_row, by_column, depth, width):
    for top in range(0, depth, 32):
        bottom = where(top + 32 < depth, top + 32, depth)
        if by_column == 1:
            for k in range(top, bottom):
                for j in range(width):
                    panel[{width}*k + j] = b[k*by_row + j]
        else:
            for j in range(width):
                for k in range(top, bottom):
                    panel[{width}*k + j] = b[k*by_row + j*by_column]
        for k in range(top, bottom):
            for j in range(width, {width}):
                panel[{width}*k + j] = 0

def gemm(x, y, z, sizes, me, parts):
    s = i64_at(sizes)
    n, depth, m, c_row = s[0], s[1], s[2], s[7]
    a_row, a_column, b_row, b_column = s[3], s[4], s[5], s[6]
    a, b, c = {f}_at(x), {f}_at(y), {f}_at(z)
    panel = {f}_at(words({panel}))
    tile = {f}_at(words({tile}))
    top, bottom, left, right = i64(0), n, i64(0), m
    blocks = (m + {width} - 1) // {width}
    if (m >= n) & (blocks >= parts):
        left = blocks*me // parts * {width}
        right = min(m, blocks*(me + 1) // parts * {width})
    else:
        blocks = (n + {rows} - 1) // {rows}
        top = blocks*me // parts * {rows}
        bottom = min(n, blocks*(me + 1) // parts * {rows})
    for first in range(0, max(depth, 1), {depth}):
        count = min(depth - first, {depth})
        for j in range(left, right, {width}):
            width = min(right - j, {width})
            if top < bottom:
                corner = {f}_at(y + {size}*(first*b_row + j*b_column))
                packed(panel, corner, b_row, b_column, count, width)
            for i in range(top, bottom, {rows}):
{before}
                for k in range(count):
{inner}
{after}
                for r in range(min({rows}, bottom - i)):
                    at = (i + r)*c_row + j
                    if first == 0:
                        for q in range(width):
                            c[at + q] = tile[{width}*r + q]
                    else:
                        for q in range(width):
                            c[at + q] += tile[{width}*r + q]
"""


def _block(size: int) -> tuple[int, int]:
    """Rows and columns of sums: as there are registers for, beside two of b and one of a."""
    return 12 if jit.vector_bytes() == 64 else 6, 2 * jit.vector_bytes() // size


@functools.cache
def address(dtype: str) -> int:
    """The function `gemm(a, b, c, sizes, me, parts)`: addresses, and the part of one thread.

    sizes: words n, k and m, then the steps in elements of a's rows and columns, of b's rows and
    columns, and of c's rows, whose columns are contiguous.
    """
    size = {"float32": 4, "float64": 8}[dtype]
    f, lanes = f"f{8 * size}", jit.vector_bytes() // size
    rows, width = _block(size)
    before, inner, after = [], [], []
    for r in range(rows):
        before.append(f"a{r} = min(i + {r}, bottom - 1)*a_row + first*a_column")
        inner.append(f"x = {f}_splat(a[a{r} + k*a_column])")
        for v in range(2):
            before.append(f"c{r}_{v} = {f}_splat({f}(0))")
            inner.append(f"c{r}_{v} = fma(x, b{v}, c{r}_{v})")
            after.append(f"{f}_store(tile, {width * r + lanes * v}, c{r}_{v})")
    inner[:0] = [f"b{v} = {f}_load(panel, {width}*k + {lanes * v})" for v in range(2)]
    text = _GEMM.format(
        f=f, size=size, rows=rows, width=width, depth=DEPTH, panel=DEPTH * width * size // 8,
        tile=rows * width * size // 8, before="\n".join(" " * 16 + line for line in before),
        inner="\n".join(" " * 20 + line for line in inner),
        after="\n".join(" " * 16 + line for line in after),
    )  # fmt: skip
    return jit.address("gemm", text, "void(i64,i64,i64,i64,i64,i64)")


# The products of a stack: each thread takes some, or a part of each. Words: 0 `gemm`, 1 to 3 a, b
# and c, 4 sizes, 5 how many, 6 to 8 bytes from one to the next, 9 and 10 those of `threads.team`.
_STACK = """
def stack(w, me, parts):
    count, low, high = w[5], i64(0), w[5]
    if count >= parts:
        low, high = count*me // parts, count*(me + 1) // parts
        me, parts = i64(0), i64(1)
    for i in range(low, high):
        call(w[0], (w[1] + i*w[6], w[2] + i*w[7], w[3] + i*w[8], w[4], me, parts))
"""
_PART = (
    _STACK
    + """
def part(context):
    w = i64_at(context)
    stack(w, call(w[9], ()) & 0xFFFFFFFF, call(w[10], ()) & 0xFFFFFFFF)
"""
)
# The context: 0 ndarray, 1 dtype, 2 log2 of the item size, 3 PyObject_Vectorcall, 4 what is called
# instead, 5 `gemm`, 6 None, 7 Py_IncRef, 8 the least multiplications, 9 settings of `threads`,
# 10 `part`, 11 PyEval_SaveThread, 12 PyEval_RestoreThread. Of an array object see `native`.
_INTO = (
    _STACK
    + f"""
def kernel(self, args, nargs, names):
    c = i64_at(self + {{bytes}})
    given = i64_at(args)
    sizes, context = words(8), words(11)
    s, w = i64_at(sizes), i64_at(context)
    d = i64(0)
    good = (nargs == 3) & (names == 0)
    if good:
        for k in range(3):
            x = i64_at(given[k])
            if x[1] != c[0]:
                good = False
                break
            flags, rank = i32_at(given[k] + 64)[0], i64(i32_at(given[k] + 24)[0])
            if k == 0:
                d = rank - 2
            good = good & (x[7] == c[1]) & (rank == d + 2) & ((d == 0) | (d == 1))
            good = good & ((flags & 0x100) != 0) & ((k < 2) | ((flags & 0x401) == 0x401))
    if good:
        a, b, z = i64_at(given[0]), i64_at(given[1]), i64_at(given[2])
        n, depth, m = i64_at(a[4])[d], i64_at(a[4])[d + 1], i64_at(b[4])[d + 1]
        w[5] = 1
        for k in range(3):
            x = i64_at(given[k])
            if d == 1:
                good = good & (i64_at(x[4])[0] == i64_at(a[4])[0])
                w[5], w[6 + k] = i64_at(a[4])[0], i64_at(x[5])[0]
        work = n * depth * m
        good = good & (depth == i64_at(b[4])[d])
        good = good & (n == i64_at(z[4])[d]) & (m == i64_at(z[4])[d + 1])
        good = good & (n >= {FEW}) & (m * depth > 0) & (work * w[5] >= c[8])
    if not good:
        return call(c[3], (c[4], args, nargs, names))
    s[0], s[1], s[2], s[7] = n, depth, m, m
    s[3], s[4] = i64_at(a[5])[d] >> c[2], i64_at(a[5])[d + 1] >> c[2]
    s[5], s[6] = i64_at(b[5])[d] >> c[2], i64_at(b[5])[d + 1] >> c[2]
    w[0], w[1], w[2], w[3], w[4] = c[5], a[2], b[2], z[2], sizes
    if work * w[5] < {SHARED}:
        stack(w, 0, 1)
    else:
        settings = i64_at(c[9])
        w[9], w[10] = settings[4], settings[5]
        state = call(c[11], ())
        if (settings[0] > 1) & (settings[2] != 0):
            call(settings[2], (c[10], context, settings[0], 0))
        else:
            stack(w, 0, 1)
        call(c[12], (state,))
    call(c[7], (c[6],))
    return c[6]
"""
)


@functools.cache
def _range() -> tuple[int, int]:
    """The least and the most multiplications for which this is as fast as OpenBLAS."""
    if jit.vector_bytes() < 32 or not native.available():
        return sys.maxsize, 0
    if jit.vector_bytes() == 64:
        return 0, MOST if blas.uses_avx512() else sys.maxsize
    return LEAST, MOST


def _into(dtype: np.dtype[Any]) -> Callable[..., None]:
    def instead(a: Any, b: Any, out: Any) -> None:
        # np.dot is twice as fast for small matrices.
        (np.dot if out.ndim == 2 else np.matmul)(a, b, out=out)

    least, most = _range()
    if not most:
        return instead
    threads.start()
    at = jit.address("kernel", _INTO.format(bytes=native.BYTES), "i64(i64,i64,i64,i64)")
    vectorcall, _, incref = native.api()
    python = ctypes.pythonapi
    save, restore = map(threads.address, (python.PyEval_SaveThread, python.PyEval_RestoreThread))
    context = [
        id(np.ndarray), id(dtype), dtype.itemsize.bit_length() - 1, vectorcall, id(instead),
        address(dtype.name), id(None), incref, least,
        threads.settings(), jit.address("part", _PART, "void(i64)"), save, restore,
    ]  # fmt: skip
    return native.builtin("product", at, context, (instead, dtype))


# `into[dtype](a, b, out)` writes a @ b of matrices, or of as many in stacks, into memory without
# gaps and apart from both. Small ones are multiplied here, where that is faster than OpenBLAS.
into = ByDtype(_into)


def dot(x: Array, y: Array) -> Array:
    """`np.dot`, or faster."""
    small = x.size < FIRST or type(x) is not np.ndarray or x.ndim * y.ndim != 4
    if small or not _fits(x, y, 24, 1.5):
        return np.dot(x, y)  # type: ignore[no-any-return]
    out = np.empty((x.shape[0], y.shape[1]), x.dtype)
    into[x.dtype](x, y, out)
    return out


def matmul(x: Array, y: Array) -> Array:
    """`np.matmul` of stacks of matrices, or faster."""
    if type(x) is not np.ndarray or not _fits(x, y, 16, 2.0):
        return np.matmul(x, y)  # type: ignore[no-any-return]
    stacks = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    out = np.empty((*stacks, x.shape[-2], y.shape[-1]), x.dtype)
    operands = [np.broadcast_to(a, stacks + a.shape[-2:]) for a in (x, y)]
    while stacks and stacks[-1] == 1:
        operands, stacks = [a[..., 0, :, :] for a in operands], stacks[:-1]
    into_stack, target = into[x.dtype], out.reshape(*stacks, *out.shape[-2:])
    for k in np.ndindex(stacks[:-1]):
        into_stack(*(a[k] for a in operands), target[k])
    return out


def _fits(x: Array, y: Array, rows: int, waste: float) -> bool:
    """Whether this is faster for two arrays, the first of which is NumPy's.

    rows: the least number of rows. waste: what is computed comes in blocks, and may be so many
    times what is wanted.
    """
    if type(y) is not np.ndarray or min(x.ndim, y.ndim) < 2:
        return False
    if x.dtype is not y.dtype or x.dtype not in _DTYPES:
        return False
    (n, depth), (inner, m) = x.shape[-2:], y.shape[-2:]
    work = max(x.size * m, y.size * n)
    if depth != inner or n < rows or not LEAST <= work <= _range()[1]:
        return False
    block, width = _block(x.dtype.itemsize)
    return -(-n // block) * block * -(-m // width) * width <= waste * n * m
