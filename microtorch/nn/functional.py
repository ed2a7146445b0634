"""`torch.nn.functional`: activations, losses and layers as functions."""

import builtins

import numpy as np

from ..functions.elementwise import FUNCTIONS
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
    "cross_entropy",
    "dropout",
    "elu",
    "gelu",
    "l1_loss",
    "leaky_relu",
    "linear",
    "log_softmax",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]

sigmoid, tanh, silu = FUNCTIONS["sigmoid"], FUNCTIONS["tanh"], FUNCTIONS["silu"]
DROPOUT = Rule("MulBackward0", lambda F, g, const, mask: (F.mul(g, mask),))


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0)."""
    return input.relu_() if inplace else FUNCTIONS["relu"](input)  # type: ignore[no-any-return]


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """input where positive, else input * negative_slope."""
    return FUNCTIONS["leaky_relu"](input, negative_slope)  # type: ignore[no-any-return]


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where positive, else alpha * (exp(input) - 1)."""
    return FUNCTIONS["elu"](input, alpha)  # type: ignore[no-any-return]


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """input * Phi(input), or its tanh approximation (arXiv:1606.08415)."""
    if approximate == "none":
        return FUNCTIONS["gelu"](input)  # type: ignore[no-any-return]
    if approximate != "tanh":
        raise RuntimeError("approximate argument must be either none or tanh.")
    inner = 0.7978845608028654 * (input + 0.044715 * input * input * input)
    return 0.5 * input * (1.0 + FUNCTIONS["tanh"](inner))  # type: ignore[no-any-return,operator]


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * input)) / beta."""
    if beta == 1.0:
        return FUNCTIONS["softplus"](input)  # type: ignore[no-any-return]
    return FUNCTIONS["softplus"](input * beta) / beta  # type: ignore[no-any-return]


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
