"""PyTorch's CPU random stream: one MT19937 engine and the fills that read it, compiled.

A `Stream` is 628 32-bit words, all there is to save: the engine's 624, the number of them that
are used up, and the value that the last single normal left over. A fill draws its raw words
straight into the destination (an element takes as many bytes as the words it is made of), a
cache-sized part at a time, and converts them in place; both loops are SIMD. Fills are serial, so
the number of threads never shows. The float32 normal is PyTorch's AVX2 kernel step by step on
every CPU; in float64 `log`, `log1p`, `sin` and `cos` are the C library's, as in PyTorch.
"""

import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from . import jit

Array = np.ndarray[Any, Any]

# Places in the words of a stream.
POSITION, LEFT_OVER, NORMAL = 624, 625, 626
# A position beside the engine's 0 ... 624: seeded, nothing drawn since.
FRESH = 625

_DRAW = """
def mixed(a, b):
    y = (a & u32(0x80000000)) | (b & u32(0x7FFFFFFF))
    return u32(y >> u32(1)) ^ (u32(0) - (b & u32(1))) & u32(0x9908B0DF)

def twist(key):
    for k in range(227):
        key[k] = u32(key[k + 397] ^ mixed(key[k], key[k + 1]))
    for k in range(227, 623):
        key[k] = u32(key[k - 227] ^ mixed(key[k], key[k + 1]))
    key[623] = u32(key[396] ^ mixed(key[623], key[0]))

def draw(state, out, count):
    key = u32_at(state)
    word = u32_at(out)
    position = i64(key[624])
    done = i64(0)
    while done < count:
        if position >= 624:
            twist(key)
            position = i64(0)
        take = min(624 - position, count - done)
        for k in range(take):
            y = key[position + k]
            y = u32(y ^ (y >> u32(11)))
            y = u32(y ^ (y << u32(7)) & u32(0x9D2C5680))
            y = u32(y ^ (y << u32(15)) & u32(0xEFC60000))
            word[done + k] = u32(y ^ (y >> u32(18)))
        position += take
        done += take
    key[624] = u32(position)
"""

# The first of two words is the high half, so a pair in memory is a little-endian u64 turned.
_PAIR = """
def pair(u):
    return u64(u << u64(32)) | u64(u >> u64(32))

def low53(u):
    return i64(pair(u) & u64(0x1FFFFFFFFFFFFF))

def rand64(u):
    return f64(low53(u)) * 2.0**-53
"""

# What the kernels of one width call `real` (its raw words: `raw`), and its uniform.
_SINGLE = """
real, real_at, raw_at, size = f32, f32_at, u32_at, 4

def rand(u):
    return f32(i32(u & u32(0xFFFFFF))) * f32(2.0**-24)
"""
_DOUBLE = """
real, real_at, raw_at, size = f64, f64_at, u64_at, 8

def rand(u):
    return rand64(u)
"""

_UNIFORM = """
def uniform(draw, state, out, n, low, high):
    low, high = real(low), real(high)
    start = i64(0)
    while start < n:
        count = min(n - start, 2048)
        here = out + start * size
        call(draw, (state, here, count * (size // 4)))
        for k in range(count):
            value = fma(rand(raw_at(here)[k]), high - low, low)
            real_at(here)[k] = where(value == high, low, value)
        start += count
"""

# Cephes' logf, sinf and cosf with fused multiply-adds, for 0 < x <= 1 and 0 <= x < 2 pi.
_CEPHES = """
def log32(x):
    b = bits(x)
    m = from_bits(i32((b & i32(0x007FFFFF)) | i32(0x3F000000)))
    low = m < f32(0.707106781186547524)
    e = f32(i32((b >> i32(23)) - i32(126)) - where(low, i32(1), i32(0)))
    t = where(low, (m - f32(1)) + m, m - f32(1))
    z = t * t
    p = fma(f32(7.0376836292e-2), t, f32(-1.1514610310e-1))
    p = fma(p, t, f32(1.1676998740e-1))
    p = fma(p, t, f32(-1.2420140846e-1))
    p = fma(p, t, f32(1.4249322787e-1))
    p = fma(p, t, f32(-1.6668057665e-1))
    p = fma(p, t, f32(2.0000714765e-1))
    p = fma(p, t, f32(-2.4999993993e-1))
    p = fma(p, t, f32(3.3333331174e-1))
    y = fma(p * t, z, e * f32(-2.12194440e-4)) - f32(0.5) * z
    return fma(e, f32(0.693359375), t + y)

def circular(x, turn):
    octant = i32((i32(x * f32(1.27323954473516)) + i32(1)) & i32(-2))
    k = f32(octant)
    t = fma(k, f32(-0.78515625), x)
    t = fma(k, f32(-2.4187564849853515625e-4), t)
    t = fma(k, f32(-3.77489497744594108e-8), t)
    z = t * t
    s = fma(f32(-1.9515295891e-4), z, f32(8.3321608736e-3))
    s = fma(s, z, f32(-1.6666654611e-1))
    s = fma(s * z, t, t)
    c = fma(f32(2.443315711809948e-5), z, f32(-1.388731625493765e-3))
    c = fma(c, z, f32(4.166664568298827e-2))
    c = fma(c * z, z, f32(-0.5) * z) + f32(1)
    turned = i32(octant + turn)
    value = where((turned & i32(2)) != i32(0), c, s)
    return where((turned & i32(4)) != i32(0), -value, value)

def radius(u):
    return sqrt(f32(-2) * log32(f32(1) - u))

def sine(v):
    return circular(f32(6.283185307179586) * v, i32(0))

def cosine(v):
    return circular(f32(6.283185307179586) * v, i32(2))
"""

_LIBM = """
def radius(u):
    return sqrt(-2.0 * libm_log(1.0 - u))

def sine(v):
    return libm_sin(6.283185307179586 * v)

def cosine(v):
    return libm_cos(6.283185307179586 * v)
"""

# Blocks of 16: the first 8 uniforms give the radii, the last 8 the angles. A ragged end is the
# last 16 elements made again from 16 more uniforms.
_NORMAL = """
def normal(draw, state, out, n, mean, std):
    start = i64(0)
    rest = n % 16
    while start < n:
        count = min(n - start, 2048)
        here = out + start * size
        call(draw, (state, here, count * (size // 4)))
        value = real_at(here)
        raw = raw_at(here)
        for block in range(0, count - 15, 16):
            for k in range(block, block + 8):
                r = radius(rand(raw[k]))
                v = rand(raw[k + 8])
                value[k] = fma(r * cosine(v), real(std), real(mean))
                value[k + 8] = fma(r * sine(v), real(std), real(mean))
        start += count
        if start == n and rest > 0:
            start = n - 16
            rest = i64(0)
"""

# In pairs: the sine half waits in the state for the next single normal, whenever that comes.
_SINGLE_NORMAL = """
def single_normal(draw, state, out, n, mean, std):
    left_over = u32_at(state + 4 * 625)
    kept = f64_at(state + 4 * 626)
    place = words(2)
    for k in range(n):
        z = kept[0]
        if left_over[0] != u32(0):
            left_over[0] = u32(0)
            kept[0] = 0.0
        else:
            call(draw, (state, place, 4))
            angle = 6.283185307179586 * rand64(u64_at(place)[0])
            radius = sqrt(-2.0 * libm_log1p(-rand64(u64_at(place)[1])))
            z = radius * libm_cos(angle)
            left_over[0] = u32(1)
            kept[0] = radius * libm_sin(angle)
        f64_at(out)[k] = fma(z, std, mean)
"""

# low + u % span in two's complement; a span of 0 stands for 2**64.
_INTEGERS = """
def integers(draw, state, out, n, low, span, wide):
    place = words(1024)
    value = i64_at(out)
    start = i64(0)
    while start < n:
        count = min(n - start, 1024)
        call(draw, (state, place, count + wide * count))
        if wide == 0:
            for k in range(count):
                value[start + k] = i64(u32_at(place)[k] % u32(span)) + low
        elif span == 0:
            for k in range(count):
                value[start + k] = i64(pair(u64_at(place)[k])) + low
        else:
            for k in range(count):
                value[start + k] = i64(pair(u64_at(place)[k]) % u64(span)) + low
        start += count
"""

_PERMUTATION = """
def permutation(draw, state, out, n):
    place = words(512)
    value = i64_at(out)
    for k in range(n):
        value[k] = k
    start = i64(0)
    while start < n - 1:
        count = min(n - 1 - start, 1024)
        call(draw, (state, place, count))
        for k in range(start, start + count):
            j = k + i64(u64(u32_at(place)[k - start]) % u64(n - k))
            swapped = value[k]
            value[k] = value[j]
            value[j] = swapped
        start += count
"""

# rand < p in integers, exactly: bound is the least integer that is not below p * 2**53.
_MASK = """
def mask(draw, state, out, n, bound, kept):
    place = words(1024)
    start = i64(0)
    while start < n:
        count = min(n - start, 1024)
        here = out + start * size
        call(draw, (state, place, count * 2))
        for k in range(count):
            real_at(here)[k] = where(low53(u64_at(place)[k]) < bound, real(kept), real(0))
        start += count
"""

_EXPONENTIAL = """
def exponential(draw, state, out, n, scale):
    call(draw, (state, out, n * 2))
    for k in range(n):
        f64_at(out)[k] = scale * libm_log1p(-rand64(u64_at(out)[k]))
"""

# Name -> text, and the types of the arguments after (draw, state, out, n). A digit in a name is
# the bytes of an element.
_KERNELS = {
    "uniform4": (_SINGLE + _UNIFORM, "f64 f64"),
    "uniform8": (_DOUBLE + _UNIFORM, "f64 f64"),
    "normal4": (_SINGLE + _CEPHES + _NORMAL, "f64 f64"),
    "normal8": (_DOUBLE + _LIBM + _NORMAL, "f64 f64"),
    "mask4": (_SINGLE + _MASK, "i64 f64"),
    "mask8": (_DOUBLE + _MASK, "i64 f64"),
    "single_normal": (_SINGLE_NORMAL, "f64 f64"),
    "exponential": (_EXPONENTIAL, "f64"),
    "integers": (_INTEGERS, "i64 i64 i64"),
    "permutation": (_PERMUTATION, ""),
}


@functools.cache
def _kernel(name: str) -> Callable[..., None]:
    text, rest = _KERNELS[name]
    signature = f"void({','.join(['i64'] * 4 + rest.split())})"
    draw = jit.address("draw", _DRAW, "void(i64,i64,i64)")
    kernel = jit.function(name.rstrip("48"), _PAIR + text, signature)
    return functools.partial(kernel, draw)


class Stream:
    """The state of one generator, and the fills that take from it.

    Destinations are C-contiguous and of the dtypes named; an empty one takes nothing. The lock
    keeps two threads that share a stream from drawing the same words.
    """

    __slots__ = ("_address", "lock", "words")

    def __init__(self) -> None:
        """A stream that has yet to be seeded."""
        self.words = np.zeros(628, np.uint32)
        self._address = self.words.ctypes.data
        self.lock = threading.Lock()

    def seed(self, seed: int) -> None:
        """Start from `seed` mod 2**32, as MT19937's init_genrand does."""
        word = seed & 0xFFFFFFFF
        key = [word]
        for k in range(1, 624):
            word = (1812433253 * (word ^ word >> 30) + k) & 0xFFFFFFFF
            key.append(word)
        with self.lock:
            self.words[:624] = key
            self.words[POSITION] = FRESH
            self.words[LEFT_OVER:] = 0

    def uniform(self, out: Array, low: float, high: float) -> None:
        """Fill float32 or float64 `out` with fma(rand, high - low, low), or low if that is high."""
        self._fill(f"uniform{out.itemsize}", out, low, high)

    def normal(self, out: Array, mean: float, std: float) -> None:
        """Fill float32 or float64 `out`, of 16 elements at least, in blocks of 16."""
        if out.size < 16:
            raise ValueError(f"a block of normals has 16 elements, out has {out.size}")
        self._fill(f"normal{out.itemsize}", out, mean, std)

    def single_normal(self, out: Array, mean: float, std: float) -> None:
        """Fill float64 `out` one element at a time, starting with the value left over."""
        self._fill("single_normal", out, mean, std)

    def integers(self, out: Array, low: int, span: int, wide: bool) -> None:
        """Fill int64 `out` with low + u % span; u has 64 bits if `wide`, else 32.

        A wide span of 0 stands for 2**64.
        """
        self._fill("integers", out, low, span, wide)

    def permutation(self, out: Array) -> None:
        """Fill int64 `out` with a permutation of 0 ... n - 1."""
        self._fill("permutation", out)

    def mask(self, out: Array, p: float, kept: float = 1.0) -> None:
        """Fill float32 or float64 `out` with `kept` where a float64 rand is below p, else 0."""
        self._fill(f"mask{out.itemsize}", out, math.ceil(p * 2.0**53), kept)

    def exponential(self, out: Array, rate: float) -> None:
        """Fill float64 `out` with (-1 / rate) * log1p(-rand)."""
        self._fill("exponential", out, -1.0 / rate)

    def _fill(self, name: str, out: Array, *rest: float) -> None:
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError("a stream fills C-contiguous, writable arrays only")
        kernel = _kernel(name)
        with self.lock:
            kernel(self._address, out.ctypes.data, out.size, *rest)
