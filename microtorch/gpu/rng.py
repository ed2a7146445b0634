"""Random numbers of the GPU: Philox 4x32-10, a counter-based generator.

A fill is numbered, and a block of four words is made of (seed, number of the fill, number of the
block) alone: the same on the GPU, its simulator and, by NumPy, the CPU, whatever the grid. One text
makes the words in all three; from them come uniform numbers (float32 of 24 bits, float64 of 53) and
int64, and everything else from these by NumPy's operations, on arrays of either device.
"""

import functools
import math
import struct
import threading
from typing import Any

import numpy as np

from .. import random
from . import array
from .array import Array
from .launch import run

_HEAD = """
def words(i, key, fill):
    low, half = u64(0xFFFFFFFF), u64(32)
    a, b, c, d = u64(i) & low, u64(i) >> half, u64(fill) & low, u64(fill) >> half
    k, m = u64(key) & low, u64(key) >> half
"""
_ROUND = """    p, q = u64(0xD2511F53) * a, u64(0xCD9E8D57) * c
    a, b, c, d = (q >> half) ^ b ^ k, q & low, (p >> half) ^ d ^ m, p & low
    k, m = (k + u64(0x9E3779B9)) & low, (m + u64(0xBB67AE85)) & low
"""
WORDS = _HEAD + 10 * _ROUND + "    return a, b, c, d\n"
_WIDE = "(a << u64(32) | b)", "(c << u64(32) | d)"
# What the words of a block become, by dtype: a type, and what it is made of.
_VALUES = {
    "float32": [f"f32({w} >> u64(8)) * f32({2.0**-24})" for w in "abcd"],
    "float64": [f"f64({w} >> u64(11)) * f64({2.0**-53})" for w in _WIDE],
    "int64": [f"i64{w}" for w in _WIDE],
}


@functools.cache
def text(dtype: str) -> str:
    """The kernel that fills an array: `kernel(n, key, fill, a_out)`, a block of words a time."""
    values, kind = _VALUES[dtype], dtype[0] + dtype[-2:]
    made, each = [f"v{j}" for j in range(len(values))], len(values)
    lines = [WORDS, "def values(i, key, fill):", "    a, b, c, d = words(i, key, fill)"]
    lines += [f"    return {', '.join(values)}", "", "def kernel(n, key, fill, a_out):"]
    lines += [f"    out = {kind}_at(a_out)", "    k = cuda.grid(1)", f"    while k * {each} < n:"]
    lines += [f"        {', '.join(made)} = values(k, key, fill)"]
    for j, v in enumerate(made):
        lines += [f"        if k * {each} + {j} < n:", f"            out[k * {each} + {j}] = {v}"]
    return "\n".join([*lines, "        k += cuda.gridsize(1)"]) + "\n"


@functools.cache
def on_arrays(dtype: str) -> dict[str, Any]:
    """The functions of a kernel's text for ndarrays."""
    kinds = {"u64": np.uint64, "f32": np.float32, "f64": np.float64, "i64": np.int64}
    scope = {n: lambda x, kind=kind: np.asarray(x).astype(kind) for n, kind in kinds.items()}
    exec(text(dtype), scope)
    return scope


class Stream:
    """A seed and the number of the next fill, and the methods of `kernels.stream.Stream`.

    Destinations are C-contiguous, on the GPU or the CPU.
    """

    def __init__(self) -> None:
        self.key = self.next = 0
        self.lock = threading.Lock()

    def seed(self, seed: int) -> None:
        """Start from a seed, of 64 bits."""
        self.key, self.next = seed, 0

    def fill(self, out: Any) -> None:
        """Fill float32 or float64 with uniform numbers in [0, 1), or int64 with 64 random bits."""
        name, each = out.dtype.name, len(_VALUES[out.dtype.name])
        with self.lock:
            number, self.next = self.next, self.next + 1
        if type(out) is not Array:
            made = on_arrays(name)["values"](np.arange(-(-out.size // each)), self.key, number)
            out[...] = np.stack(made, -1).reshape(-1)[: out.size].reshape(out.shape)
        elif out.size:
            key = self.key - (self.key >> 63 << 64)
            run(text(name), -(-out.size // each), [out.size, key, number, out.address])

    def uniform(self, out: Any, low: float, high: float) -> None:
        """Fill with uniform numbers in [low, high)."""
        self.fill(out)
        if (low, high) != (0, 1):
            out *= high - low
            out += low
            out[...] = np.where(out >= high, out.dtype.type(low), out)

    def normal(self, out: Any, mean: float, std: float) -> None:
        """Fill with normal numbers, by Box and Muller's method."""
        half = (out.size + 1) // 2
        drawn = np.empty((2, half), out.dtype, like=out)
        self.fill(drawn)
        far = np.sqrt(np.log1p(-drawn[0]) * -2) * std
        angle, flat = drawn[1] * (2 * math.pi), out.reshape(-1)
        flat[:half] = far * np.cos(angle) + mean
        flat[half:] = (far * np.sin(angle) + mean)[: out.size - half]

    single_normal = normal

    def exponential(self, out: Any, rate: float) -> None:
        """Fill with exponentially distributed numbers."""
        self.fill(out)
        out[...] = np.log1p(-out) * (-1 / rate)

    def mask(self, out: Any, p: float, kept: float = 1.0) -> None:
        """Fill with `kept` with probability p, else 0."""
        self.fill(out)
        out[...] = np.where(out < p, out.dtype.type(kept), out.dtype.type(0))

    def integers(self, out: Any, low: int, span: int, wide: bool) -> None:
        """Fill int64 with integers from low on; a span of 0 stands for 2**64."""
        self.fill(out)
        if 0 < span <= 2**63:
            out &= 2**63 - 1
            if span < 2**63:
                out %= span
            out += low
        elif span:
            signed = lambda k: (k + 2**63) % 2**64 - 2**63
            out[...] = np.where(out >= span - 2**63, out + signed(-span), out)
            out += signed(low + 2**63)

    def permutation(self, out: Any) -> None:
        """Fill int64 with a permutation: the order of random numbers."""
        self.fill(out)
        out[...] = np.argsort(out, kind="stable")


class Generator(random.Generator):
    """`torch.Generator(device="cuda")`: its state is the seed and the number of the next fill."""

    _new_stream = Stream
    _empty = staticmethod(array.empty)

    def slopes(self, out: Any, input: Any, low: float, high: float) -> None:
        """Fill with uniform numbers where input <= 0, and 1 elsewhere."""
        self.uniform(out, low, high)
        out[...] = np.where(input <= 0, out, out.dtype.type(1))

    def state_bytes(self) -> Any:
        """The state as 16 bytes."""
        state = struct.pack("<QQ", self._seed, self._stream.next)
        return np.frombuffer(bytearray(state), np.uint8)

    def set_state_bytes(self, state: Any) -> None:
        """Continue from a state that `state_bytes` gave.

        Raises:
            RuntimeError: for a wrong size.
        """
        if state.size != 16:
            raise RuntimeError("RNG state is wrong size")
        seed, number = struct.unpack("<QQ", state.tobytes())
        self.manual_seed(seed)
        self._stream.next = number
