"""Maps, folds, ops on rows and products of arrays on the GPU: shapes in, launches out."""

import functools
import math
from typing import Any

import numpy as np

from ..errors import DIFFERENT_DEVICES as DIFFERENT
from ..table import ROWWISE, STEPS
from . import blas, text, tiles
from .array import Array, empty, upload
from .compiler import memory
from .driver import start
from .memory import current

# Elements that a part of a fold has at least: fixed, so that the bits do not depend on the GPU.
PART = 1 << 14
# Results from which on a fold over leading dims lets a thread make one alone.
COLUMNS = 32


# What folds of nothing are.
EMPTY = {"sum": 0, "prod": 1, "mean": math.nan}


@functools.lru_cache(maxsize=4096)
def _constant(kind: Any, value: bytes, stream: Any) -> Array:
    return upload(np.frombuffer(value, kind).reshape(()))


_constants: dict[tuple[int, Any], tuple[Any, Array]] = {}


def _whole_constant(host: Any) -> Array:
    """A read-only array, which only the package makes, and keeps."""
    key = id(host), current.stream
    found = _constants.get(key)
    if found is None:
        if len(_constants) >= 64:
            _constants.clear()
        found = _constants[key] = host, upload(host)
    return found[1]


def operand(x: Any, dtype: Any = None) -> Array:
    """What stands for an operand on the GPU: an array that is there, or a number.

    Raises:
        RuntimeError: for an array on the CPU.
    """
    if type(x) is Array:
        return x
    host = np.asarray(x, dtype)
    if host.ndim and host.size:
        if host.flags.writeable:
            raise RuntimeError(DIFFERENT)
        return _whole_constant(host)
    return _constant(host.dtype, host.tobytes(), current.stream) if host.size else upload(host)


def spread(x: Array, shape: tuple[int, ...]) -> Array:
    """The array repeated to a shape."""
    if x.shape == shape:
        return x
    lead = (0,) * (len(shape) - x.ndim)
    own = (0 if n == 1 else s for s, n in zip(x.strides, x.shape, strict=True))
    return Array(memory(shape, x.dtype, x.address, (*lead, *own)), x.block)


def merged(shape: Any, strides: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Dims and strides with as few dims as describe the same positions."""
    lengths: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for d, n in enumerate(shape):
        if n == 1:
            continue
        if lengths and all(s[-1] == own[d] * n for s, own in zip(steps, strides, strict=True)):
            lengths[-1] *= n
            for s, own in zip(steps, strides, strict=True):
                s[-1] = own[d]
            continue
        lengths.append(n)
        for s, own in zip(steps, strides, strict=True):
            s.append(own[d])
    return (lengths, steps) if lengths else ([1], [[0] for _ in strides])


def distances(x: Array) -> list[int]:
    """Strides in elements."""
    return [s // x.itemsize for s in x.strides]


def run(source: str, count: int, words: Any, block: int = 0, grid: Any = None) -> None:
    """Launch the kernel of a text for so many elements, or on a grid."""
    driver = start()
    block = block or driver.threads
    driver.launch(
        driver.load(source), grid or (driver.grid(count), 1), block, words, current.stream
    )


def map_(
    outs: list[Array], ins: list[Array], formulas: Any, names: Any, dtype: Any = None,
    far: str = "",
) -> None:  # fmt: skip
    """outs[k] = formulas[k] over operands that are broadcast to the shape of the outs."""
    shape, count = outs[0].shape, outs[0].size
    if not count:
        return
    ins = [spread(x, shape) for x in ins]
    ins = [_apart(x, outs, far) for x in ins]
    kind = dtype or next((x.dtype for x in ins if x.dtype != np.bool_), ins[0].dtype)
    targets = {f"out{k}": x for k, x in enumerate(outs)}
    lines = [(n, x.dtype.name, f) for (n, x), f in zip(targets.items(), formulas, strict=True)]
    given = dict(zip(names, ins, strict=True))
    source, words = elementwise(shape, given, targets, lines, kind, far)
    run(source, count, words)


def elementwise(
    shape: tuple[int, ...], ins: dict[str, Array], outs: dict[str, Array], lines: Any, dtype: Any,
    far: str = "", folds: tuple[tuple[str, str], ...] = (),
) -> tuple[str, list[int]]:  # fmt: skip
    """The text of a kernel over the positions of a shape (`text.elementwise`), and its words."""
    operands = [*ins.values(), *outs.values()]
    lengths, steps = merged(shape, [distances(x) for x in operands])
    given, made = (tuple((n, x.dtype.name) for n, x in each.items()) for each in (ins, outs))
    source = text.elementwise(
        len(lengths), given, made, tuple(lines), dtype.name, far, folds, start().threads,
        _bits(math.prod(shape)),
    )  # fmt: skip
    words = [math.prod(shape), *lengths[1:], *(x.address for x in operands)]
    return source, words + [s for each in steps for s in each]


def _bits(positions: int) -> int:
    """What positions are counted in, where they are taken apart."""
    return 32 if positions < 1 << 31 else 64


def _apart(x: Array, outs: list[Array], far: str) -> Array:
    """A copy of an operand whose elements a result would overwrite before they are read."""
    for z in outs:
        if x.block is z.block and x.block is not None:
            same = x.address == z.address and x.strides == z.strides and not far
            if not same and np.may_share_memory(x.ghost, z.ghost):
                return copied(x)
    return x


def copied(x: Array, dtype: Any = None, order: str = "C") -> Array:
    """A copy, of another dtype perhaps: contiguous, or (K) with its dims in the same order."""
    made = laid(x.shape, [x] if order == "K" else [], dtype or x.dtype)
    copy(made, x)
    return made


def laid(shape: tuple[int, ...], ins: list[Array], dtype: Any) -> Array:
    """Memory for a result, its dims in the order that NumPy gives it: that of the operands'."""
    if all(x.flags.c_contiguous for x in ins if x.ndim):
        return empty(shape, dtype)
    flags = [*(["readonly"] for _ in ins), ["writeonly", "allocate"]]
    kinds = [*(x.dtype for x in ins), np.dtype(dtype)]
    places = [*(x.ghost for x in ins), None]
    options = ["zerosize_ok", "refs_ok"]
    with np.nditer(places, options, flags, kinds, "K", itershape=shape) as walk:  # type: ignore[call-overload]
        return empty(shape, dtype, walk.operands[-1].strides)


def copy(out: Array, x: Array) -> None:
    """Write elements, converted to the dtype of `out`, and repeated to its shape.

    Half precision is converted on the CPU, and copied as what it is made of.
    """
    if np.float16 in (x.dtype, out.dtype):
        x = x if x.dtype == out.dtype else upload(x.host().astype(out.dtype))
        if out.dtype == np.float16:
            x, out = (Array(v.ghost.view(np.int16), v.block) for v in (x, out))
    map_([out], [x], ("x != 0" if out.dtype == np.bool_ != x.dtype else "x",), ("x",))


def cast(x: Any, dtype: Any = None) -> Array:
    """An operand on the GPU, perhaps of another dtype."""
    if type(x) is not Array:
        x = operand(x if dtype is None or np.ndim(x) else np.asarray(x).astype(dtype))
    return x if dtype is None or x.dtype == dtype else copied(x, dtype, "K")


def fold(
    name: str, ins: list[Array], dims: tuple[int, ...], out: Any, formula: str = "x",
    names: Any = ("x",),
) -> Array:  # fmt: skip
    """A fold of a formula over some dims, which are dropped; `out` is the dtype of the result."""
    full = np.broadcast_shapes(*(x.shape for x in ins))
    ins = [spread(x, full) for x in ins]
    kept = [d for d in range(len(full)) if d not in dims]
    made = empty(tuple(full[d] for d in kept), out)
    if not made.size:
        return made
    total, outer = math.prod(full[d] for d in dims), made.size
    steps = [distances(x) for x in ins]
    over = [[s[d] for d in dims] for s in steps]
    if not total:
        if name not in EMPTY:
            raise ValueError(f"zero-size array to reduction operation {name} which has no identity")
        value = np.array(EMPTY[name], made.dtype)
        copy(made, operand(value))
        return made
    lengths, far = merged([full[d] for d in dims], over)
    shape, near = merged([full[d] for d in kept], [[s[d] for d in kept] for s in steps])
    inner, own = min(abs(f[-1]) for f in far), min(abs(s[-1]) for s in near)
    columns = outer >= COLUMNS and (own < inner or total <= COLUMNS)
    driver = start()
    chunks = min(-(-total // PART), 512) if outer < 4096 else 1
    if columns and outer < 65536:
        chunks = min(max(chunks, -(-total // 256)), 512)
    key = tuple((n, x.dtype.name) for n, x in zip(names, ins, strict=True))
    partial = made if chunks == 1 else empty((chunks, outer), out)
    kind, threads = made.dtype.name, driver.threads
    last, bits = chunks == 1, _bits(max(outer * chunks, total))
    source = text.fold(
        name, key, formula, kind, len(shape), len(lengths), threads, columns, last, bits
    )
    part = -(-total // chunks)
    words = [outer, chunks, total, part, total, *shape[1:], *lengths[1:], partial.address]
    words += [x.address for x in ins]
    words += [s for each in near for s in each] + [s for each in far for s in each]
    _start(source, columns, outer * chunks, words)
    if chunks > 1:
        alone = outer >= COLUMNS
        source = text.fold(name, (("x", kind),), "x", kind, 1, 1, threads, alone, True, 32)
        _start(source, alone, outer, [outer, 1, chunks, chunks, total, made.address,
                                      partial.address, 1, outer])  # fmt: skip
    return made


def _start(source: str, columns: bool, work: int, words: list[int]) -> None:
    run(source, work, words, grid=None if columns else (min(work, start().blocks), 1))


def rows(name: str, ins: list[Array], dim: int) -> Array:
    """An op of `table.ROWWISE` along a dim; its params have the shape without it."""
    row = ROWWISE[name]
    count = len(row.inputs)
    full = np.broadcast_shapes(*(x.shape for x in ins[:count]))
    lead = full[:dim] + full[dim + 1 :]
    made = empty(full, ins[0].dtype)
    if not made.size:
        return made
    move = lambda s: [*s[:dim], *s[dim + 1 :]]
    steps = [distances(spread(x, full)) for x in (*ins[:count], made)]
    params = [distances(spread(x, lead)) for x in ins[count:]]
    outer = [*map(move, steps[:count]), *params, move(steps[-1])]
    lengths, outer = merged(lead, outer)
    number, n = made.size // full[dim], full[dim]
    # Neighbouring threads do neighbouring rows where these lie next to each other, and are many.
    columns = outer[0][-1] < steps[0][dim] and number >= (COLUMNS if n <= 1024 else 4096)
    threads, width, held = _shared_out(n, text.lasting(row) * made.itemsize, columns)
    source = text.rowwise(
        row, made.dtype.name, len(lengths), threads, width, held, columns, _bits(number)
    )
    words = [number, n, *lengths[1:], *(x.address for x in (*ins, made))]
    words += [s for each in outer for s in each] + [s[dim] for s in steps]
    run(source, 0, words, threads, (min(-(-number * width // threads), start().blocks), 1))
    return made


# Bytes of its row that a thread keeps in registers at most: on a GPU, and simulated.
HELD, SMALL_HELD = 256, 16


def _shared_out(n: int, size: int, columns: bool) -> tuple[int, int, int]:
    """Threads of a block and of a row, and elements that a thread keeps (`text.rowwise`).

    size: bytes to keep of an element. A thread has five to eight elements of short rows.
    """
    driver = start()
    most, room = driver.threads, SMALL_HELD if driver.simulated else HELD
    width = min(1 << max((n - 1).bit_length() - 3, 0), max(most // 32, 1) if columns else most)
    if n * size <= width * room:
        return most, width, -(-n // width)
    if columns or n * size > 2 * most * room:
        return most, width, 0
    return 2 * most, 2 * most, -(-n // (2 * most))


def product(x: Array, y: Array, out: Array | None = None) -> Array:
    """`x @ y` of stacks of matrices (..., n, k) and (..., k, m), into memory without gaps."""
    lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    (n, k), m = x.shape[-2:], y.shape[-1]
    made = empty((*lead, n, m), x.dtype) if out is None else out
    if not made.size:
        return made
    x, y = spread(x, (*lead, n, k)), spread(y, (*lead, k, m))
    lengths, steps = merged(lead, [distances(v)[:-2] for v in (x, y)])
    if len(lengths) > 1:
        # Matrices that no one distance leads to are brought together.
        stacks = copied(x).reshape(-1, n, k), copied(y).reshape(-1, k, m)
        return product(*stacks, made.reshape(-1, n, m)).reshape(made.shape)
    if blas.product(x, y, made, lengths[0], steps):
        return made
    tile, depth, each = SMALL_TILES if start().simulated else TILES[made.dtype.name]
    across = tile // each
    source = tiles.product(made.dtype.name, tile, depth, each)
    blocks = lengths[0] * -(-n // tile) * -(-m // tile)
    words = [lengths[0], n, m, k, x.address, y.address, made.address]
    for v, own in ((x, steps[0]), (y, steps[1])):
        words += [own[0], *distances(v)[-2:]]
    run(source, 0, words, across * across, (min(blocks, 1 << 20), 1))
    return made


# Of a block, of a slice in depth, of a thread: on a GPU, and simulated.
TILES = {"float32": (128, 8, 8), "float64": (64, 8, 4)}
SMALL_TILES = (4, 2, 2)


def step(name: str, lines: list[list[Array]], numbers: tuple[float, ...]) -> None:
    """The update of many parameters in one launch."""
    words, grid = table(lines)
    device = _table(words, current.stream)
    source = text.step(STEPS[name], lines[0][0].dtype.name)
    run(source, 0, [device.address, *numbers], grid=grid)


def table(lines: list[list[Array]]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The table of an update of many parameters, and the grid."""
    words = (word for line in lines for word in (*(x.address for x in line), line[0].size))
    return tuple(words), (start().grid(max(line[0].size for line in lines)), len(lines))


@functools.lru_cache(maxsize=64)
def _table(words: tuple[int, ...], stream: Any) -> Array:
    # The pool gives the same addresses again and again. What is dropped may still be read by a
    # stream, so each has its own.
    return upload(np.array(words, np.int64))


def added(made: Array, where: Any, g: Array) -> None:
    """Add rows g[k] to the rows where[k] of `made`, in this order; all are contiguous.

    The order is found on the CPU, where `where` is, so that it is the same every time.
    """
    order = np.argsort(where, kind="stable")
    targets, first = np.unique(where[order], return_index=True)
    width = g.size // max(len(where), 1)
    if not g.size:
        return
    ends = upload(np.append(first, len(where)).astype(np.int64))
    kept = [upload(targets.astype(np.int64)), ends, upload(order.astype(np.int64))]
    words = [len(targets), width, *(x.address for x in (*kept, g, made))]
    run(text.segments(made.dtype.name), len(targets) * width, words)
