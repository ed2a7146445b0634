"""Losses of several classes or labels at once, by margins."""

from typing import Any

import numpy as np

from ..graph.node import mode
from ..kernels import cpu
from ..tensor import Tensor, wrap
from .activation import logsigmoid, relu
from .convert import where
from .distance import reduced
from .elementwise import FUNCTIONS
from .gather import gather
from .loss import check_reduction, old_reduction
from .ranges import arange
from .reduce import sum
from .refusals import not_implemented
from .scan import cumprod
from .view import reshape, unsqueeze


def _checked(name: str, input: Tensor, target: Tensor) -> tuple[int, int]:
    """The numbers of samples and classes of an input (N, C) or (C)."""
    shape = input._array.shape
    if len(shape) > 2 or shape[-1:] == (0,):
        raise RuntimeError(
            "Expected non-empty vector or matrix with optional 0-dim batch size, but got: "
            f"{list(shape)}"
        )
    if not input.is_floating_point():
        raise not_implemented(name, input.dtype)
    if target._array.dtype != np.int64:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype.short}")
    return shape[0] if len(shape) == 2 else 1, shape[-1] if shape else 1


def multi_margin_loss(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
    size_average: Any = None, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Sum over the other classes of max(0, margin - score of the target's class + score)^p, over
    the number of classes; weight: a factor for each class of a target.

    Raises:
        ValueError: for another p than 1 and 2, or a weight that is no vector.
        RuntimeError: for shapes, dtypes or classes that do not fit.
    """
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight._array.ndim != 1:
        raise ValueError("weight must be one-dimensional")
    count, classes = _checked("multi_margin_loss_cpu_kernel", input, target)
    t = target._array
    if t.ndim > 1 or t.size != count:
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input "
            f"samples (batch size). Expected target size [{count}], but got {list(t.shape)}. Input "
            f"has shape {list(input._array.shape)}."
        )
    if weight is not None:
        _check_weight(input, weight, classes)
    cpu.check_inside(t, classes, RuntimeError, "target out of range")
    x, places = reshape(input, (count, classes)), reshape(target, (count, 1))
    gaps = relu(FUNCTIONS["sub"](margin, FUNCTIONS["sub"](gather(x, 1, places), x)))
    if p == 2:
        gaps = FUNCTIONS["square"](gaps)
    if weight is not None:
        gaps = FUNCTIONS["mul"](gaps, reshape(gather(weight, 0, reshape(target, (-1,))), (-1, 1)))
    own = FUNCTIONS["eq"](arange(classes, device=input.device), places)
    loss = FUNCTIONS["div"](sum(where(own, 0.0, gaps), 1), classes)
    return reduced(reshape(loss, t.shape), reduction)


def _check_weight(input: Tensor, weight: Tensor, classes: int) -> None:
    if weight._array.size != classes:
        raise RuntimeError(
            f"inconsistent weight size, expected {classes} but got {list(weight._array.shape)}"
        )
    if weight.dtype is not input.dtype:
        raise RuntimeError(
            f"expected scalar type {input.dtype.short} but found {weight.dtype.short}"
        )
    if weight._node is not None and mode.enabled:
        raise RuntimeError(
            "The function 'multi_margin_loss' is not differentiable with respect to argument "
            "'weight'. This input cannot have requires_grad True."
        )


def multilabel_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Sum over labels and other classes of max(0, 1 - score of the label + score), over the number
    of classes. A row of target names labels, up to its first -1.

    Raises:
        RuntimeError: for shapes, dtypes or labels that do not fit.
    """
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    count, classes = _checked("multilabel_margin_loss_forward_out_frame", input, target)
    a, t = input._array, target._array
    if t.shape != a.shape and not (a.ndim <= 1 and t.ndim <= 1 and t.size == classes):
        raise RuntimeError(
            f"inconsistent target size: {list(t.shape)} for input of size: {list(a.shape)}"
        )
    cpu.check_inside(t + 1, classes + 1, RuntimeError, "argument #2 'target' is out of range")
    x, labels = reshape(input, (count, classes)), reshape(target, (count, classes))
    named = cumprod(wrap((labels._array >= 0).astype(np.int64)), 1)
    own = gather(x, 1, FUNCTIONS["mul"](labels, named))
    # By sample, label and class.
    gaps = relu(1 - FUNCTIONS["sub"](unsqueeze(own, 2), unsqueeze(x, 1)))
    same = labels._array[:, :, None] == np.arange(classes, like=a)
    is_label = (same & (named._array[:, :, None] > 0)).any(1, keepdims=True)
    counted = wrap(~is_label & (named._array[:, :, None] > 0))
    loss = FUNCTIONS["div"](sum(where(counted, gaps, 0.0), (1, 2)), classes)
    return reduced(reshape(loss, a.shape[:-1]), reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
    reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Binary cross entropy of sigmoid(input) with target, averaged over the last dimension.

    Raises:
        ValueError: for another reduction.
    """
    reduction = old_reduction(size_average, reduce, reduction)
    yes = FUNCTIONS["mul"](target, logsigmoid(input))
    no = FUNCTIONS["mul"](1 - target, logsigmoid(FUNCTIONS["neg"](input)))  # type: ignore[operator]
    loss = FUNCTIONS["neg"](FUNCTIONS["add"](yes, no))
    if weight is not None:
        loss = FUNCTIONS["mul"](loss, weight)
    if not input._array.ndim:
        raise IndexError("Dimension specified as -1 but tensor has no dimensions")
    loss = FUNCTIONS["div"](sum(loss, -1), input._array.shape[-1])
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    return reduced(loss, reduction)
