"""Dropout: random zeros in training, by PyTorch's stream."""

import warnings
from typing import Any

import numpy as np

from ..tensor import Tensor, check_in_place, wrap
from .creation import memory_order
from .elementwise import FUNCTIONS
from .in_place import placed
from .normalization import softmax
from .op import Rule, need_tensor, primitive, record
from .random import exponential_, source_for

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


def _channels(
    name: str, input: Tensor, p: float, training: bool, inplace: bool, ranks: Any
) -> Tensor:
    _check(p)
    shape = input._array.shape
    if name == "dropout1d":
        if len(shape) not in ranks:
            raise RuntimeError(
                f"dropout1d: Expected 2D or 3D input, but received a {len(shape)}D input. Note that"
                " dropout1d exists to provide channel-wise dropout on inputs with 1 spatial "
                "dimension, a channel dimension, and an optional batch dimension (i.e. 2D or 3D "
                "inputs)."
            )
        lead = len(shape) - 1
    else:
        if len(shape) < 2:
            raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
        lead = 2
    return _dropped(input, p, training, inplace, shape[:lead] + (1,) * (len(shape) - lead))


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
    # Elements are drawn in the order in which the input's lie in memory.
    order = memory_order(input) if drawn == a.shape else list(range(a.ndim))
    keep = np.empty([drawn[d] for d in order], a.dtype, like=a)
    source_for(keep).bernoulli_scalar(keep, 1.0 - p)
    keep = keep.transpose(sorted(order, key=order.__getitem__))
    mask = keep / a.dtype.type(1.0 - p) if p < 1.0 else keep
    if mask.shape != a.shape:
        mask = np.broadcast_to(mask, a.shape).copy()
    z = record(DROPOUT, a * mask, (input,), (wrap(mask),))
    return placed(input, z) if inplace else z


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
