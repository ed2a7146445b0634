"""Images in another size: interpolation, and pixels moved between channels and space."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .gather import index_select
from .names import function
from .op import tensors
from .pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, separable
from .view import reshape

_RANKS = {"nearest": (3, 4), "nearest-exact": (3, 4), "area": (3, 4), "linear": (3,),
          "bilinear": (4,), "bicubic": (4,)}  # fmt: skip


def interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:  # fmt: skip
    """Images (N, C, L) or (N, C, H, W) in another size.

    mode: 'nearest', 'nearest-exact', 'area', 'linear' (3-d), 'bilinear' or 'bicubic' (4-d).

    Raises:
        ValueError: for options that do not fit.
        NotImplementedError: for a mode that is not made for the input's rank.
    """
    linear = mode in ("linear", "bilinear", "bicubic")
    if not linear and align_corners is not None:
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear "
            "| bicubic | trilinear"
        )
    shape = input._array.shape
    rank = len(shape) - 2
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    given = size if size is not None else scale_factor
    values = tuple(given) if isinstance(given, (tuple, list)) else (given,) * rank
    if len(values) != rank:
        raise ValueError(
            "Input and output must have the same number of spatial dimensions, but got input with "
            f"spatial dimensions of {list(shape[2:])} and output size of {list(values)}."
        )
    if mode not in _RANKS or len(shape) not in _RANKS[mode] or antialias:
        raise NotImplementedError(
            f"Input Error: microtorch resizes 3D and 4D inputs by the modes {' | '.join(_RANKS)} "
            f"(got {len(shape)}D input, {mode}, antialias={antialias})"
        )
    sizes = [
        int(v) if size is not None else int(n * v) for n, v in zip(shape[2:], values, strict=True)
    ]
    if min(sizes) <= 0:
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input (H: {shape[2]}) "
            f"output (H: {sizes[0]})"
        )
    # The ratio of a scale factor is taken as it is given, unless it is to be computed again.
    given_scale = size is None and not recompute_scale_factor
    ratios = [
        1 / v if given_scale else n / m for v, n, m in zip(values, shape[2:], sizes, strict=True)
    ]
    if mode == "area":
        return (adaptive_avg_pool1d if rank == 1 else adaptive_avg_pool2d)(input, sizes)
    if linear:
        return _linear(input, sizes, ratios, bool(align_corners), mode == "bicubic")
    shift = 0.5 if mode == "nearest-exact" else 0.0
    for k, (n, m, ratio) in enumerate(zip(shape[2:], sizes, ratios, strict=True)):
        ratio = np.float32(ratio)
        places = np.floor((np.arange(m, dtype=np.float32) + np.float32(shift)) * ratio)
        input = index_select(input, k + 2, wrap(np.minimum(places.astype(np.int64), n - 1)))
    return input


def _linear(
    input: Tensor, sizes: Sequence[int], ratios: Sequence[float], align: bool, cubic: bool
) -> Tensor:
    a = input._array
    matrices = [
        wrap(np.asarray(_weights(n, m, ratio, align, cubic), a.dtype, like=a))
        for n, m, ratio in zip(a.shape[2:], sizes, ratios, strict=True)
    ]
    one = wrap(np.ones((1, 1), a.dtype, like=a))
    x = input if a.ndim == 4 else reshape(input, (*a.shape[:2], 1, a.shape[2]))
    z = separable(x, [one, *matrices] if a.ndim == 3 else matrices)
    return reshape(z, (*a.shape[:2], *sizes))


def _weights(n: int, m: int, ratio: float, align: bool, cubic: bool) -> Any:
    """The matrix (m, n) of what each new pixel takes from the old ones."""
    at = np.arange(m, dtype=np.float64)
    if align:
        at = at * ((n - 1) / (m - 1)) if m > 1 else at * 0
    else:
        at = (at + 0.5) * ratio - 0.5
        at = at if cubic else np.maximum(at, 0)
    left = np.floor(at)
    t = at - left
    weights = [(0, 1 - t), (1, t)]
    if cubic:
        # Keys' kernel with a = -0.75.
        near = lambda d: (1.25 * d - 2.25) * d * d + 1
        far = lambda d: -0.75 * (((d - 5) * d + 8) * d - 4)
        weights = [(-1, far(1 + t)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))]
    made = np.zeros((m, n))
    for step, weight in weights:
        places = np.clip(left + step, 0, n - 1).astype(np.int64)
        np.add.at(made, (np.arange(m), places), weight)
    return made


@function()
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C r^2, H, W) as (*, C, H r, W r)."""
    shape, r = input._array.shape, upscale_factor
    if len(shape) < 3:
        raise RuntimeError(
            "pixel_shuffle expects input to have at least 3 dimensions, but got input with "
            f"{len(shape)} dimension(s)"
        )
    if r <= 0:
        raise RuntimeError(f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    *lead, c, h, w = shape
    if c % (r * r):
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square "
            f"of upscale_factor, but input.size(-3)={c} is not divisible by {r * r}"
        )
    x = reshape(input, (-1, c // (r * r), r, r, h, w))
    x = tensors.permute(x, (0, 1, 4, 2, 5, 3))
    return reshape(x, (*lead, c // (r * r), h * r, w * r))


@function()
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H r, W r) as (*, C r^2, H, W)."""
    shape, r = input._array.shape, downscale_factor
    if len(shape) < 3:
        raise RuntimeError(
            "pixel_unshuffle expects input to have at least 3 dimensions, but got input with "
            f"{len(shape)} dimension(s)"
        )
    if r <= 0:
        raise RuntimeError(f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    *lead, c, h, w = shape
    if h % r or w % r:
        raise RuntimeError(
            "pixel_unshuffle expects height and width to be divisible by downscale_factor, but "
            f"got input of size {list(shape)} and downscale_factor={r}"
        )
    x = tensors.permute(reshape(input, (-1, c, h // r, r, w // r, r)), (0, 1, 3, 5, 2, 4))
    return reshape(x, (*lead, c * r * r, h // r, w // r))
