"""`torch.nn.functional`: activations, losses and layers as functions."""

import builtins

import numpy as np

from ..errors import unknown_names
from ..functions.activation import (
    celu,
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    tanh,
)
from ..functions.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    l1_loss,
    log_softmax,
    mse_loss,
    nll_loss,
    softmax,
)
from ..functions.op import Rule, record
from ..functions.product import linear
from ..functions.search import one_hot
from ..random import default_generator
from ..tensor import Tensor, wrap

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "cross_entropy",
    "dropout",
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "l1_loss",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "mish",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
]

DROPOUT = Rule("MulBackward0", lambda F, g, const, mask: (F.mul(g, mask),))


def dropout(
    input: Tensor, p: builtins.float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zero elements with probability p and scale the others by 1 / (1 - p), in training.

    Raises:
        ValueError: for p outside [0, 1].
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0.0 or not input._array.size:
        return input
    a = input._array
    keep = np.empty(a.shape, a.dtype)
    default_generator.bernoulli_scalar(keep, 1.0 - p)
    mask = keep / a.dtype.type(1.0 - p) if p < 1.0 else keep
    return record(DROPOUT, a * mask, (input,), (wrap(mask),))


__getattr__ = unknown_names(__name__)
