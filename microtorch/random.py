"""PyTorch's CPU generator: the same seeds give the same bits.

A `Generator` is a `Stream` with PyTorch's seeds, checks and 5056-byte state. Its sampling methods
work on NumPy arrays and each draws exactly what PyTorch's function of that name draws; one that
takes `out` fills it in row-major order and accepts any strides. float16 is drawn as float32 and
rounded. The module-level functions act on `default_generator`, which starts from the operating
system's entropy. Nothing is compiled before the first draw.
"""

import contextlib
import operator
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import dtypes
from .device import check as check_device
from .device import device as Device
from .device import gpu
from .errors import unknown_names
from .kernels.stream import FRESH, LEFT_OVER, NORMAL, POSITION, Array, Stream
from .tensor import Tensor, wrap

STATE_BYTES = 5056
# Seed, words left of the 624, whether seeded, next word; then 624 words of 64 bits; then unused,
# left-over normal, unused, whether there is one; the rest is a cache for float32 that no code uses.
_HEAD, _TAIL = struct.Struct("<QiiQ"), struct.Struct("<dddi12x")

_INT64, _FLOAT32, _FLOAT64 = np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.float64)
# The names that C++ gives the types in PyTorch's messages.
_C_NAMES = {
    "float64": "double", "float32": "float", "float16": "c10::Half", "int32": "int",
    "int16": "short int", "int8": "signed char", "uint8": "unsigned char", "bool": "bool",
}  # fmt: skip


class Generator:
    """A stream of random numbers of its own, as `torch.Generator`.

    Starts from PyTorch's fixed seed 67280421310721.

    On the GPU it draws other numbers, those of `gpu.rng`.

    Raises:
        RuntimeError: for a device other than the CPU and a GPU that there is.
    """

    __slots__ = ("__weakref__", "_seed", "_stream", "device")

    _new_stream: Any = Stream

    def __new__(cls, device: Any = "cpu") -> "Generator":
        """A generator of the class for the device."""
        kind = Device(device).type
        if kind == "cuda" and gpu("driver").problem() is None:
            cls = gpu("rng").Generator
        elif kind != "cpu":
            raise RuntimeError(f"Device type {kind} is not supported for torch.Generator() api.")
        return object.__new__(cls)

    def __init__(self, device: Any = "cpu") -> None:
        """A generator on `device`."""
        self.device = check_device(device)
        self._stream = self._new_stream()
        self.manual_seed(67280421310721)

    # ------------------------------------------------------------------ seed and state
    def manual_seed(self, seed: int) -> "Generator":
        """Restart from `seed`, of which the stream sees the low 32 bits; returns self.

        Raises:
            RuntimeError: if seed is not an integer.
            ValueError: outside -2**63 <= seed < 2**64; a negative seed stands for seed + 2**64.
        """
        try:
            number = operator.index(seed)
        except TypeError:
            name = type(seed).__name__
            raise RuntimeError(f"manual_seed expected a long, but got {name}") from None
        if not -(2**63) <= number < 2**64:
            raise ValueError("Overflow when unpacking long long")
        self._seed = number % 2**64
        self._stream.seed(self._seed)
        return self

    def seed(self) -> int:
        """Restart from 64 bits of the operating system's entropy, which are returned."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little"))
        return self._seed

    def initial_seed(self) -> int:
        """The seed of the last start, 0 <= seed < 2**64."""
        return self._seed

    def state_bytes(self) -> Array:
        """The whole state in PyTorch's layout, a (5056,) uint8 array."""
        with self._stream.lock:
            words = self._stream.words.copy()
        position = int(words[POSITION])
        left, following = (1, 0) if position == FRESH else (625 - position, position)
        head = _HEAD.pack(self._seed, left, 1, following)
        kept = float(words[NORMAL:].view(np.float64)[0])
        tail = _TAIL.pack(0.0, kept, 0.0, int(words[LEFT_OVER]))
        return np.frombuffer(bytearray(head + words[:624].astype("<u8").tobytes() + tail), np.uint8)

    def set_state_bytes(self, state: Array) -> None:
        """Continue from a state that `state_bytes` or PyTorch gave.

        Raises:
            RuntimeError: for a wrong size or words that are no state.
        """
        content = state.tobytes()
        if len(content) != STATE_BYTES:
            raise RuntimeError(
                f"Expected a CPUGeneratorImplState of size {STATE_BYTES} but found the input RNG "
                f"state size to be {len(content)}"
            )
        seed, left, seeded, following = _HEAD.unpack_from(content)
        if not (seeded and 0 < left <= 624 and following <= 624):
            raise RuntimeError("Invalid mt19937 state")
        _, kept, _, left_over = _TAIL.unpack_from(content, STATE_BYTES - _TAIL.size)
        words = self._stream.words
        with self._stream.lock:
            words[:624] = np.frombuffer(content, "<u8", 624, _HEAD.size).astype(np.uint32)
            words[POSITION] = following if left > 1 else FRESH if following == 0 else 624
            words[LEFT_OVER] = bool(left_over)
            words[NORMAL:].view(np.float64)[0] = kept
        self._seed = seed

    def get_state(self) -> Tensor:
        """The state as a uint8 tensor, interchangeable with PyTorch's."""
        return wrap(self.state_bytes())

    def set_state(self, new_state: Tensor) -> "Generator":
        """Continue from a state of `get_state`, ours or PyTorch's as a tensor; returns self.

        Raises:
            TypeError: unless it is a uint8 tensor.
            RuntimeError: for a tensor of another size, not contiguous, or no state.
        """
        if not isinstance(new_state, Tensor):
            raise TypeError(f"expected a torch.ByteTensor, but got {type(new_state).__name__}")
        state = new_state._array
        if state.dtype != np.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        if not state.flags.c_contiguous:
            raise RuntimeError("RNG state must be contiguous")
        self.set_state_bytes(state)
        return self

    def clone_state(self) -> "Generator":
        """A new generator that will draw what this one would draw next."""
        return _restored(self.state_bytes(), self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.state_bytes(), self.device)

    _empty: Any = staticmethod(np.empty)

    # ------------------------------------------------------------------------ floats
    def rand(self, shape: tuple[int, ...], dtype: Any = _FLOAT32) -> Array:
        """A new array of uniforms in [0, 1)."""
        if any(n < 0 for n in shape):
            raise _negative_dimension(shape)
        out = self._empty(shape, dtype)
        self.uniform(out, 0.0, 1.0)
        return out

    def uniform(self, out: Array, low: float, high: float) -> None:
        """Fill with uniforms in [low, high): fma(rand, high - low, low), or low if that is high.

        Raises:
            NotImplementedError: unless out is floating.
            RuntimeError: if low > high, or the range is too wide for the dtype.
        """
        _floating(out, "check_uniform_bounds")
        top = float(np.finfo(out.dtype).max)
        for name, bound in (("from", low), ("to", high)):
            if not -top <= bound <= top:
                raise RuntimeError(f"{name} is out of bounds for {_C_NAMES[out.dtype.name]}")
        if low > high:
            raise RuntimeError(
                "uniform_ expects to return a [from, to) range, but found "
                f"from={low:g} > to={high:g}"
            )
        if high - low > top:
            raise RuntimeError(
                f"uniform_ expects to-from <= std::numeric_limits<{dtypes.of(out.dtype).short}>"
                f"::max(), but found to={high:g} and from={low:g} which result in to-from to "
                "exceed the limit"
            )
        _fill(out, _wide(out), lambda part: self._stream.uniform(part, low, high))
        if out.itemsize == 2:
            # Rounded up to the end, which is not in the range.
            out[out == out.dtype.type(high)] = low

    def normal(
        self, out: Array, mean: float = 0.0, std: float = 1.0, contiguous: bool | None = None
    ) -> None:
        """Fill with normals: in blocks if there are 16 or more in a contiguous array, else singly.

        Single normals are drawn in pairs, in float64; the second waits in the generator for the
        next single one. `contiguous` overrides what `out` is, for a caller that fills a
        contiguous array in place of another.

        Raises:
            RuntimeError: unless std >= 0.
            NotImplementedError: unless out is floating.
        """
        if not std >= 0:
            raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
        _floating(out, "normal_kernel_cpu")
        if contiguous is None:
            contiguous = out.flags.c_contiguous
        if contiguous and out.size >= 16:
            _fill(out, _wide(out), lambda part: self._stream.normal(part, mean, std))
        else:
            _fill(out, _FLOAT64, lambda part: self._stream.single_normal(part, mean, std))

    def exponential(self, out: Array, rate: float = 1.0) -> None:
        """Fill with exponentials: (-1 / rate) * log1p(-rand), in float64.

        Raises:
            RuntimeError: unless rate > 0 and out is floating.
        """
        if out.dtype.kind != "f":
            raise RuntimeError(
                "Exponential distribution is a continuous probability distribution. dtype must be "
                f"a floating point but you specified {dtypes.of(out.dtype).short}"
            )
        if not rate > 0:
            raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={rate:g}")
        _fill(out, _FLOAT64, lambda part: self._stream.exponential(part, rate))

    # ---------------------------------------------------------------------- integers
    def randint(self, out: Array, low: int, high: int | None) -> None:
        """Fill with integers low <= i < high; `high` None is past the dtype's largest.

        Raises:
            RuntimeError: unless low < high and the dtype holds both ends.
        """
        if high is None:
            high = _largest(out.dtype) + 1
        if low >= high:
            raise RuntimeError(
                f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}"
            )
        _check_bound(out.dtype, "from", low)
        _check_bound(out.dtype, "to - 1", high - 1)
        span = high - low
        if span == 2**64:
            low = span = 0
        wide = high - low >= 2**28 or span == 0
        _fill(out, _INT64, lambda part: self._stream.integers(part, low, span, wide))

    def random(self, out: Array) -> None:
        """Fill with integers 0 <= i <= the dtype's largest; of a float, 2**(bits of precision)."""
        span = _largest(out.dtype) + 1
        wide = out.itemsize == 8
        _fill(out, _INT64, lambda part: self._stream.integers(part, 0, span, wide))

    def randperm(self, n: int, dtype: Any = _INT64) -> Array:
        """A new permutation of 0 ... n - 1, made by n - 1 swaps.

        Raises:
            RuntimeError: if n is negative or the dtype cannot count so far.
            NotImplementedError: for bool.
        """
        dtype = np.dtype(dtype)
        if n < 0:
            raise _negative_dimension((n,))
        if dtype.kind == "b":
            raise NotImplementedError("\"randperm\" not implemented for 'Bool'")
        if n - 1 > _largest(dtype):
            raise RuntimeError(_too_long(dtype))
        out = self._empty(n, np.int64)
        self._stream.permutation(out)
        return out.astype(dtype, copy=False)

    # -------------------------------------------------------------------- categories
    def bernoulli(self, p: Array, dtype: Any = None) -> Array:
        """A new array of 1 with probability p, else 0; one rand of p's dtype each.

        Raises:
            NotImplementedError: unless p is floating.
            RuntimeError: unless every p is in [0, 1].
        """
        _floating(p, "bernoulli_tensor_cpu_p_")
        if not ((p >= 0) & (p <= 1)).all():
            raise RuntimeError(
                "Expected p_in >= 0 && p_in <= 1 to be true, but got false.  (Could this error "
                "message be improved?  If so, please report an enhancement request to PyTorch.)"
            )
        return (self.rand(p.shape, _wide(p)) < p).astype(dtype or p.dtype)

    def bernoulli_scalar(self, out: Array, p: float) -> None:
        """Fill with 1 with probability p, else 0; one float64 rand each, whatever the dtype.

        Raises:
            RuntimeError: unless p is in [0, 1].
        """
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p:g}")
        _fill(out, _wide(out), lambda part: self._stream.mask(part, p))

    def dropout_mask(self, out: Array, p: float) -> None:
        """Fill float32 or float64 `out` with 0 with probability p < 1, else 1 / (1 - p)."""
        kept = out.dtype.type(1) / out.dtype.type(1 - p)
        _fill(out, _wide(out), lambda part: self._stream.mask(part, 1 - p, kept))

    def slopes(self, out: Array, input: Array, low: float, high: float) -> None:
        """Fill with uniform numbers where input <= 0, one float64 rand each, and 1 elsewhere."""
        chosen = input <= 0
        drawn = np.empty(np.count_nonzero(chosen), np.float64)
        self.uniform(drawn, low, high)
        out[...] = 1
        out[chosen] = drawn

    def multinomial(self, weights: Array, k: int, replacement: bool = False) -> Array:
        """Indices, int64 (..., k), of k draws from each row of (n,) or (rows, n) weights.

        Without replacement, and for a single draw, the k largest of weights / exponential;
        where those are equal PyTorch's own order is not defined.

        Raises:
            RuntimeError: for other ranks or dtypes, for k < 1 or too large, and for weights that
                are negative, not finite, or sum to 0.
        """
        _check_multinomial(weights, k, replacement)
        if not replacement or k == 1:
            drawn = np.empty_like(weights)
            self.exponential(drawn)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                drawn = weights / drawn
            if k == 1 and not np.isnan(drawn).any():
                return drawn.argmax(-1)[..., None]
            drawn = -drawn
            if k < drawn.shape[-1] // 2:
                places = np.sort(np.argpartition(drawn, k - 1, -1)[..., :k], -1)
                order = np.argsort(np.take_along_axis(drawn, places, -1), axis=-1, kind="stable")
                return np.take_along_axis(places, order, -1)
            return np.argsort(drawn, axis=-1, kind="stable")[..., :k]
        chosen = np.empty((*weights.shape[:-1], k), np.int64, like=weights)
        for row, indices in zip(np.atleast_2d(weights), np.atleast_2d(chosen), strict=True):
            below = np.cumsum(row)
            indices[:] = np.searchsorted(below / below[-1], self.rand((k,), np.float64))
        return chosen


def _restored(state: Array, device: Any = "cpu") -> Generator:
    generator = Generator(device)
    generator.set_state_bytes(state)
    return generator


# ------------------------------------------------------------------- destinations, checks
def _fill(out: Array, dtype: np.dtype[Any], draw: Callable[[Array], None]) -> None:
    """Draw into `out`, or into an array of `dtype` that is then copied to `out`."""
    if out.dtype == dtype and out.flags.c_contiguous:
        draw(out)
    else:
        part = np.empty(out.shape, dtype, like=out)
        draw(part)
        out[...] = part


def _wide(array: Array) -> np.dtype[Any]:
    """The float dtype to draw in for an array: its own, or float32."""
    return _FLOAT64 if array.dtype == np.float64 else _FLOAT32


def _negative_dimension(shape: tuple[int, ...]) -> RuntimeError:
    first = next(n for n in shape if n < 0)
    return RuntimeError(f"Trying to create tensor with negative dimension {first}: {list(shape)}")


def _floating(array: Array, kernel: str) -> None:
    if array.dtype.kind != "f":
        raise NotImplementedError(
            f"\"{kernel}\" not implemented for '{dtypes.of(array.dtype).short}'"
        )


def _largest(dtype: np.dtype[Any]) -> int:
    """Largest integer up to which the dtype has all of them."""
    if dtype.kind == "f":
        return 1 << (int(np.finfo(dtype).nmant) + 1)
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)


def _check_bound(dtype: np.dtype[Any], name: str, bound: int) -> None:
    if dtype.kind == "f":
        low, high = -float(np.finfo(dtype).max), float(np.finfo(dtype).max)
    else:
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not low <= bound <= high:
        raise RuntimeError(f"{name} is out of bounds for {_C_NAMES.get(dtype.name, 'long')}")
    if dtype.kind == "f" and abs(bound) > _largest(dtype):
        power = _largest(dtype).bit_length() - 1
        warnings.warn(
            f"{name} is out of bounds [-(2^{power}), 2^{power}]. Due to precision limitations "
            f"{_C_NAMES[dtype.name]} can support discrete uniform distribution only within this "
            "range.",
            stacklevel=3,
        )


def _too_long(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f":
        power = _largest(dtype).bit_length() - 1
        limit = "2049" if power == 11 else f"2^{power}+1"
        return f"n cannot be greater than {limit} for {dtypes.of(dtype).short} type."
    name = "int" if dtype.name == "int32" else dtype.name + "_t"
    return f"value cannot be converted to type {name} without overflow"


def _check_multinomial(weights: Array, k: int, replacement: bool) -> None:
    if weights.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if weights.dtype.kind != "f":
        raise RuntimeError(
            "multinomial only supports floating-point dtypes for input, got: "
            + dtypes.of(weights.dtype).short
        )
    if k <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if k > weights.shape[-1] and not replacement:
        raise RuntimeError(
            "cannot sample n_sample > prob_dist.size(-1) samples without replacement"
        )
    if weights.shape[-1] > 2**24:
        raise RuntimeError("number of categories cannot exceed 2^24")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    if (weights.sum(axis=-1) <= 0).any():
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")


# ------------------------------------------------------------------ the default generators
default_generator = Generator()
default_generator.seed()
# The GPU's, once it is asked for, and the seed that it is to start from.
_on_gpu: list[Generator] = []
_gpu_seed: list[int] = []


def default_for(place: Device) -> Generator:
    """The default generator of a device."""
    if place.type == "cpu":
        return default_generator
    if not _on_gpu:
        _on_gpu.append(Generator(place))
        seed_gpu(*_gpu_seed)
    return _on_gpu[0]


def seed_gpu(seed: int | None = None) -> None:
    """Restart the default generator of the GPU, now or when it is first used."""
    seed = int.from_bytes(os.urandom(8), "little") if seed is None else int(seed)
    _gpu_seed[:] = [seed]
    for generator in _on_gpu:
        generator.manual_seed(seed)


def manual_seed(seed: Any) -> Generator:
    """Restart the default generators, of which the CPU's is returned; `int(seed)` is what counts.

    Raises:
        ValueError: outside -2**63 <= seed < 2**64; a negative seed stands for seed + 2**64.
    """
    default_generator.manual_seed(int(seed))
    seed_gpu(seed)
    return default_generator


def seed() -> int:
    """Restart the default generators from the operating system's entropy; returns the 64 bits."""
    manual_seed(default_generator.seed())
    return default_generator.initial_seed()


def initial_seed() -> int:
    """The seed that the default generator last started from."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The default generator's state, a (5056,) uint8 tensor."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Continue the default generator from a state of `get_rng_state`."""
    default_generator.set_state(new_state)


@contextlib.contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, device_type: Any = None) -> Iterator[None]:
    """Put the default generators back where they were on leaving; `devices` is of no effect."""
    kept = [(g, g.state_bytes()) for g in (default_generator, *_on_gpu) if enabled]
    try:
        yield
    finally:
        for generator, state in kept:
            generator.set_state_bytes(state)


__getattr__ = unknown_names(__name__)
