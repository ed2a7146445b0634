"""Tensors filled, resized and changed element by element, in place."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..tensor import Tensor, changed, check_in_place
from .convert import fill_
from .creation import sizes_of
from .names import method
from .op import need_tensor
from .strided import as_strided


@method()
def fill_diagonal_(input: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Write a number on the diagonal of all dimensions, in place.

    wrap: start again at the top of a tall matrix, after a row between.

    Raises:
        RuntimeError: for one dimension, or for several that are not equally long.
    """
    need_tensor("fill_diagonal_", "input", 1, input)
    check_in_place(input)
    shape = input._array.shape
    if len(shape) < 2:
        raise RuntimeError("dimensions must larger than 1")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    strides = input.stride()
    count = min(shape)
    fill_(as_strided(input, (count,), (sum(strides),), input.storage_offset()), fill_value)
    if wrap and len(shape) == 2 and shape[0] > shape[1] + 1:
        rest = input[shape[1] + 1 :]  # type: ignore[index]
        fill_diagonal_(rest, fill_value, wrap)
    return input


@method()
def apply_(input: Tensor, callable: Callable[[Any], Any]) -> Tensor:
    """Put what a Python function gives for each element in its place; slow.

    Raises:
        RuntimeError: for a tensor that requires grad.
    """
    if input.requires_grad:
        raise RuntimeError(
            "Can't call apply_() on Variable that requires grad. Use var.detach().apply_() instead."
        )
    check_in_place(input)
    a = input._array
    found = np.array([callable(v) for v in a.ravel().tolist()]).reshape(a.shape)
    a[...] = found.astype(a.dtype)
    changed(input)
    return input


@method()
def resize_(input: Tensor, *sizes: Any, memory_format: Any = None) -> Tensor:
    """The first elements in another shape, in place; an empty tensor may grow.

    Raises:
        RuntimeError: for a tensor that requires grad, and for one that would have to grow or has
            gaps in its memory.
    """
    if input.requires_grad:
        raise RuntimeError("cannot resize variables that require grad")
    shape = sizes_of("resize_", sizes)
    a, count = input._array, math.prod(shape)
    if a.shape == shape:
        return input
    if a.size and (count > a.size or not a.flags.c_contiguous):
        raise RuntimeError(
            f"resize_: a tensor of shape {list(a.shape)} cannot be resized to {list(shape)}: "
            "microtorch's tensors keep their memory and cannot grow; make a new one"
        )
    memory = a.reshape(-1)[:count] if a.size else np.empty(count, a.dtype, like=a)
    input._array = memory.reshape(shape)
    changed(input)
    return input
