"""Tensors of another one's dtype, and further ways to make one."""

from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error
from ..tensor import Tensor
from .arguments import ints_of
from .convert import clone, to
from .creation import as_tensor, empty, finish, full, ones, tensor, uninitialized, zeros
from .names import function, method


@method()
def new_zeros(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Zeros of input's dtype."""
    return zeros(*size, **{"dtype": input.dtype, "device": input.device, **options})


@method()
def new_ones(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Ones of input's dtype."""
    return ones(*size, **{"dtype": input.dtype, "device": input.device, **options})


@method()
def new_empty(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Uninitialized memory of input's dtype."""
    return empty(*size, **{"dtype": input.dtype, "device": input.device, **options})


@method()
def new_full(input: Tensor, size: Any, fill_value: Any, **options: Any) -> Tensor:
    """fill_value everywhere, in input's dtype."""
    return full(size, fill_value, **{"dtype": input.dtype, "device": input.device, **options})


@method()
def new_tensor(input: Tensor, data: Any, **options: Any) -> Tensor:
    """A copy of data in input's dtype."""
    return tensor(data, **{"dtype": input.dtype, "device": input.device, **options})


@method()
def new_empty_strided(input: Tensor, size: Any, stride: Any, **options: Any) -> Tensor:
    """Uninitialized memory of input's dtype, with given strides."""
    return empty_strided(size, stride, **{"dtype": input.dtype, "device": input.device, **options})


@function()
def empty_strided(
    size: Any, stride: Any, *, dtype: dtypes.dtype | None = None, **options: Any
) -> Tensor:
    """Uninitialized memory with given strides, counted in elements.

    Raises:
        RuntimeError: for another number of strides than lengths, or negative ones.
    """
    shape = ints_of("empty_strided", size, "size", 1)
    steps = ints_of("empty_strided", stride, "stride", 2)
    if len(shape) != len(steps):
        raise RuntimeError(
            f"dimensionality of sizes ({len(shape)}) must match dimensionality of strides "
            f"({len(steps)})"
        )
    if min((*shape, *steps), default=0) < 0:
        raise RuntimeError(
            f"Storage size calculation overflowed with sizes={list(shape)} and "
            f"strides={list(steps)}"
        )
    count = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
    kind = (dtype or dtypes.get_default_dtype()).numpy
    memory = uninitialized(count, kind, options.get("device"))
    array = np.lib.stride_tricks.as_strided(memory, shape, [s * kind.itemsize for s in steps])
    return finish("empty_strided", array, None, **options)


@function()
def scalar_tensor(s: Any, *, dtype: dtypes.dtype | None = None, **options: Any) -> Tensor:
    """A number as a 0-d tensor of the default dtype."""
    if not isinstance(s, (bool, int, float, np.generic)):
        raise argument_error("scalar_tensor", "s", 1, "Number", s)
    return full((), s, dtype=dtype or dtypes.get_default_dtype(), **options)


@function()
def asarray(
    obj: Any, *, dtype: dtypes.dtype | None = None, device: Any = None, copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """`obj` as a tensor, sharing memory where that is possible, unless copy says otherwise.

    Raises:
        ValueError: if copy is False and a copy is needed.
    """
    shares = isinstance(obj, (Tensor, np.ndarray))
    if copy is False and not shares:
        raise ValueError("can't alias arbitrary sequence into a tensor.")
    if not shares:
        return tensor(obj, dtype=dtype, device=device, requires_grad=requires_grad)
    found = as_tensor(obj, device=device)
    if copy is False and dtype not in (None, found.dtype):
        raise ValueError(
            f"can't alias tensor with dtype '{found.dtype.short}' into dtype '{dtype.short}'."
        )
    z = found if dtype is None else to(found, dtype)
    if copy and z is found:
        z = clone(z)
    return z.detach().requires_grad_() if requires_grad and not z.requires_grad else z
