"""The kernel text of products, by tiles in shared memory.

For float32 a block's 256 threads make 128 x 128 elements: for each step in depth a thread reads 16
floats in four loads and does 64 multiplications with additions, which are 512 of the 740 or so
instructions of a slice; 128 registers let two blocks be on a multiprocessor.
"""

import functools
from collections.abc import Iterable

from ..kernels.text import C_TYPE, prologue

_PRODUCT = """def kernel(batch, n, m, k, a_x, a_y, a_z, s_x0, s_x1, s_x2, s_y0, s_y1, s_y2):
    p_x = {kind}_at(a_x)
    p_y = {kind}_at(a_y)
    p_z = {kind}_at(a_z)
    left = shared({left}, T_{kind})
    right = shared({right}, T_{kind})
    t = cuda.threadIdx.x
    down = quotient64(n + {tile} - 1, {tile})
    across = quotient64(m + {tile} - 1, {tile})
    ty = quotient32(t, {wide})
    tx = t - ty * {wide}
    row_x = quotient32(t, {depth})
    column_x = t - row_x * {depth}
    row_y = quotient32(t, {tile})
    column_y = t - row_y * {tile}
{columns}
    far_x = {down} * s_x1
    far_y = {deeper} * s_y1
    w = cuda.blockIdx.x
    while w < batch * down * across:
        b = quotient64(w, down * across)
        rest = w - b * down * across
        top = quotient64(rest, across) * {tile}
        first = rest * {tile} - top * across
        from_x = b * s_x0 + (top + row_x) * s_x1 + column_x * s_x2
        from_y = b * s_y0 + row_y * s_y1 + (first + column_y) * s_y2
        in_y = first + column_y < m
{start}
        d = 0
        in_x = column_x < k
{read}
        while d < k:
{keep}
            cuda.syncthreads()
            d += {depth}
            from_x += {depth} * s_x2
            from_y += {depth} * s_y1
            in_x = d + column_x < k
{read_on}
            e = 0
            while e < {depth}:
{sums}
                e += 1
            cuda.syncthreads()
{ends}
        w += cuda.gridDim.x
"""
_READ = """x_{u} = F(0)
if in_x and top + row_x + {down} < n:
    x_{u} = p_x[at_x]
y_{u} = F(0)
if in_y and d + row_y + {deeper} < k:
    y_{u} = p_y[at_y]
at_x = at_x + far_x
at_y = at_y + far_y"""


def _indented(lines: Iterable[str], pad: str) -> str:
    return "\n".join(pad + line for text in lines for line in text.splitlines())


@functools.cache
def product(dtype: str, tile: int, depth: int, each: int) -> str:
    """A batch of products z = x @ y by tiles in shared memory.

    A block makes `tile` x `tile` elements, a thread `each` x `each` of them, from slices of
    `depth`; it reads the next slice while it multiplies one: `kernel(batch, n, m, k, addresses,
    distances)` with (batch, row, column) distances.
    """
    # Of a column of x, so that the threads that store a row do not meet in a bank.
    apart, wide, four = tile + 4, tile // each, min(each, 4)
    threads = wide * wide
    pairs = [(r, c) for r in range(each) for c in range(each)]
    # Neighbouring elements are one read of 16 bytes; neighbours read next to each other.
    columns = [f"q{c} = {c // four * four * wide + c % four} + tx * {four}" for c in range(each)]
    sums = [f"l{r} = left[e * {apart} + ty * {each} + {r}]" for r in range(each)]
    sums += [f"r{c} = right[e * {tile} + q{c}]" for c in range(each)]
    sums += [f"c{r}_{c} = c{r}_{c} + l{r} * r{c}" for r, c in pairs]
    parts = range(tile * depth // threads)
    down, deeper = threads // depth, threads // tile
    read = ["at_x = from_x", "at_y = from_y"]
    read += [_READ.format(u=u, down=u * down, deeper=u * deeper) for u in parts]
    keep = [f"left[column_x * {apart} + row_x + {u * down}] = x_{u}" for u in parts]
    keep += [f"right[t + {u * threads}] = y_{u}" for u in parts]
    ends = []
    for r in range(each):
        ends += [f"row = top + ty * {each} + {r}", "z = (b * n + row) * m + first", "if row < n:"]
        for c in range(each):
            ends += [f"    if first + q{c} < m:", f"        p_z[z + q{c}] = c{r}_{c}"]
    return "# registers 128\n" + prologue(dtype, ["x * y"]) + _PRODUCT.format(
        kind=C_TYPE[dtype][0], tile=tile, depth=depth, wide=wide,
        left=apart * depth, right=tile * depth, down=down, deeper=deeper,
        columns=_indented(columns, " " * 4),
        start=_indented((f"c{r}_{c} = F(0)" for r, c in pairs), " " * 8),
        read=_indented(read, " " * 8), read_on=_indented(read, " " * 12),
        keep=_indented(keep, " " * 12), sums=_indented(sums, " " * 16),
        ends=_indented(ends, " " * 8),
    )  # fmt: skip
