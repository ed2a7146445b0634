"""More losses an element: rows of the table, reduced in the same pass."""

import math
import warnings
from typing import Any

import numpy as np

from ..graph.node import mode
from ..table import ROWS
from ..tensor import Tensor, wrap
from .creation import ones_like
from .distance import reduced
from .elementwise import FUNCTIONS
from .loss import RowLoss, broadcast, check_reduction, l1_loss, matched, old_reduction
from .op import tensors
from .view import unsqueeze

_smooth_l1 = RowLoss(ROWS["smooth_l1"], "SmoothL1LossBackward0")
_huber = RowLoss(ROWS["huber"], "HuberLossBackward0")
_kl_div = RowLoss(ROWS["kl_divergence"], "KlDivBackward0")
_kl_div_log = RowLoss(ROWS["kl_divergence_log"], "KlDivBackward0")
_soft_margin = RowLoss(ROWS["soft_margin"], "SoftMarginLossBackward0")
_hinge = RowLoss(ROWS["hinge_embedding"], "HingeEmbeddingLossBackward0")
_poisson = RowLoss(ROWS["poisson_nll"], "PoissonNllLossBackward0")
_poisson_log = RowLoss(ROWS["poisson_nll_log"], "PoissonNllLossBackward0")


def smooth_l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean", beta: float = 1.0,
) -> Tensor:  # fmt: skip
    """Squared error / (2 beta) below beta, absolute error - beta / 2 above.

    Raises:
        RuntimeError: for a negative beta.
    """
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    return _smooth_l1(*matched("smooth_l1", input, target), reduction, beta, 1 / beta)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Squared error / 2 below delta, delta * (absolute error - delta / 2) above.

    Raises:
        RuntimeError: for a delta that is not positive.
        ValueError: for a weight of another shape.
    """
    check_reduction(reduction)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    x, y = matched("huber", input, target)
    if weight is None:
        return _huber(x, y, reduction, delta)
    if weight._array.shape != input._array.shape:
        raise ValueError("Weights and input must have the same size.")
    return reduced(FUNCTIONS["mul"](_huber(x, y, "none", delta), weight), reduction)


def kl_div(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean", log_target: bool = False,
) -> Tensor:  # fmt: skip
    """target * (log(target) - input) for log-probabilities input; with log_target both are.

    Reduction 'batchmean' divides the sum by the length of the first dimension.
    """
    batch = reduction == "batchmean"
    if size_average is not None or reduce is not None:
        reduction, batch = old_reduction(size_average, reduce, reduction), False
    elif reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math "
            "definition.'mean' will be changed to behave the same as 'batchmean' in the next major "
            "release.",
            stacklevel=2,
        )
    chosen = "sum" if batch else reduction
    check_reduction(chosen)
    loss = (_kl_div_log if log_target else _kl_div)(*broadcast("kl_div", input, target), chosen)
    if batch and input._array.ndim:
        loss = FUNCTIONS["div"](loss, input._array.shape[0])
    return loss


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, size_average: Any = None,
    reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """input where target is 1, max(0, margin - input) where it is -1."""
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    return _hinge(*broadcast("hinge_embedding_loss", input, target), reduction, margin)


def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """log(1 + exp(-target * input)); target is 1 or -1.

    Raises:
        RuntimeError: if target requires grad.
    """
    if target._node is not None and mode.enabled:
        raise RuntimeError(
            "The function 'soft_margin_loss' is not differentiable with respect to argument "
            "'target'. This input cannot have requires_grad True."
        )
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    return _soft_margin(*broadcast("soft_margin_loss", input, target), reduction)


def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False,
    size_average: Any = None, eps: float = 1e-8, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """exp(input) - target * input, or input - target * log(input + eps) if not log_input.

    full: plus Stirling's formula for log(target!) where target > 1.
    """
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    x, y = broadcast("poisson_nll_loss", input, target)
    kind = "none" if full else reduction
    loss = _poisson_log(x, y, kind) if log_input else _poisson(x, y, kind, eps)
    if not full:
        return loss
    log = FUNCTIONS["log"]
    stirling = y * log(y) - y + 0.5 * log(2 * math.pi * y)
    return reduced(
        FUNCTIONS["add"](loss, tensors.where(FUNCTIONS["gt"](y, 1), stirling, 0)), reduction
    )


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """(log(var) + (input - target)^2 / var) / 2, var counting as at least eps.

    full: plus log(2 pi) / 2.

    Raises:
        ValueError: for a negative var, or one of a shape that does not fit.
    """
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        variance: Tensor = FUNCTIONS["mul"](ones_like(input), var)
    else:
        variance = var
        if (variance._array < 0).any():
            raise ValueError("var has negative entry/entries")
    a, v = input._array.shape, variance._array.shape
    if v != a:
        if a[:-1] == v:
            variance = unsqueeze(variance, -1)
        elif len(a) != len(v) or sum(n for m, n in zip(a, v, strict=True) if m != n) != 1:
            raise ValueError("var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction + " is not valid")
    # Below eps var is eps, but its gradient is that of the formula, as in PyTorch.
    raised = np.maximum(variance._array, np.asarray(eps, variance._array.dtype)) - variance._array
    variance = FUNCTIONS["add"](variance, wrap(raised))
    squares = FUNCTIONS["square"](FUNCTIONS["sub"](input, target))
    loss = 0.5 * (FUNCTIONS["log"](variance) + FUNCTIONS["div"](squares, variance))
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)
