"""Convolutions, and the windows of images as columns.

A convolution, the gradient of its input and the gradient of its weight are each linear in two
arguments, and their derivatives are again these three: so they differentiate to any order.
"""

import math
from collections.abc import Sequence
from typing import Any

from ..kernels import cpu
from ..kernels.windows import Plan, Windows
from ..tensor import Tensor
from .cat import pad_dim
from .elementwise import FLOATS
from .names import function
from .op import Rule, primitive, record
from .product import needs
from .view import reshape, squeeze, unsqueeze

Sizes = int | Sequence[int]


def _conv_rule(F: Any, g: Any, const: Any, x: Any, weight: Any) -> tuple[Any, ...]:
    plan, with_bias = const
    return (
        None if weight is None else F.conv_input(g, weight, plan),
        None if x is None else F.conv_weight(x, g, plan),
        F.reduce("sum", g, (0, 2, 3)) if with_bias else None,
    )


def _input_rule(F: Any, h: Any, plan: Any, g: Any, weight: Any) -> tuple[Any, ...]:
    return (
        None if weight is None else F.conv(h, weight, plan),
        None if g is None else F.conv_weight(h, g, plan),
    )


def _weight_rule(F: Any, v: Any, plan: Any, x: Any, g: Any) -> tuple[Any, ...]:
    return (
        None if g is None else F.conv_input(g, v, plan),
        None if x is None else F.conv(x, v, plan),
    )


CONV = Rule("ConvolutionBackward0", _conv_rule)
CONV_INPUT = Rule("ConvolutionBackward0", _input_rule)
CONV_WEIGHT = Rule("ConvolutionBackwardBackward0", _weight_rule)
WINDOWS = Rule("Im2ColBackward0", lambda F, g, at: (F.windows_back(g, at),))
WINDOWS_BACK = Rule("Col2ImBackward0", lambda F, g, at: (F.windows(g, at),))


@primitive
def conv(x: Tensor, weight: Tensor, plan: Plan, bias: Tensor | None = None) -> Tensor:
    """Cross-correlation of images (N, C, H, W) with weight (O, C / groups, kh, kw)."""
    array = cpu.conv(x._array, weight._array, plan, None if bias is None else bias._array)
    inputs = (x, weight, bias)
    return record(CONV, array, inputs, needs(x, weight), (plan, bias is not None))


@primitive
def conv_input(g: Tensor, weight: Tensor, plan: Plan) -> Tensor:
    """The gradient of a convolution's input: a transposed convolution."""
    array = cpu.conv_input(g._array, weight._array, plan)
    return record(CONV_INPUT, array, (g, weight), needs(g, weight), plan)


@primitive
def conv_weight(x: Tensor, g: Tensor, plan: Plan) -> Tensor:
    """The gradient of a convolution's weight."""
    array = cpu.conv_weight(x._array, g._array, plan)
    return record(CONV_WEIGHT, array, (x, g), needs(x, g), plan)


@primitive
def windows(x: Tensor, at: Windows) -> Tensor:
    """The pixels of every window: (N, C, kh, kw, oh, ow)."""
    return record(WINDOWS, cpu.windows(x._array, at), (x,), const=at)


@primitive
def windows_back(g: Tensor, at: Windows) -> Tensor:
    """Pixels of windows added up where they came from."""
    return record(WINDOWS_BACK, cpu.windows_back(g._array, at), (g,), const=at)


def pair(value: Sizes) -> tuple[int, ...]:
    """A number for both dimensions, or one for each."""
    return (value, value) if isinstance(value, int) else tuple(value)


def _spread(name: str, value: Sizes, rank: int) -> tuple[int, ...]:
    """A number for every dimension, or one for each."""
    if isinstance(value, int):
        return (value,) * rank
    if len(value) not in (1, rank):
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {rank} values to match "
            f"the convolution dimensions, but got {name}={list(value)}"
        )
    return tuple(value) * (rank if len(value) == 1 else 1)


def _same_padding(
    input: Tensor, padding: str, size: tuple[int, ...], stride: Any, dilation: Any
) -> tuple[Tensor, Sizes]:
    """'valid' or 'same' as numbers; where 'same' is uneven the input gets one more at its end."""
    rank = len(size)
    if padding == "valid":
        return input, 0
    if padding != "same":
        raise RuntimeError(f"Invalid padding string: '{padding}'")
    if any(s != 1 for s in _spread("stride", stride, rank)):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    totals = [d * (k - 1) for d, k in zip(_spread("dilation", dilation, rank), size, strict=True)]
    for k, total in enumerate(totals):
        if total % 2:
            input = pad_dim(input, input._array.ndim - rank + k, 0, 1)
    return input, [total // 2 for total in totals]


def _check(
    name: str, rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, groups: int,
    transposed: bool,
) -> None:  # fmt: skip
    x, w = input._array, weight._array
    if w.ndim != rank + 2 or x.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to {name}, but got "
            f"input of size: {list(x.shape)}"
        )
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")
    if x.dtype != w.dtype or (bias is not None and bias._array.dtype != x.dtype):
        raise RuntimeError(
            f"Input type ({input.dtype.short}) and weight type ({weight.dtype.short}) should be "
            "the same"
        )
    if x.dtype not in FLOATS:
        raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{input.dtype.short}'")
    if w.shape[0] < groups or w.shape[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size {list(w.shape)} instead"
        )
    channels = x.shape[-rank - 1]
    wanted = w.shape[0] if transposed else w.shape[1] * groups
    if channels != wanted:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(w.shape)}, expected input"
            f"{list(x.shape)} to have {wanted} channels, but got {channels} channels instead"
        )
    out = w.shape[1] * groups if transposed else w.shape[0]
    if bias is not None and bias._array.shape != (out,):
        raise RuntimeError(
            f"Given weight of size {list(w.shape)}, expected bias to be 1-dimensional with {out} "
            f"elements, but got bias of size {list(bias._array.shape)} instead"
        )


def _check_windows(at: Windows, rank: int) -> None:
    if min(at.stride) <= 0:
        raise RuntimeError("non-positive stride is not supported")
    if min(at.before) < 0:
        raise RuntimeError("negative padding is not supported")
    if min(at.dilation) <= 0:
        raise RuntimeError("dilation should be greater than zero")
    reach = tuple(d * (k - 1) + 1 for d, k in zip(at.dilation, at.size, strict=True))
    if any(r > n for r, n in zip(reach, at.padded, strict=True)):
        sizes = (" x ".join(map(str, s[-rank:])) for s in (at.padded, reach))
        raise RuntimeError(
            "Calculated padded input size per channel: ({}). Kernel size: ({}). Kernel size can't "
            "be greater than actual input size".format(*sizes)
        )


def _convolution(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes,
    padding: Sizes | str, dilation: Sizes, groups: int,
) -> Tensor:  # fmt: skip
    _check(f"conv{rank}d", rank, input, weight, bias, groups, False)
    if isinstance(padding, str):
        size = weight._array.shape[2:]
        input, padding = _same_padding(input, padding, size, stride, dilation)
    # One-dimensional images are images of one row.
    ones, zeros = (1,) * (2 - rank), (0,) * (2 - rank)
    batched = input._array.ndim == rank + 2
    x = input if batched else unsqueeze(input, 0)
    if rank == 1:
        x, weight = unsqueeze(x, 2), unsqueeze(weight, 2)
    before = zeros + _spread("padding", padding, rank)
    steps, reach = (
        ones + _spread(name, v, rank) for name, v in (("stride", stride), ("dilation", dilation))
    )
    pairs: Any = (x._array.shape[2:], weight._array.shape[2:], steps, before, before, reach)
    at = Windows(*pairs)
    _check_windows(at, rank)
    z = conv(x, weight, Plan(at, groups), bias)
    z = squeeze(z, 2) if rank == 1 else z
    return z if batched else squeeze(z, 0)


@function()
def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
    padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation: input (N, C, L) or (C, L), weight (O, C / groups, k), bias (O).

    Raises:
        RuntimeError: for shapes, dtypes or options that do not fit.
    """
    return _convolution(1, input, weight, bias, stride, padding, dilation, groups)


@function()
def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
    padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation: input (N, C, H, W) or (C, H, W), weight (O, C / groups, kh, kw).

    Raises:
        RuntimeError: for shapes, dtypes or options that do not fit.
    """
    return _convolution(2, input, weight, bias, stride, padding, dilation, groups)


def _transposed(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes,
    output_padding: Sizes, groups: int, dilation: Sizes,
) -> Tensor:  # fmt: skip
    _check(f"conv_transpose{rank}d", rank, input, weight, bias, groups, True)
    ones, zeros = (1,) * (2 - rank), (0,) * (2 - rank)
    batched = input._array.ndim == rank + 2
    x = input if batched else unsqueeze(input, 0)
    if rank == 1:
        x, weight = unsqueeze(x, 2), unsqueeze(weight, 2)
    steps = ones + _spread("stride", stride, rank)
    before = zeros + _spread("padding", padding, rank)
    more = zeros + _spread("output_padding", output_padding, rank)
    reach = ones + _spread("dilation", dilation, rank)
    if any(m >= max(s, d) for m, s, d in zip(more, steps, reach, strict=True) if m):
        raise RuntimeError("output padding must be smaller than either stride or dilation")
    size = weight._array.shape[2:]
    image: Any = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + m + 1
        for n, s, p, d, k, m in zip(
            x._array.shape[2:], steps, before, reach, size, more, strict=True
        )
    )
    if min(image) < 1:
        raise RuntimeError(
            f"Given input size per channel: {list(x._array.shape[2:])}. Calculated output size per "
            f"channel: {list(image)}. Output size is too small"
        )
    pairs: Any = (image, size, steps, before, before, reach)
    at = Windows(*pairs)
    _check_windows(at, rank)
    z = conv_input(x, weight, Plan(at, groups))
    if bias is not None:
        z = z + reshape(bias, (-1, 1, 1))
    z = squeeze(z, 2) if rank == 1 else z
    return z if batched else squeeze(z, 0)


@function()
def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1,
) -> Tensor:  # fmt: skip
    """The gradient of `conv1d`'s input as a layer: weight (C, O / groups, k)."""
    return _transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@function()
def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1,
) -> Tensor:  # fmt: skip
    """The gradient of `conv2d`'s input as a layer: weight (C, O / groups, kh, kw)."""
    return _transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def unfold(
    input: Tensor, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
) -> Tensor:
    """The windows of images (N, C, H, W) as columns (N, C * kh * kw, windows)."""
    a = input._array
    if a.ndim not in (3, 4):
        raise RuntimeError(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero "
            f"dimensions for input, but got: {list(a.shape)}"
        )
    x = input if a.ndim == 4 else unsqueeze(input, 0)
    at = _windows(x._array.shape[2:], kernel_size, stride, padding, dilation)
    if min(at.counts) < 1:
        raise RuntimeError(
            f"Given input with spatial size ({a.shape[-2]}, {a.shape[-1]}), the calculated shape "
            f"of the array of sliding blocks is {at.counts}, but its components must be at least "
            "one."
        )
    n, c = x._array.shape[:2]
    size = c * at.size[0] * at.size[1]
    z = reshape(windows(x, at), (n, size, at.counts[0] * at.counts[1]))
    return z if a.ndim == 4 else squeeze(z, 0)


def fold(
    input: Tensor, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1,
    padding: Sizes = 0, stride: Sizes = 1,
) -> Tensor:  # fmt: skip
    """Columns (N, C * kh * kw, windows) added up to images (N, C, *output_size)."""
    a = input._array
    if a.ndim not in (2, 3):
        raise RuntimeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and "
            f"non-zero dimensions for input, but got: {list(a.shape)}"
        )
    x = input if a.ndim == 3 else unsqueeze(input, 0)
    at = _windows(pair(output_size), kernel_size, stride, padding, dilation)
    n, size, count = x._array.shape
    pixels = at.size[0] * at.size[1]
    if size % pixels:
        raise RuntimeError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, "
            f"but got input.size(1)={size} and kernel_size={at.size}."
        )
    if count != math.prod(at.counts):
        raise RuntimeError(
            f"Given output_size={at.image}, kernel_size={at.size}, dilation={at.dilation}, "
            f"padding={at.before}, stride={at.stride}, expected size of input's dimension 2 to "
            f"match the calculated number of sliding blocks {at.counts[0]} * {at.counts[1]} = "
            f"{math.prod(at.counts)}, but got input.size(2)={count}."
        )
    z = windows_back(reshape(x, (n, size // pixels, *at.size, *at.counts)), at)
    return z if a.ndim == 3 else squeeze(z, 0)


def _windows(image: Any, size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Windows:
    pairs: list[Any] = [pair(v) for v in (size, stride, padding, dilation)]
    at = Windows(image, pairs[0], pairs[1], pairs[2], pairs[2], pairs[3])
    for name, values in (("kernel", at.size), ("stride", at.stride), ("dilation", at.dilation)):
        if min(values) <= 0:
            raise RuntimeError(
                f"{name} should be greater than zero, but got {name}_height: {values[0]} "
                f"{name}_width: {values[1]}"
            )
    if min(at.before) < 0:
        raise RuntimeError(f"padding should be non-negative, but got {at.before}")
    return at
