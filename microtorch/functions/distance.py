"""Norms and angles between vectors, and the losses that are built on them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import broadcast_error
from ..tensor import Tensor, wrap
from .elementwise import FUNCTIONS
from .loss import check_reduction, old_reduction
from .names import function
from .op import deliver, tensors
from .reduce import amax, mean, sum


def vector_norm(x: Tensor, p: float, dim: Any, keepdim: bool, least: float) -> Tensor:
    """The p-norm along dimensions, not below `least`; its gradient is 0 where it is."""
    size = FUNCTIONS["abs"](x)
    if p == math.inf:
        return FUNCTIONS["clamp_min"](amax(size, dim, keepdim), least)
    if p == 2.0:
        squares = sum(FUNCTIONS["square"](x), dim, keepdim)
        return FUNCTIONS["sqrt"](FUNCTIONS["clamp_min"](squares, least * least))
    if p == 1.0:
        return FUNCTIONS["clamp_min"](sum(size, dim, keepdim), least)
    if p == 0.0:
        return FUNCTIONS["clamp_min"](sum(FUNCTIONS["sign"](size), dim, keepdim), least)
    powers = sum(FUNCTIONS["pow_number"](size, p), dim, keepdim)
    root = FUNCTIONS["pow_number"](FUNCTIONS["clamp_min"](powers, least**p), 1 / p)
    return root  # type: ignore[no-any-return]


def normalize(
    input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """input divided by its p-norm along dim, which counts as at least eps."""
    return deliver(FUNCTIONS["div"](input, vector_norm(input, p, dim, True, eps)), out)


@function()
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Cosine of the angle between vectors along dim; each norm counts as at least eps."""
    if not x1.is_floating_point() or not x2.is_floating_point():
        raise RuntimeError(
            "expected common dtype to be floating point, yet common dtype is " + x1.dtype.short
        )
    x1, x2 = _broadcast(x1, x2)
    dots = FUNCTIONS["mul"](_unit(x1, dim, eps), _unit(x2, dim, eps))
    return sum(dots, dim)


def _broadcast(*operands: Tensor) -> list[Tensor]:
    shapes = [x._array.shape for x in operands]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise broadcast_error(*shapes[:2]) from None
    return [x if x._array.shape == shape else tensors.expand(x, shape) for x in operands]


def _unit(x: Tensor, dim: int, eps: float) -> Tensor:
    # A norm below eps counts as eps, but its gradient is its own, as in PyTorch.
    norm = vector_norm(x, 2.0, dim, True, 1e-18)
    raised = np.maximum(norm._array, np.asarray(eps, norm._array.dtype)) - norm._array
    return FUNCTIONS["div"](x, FUNCTIONS["add"](norm, wrap(raised)))  # type: ignore[no-any-return]


@function()
def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-06, keepdim: bool = False
) -> Tensor:
    """p-norm of x1 - x2 + eps along the last dimension."""
    difference = FUNCTIONS["add"](FUNCTIONS["sub"](x1, x2), eps)
    return vector_norm(difference, p, -1, keepdim, 0.0)


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """A loss an element, reduced."""
    return loss if reduction == "none" else sum(loss) if reduction == "sum" else mean(loss)


def _positive(x: Any) -> Tensor:
    return FUNCTIONS["clamp_min"](x, 0)  # type: ignore[no-any-return]


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: Any = None,
    reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, -target * (input1 - input2) + margin); target is 1 or -1.

    Raises:
        RuntimeError: for different numbers of dimensions.
    """
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    shapes = [x._array.shape for x in (input1, input2, target)]
    if len({len(s) for s in shapes}) > 1:
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {list(shapes[0])}, input2: {list(shapes[1])}, target: {list(shapes[2])} "
        )
    difference = FUNCTIONS["sub"](input1, input2)
    loss = _positive(
        FUNCTIONS["add"](FUNCTIONS["mul"](FUNCTIONS["neg"](target), difference), margin)
    )
    return reduced(loss, reduction)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: Any = None,
    reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """1 - cos where target is 1, max(0, cos - margin) where it is -1.

    Raises:
        RuntimeError: for shapes that do not fit.
    """
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    a, b, t = (x._array for x in (input1, input2, target))
    if t.ndim > 1 or (t.ndim == 1 and a.ndim != 2) or (t.ndim == 0 and a.ndim != 1):
        shape = "1D target tensor expects 2D" if t.ndim == 1 else "0D target tensor expects 1D"
        raise RuntimeError(
            "0D or 1D target tensor expected, multi-target not supported"
            if t.ndim > 1
            else f"{shape} input tensors, but found inputs with sizes {list(a.shape)} and "
            f"{list(b.shape)}."
        )
    dim = t.ndim
    dots = sum(FUNCTIONS["mul"](input1, input2), dim)
    squares = [FUNCTIONS["add"](sum(FUNCTIONS["square"](x), dim), 1e-12) for x in (input1, input2)]
    cos = FUNCTIONS["div"](dots, FUNCTIONS["sqrt"](FUNCTIONS["mul"](*squares)))
    near = tensors.where(FUNCTIONS["eq"](target, 1), 1 - cos, 0)
    far = tensors.where(FUNCTIONS["eq"](target, -1), _positive(cos - margin), 0)
    return reduced(FUNCTIONS["add"](near, far), reduction)


def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2,
    eps: float = 1e-6, swap: bool = False, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, |anchor - positive| - |anchor - negative| + margin), by p-norms.

    Raises:
        RuntimeError: for different numbers of dimensions.
        ValueError: for a margin that is not positive.
    """
    return triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=lambda a, b: pairwise_distance(a, b, p, eps),
        margin=margin, swap=swap, reduction=old_reduction(size_average, reduce, reduction),
    )  # fmt: skip


def triplet_margin_with_distance_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None, margin: float = 1.0,
    swap: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, distance(anchor, positive) - distance(anchor, negative) + margin).

    swap: the negative's distance to the positive counts where it is smaller.

    Raises:
        RuntimeError: for different numbers of dimensions.
        ValueError: for a margin that is not positive.
    """
    check_reduction(reduction)
    distance = pairwise_distance if distance_function is None else distance_function
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    ranks = [x._array.ndim for x in (anchor, positive, negative)]
    if len(set(ranks)) > 1:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of "
            f"dimensions, but got: anchor {ranks[0]}D, positive {ranks[1]}D, and negative "
            f"{ranks[2]}D inputs"
        )
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = FUNCTIONS["minimum"](far, distance(positive, negative))
    return reduced(_positive(FUNCTIONS["add"](FUNCTIONS["sub"](near, far), margin)), reduction)
