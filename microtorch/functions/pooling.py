"""Pooling: the largest or the mean pixel of windows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kernels import cpu
from ..kernels.windows import Windows
from ..tensor import Tensor, wrap
from .convolution import Sizes
from .elementwise import FLOATS, FUNCTIONS
from .op import Rule, primitive, record
from .product import matmul
from .view import matrix_transpose, reshape


def _max_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    places, shape = const
    flat = F.put_index(F.reshape(g, (-1,)), (places,), (math.prod(shape),))
    return (F.reshape(flat, shape),)


MAX_POOL = Rule("MaxPool2DWithIndicesBackward0", _max_rule)
ADAPTIVE_MAX_POOL = Rule("AdaptiveMaxPool2DBackward0", _max_rule)
SUM_POOL = Rule("AvgPool2DBackward0", lambda F, g, at: (F.window_spread(g, at),))
SPREAD_POOL = Rule("AvgPool2DBackwardBackward0", lambda F, g, at: (F.window_sum(g, at),))


@primitive
def window_sum(x: Tensor, at: Windows) -> Tensor:
    """The sum of every window."""
    return record(SUM_POOL, cpu.window_sum(x._array, at), (x,), const=at)


@primitive
def window_spread(g: Tensor, at: Windows) -> Tensor:
    """A number for each window added to all of its pixels."""
    return record(SPREAD_POOL, cpu.window_spread(g._array, at), (g,), const=at)


def _sizes(name: str, what: str, value: Any, rank: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) not in (1, rank):
        raise RuntimeError(f"{name}: {what} must either be a single int, or a tuple of {rank} ints")
    return values * (rank if len(values) == 1 else 1)


def _count(n: int, size: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Number of windows; the last one must start inside the image or before it."""
    room = n + 2 * padding - dilation * (size - 1) - 1
    count = -(-room // stride) + 1 if ceil else room // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= n + padding else count


def _images(name: str, input: Tensor, rank: int) -> Tensor:
    """The input as (N, C, H, W)."""
    a = input._array
    if a.ndim not in (rank + 1, rank + 2) or 0 in a.shape[-rank - (a.ndim == rank + 1) :]:
        raise RuntimeError(
            f"{name}: Expected {rank + 1}D or {rank + 2}D (batch mode) tensor with optional 0 dim "
            f"batch size for input, but got: {list(a.shape)}"
        )
    if a.dtype not in FLOATS:
        raise NotImplementedError(f"\"{name}\" not implemented for '{input.dtype.short}'")
    batch = a.shape[: -rank - 1] or (1,)
    image = (1,) * (2 - rank) + a.shape[-rank:]
    return reshape(input, (*batch, a.shape[-rank - 1], *image))


def _place(
    name: str, image: Any, rank: int, kernel: Sizes, stride: Any, padding: Sizes, dilation: Sizes,
    ceil: bool,
) -> Windows:  # fmt: skip
    """Where the windows lie; a window over the end is padding after the image."""
    size = _sizes(name, "kernel_size", kernel, rank)
    steps = size if stride is None or stride == () else _sizes(name, "stride", stride, rank)
    before, reach = (
        _sizes(name, what, v, rank) for what, v in (("padding", padding), ("dilation", dilation))
    )
    if min(steps) <= 0:
        raise RuntimeError("stride should not be zero" if 0 in steps else "stride must be positive")
    if min(size) <= 0:
        raise RuntimeError(f"kernel size should be greater than zero, but got {size}")
    if min(reach) <= 0:
        raise RuntimeError(f"dilation should be greater than zero, but got {reach}")
    if min(before) < 0:
        raise RuntimeError(f"pad must be non-negative, but got pad: {min(before)}")
    for p, k, d in zip(before, size, reach, strict=True):
        if p > ((k - 1) * d + 1) // 2:
            raise RuntimeError(
                "pad should be at most half of effective kernel size, but got "
                f"pad={p}, kernel_size={k} and dilation={d}"
            )
    ones, zeros = (1,) * (2 - rank), (0,) * (2 - rank)
    size, steps, before, reach = ones + size, ones + steps, zeros + before, ones + reach
    sizes = list(zip(image, size, steps, before, reach, strict=True))
    counts = tuple(_count(n, k, s, p, d, ceil) for n, k, s, p, d in sizes)
    if min(counts) < 1:
        raise RuntimeError(
            f"Given input size: {list(image)}. Calculated output size: {list(counts)}. Output size "
            "is too small"
        )
    after = tuple(
        (c - 1) * s + d * (k - 1) + 1 - n - p
        for c, (n, k, s, p, d) in zip(counts, sizes, strict=True)
    )
    # Pixels that no window reaches are left out as if they were not there.
    kept: Any = tuple(max(a, 0) for a in after)
    pairs: Any = (image, size, steps, before, kept, reach)
    return Windows(*pairs)


def _max_pool(rank: int) -> Callable[..., Any]:
    name = f"max_pool{rank}d"

    def apply(
        input: Tensor, kernel_size: Sizes, stride: Any = None, padding: Sizes = 0,
        dilation: Sizes = 1, ceil_mode: bool = False, return_indices: bool = False,
    ) -> Any:  # fmt: skip
        x = _images(name, input, rank)
        shape = x._array.shape
        at = _place(name, shape[2:], rank, kernel_size, stride, padding, dilation, ceil_mode)
        best, places = cpu.window_max(x._array, at)
        return _chosen(MAX_POOL, rank, input, x, best, places, return_indices)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = "The largest pixel of every window, and if asked for its place in the image."
    return apply


def _chosen(
    op: Rule, rank: int, input: Tensor, x: Tensor, best: Any, places: Any, indices: bool
) -> Any:
    """Pixels of x by their places in the plane, in the rank of the input."""
    n, c, h, w = x._array.shape
    planes = np.arange(n * c, like=best).reshape(n, c, 1, 1) * (h * w)
    z = record(op, best, (x,), const=((planes + places).reshape(-1), x._array.shape))
    lead = input._array.shape[:-rank]
    z = reshape(z, (*lead, *best.shape[-rank:]))
    return (z, wrap(places.reshape(z._array.shape))) if indices else z


max_pool1d, max_pool2d = _max_pool(1), _max_pool(2)


def _pixels(at: Windows, padded: bool) -> np.ndarray[Any, Any]:
    """How many pixels each window has on the image, or on the image with its padding."""
    found = []
    for k in range(2):
        start = np.arange(at.counts[k]) * at.stride[k] - at.before[k]
        border = at.before[k] if padded else 0
        end = np.minimum(start + at.size[k], at.image[k] + border)
        found.append(end - np.maximum(start, -border))
    return found[0][:, None] * found[1]


def _average(
    name: str, rank: int, input: Tensor, kernel_size: Sizes, stride: Any, padding: Sizes,
    ceil_mode: bool, count_include_pad: bool, divisor: int | None,
) -> Tensor:  # fmt: skip
    if divisor == 0:
        raise RuntimeError("divisor must be not zero")
    x = _images(name, input, rank)
    at = _place(name, x._array.shape[2:], rank, kernel_size, stride, padding, 1, ceil_mode)
    counts = _pixels(at, count_include_pad) if divisor is None else divisor
    counts = np.asarray(counts, x._array.dtype, like=x._array)
    z = FUNCTIONS["div"](window_sum(x, at), wrap(counts))
    return reshape(z, (*input._array.shape[:-rank], *z._array.shape[-rank:]))


def avg_pool1d(
    input: Tensor, kernel_size: Sizes, stride: Any = None, padding: Sizes = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of every window; padding counts as zeros, or not at all."""
    return _average(
        "avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None
    )


def avg_pool2d(
    input: Tensor, kernel_size: Sizes, stride: Any = None, padding: Sizes = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of every window; padding counts as zeros, or not at all."""
    return _average(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override,
    )  # fmt: skip


# ------------------------------------------------------------------------------- adaptive
def _cells(n: int, count: int) -> list[tuple[int, int]]:
    """Start and end of `count` cells that cover n pixels."""
    return [(k * n // count, -(-(k + 1) * n // count)) for k in range(count)]


def _output(name: str, input: Tensor, output_size: Any, rank: int) -> tuple[int, ...]:
    """The output size, None meaning that of the input."""
    sizes = (output_size,) * rank if isinstance(output_size, int) else tuple(output_size)
    if len(sizes) not in (1, rank):
        raise RuntimeError(f"{name}: internal error: output_size.size() must be {rank}")
    if len(sizes) != rank:
        sizes = sizes * rank
    image = input._array.shape[-rank:]
    found = tuple(n if s is None else s for s, n in zip(sizes, image, strict=False))
    if min(found) < 0:
        raise RuntimeError(f"{name}: elements of output_size must be greater than or equal to 0")
    return found


def averages(cells: Sequence[tuple[int, int]], n: int, like: Any) -> Tensor:
    """The matrix (cells, n) that takes the mean of each cell, for an array."""
    made = np.zeros((len(cells), n))
    for k, (start, end) in enumerate(cells):
        made[k, start:end] = 1 / (end - start)
    return wrap(np.asarray(made, like.dtype, like=like))


def _adaptive_average(name: str, rank: int, input: Tensor, output_size: Any) -> Tensor:
    x = _images(name, input, rank)
    size = (1,) * (2 - rank) + _output(name, input, output_size, rank)
    return reshape(separable(x, [averages(_cells(n, s), n, x._array) for n, s in zip(
        x._array.shape[2:], size, strict=True
    )]), (*input._array.shape[:-rank], *size[-rank:]))  # fmt: skip


def separable(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Images (N, C, H, W), with one matrix applied to the columns and one to the rows."""
    down, across = matrices
    if across._array.shape != (1, 1):
        x = matmul(x, matrix_transpose(across))
    return x if down._array.shape == (1, 1) else matmul(down, x)


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """The means of output_size cells."""
    return _adaptive_average("adaptive_avg_pool1d", 1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The means of output_size cells, a number for each dimension or one for both."""
    return _adaptive_average("adaptive_avg_pool2d", 2, input, output_size)


def _adaptive_max(rank: int) -> Callable[..., Any]:
    name = f"adaptive_max_pool{rank}d"

    def apply(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        x = _images(name, input, rank)
        a = x._array
        n, c, h, w = a.shape
        size = (1,) * (2 - rank) + _output(name, input, output_size, rank)
        best = np.empty((n, c, *size), a.dtype, like=a)
        places = np.empty(best.shape, np.int64, like=a)
        for i, (top, bottom) in enumerate(_cells(h, size[0])):
            for j, (left, right) in enumerate(_cells(w, size[1])):
                cell = a[:, :, top:bottom, left:right].reshape(n, c, -1)
                k = cell.argmax(-1)
                best[:, :, i, j] = np.take_along_axis(cell, k[..., None], -1)[..., 0]
                places[:, :, i, j] = (top + k // (right - left)) * w + left + k % (right - left)
        return _chosen(ADAPTIVE_MAX_POOL, rank, input, x, best, places, return_indices)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = "The largest pixels of output_size cells, and if asked for their places."
    return apply


adaptive_max_pool1d, adaptive_max_pool2d = _adaptive_max(1), _adaptive_max(2)
