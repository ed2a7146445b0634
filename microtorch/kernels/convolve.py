"""Convolutions as one native function that takes images in several threads.

Each thread copies the windows of one image into a buffer of its own, which stays in the cache, and
calls the BLAS that NumPy brings along for one matrix product, in that thread alone: handing the
few dozen small products of a batch from thread to thread costs as much as the products. Where there
is no such BLAS, `windows` does the same with NumPy. The gradient of a weight is summed by lots of
images that do not depend on the number of threads.
"""

import ctypes
import functools
import math
import os
import threading
from typing import Any, NamedTuple

import numpy as np

from . import jit, threads, windows
from .windows import Array, Plan

CONV, INPUT, WEIGHT = 0, 1, 2
# Fewer multiplications than this are not worth waking a thread for.
LEAST = 1_000_000
# Most lots of images whose gradients of the weight are summed apart, and bytes for these sums.
LOTS, SUMS = 16, 1 << 24

# The context, as words: 0 which of the three, 1 lots, 2 images, 3 groups, 4-5 channels and outputs
# of a group, 6-7 size of an image, 8-9 of a padded one, 10-11 of the windows, 12-13 stride,
# 14-15 padding above and to the left, 16-17 dilation, 18-19 counts of windows, 20 images,
# 21 weight, 22 products, 23 buffers, 24 elements of a thread's buffer, 25 gemm, 26 and 27
# omp_get_thread_num and _num_threads. Images are (N, C, H, W); products (N, O, oh, ow).
_TEXT = """
F, F_at = {c_type}, {c_type}_at
SIZE = {size}


def work(context):
    c = i64_at(context)
    kind, lots, images, groups, channels, outputs = c[0], c[1], c[2], c[3], c[4], c[5]
    h, w, ph, pw, kh, kw, sh, sw = c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13]
    top, left, dh, dw, oh, ow = c[14], c[15], c[16], c[17], c[18], c[19]
    me = call(c[26], ()) & 0xFFFFFFFF
    parts = call(c[27], ()) & 0xFFFFFFFF
    # With a step of one pixel, rows of columns run over whole rows of the padded image.
    near = (sh == 1) & (sw == 1)
    row = where(near, pw, ow)
    run = (oh - 1) * row + ow
    depth = channels * kh * kw
    bare = (ph == h) & (pw == w)
    pixels = groups * channels * ph * pw
    own = c[23] + me * c[24] * SIZE
    column_place = own + pixels * SIZE
    product_place = column_place + depth * run * SIZE
    columns, products = F_at(column_place), F_at(product_place)
    # What gemm is given by address: two letters, sizes, leading dimensions, and factors.
    numbers = words(8)
    number = i64_at(numbers)
    number[0], number[1] = 78, 84
    number[2], number[3], number[4] = run, outputs, depth
    plain, turned, runs, out, deep = numbers, numbers + 8, numbers + 16, numbers + 24, numbers + 32
    factors = words(2)
    F_at(factors)[0] = F(1)
    if not bare:
        padded = F_at(own)
        for i in range(pixels):
            padded[i] = F(0)
    for lot in range(lots * me // parts, lots * (me + 1) // parts):
        begin, end = images * lot // lots, images * (lot + 1) // lots
        for image in range(begin, end):
            image_place = c[20] + image * groups * channels * h * w * SIZE
            place = where(bare, image_place, own)
            padded = F_at(place)
            if kind == {INPUT}:
                for i in range(pixels):
                    padded[i] = F(0)
            elif not bare:
                pixel = F_at(image_place)
                for y in range(groups * channels * h):
                    line = (y // h * ph + y % h + top) * pw + left
                    for x in range(w):
                        padded[line + x] = pixel[y * w + x]
            for group in range(groups):
                first = (image * groups + group) * outputs * oh * ow * SIZE
                result = F_at(c[22] + first)
                weight_place = c[21] + group * outputs * depth * SIZE
                if kind == {WEIGHT}:
                    weight_place += lot * groups * outputs * depth * SIZE
                if kind == {CONV}:
                    F_at(factors + 8)[0] = F(0)
                else:
                    # Gradients as rows of products, with zeros between the rows.
                    for i in range(outputs * run):
                        products[i] = F(0)
                    for o in range(outputs):
                        for y in range(oh):
                            line, source = o * run + y * row, (o * oh + y) * ow
                            for x in range(ow):
                                products[line + x] = result[source + x]
                    F_at(factors + 8)[0] = where((kind == {WEIGHT}) & (image > begin), F(1), F(0))
                if kind == {INPUT}:
                    call(c[25], (plain, turned, runs, deep, out, factors, product_place, runs,
                                 weight_place, deep, factors + 8, column_place, runs))
                for k in range(depth):
                    tap = k % (kh * kw)
                    at = (group * channels + k // (kh * kw)) * ph * pw
                    at += tap // kw * dh * pw + tap % kw * dw
                    line = k * run
                    if kind == {INPUT}:
                        if near:
                            for i in range(run):
                                padded[at + i] += columns[line + i]
                        else:
                            for y in range(oh):
                                for x in range(ow):
                                    padded[at + y * sh * pw + x * sw] += columns[line + y * ow + x]
                    elif near:
                        for i in range(run):
                            columns[line + i] = padded[at + i]
                    else:
                        for y in range(oh):
                            for x in range(ow):
                                columns[line + y * ow + x] = padded[at + y * sh * pw + x * sw]
                if kind == {CONV}:
                    call(c[25], (plain, plain, runs, out, deep, factors, column_place, runs,
                                 weight_place, deep, factors + 8, product_place, runs))
                    for o in range(outputs):
                        for y in range(oh):
                            line, target = o * run + y * row, (o * oh + y) * ow
                            for x in range(ow):
                                result[target + x] = products[line + x]
                elif kind == {WEIGHT}:
                    call(c[25], (turned, plain, deep, out, runs, factors, column_place, runs,
                                 product_place, runs, factors + 8, weight_place, deep))
            if (kind == {INPUT}) & (not bare):
                pixel = F_at(image_place)
                for y in range(groups * channels * h):
                    line = (y // h * ph + y % h + top) * pw + left
                    for x in range(w):
                        pixel[y * w + x] = padded[line + x]
    feclearexcept(63)
"""


class Blas(NamedTuple):
    """The BLAS of NumPy: products by dtype, and its number of threads."""

    gemm: dict[np.dtype[Any], int]
    get_threads: Any
    set_threads: Any


@functools.cache
def blas() -> Blas | None:
    """The BLAS and threads to call it in, if there are both."""
    library = threads.blas_library()
    names = ("scipy_sgemm_64_", "scipy_dgemm_64_")
    if not all(hasattr(library, n) for n in (*names, "scipy_openblas_get_num_threads64_")):
        return None
    if not threads.start():
        return None
    sgemm, dgemm = (ctypes.cast(getattr(library, n), ctypes.c_void_p).value or 0 for n in names)
    return Blas(
        {np.dtype(np.float32): sgemm, np.dtype(np.float64): dgemm},
        library.scipy_openblas_get_num_threads64_,
        library.scipy_openblas_set_num_threads64_,
    )


# The number of threads of the BLAS is one for the process; a child must not inherit the lock
# from a thread that it does not have.
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


@functools.cache
def _work(dtype: np.dtype[Any]) -> tuple[int, Any]:
    c_type = f"f{dtype.itemsize * 8}"
    text = _TEXT.format(
        c_type=c_type, size=dtype.itemsize, CONV=CONV, INPUT=INPUT, WEIGHT=WEIGHT
    )  # fmt: skip
    address = jit.address("work", text, "void(i64)")
    return address, ctypes.CFUNCTYPE(None, ctypes.c_int64)(address)


def _run(kind: int, x: Array, weight: Array, g: Array, plan: Plan, lots: int, use: Blas) -> None:
    """Fill one of the three arrays, all without gaps, from the others."""
    at, groups = plan.at, plan.groups
    n, c = x.shape[:2]
    outputs = g.shape[1] // groups
    depth = c // groups * at.size[0] * at.size[1]
    own = c * math.prod(at.padded) + (depth + outputs) * plan.run
    # A few cache lines apart.
    own = -(-own // 64) * 64 + 64
    count = min(threads.get_num_threads(), lots)
    if n * g.shape[1] * depth * plan.run < LEAST:
        count = 1
    buffers = np.empty(count * own, x.dtype)
    context = np.array(
        [
            kind, lots, n, groups, c // groups, outputs, *at.image, *at.padded, *at.size,
            *at.stride, *at.before, *at.dilation, *at.counts, x.ctypes.data, weight.ctypes.data,
            g.ctypes.data, buffers.ctypes.data, own, use.gemm[x.dtype], *threads.team(),
        ],
        np.int64,
    )  # fmt: skip
    address, work = _work(x.dtype)
    if count == 1:
        work(context.ctypes.data)
        return
    with _lock:
        before = use.get_threads()
        use.set_threads(1)
        try:
            threads.parallel(address, context.ctypes.data, count)
        finally:
            use.set_threads(before)


def _plain(*arrays: Array) -> list[Array]:
    return [np.ascontiguousarray(a) for a in arrays]


def conv(x: Array, weight: Array, plan: Plan) -> Array:
    """Cross-correlation of images (N, C, H, W) with weight (O, C / groups, kh, kw)."""
    use = blas()
    if use is None or not x.size or not weight.size:
        return windows.conv(x, weight, plan)
    made = np.empty((x.shape[0], weight.shape[0], *plan.at.counts), x.dtype)
    x, weight = _plain(x, weight)
    _run(CONV, x, weight, made, plan, x.shape[0], use)
    return made


def conv_input(g: Array, weight: Array, plan: Plan) -> Array:
    """The gradient of a convolution's input: a transposed convolution."""
    use = blas()
    if use is None or not g.size or not weight.size:
        return windows.conv_input(g, weight, plan)
    made = np.empty((g.shape[0], weight.shape[1] * plan.groups, *plan.at.image), g.dtype)
    g, weight = _plain(g, weight)
    _run(INPUT, made, weight, g, plan, g.shape[0], use)
    return made


def conv_weight(x: Array, g: Array, plan: Plan) -> Array:
    """The gradient of a convolution's weight."""
    use = blas()
    if use is None or not x.size or not g.size:
        return windows.conv_weight(x, g, plan)
    shape = (g.shape[1], x.shape[1] // plan.groups, *plan.at.size)
    lots = max(1, min(LOTS, x.shape[0], SUMS // (math.prod(shape) * x.itemsize)))
    made = np.empty((lots, *shape), x.dtype)
    x, g = _plain(x, g)
    _run(WEIGHT, x, made, g, plan, lots, use)
    return made.sum(0) if lots > 1 else made[0]
