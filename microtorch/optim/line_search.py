"""A line search for the strong Wolfe conditions (Nocedal & Wright, Numerical Optimization, 3.5)."""

from collections.abc import Callable
from typing import NamedTuple

from ..tensor import Tensor

# How much of the slope's promise the loss must keep, and how much smaller the slope must become.
_DECREASE, _CURVATURE = 1e-4, 0.9


class Point(NamedTuple):
    """A place on the line: how far along the direction, the loss, its gradient and its slope."""

    t: float
    loss: float
    gradient: Tensor
    slope: float


def strong_wolfe(
    at: Callable[[float], Point], start: Point, t: float, longest: float, tolerance: float,
    most: int,
) -> tuple[Point, int]:  # fmt: skip
    """A point with a much lower loss and a much smaller slope, and how many were evaluated.

    First steps grow until they enclose such a point (algorithm 3.5), then the interval shrinks
    (3.6); cubics through both ends say where to look. at: evaluates a point. t: the first step.
    longest: the largest element of the direction; intervals in which no parameter moves by
    `tolerance` end the search, and so do `most` points besides the first.
    """

    def too_high(point: Point) -> bool:
        return point.loss > start.loss + _DECREASE * point.t * start.slope

    def flat(point: Point) -> bool:
        return abs(point.slope) <= -_CURVATURE * start.slope

    before, point, steps = start, at(t), 0
    while True:
        if steps >= most:
            low, high = sorted((start, point), key=_loss)
            return low, steps + 1
        if too_high(point) or (steps > 1 and point.loss >= before.loss):
            break
        if flat(point):
            return point, steps + 1
        if point.slope >= 0:
            break
        t = point.t
        t = cubic_minimum(before, point, (t + 0.01 * (t - before.t), t * 10))
        before, point, steps = point, at(t), steps + 1

    low, high = sorted((before, point), key=_loss)
    close = False
    while steps < most and abs(high.t - low.t) * longest >= tolerance:
        left, right = sorted((low.t, high.t))
        t = cubic_minimum(low, high, (left, right))
        margin = 0.1 * (right - left)
        # A point near an end is taken once; the next one must be well inside.
        near = min(right - t, t - left) < margin
        if near and (close or t >= right or t <= left):
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            near = False
        close = near
        point, steps = at(t), steps + 1
        if too_high(point) or point.loss >= low.loss:
            low, high = sorted((low, point), key=_loss)
            continue
        if flat(point):
            return point, steps + 1
        if point.slope * (high.t - low.t) >= 0:
            high = low
        low = point
    return low, steps + 1


def cubic_minimum(a: Point, b: Point, bounds: tuple[float, float]) -> float:
    """Where the cubic with the losses and slopes of two points is lowest within bounds (3.59)."""
    if a.t > b.t:
        a, b = b, a
    sum_ = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = sum_**2 - a.slope * b.slope
    if not square >= 0:
        return (bounds[0] + bounds[1]) / 2
    root = square**0.5
    t = b.t - (b.t - a.t) * ((b.slope + root - sum_) / (b.slope - a.slope + 2 * root))
    return min(max(t, bounds[0]), bounds[1])


def _loss(point: Point) -> float:
    return point.loss
