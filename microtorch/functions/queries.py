"""Questions about tensors, and names of PyTorch that set what is the same here always."""

import warnings
from typing import Any

import numpy as np

from .. import dtypes
from ..device import CPU, check, default, device
from ..errors import combination_error
from ..tensor import Tensor, wrap
from .names import function, method, public
from .op import deliver, need_tensor

_PRECISIONS = ("highest", "high", "medium")
_precision = ["highest"]


@function()
def result_type(tensor1: Any, tensor2: Any) -> dtypes.dtype:
    """The dtype of an operation on two tensors or numbers.

    Raises:
        TypeError: for anything else.
    """
    kinds = []
    for t in (tensor1, tensor2):
        if isinstance(t, Tensor):
            kinds.append((t.dtype, 2 if t.ndim else 1))
        elif isinstance(t, (bool, int, float)):
            kinds.append((dtypes.of_number(t), 0))
        else:
            raise combination_error("result_type", tensor1, tensor2)
    return dtypes.result_type(kinds)


@public()
def is_nonzero(input: Tensor) -> bool:
    """Whether a tensor's only element is not zero.

    Raises:
        RuntimeError: for any other number of elements.
    """
    need_tensor("is_nonzero", "input", 1, input)
    return bool(input)


@public()
def signbit(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Whether an element has a minus sign: -0.0 has one.

    Raises:
        RuntimeError: for an `out` that is not of bools.
    """
    need_tensor("signbit", "input", 1, input)
    if out is not None and out.dtype is not dtypes.bool:
        raise RuntimeError("signbit does not support non-boolean outputs.")
    a = input._array
    found = np.signbit(a) if a.dtype.kind == "f" else np.less(a, 0)
    return deliver(wrap(np.asarray(found)), out)


@function()
def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """The index in each dimension of elements counted in a flattened tensor of a shape.

    Raises:
        TypeError: for indices that are no integers.
        ValueError: for a negative length.
    """
    need_tensor("unravel_index", "indices", 1, indices)
    if indices.dtype.category != 1:
        raise TypeError(f"expected 'indices' to be integer dtype, but got {indices.dtype}")
    lengths = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    if any(n < 0 for n in lengths):
        raise ValueError(f"'shape' cannot have negative values, but got {lengths}")
    found: list[Any] = []
    rest = indices._array
    for length in reversed(lengths):
        found.insert(0, rest % length)
        rest = rest // length
    stacked = np.stack(found, -1)
    return tuple(wrap(stacked[..., k]) for k in range(len(lengths)))


@method()
def type_as(input: Tensor, other: Tensor) -> Tensor:
    """The elements in another tensor's dtype, on its device."""
    need_tensor("type_as", "other", 1, other)
    return input.to(other)  # type: ignore[attr-defined,no-any-return]


@function()
def get_default_device() -> device:
    """Where tensors are made if nothing is said."""
    return default[0]


@function()
def set_default_device(device: Any) -> None:
    """Make tensors there if nothing is said; None is the CPU.

    Raises:
        AssertionError, RuntimeError: for a device that there is not.
    """
    default[0] = check(CPU if device is None else device)


@function()
def set_float32_matmul_precision(precision: str) -> None:
    """Accepted: products have the full precision of their dtype."""
    if precision in _PRECISIONS:
        _precision[:] = [precision]
    else:
        warnings.warn(
            f"{precision} is not one of 'highest', 'high', or 'medium'; the current"
            "setFloat32MatmulPrecision call has no effect.",
            stacklevel=2,
        )


@function()
def get_float32_matmul_precision() -> str:
    """What was set."""
    return _precision[0]
