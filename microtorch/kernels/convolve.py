"""Convolutions with a stride of one as native functions that take images in several threads.

A padded image needs no copies of its windows: as windows move by one pixel, what they see at one
place in them is one run of the image, which starts at that place. So a convolution is a matrix
product whose right factor has its rows at given offsets, and is taken in blocks of ROWS outputs by
COLUMNS vectors, which stay in registers. The few products between the end of one row of the image
and the start of the next are cut away. The gradient of the input is a convolution of the gradient
with the weight turned round. The gradient of the weight is summed by lots of images that do not
depend on the number of threads. Everything else is left to `windows`: large weights gain from
BLAS, which keeps parts of them in the cache.
"""

import ctypes
import functools
import math
from typing import Any

import numpy as np

from . import jit, threads, windows
from .windows import Array, Plan, Windows

COLUMNS = 3
# Fewer multiplications than this are not worth waking a thread for.
LEAST = 500_000
# Bytes of the largest weight, and the fewest outputs.
LARGEST, FEWEST = 1 << 19, 4
LINE = 64
# Most lots of images whose gradients of the weight are summed apart, and the fewest products of a
# lot for each place in the weight: adding a vector up at the end costs as much as some hundred.
LOTS, SPAN = 8, 2048
# The gradients of larger weights are native only for longer runs than this: their sums are read
# from memory and written back once for each image.
SMALL, SHORT = 1 << 15, 128

# The context, as words: 0 lots, 1 images, 2 groups, 3-4 channels and outputs of a group, 5 places
# in a window of a group, 6-7 size of an image, 8-9 of a padded one, 10-11 padding above and to the
# left, 12-13 counts of windows, 14 images, 15 weight, 16 products, 17 where in the image the run of
# each place starts, 18 buffers, 19 bytes of a thread's buffer, 20 memcpy, 21 and 22
# omp_get_thread_num and _num_threads, 23 bias. The weight is in blocks (groups, blocks, places,
# ROWS), as is the bias (groups, blocks, ROWS); the weight's gradient is a plain (lots, groups,
# outputs, places).
_TEXT = """
F, F_at = {c_type}, {c_type}_at
load, store, splat = {c_type}_load, {c_type}_store, {c_type}_splat


{kernel}


def work(context):
    c = i64_at(context)
    lots, images, groups, channels, outputs, places = c[0], c[1], c[2], c[3], c[4], c[5]
    h, w, ph, pw, top, left, oh, ow = c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13]
    offsets = i64_at(c[17])
    me = call(c[21], ()) & 0xFFFFFFFF
    parts = call(c[22], ()) & 0xFFFFFFFF
    run = (oh - 1) * pw + ow
    wide = (run + {width} - 1) // {width} * {width}
    blocks = (outputs + {rows} - 1) // {rows}
    place = c[18] + me * c[19]
    room = c[19] // {size}
    padded = F_at(place)
    plane = ph * pw
    # Vectors may reach over the end of the image.
    more = place + ((groups * channels * plane + {width}) // {lanes} + 1) * {lanes} * {size}
    buffer = F_at(place)
    for i in range(room):
        buffer[i] = F(0)
    for lot in range(lots * me // parts, lots * (me + 1) // parts):
        begin, end = images * lot // lots, images * (lot + 1) // lots
{start}
        for image in range(begin, end):
            source = c[14] + image * groups * channels * h * w * {size}
            for y in range(groups * channels * h):
                at = (y // h * ph + y % h + top) * pw + left
                call(c[20], (place + at * {size}, source + y * w * {size}, w * {size}))
{body}
{end}
"""

_CONV = """
            for block in range(groups * blocks):
                group, first = block // blocks, block % blocks * {rows}
                seen = F_at(place + group * channels * plane * {size})
                weight = F_at(c[15] + block * places * {rows} * {size})
                bias = F_at(c[23] + block * {rows} * {size})
                for j in range(0, run, {width}):
                    multiply(seen, j, offsets, places, weight, bias, F_at(more), wide)
                count = where(outputs - first < {rows}, outputs - first, {rows})
                target = c[16] + ((image * groups + group) * outputs + first) * oh * ow * {size}
                for o in range(count):
                    for y in range(oh):
                        at = more + (o * wide + y * pw) * {size}
                        call(c[20], (target, at, ow * {size}))
                        target += ow * {size}
"""

# Each sum is a vector whose elements are added at the end of the lot.
_START = """
        sums = F_at(more + groups * blocks * {rows} * wide * {size})
        triples = (places + {columns} - 1) // {columns}
        entries = groups * blocks * {rows} * triples * {columns}
        for i in range(entries * {lanes}):
            sums[i] = F(0)
"""

_WEIGHT = """
            for o in range(groups * outputs):
                source = c[16] + (image * groups * outputs + o) * oh * ow * {size}
                row = o // outputs * blocks * {rows} + o % outputs
                for y in range(oh):
                    at = more + (row * wide + y * pw) * {size}
                    call(c[20], (at, source + y * ow * {size}, ow * {size}))
            # Parts of rows that stay in the nearest cache.
            for j in range(0, wide, {part}):
                stop = where(wide - j < {part}, wide, j + {part})
                for block in range(groups * blocks):
                    seen = F_at(place + block // blocks * channels * plane * {size})
                    given = F_at(more + block * {rows} * wide * {size})
                    for k in range(triples):
                        target = (block * triples + k) * {block} * {lanes}
                        gather(seen, given, wide, j, stop, offsets, k * {columns}, sums, target)
"""

_END = """
        result = F_at(c[15] + lot * groups * outputs * places * {size})
        for o in range(groups * outputs):
            block, row = o // outputs * blocks + o % outputs // {rows}, o % outputs % {rows}
            for k in range(places):
                triple = block * triples + k // {columns}
                at = ((triple * {rows} + row) * {columns} + k % {columns}) * {lanes}
                half = i64({lanes})
                while half > 1:
                    half = half >> 1
                    for i in range(half):
                        sums[at + i] += sums[at + half + i]
                result[o * places + k] = sums[at]
"""


def _multiply(rows: int, lanes: int) -> str:
    """One block of products: outputs by columns from j on, to the rows of `out`."""
    block = [(i, k) for i in range(rows) for k in range(COLUMNS)]
    lines = ["def multiply(seen, j, offsets, places, weight, bias, out, wide):"]
    lines += [f"    z{i}_{k} = splat(bias[{i}])" for i, k in block]
    lines += ["    for r in range(places):", "        at = offsets[r] + j"]
    lines += [f"        x{k} = load(seen, at + {k * lanes})" for k in range(COLUMNS)]
    for i in range(rows):
        lines += [f"        w = splat(weight[r * {rows} + {i}])"]
        lines += [f"        z{i}_{k} = fma(w, x{k}, z{i}_{k})" for k in range(COLUMNS)]
    lines += [f"    store(out, {i} * wide + j + {k * lanes}, z{i}_{k})" for i, k in block]
    return "\n".join(lines)


def _gather(rows: int, lanes: int) -> str:
    """One block of sums of products: outputs by places in the window, over part of a run."""
    block = [(i, k) for i in range(rows) for k in range(COLUMNS)]
    lines = ["def gather(seen, given, wide, j, stop, offsets, first, sums, target):"]
    lines += [f"    z{i}_{k} = load(sums, target + {(i * COLUMNS + k) * lanes})" for i, k in block]
    lines += [f"    at{k} = offsets[first + {k}]" for k in range(COLUMNS)]
    lines += [f"    for i in range(j, stop, {lanes}):"]
    lines += [f"        x{k} = load(seen, at{k} + i)" for k in range(COLUMNS)]
    for i in range(rows):
        lines += [f"        g = load(given, {i} * wide + i)"]
        lines += [f"        z{i}_{k} = fma(g, x{k}, z{i}_{k})" for k in range(COLUMNS)]
    lines += [f"    store(sums, target + {(i * COLUMNS + k) * lanes}, z{i}_{k})" for i, k in block]
    return "\n".join(lines)


def _rows() -> int:
    """Rows of a block: with COLUMNS columns they fill the vector registers."""
    return 8 if jit.vector_bytes() == 64 else 4


@functools.cache
def _work(kind: str, dtype: np.dtype[Any]) -> tuple[int, Any]:
    """Address and callable of the native function: 'conv' or 'weight'."""
    rows, lanes = _rows(), jit.vector_bytes() // dtype.itemsize
    numbers = {
        "rows": rows, "lanes": lanes, "columns": COLUMNS, "width": COLUMNS * lanes,
        "block": COLUMNS * rows, "part": COLUMNS * lanes * 16, "size": dtype.itemsize,
    }  # fmt: skip
    conv = kind == "conv"
    start, body, end = ("", _CONV, "") if conv else (_START, _WEIGHT, _END)
    text = _TEXT.format(
        c_type=f"f{dtype.itemsize * 8}",
        kernel=_multiply(rows, lanes) if conv else _gather(rows, lanes),
        start=start.format(**numbers),
        body=body.format(**numbers),
        end=end.format(**numbers),
        **numbers,
    )
    address = jit.address("work", text, "void(i64)")
    return address, ctypes.CFUNCTYPE(None, ctypes.c_int64)(address)


@functools.cache
def _memcpy() -> int:
    return ctypes.cast(ctypes.CDLL(None).memcpy, ctypes.c_void_p).value or 0


@functools.lru_cache(maxsize=256)
def _offsets(plan: Plan, channels: int) -> Array:
    """Where in a padded image of channels the run of each place in a window starts."""
    (ph, pw), (kh, kw), (dh, dw) = plan.at.padded, plan.at.size, plan.at.dilation
    planes, rows, columns = np.arange(channels), np.arange(kh), np.arange(kw)
    found = planes[:, None, None] * (ph * pw) + rows[:, None] * (dh * pw) + columns * dw
    return np.append(found, [0] * COLUMNS).astype(np.int64)


def _run(
    kind: str, x: Array, weight: Array, bias: Array, g: Array, plan: Plan, lots: int
) -> None:  # fmt: skip
    """Fill the products g or the weight, all without gaps, from the others."""
    at, groups, itemsize = plan.at, plan.groups, x.itemsize
    (n, c), outputs = x.shape[:2], g.shape[1] // plan.groups
    offsets = _offsets(plan, c // groups)
    places = offsets.size - COLUMNS
    rows, lanes = _rows(), jit.vector_bytes() // itemsize
    width = COLUMNS * lanes
    padded_rows = -(-outputs // rows) * rows * (1 if kind == "conv" else groups)
    own = c * math.prod(at.padded) + width + padded_rows * -(-plan.run // width) * width
    if kind == "weight":
        own += padded_rows * -(-places // COLUMNS) * COLUMNS * lanes
    # Whole cache lines, with some between the threads.
    own = (own * itemsize // LINE + 4) * LINE
    count = min(threads.get_num_threads(), lots)
    if n * g.shape[1] * places * plan.run < LEAST:
        count = 1
    buffers = np.empty(count * own + LINE, np.uint8)
    start = -(-buffers.ctypes.data // LINE) * LINE
    context = np.array(
        [
            lots, n, groups, c // groups, outputs, places, *at.image, *at.padded, *at.before,
            *at.counts, x.ctypes.data, weight.ctypes.data, g.ctypes.data, offsets.ctypes.data,
            start, own, _memcpy(), *threads.team(),
            bias.ctypes.data,
        ],
        np.int64,
    )  # fmt: skip
    address, work = _work(kind, x.dtype)
    if count == 1:
        work(context.ctypes.data)
    else:
        threads.parallel(address, context.ctypes.data, count)


def _fits(plan: Plan, outputs: int, weight_bytes: int, *arrays: Array) -> bool:
    """Whether the native functions are made for this."""
    return (
        plan.at.stride == (1, 1)
        and weight_bytes <= LARGEST
        and outputs >= FEWEST * plan.groups
        and all(a.size for a in arrays)
        and threads.start()
    )


def conv(x: Array, weight: Array, plan: Plan, bias: Array | None = None) -> Array:
    """Cross-correlation of images (N, C, H, W) with weight (O, C / groups, kh, kw)."""
    n, out, groups = x.shape[0], weight.shape[0], plan.groups
    if type(x) is np.ndarray and plan.few:
        return windows.few_conv(x, weight, plan, bias)
    if type(x) is not np.ndarray or not _fits(plan, out, weight.nbytes, x, weight):
        return windows.conv(x, weight, plan, bias)
    rows, count = _rows(), out // groups
    blocks = -(-count // rows)
    packed = np.zeros((groups, blocks * rows, weight[0].size), x.dtype)
    packed[:, :count] = weight.reshape(groups, count, -1)
    packed = packed.reshape(groups, blocks, rows, -1).swapaxes(2, 3).copy()
    first = np.zeros((groups, blocks * rows), x.dtype)
    if bias is not None:
        first[:, :count] = bias.reshape(groups, count)
    made = np.empty((n, out, *plan.at.counts), x.dtype)
    _run("conv", np.ascontiguousarray(x), packed, first, made, plan, n)
    return made


def conv_input(g: Array, weight: Array, plan: Plan) -> Array:
    """The gradient of a convolution's input: a transposed convolution."""
    at, groups = plan.at, plan.groups
    if type(g) is np.ndarray and plan.few:
        return windows.few_conv_input(g, weight, plan)
    (out, channels), size = weight.shape[:2], weight.shape[2:]
    reach = [d * (k - 1) for d, k in zip(at.dilation, size, strict=True)]
    before: Any = tuple(r - p for r, p in zip(reach, at.before, strict=True))
    after: Any = tuple(r - p for r, p in zip(reach, at.after, strict=True))
    if at.stride != (1, 1) or min(before + after) < 0 or channels < FEWEST:
        return windows.conv_input(g, weight, plan)
    turned = weight[:, :, ::-1, ::-1].reshape(groups, out // groups, channels, *size)
    turned = turned.swapaxes(1, 2).reshape(groups * channels, out // groups, *size)
    back = Plan(Windows(at.counts, at.size, (1, 1), before, after, at.dilation), groups)
    return conv(g, turned, back)


def conv_weight(x: Array, g: Array, plan: Plan) -> Array:
    """The gradient of a convolution's weight."""
    if type(x) is np.ndarray and plan.few:
        return windows.few_conv_weight(x, g, plan)
    shape = (g.shape[1], x.shape[1] // plan.groups, *plan.at.size)
    size, span = math.prod(shape) * x.itemsize, x.shape[0] * plan.run
    slow = type(x) is not np.ndarray or (size > SMALL and (plan.run < SHORT or span < SPAN))
    if slow or not _fits(plan, g.shape[1], size, x, g):
        return windows.conv_weight(x, g, plan)
    lots = 1
    while 2 * lots <= min(LOTS, x.shape[0], span // SPAN):
        lots *= 2
    made = np.empty((lots, *shape), x.dtype)
    _run("weight", np.ascontiguousarray(x), made, made, np.ascontiguousarray(g), plan, lots)
    return made.sum(0)
