"""Dropout: random zeros in training, by PyTorch's stream."""

import math
import warnings
from typing import Any

import numpy as np

from ..tensor import Array, Tensor, check_in_place, wrap
from .creation import memory_order
from .elementwise import FUNCTIONS
from .in_place import placed
from .normalization import softmax
from .op import Rule, need_tensor, primitive, record
from .random import exponential_, source_for

# What selu tends to for small x, without its sign: scale times alpha.
_LIMIT = 1.7580993408473766
DROPOUT = Rule("MulBackward0", lambda F, g, const, mask: (F.mul(g, mask),))


@primitive
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero elements with probability p and scale the others by 1 / (1 - p), in training.

    Raises:
        ValueError: for p outside [0, 1].
    """
    need_tensor("dropout", "input", 1, input)
    return _dropped(input, p, training, inplace, input._array.shape)


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout of whole channels of (N, C, L) or (C, L)."""
    return _channels("dropout1d", input, p, training, inplace, (2, 3))


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout of whole channels of (N, C, H, W)."""
    return _channels("dropout2d", input, p, training, inplace, (3, 4))


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout of whole channels of (N, C, D, H, W)."""
    if input._array.ndim not in (4, 5):
        warnings.warn(
            f"dropout3d: Received a {input._array.ndim}-D input to dropout3d, which is deprecated "
            "and will result in an error in a future release. To retain the behavior and silence "
            "this warning, please use dropout instead. Note that dropout3d exists to provide "
            "channel-wise dropout on inputs with 3 spatial dimensions, a channel dimension, and an "
            "optional batch dimension (i.e. 4D or 5D inputs).",
            stacklevel=2,
        )
    return _channels("dropout3d", input, p, training, inplace, (4, 5))


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Dropout that keeps mean 0 and variance 1 after selu (arXiv:1706.02515): elements become
    selu's limit with probability p, and all are scaled and shifted.

    Raises:
        ValueError: for p outside [0, 1].
    """
    need_tensor("alpha_dropout", "input", 1, input)
    return _alpha_dropped(input, p, training, inplace, input._array.shape)


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """`alpha_dropout` of whole channels of (N, C, ...)."""
    need_tensor("feature_alpha_dropout", "input", 1, input)
    _check(p)
    drops = training and p > 0 and input._array.size > 0
    drawn = _of_channels(input._array.shape) if drops else ()
    return _alpha_dropped(input, p, training, inplace, drawn)


def _channels(
    name: str, input: Tensor, p: float, training: bool, inplace: bool, ranks: Any
) -> Tensor:
    _check(p)
    shape = input._array.shape
    if name == "dropout1d" and len(shape) not in ranks:
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {len(shape)}D input. Note that"
            " dropout1d exists to provide channel-wise dropout on inputs with 1 spatial "
            "dimension, a channel dimension, and an optional batch dimension (i.e. 2D or 3D "
            "inputs)."
        )
    # PyTorch's dropout2d takes every input for a batch, the others one of the full rank alone.
    batched = name == "dropout2d" or len(shape) == ranks[-1]
    drawn = _of_channels(shape) if batched else _of_channels((1, *shape))[1:]
    return _dropped(input, p, training, inplace, drawn)


def _of_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what is drawn for whole channels.

    Raises:
        RuntimeError: where there is no dimension of channels.
    """
    if len(shape) < 2:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    return shape[:2] + (1,) * (len(shape) - 2)


def _check(p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _dropped(
    input: Tensor, p: float, training: bool, inplace: bool, drawn: tuple[int, ...]
) -> Tensor:
    _check(p)
    if not training or p == 0.0 or not input._array.size:
        return input
    if inplace:
        check_in_place(input)
    a = input._array
    keep = _drawn(input, p, drawn)
    mask = keep / a.dtype.type(1.0 - p) if p < 1.0 else keep
    if mask.shape != a.shape:
        mask = np.broadcast_to(mask, a.shape).copy()
    z = record(DROPOUT, a * mask, (input,), (wrap(mask),))
    return placed(input, z) if inplace else z


def _drawn(input: Tensor, p: float, drawn: tuple[int, ...]) -> Array:
    """1 with probability 1 - p, else 0: drawn in the order in which input's elements lie in memory
    if there is one for each. Nothing is drawn where all are 0."""
    a = input._array
    if p == 1.0:
        return np.zeros(drawn, a.dtype, like=a)
    order = memory_order(input) if drawn == a.shape else list(range(a.ndim))
    keep = np.empty([drawn[d] for d in order], a.dtype, like=a)
    source_for(keep).bernoulli_scalar(keep, 1.0 - p)
    return keep.transpose(sorted(order, key=order.__getitem__))


def _alpha_dropped(
    input: Tensor, p: float, training: bool, inplace: bool, drawn: tuple[int, ...]
) -> Tensor:
    _check(p)
    if not training or p == 0.0 or not input._array.size:
        return input
    if not input.is_floating_point():
        raise RuntimeError(
            f"result type Float can't be cast to the desired output type {input.dtype.short}"
        )
    if p == 1.0:
        return input.mul_(0.0) if inplace else FUNCTIONS["mul"](input, 0.0)  # type: ignore[attr-defined,no-any-return]
    keep: Any = wrap(_drawn(input, p, drawn))
    scale = 1 / math.sqrt((_LIMIT * _LIMIT * p + 1) * (1 - p))
    shift = (keep - 1) * (_LIMIT * scale) + _LIMIT * scale * p
    if inplace:
        return input.mul_(keep * scale).add_(shift)  # type: ignore[attr-defined,no-any-return]
    return FUNCTIONS["add"](FUNCTIONS["mul"](input, keep * scale), shift)  # type: ignore[no-any-return]


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """Softmax of (logits + Gumbel noise) / tau along dim (arXiv:1611.01144); hard: 1 at the
    largest and 0 elsewhere, with the gradient of the soft one."""
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    drawn = wrap(np.empty(logits._array.shape, logits._array.dtype, like=logits._array))
    noise = -FUNCTIONS["log"](exponential_(drawn))
    soft = softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    places = np.expand_dims(np.argmax(soft._array, dim), dim) if soft.ndim else np.array(0)
    one = np.zeros_like(soft._array, order="C")
    if one.ndim:
        np.put_along_axis(one, places, 1, dim)
    else:
        one[...] = 1
    return wrap(one) - soft.detach() + soft  # type: ignore[attr-defined,no-any-return,operator]
