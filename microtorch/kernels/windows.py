"""Windows that slide over images: what convolutions and pooling are made of, on arrays.

Images are (N, C, H, W). A convolution copies the windows of a few images into one buffer, small
enough for the cache, and takes one matrix product. Where windows move by one pixel, the buffer's
rows run over whole rows of the padded image, so that each is one long contiguous copy; the few
products between the end of one row and the start of the next are cut away.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import gemm

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]

# Bytes of the buffer of windows: on the CPU in its cache, on a GPU of many images at once.
BUFFER, GPU_BUFFER = 1 << 20, 1 << 28
# Up to so many windows an image, those of many images are one matrix: a product for each image
# would read the weight as often. Bytes of that matrix.
FEW, FEW_BUFFER = 16, 1 << 24


class Windows(NamedTuple):
    """How windows lie on an image of H x W; `after` is the padding below and to the right."""

    image: Pair
    size: Pair
    stride: Pair
    before: Pair
    after: Pair
    dilation: Pair

    @property
    def padded(self) -> Pair:
        """Height and width of the padded image."""
        (h, w), (top, left), (bottom, right) = self.image, self.before, self.after
        return h + top + bottom, w + left + right

    @property
    def counts(self) -> Pair:
        """How many windows there are, along each dimension."""
        h, w = (
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(self.padded, self.size, self.stride, self.dilation, strict=True)
        )
        return h, w

    def pad(self, x: Array, value: float = 0) -> Array:
        """The images with a border."""
        if self.padded == self.image:
            return np.ascontiguousarray(x)
        (h, w), (top, left) = self.image, self.before
        made = np.full(x.shape[:2] + self.padded, value, x.dtype, like=x)
        made[:, :, top : top + h, left : left + w] = x
        return made

    def crop(self, padded: Array) -> Array:
        """The images without their border."""
        if self.padded == self.image:
            return padded
        (h, w), (top, left) = self.image, self.before
        return np.ascontiguousarray(padded[:, :, top : top + h, left : left + w])

    def shifts(self, padded: Array) -> Iterator[tuple[Pair, Array]]:
        """For each place in a window its `(row, column)`, and the pixels there of all windows."""
        (kh, kw), (dh, dw), (sh, sw), (oh, ow) = self.size, self.dilation, self.stride, self.counts
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
                columns = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
                yield (i * dh, j * dw), padded[:, :, rows, columns]


def windows(x: Array, at: Windows) -> Array:
    """The pixels of every window: (N, C, kh, kw, oh, ow)."""
    made = np.empty(x.shape[:2] + at.size + at.counts, x.dtype, like=x)
    for k, (_, pixels) in enumerate(at.shifts(at.pad(x))):
        made[:, :, k // at.size[1], k % at.size[1]] = pixels
    return made


def windows_back(g: Array, at: Windows) -> Array:
    """Pixels of windows added up where they came from: the adjoint of `windows`."""
    padded = np.zeros(g.shape[:2] + at.padded, g.dtype, like=g)
    for k, (_, pixels) in enumerate(at.shifts(padded)):
        pixels += g[:, :, k // at.size[1], k % at.size[1]]
    return at.crop(padded)


def window_sum(x: Array, at: Windows) -> Array:
    """The sum of every window: (N, C, oh, ow)."""
    total = np.zeros(x.shape[:2] + at.counts, x.dtype, like=x)
    for _, pixels in at.shifts(at.pad(x)):
        total += pixels
    return total


def window_spread(g: Array, at: Windows) -> Array:
    """A number for each window added to all of its pixels: the adjoint of `window_sum`."""
    padded = np.zeros(g.shape[:2] + at.padded, g.dtype, like=g)
    for _, pixels in at.shifts(padded):
        pixels += g
    return at.crop(padded)


def window_max(x: Array, at: Windows) -> tuple[Array, Array]:
    """The largest pixel of every window, the first of equals, nan if there is one, and where in
    the plane of the image it is."""
    (oh, ow), (top, left), width = at.counts, at.before, at.image[1]
    corners = (np.arange(oh) * at.stride[0] - top)[:, None] * width
    corners = np.asarray(corners + np.arange(ow) * at.stride[1] - left, like=x)
    best = np.full(x.shape[:2] + at.counts, -np.inf, x.dtype, like=x)
    offset = np.full(best.shape, -1, np.int32, like=x)
    for (row, column), pixels in at.shifts(at.pad(x, -np.inf)):
        pixels = np.ascontiguousarray(pixels)
        better = (pixels > best) | (pixels != pixels)
        np.maximum(best, pixels, out=best)
        # A product instead of a choice: branches that go either way cost ten times as much.
        offset += better * (np.int32(row * width + column) - offset)
    none = offset < 0
    if none.any():
        # A window of -inf alone: its first pixel inside the image.
        first = np.asarray(_first_inside(at), like=x)
        offset[none] = np.broadcast_to(first, best.shape)[none]
    return best, corners + offset


def _first_inside(at: Windows) -> Array:
    firsts = []
    for k in range(2):
        start = np.arange(at.counts[k]) * at.stride[k] - at.before[k]
        steps = -(np.minimum(start, 0) // at.dilation[k])
        firsts.append(steps * at.dilation[k])
    return firsts[0][:, None] * at.image[1] + firsts[1]


# --------------------------------------------------------------------------- convolutions
class Plan(NamedTuple):
    """A convolution of images in `groups` of channels."""

    at: Windows
    groups: int

    @property
    def row(self) -> int:
        """Length of a row of products, of which the first `counts[1]` are wanted."""
        return self.at.padded[1] if self.at.stride == (1, 1) else self.at.counts[1]

    @property
    def run(self) -> int:
        """Number of products for each output channel."""
        (oh, ow), row = self.at.counts, self.row
        return (oh - 1) * row + ow

    @property
    def few(self) -> bool:
        """Whether the windows of many images make one matrix."""
        return self.at.counts[0] * self.at.counts[1] <= FEW

    def columns(self, padded: Array) -> Array:
        """The windows of padded images as a view (N, groups, C / groups, kh, kw, run)."""
        n, c = padded.shape[:2]
        (kh, kw), (dh, dw), (sh, sw) = self.at.size, self.at.dilation, self.at.stride
        by_image, by_channel, by_row, by_column = padded.strides
        channels = c // self.groups
        shape: tuple[int, ...] = (n, self.groups, channels, kh, kw)
        strides = (by_image, by_channel * channels, by_channel, dh * by_row, dw * by_column)
        if (sh, sw) == (1, 1):
            return as_strided(padded, (*shape, self.run), (*strides, by_column))
        return as_strided(padded, shape + self.at.counts, (*strides, sh * by_row, sw * by_column))

    def wanted(self, products: Array) -> Array:
        """The products (N, groups, O / groups, run) as images (N, groups, O / groups, oh, ow)."""
        size = products.itemsize
        strides = (*products.strides[:3], self.row * size, size)
        return as_strided(products, products.shape[:3] + self.at.counts, strides)

    def lots(self, x: Array, pixels: int) -> Iterator[slice]:
        """Images whose windows, `pixels` each, fit into the buffer together."""
        count, buffer = len(x), BUFFER if type(x) is np.ndarray else GPU_BUFFER
        step = max(1, buffer // max(1, pixels * self.run * x.itemsize))
        for start in range(0, count, step):
            yield slice(start, min(start + step, count))

    def spread(self, g: Array) -> Array:
        """Gradients (N, O, oh, ow) as rows of products, with zeros between the rows."""
        shape = (g.shape[0], self.groups, g.shape[1] // self.groups)
        made = np.zeros((*shape, self.run), g.dtype, like=g)
        self.wanted(made)[...] = g.reshape(shape + self.at.counts)
        return made


def conv(x: Array, weight: Array, plan: Plan, bias: Array | None = None) -> Array:
    """Cross-correlation of images (N, C, H, W) with weight (O, C / groups, kh, kw)."""
    n, out, groups = x.shape[0], weight.shape[0], plan.groups
    w = weight.reshape(groups, out // groups, -1)
    made = np.empty((n, groups, out // groups, *plan.at.counts), x.dtype, like=x)
    padded = plan.at.pad(x)
    with np.errstate(all="ignore"):
        for lot in plan.lots(x, w[:, 0].size):
            columns = _matrix(plan, padded[lot])
            made[lot] = plan.wanted(gemm.matmul(w, columns))
        if bias is not None:
            made += bias.reshape(groups, -1, 1, 1)
    return made.reshape(n, out, *plan.at.counts)


def conv_input(g: Array, weight: Array, plan: Plan) -> Array:
    """The gradient of a convolution's input: a transposed convolution."""
    n, out, groups = g.shape[0], weight.shape[0], plan.groups
    w = weight.reshape(groups, out // groups, -1).swapaxes(1, 2)
    channels = weight.shape[1] * groups
    padded = np.zeros((n, channels, *plan.at.padded), g.dtype, like=g)
    kh, kw = plan.at.size
    with np.errstate(all="ignore"):
        for lot in plan.lots(g, groups * w.shape[1]):
            target = plan.columns(padded[lot])
            found = gemm.matmul(w, plan.spread(g[lot])).reshape(target.shape)
            for i in range(kh):
                for j in range(kw):
                    target[:, :, :, i, j] += found[:, :, :, i, j]
    return plan.at.crop(padded)


def conv_weight(x: Array, g: Array, plan: Plan) -> Array:
    """The gradient of a convolution's weight."""
    out, groups = g.shape[1], plan.groups
    channels = x.shape[1] // groups
    size = channels * plan.at.size[0] * plan.at.size[1]
    made = np.zeros((groups, out // groups, size), g.dtype, like=g)
    padded = plan.at.pad(x)
    with np.errstate(all="ignore"):
        for lot in plan.lots(g, groups * size):
            columns = _matrix(plan, padded[lot])
            made += gemm.matmul(plan.spread(g[lot]), columns.swapaxes(2, 3)).sum(0)
    return made.reshape(out, channels, *plan.at.size)


def _matrix(plan: Plan, padded: Array) -> Array:
    """A copy of the windows as matrices (N, groups, C / groups * kh * kw, run)."""
    view = plan.columns(padded)
    made = np.empty(view.shape, view.dtype, like=view)
    np.copyto(made, view)
    return made.reshape(*view.shape[:2], -1, plan.run)


# --------------------------------------------------------------------------- of few windows
def few_conv(x: Array, weight: Array, plan: Plan, bias: Array | None = None) -> Array:
    """`conv`, by products of the windows of many images."""
    n, out, groups = x.shape[0], weight.shape[0], plan.groups
    w = weight.reshape(groups, out // groups, -1).swapaxes(1, 2)
    made = np.empty((n, groups, out // groups, *plan.at.counts), x.dtype)
    padded = plan.at.pad(x)
    with np.errstate(all="ignore"):
        for lot in _few_lots(plan, padded):
            target = _by_window(made[lot])
            target[...] = gemm.matmul(_rows(plan, padded[lot]), w).reshape(target.shape)
        if bias is not None:
            made += bias.reshape(groups, -1, 1, 1)
    return made.reshape(n, out, *plan.at.counts)


def few_conv_input(g: Array, weight: Array, plan: Plan) -> Array:
    """`conv_input`, by products of the windows of many images."""
    n, out, groups = g.shape[0], weight.shape[0], plan.groups
    w = weight.reshape(groups, out // groups, -1)
    size = (weight.shape[1], *plan.at.size)
    padded = np.zeros((n, groups * size[0], *plan.at.padded), g.dtype)
    g = g.reshape(n, groups, out // groups, *plan.at.counts)
    with np.errstate(all="ignore"):
        for lot in _few_lots(plan, padded):
            rows = _by_window(g[lot])
            found = gemm.matmul(rows.reshape(groups, -1, out // groups), w)
            found = found.reshape(*rows.shape[:4], *size).transpose(1, 0, 4, 5, 6, 2, 3)
            for k, (_, pixels) in enumerate(plan.at.shifts(padded[lot])):
                pixels += found[:, :, :, k // size[2], k % size[2]].reshape(pixels.shape)
    return plan.at.crop(padded)


def few_conv_weight(x: Array, g: Array, plan: Plan) -> Array:
    """`conv_weight`, by products of the windows of many images."""
    n, out, groups = g.shape[0], g.shape[1], plan.groups
    channels = x.shape[1] // groups
    made = np.zeros((groups, out // groups, channels * math.prod(plan.at.size)), g.dtype)
    g = g.reshape(n, groups, out // groups, *plan.at.counts)
    padded = plan.at.pad(x)
    with np.errstate(all="ignore"):
        for lot in _few_lots(plan, padded):
            rows = _by_window(g[lot]).reshape(groups, -1, out // groups)
            made += gemm.matmul(rows.swapaxes(1, 2), _rows(plan, padded[lot]))
    return made.reshape(out, channels, *plan.at.size)


def _few_lots(plan: Plan, images: Array) -> Iterator[slice]:
    """Padded images whose windows fit into the matrix together."""
    pixels = images.shape[1] * math.prod(plan.at.size) * math.prod(plan.at.counts)
    step = max(1, FEW_BUFFER // max(1, pixels * images.itemsize))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def _rows(plan: Plan, padded: Array) -> Array:
    """The windows of padded images as matrices (groups, N * oh * ow, C / groups * kh * kw)."""
    (n, c), groups, at = padded.shape[:2], plan.groups, plan.at
    by_image, by_channel, by_row, by_column = padded.strides
    (sh, sw), (dh, dw) = at.stride, at.dilation
    shape = (groups, n, *at.counts, c // groups, *at.size)
    strides = (by_channel * (c // groups), by_image, sh * by_row, sw * by_column)
    view = as_strided(padded, shape, (*strides, by_channel, dh * by_row, dw * by_column))
    return view.reshape(groups, n * math.prod(at.counts), -1)


def _by_window(images: Array) -> Array:
    """Images (N, groups, O / groups, oh, ow) as (groups, N, oh, ow, O / groups)."""
    return images.transpose(1, 0, 3, 4, 2)
