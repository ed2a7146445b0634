"""Padding: constants or reflected, repeated and wrapped-around elements before and after."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .convert import clone
from .gather import index_select
from .op import Rule, record
from .view import narrow


def _pad_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    shape, before = const
    for dim, (n, start) in enumerate(zip(shape, before, strict=True)):
        g = F.narrow(g, dim, start, n)
    return (g,)


PAD = Rule("ConstantPadNdBackward0", _pad_rule)


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Elements before and after along the last dimensions.

    pad: (before, after) of the last dimension, then of the one before it, and so on; negative
    numbers cut off. mode: 'constant', 'reflect', 'replicate' or 'circular'.

    Raises:
        RuntimeError: for paddings that do not fit.
        NotImplementedError: for an unknown mode, or a rank that a mode is not made for.
    """
    a = input._array
    if len(pad) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if len(pad) > 2 * a.ndim:
        raise RuntimeError(
            "Padding length should be less than or equal to two times the input dimension but got "
            f"padding length {len(pad)} and input of dimension {a.ndim}"
        )
    widths = [(pad[2 * k], pad[2 * k + 1]) for k in range(len(pad) // 2)][::-1]
    first = a.ndim - len(widths)
    if mode == "constant":
        return _constant(input, [(0, 0)] * first + widths, 0 if value is None else value)
    if value is not None and value != 0:
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument')
    if not 1 <= len(widths) <= 3 or a.ndim - len(widths) not in (1, 2):
        raise NotImplementedError(
            "Only 2D, 3D, 4D, 5D padding with non-constant padding are supported for now"
        )
    if mode not in _PLACES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    indices = [
        _PLACES[mode](a.shape, first + k, *width) if any(width) else None
        for k, width in enumerate(widths)
    ]
    for k, places in enumerate(indices):
        if places is not None:
            input = index_select(input, first + k, wrap(places))
    return input


def _constant(input: Tensor, widths: list[tuple[int, int]], value: float) -> Tensor:
    shape = input._array.shape
    made = tuple(n + low + high for n, (low, high) in zip(shape, widths, strict=True))
    for dim, (n, (low, high)) in enumerate(zip(shape, widths, strict=True)):
        if made[dim] < 0 or n + min(low, 0) + min(high, 0) < 0:
            raise RuntimeError(
                f"The input size {n}, plus negative padding {low} and {high} resulted in a "
                f"negative output size, which is invalid. Check dimension {dim} of your input."
            )
    for dim, (low, high) in enumerate(widths):
        if low < 0 or high < 0:
            length = input._array.shape[dim] + min(low, 0) + min(high, 0)
            input = narrow(input, dim, max(-low, 0), length)
    before = tuple(max(low, 0) for low, _ in widths)
    kept = input._array
    if made == kept.shape:
        return clone(input)
    array = np.full(made, value, kept.dtype, like=kept)
    array[tuple(slice(p, p + n) for p, n in zip(before, kept.shape, strict=True))] = kept
    return record(PAD, array, (input,), const=(kept.shape, before))


def _reflect(shape: tuple[int, ...], dim: int, before: int, after: int) -> Any:
    n = shape[dim]
    if before >= n or after >= n:
        raise RuntimeError(
            "Argument #4: Padding size should be less than the corresponding input dimension, but "
            f"got: padding ({before}, {after}) at dimension {dim} of input {list(shape)}"
        )
    places = np.abs(np.arange(-before, n + after))
    return np.where(places >= n, 2 * (n - 1) - places, places)


def _replicate(shape: tuple[int, ...], dim: int, before: int, after: int) -> Any:
    return np.clip(np.arange(-before, shape[dim] + after), 0, shape[dim] - 1)


def _circular(shape: tuple[int, ...], dim: int, before: int, after: int) -> Any:
    if before > shape[dim] or after > shape[dim]:
        raise RuntimeError("Padding value causes wrapping around more than once.")
    return np.arange(-before, shape[dim] + after) % shape[dim]


_PLACES = {"reflect": _reflect, "replicate": _replicate, "circular": _circular}
