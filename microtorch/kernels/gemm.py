"""Products of matrices of any strides, with fused multiply-add, for compiled programs.

A block of rows by two vectors of columns is summed in registers over up to DEPTH of the inner
dimension; the columns are copied into a panel first, which stays in the nearest cache. On CPUs
with AVX-512 this is faster than OpenBLAS where that does not use it; threads take parts of the
longer of rows and columns.
"""

import functools

from . import jit

DEPTH = 256

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
    if m >= n:
        blocks = (m + {width} - 1) // {width}
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


@functools.cache
def address(dtype: str) -> int:
    """The function `gemm(a, b, c, sizes, me, parts)`: addresses, and the part of one thread.

    sizes: words n, k and m, then the steps in elements of a's rows and columns, of b's rows and
    columns, and of c's rows, whose columns are contiguous.
    """
    size = {"float32": 4, "float64": 8}[dtype]
    f, lanes = f"f{8 * size}", jit.vector_bytes() // size
    # As many sums as there are registers for, beside two of b and one of a.
    rows, width = 12 if jit.vector_bytes() == 64 else 6, 2 * lanes
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
