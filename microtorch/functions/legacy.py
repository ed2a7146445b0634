"""PyTorch's old constructors: `torch.LongTensor([1, 2])`, `torch.FloatTensor(2, 3)`."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error
from ..tensor import Size, Tensor, wrap
from .convert import cast
from .creation import empty, from_numpy, tensor
from .names import PUBLIC, method


def construct(args: tuple[Any, ...], dtype: dtypes.dtype) -> Tensor:
    """Uninitialized memory of the sizes given, or the elements of a tensor or a sequence; those of
    an ndarray of this dtype are shared.

    Raises:
        TypeError: for an argument that is none of these.
    """
    if len(args) != 1 or isinstance(args[0], (int, np.integer, Size)):
        return empty(*args or (0,), dtype=dtype)
    (data,) = args
    if isinstance(data, Tensor):
        return cast(data.detach(), dtype).clone()  # type: ignore[attr-defined,no-any-return]
    if isinstance(data, np.ndarray) and data.ndim:
        return cast(from_numpy(data), dtype)
    if isinstance(data, str):
        raise TypeError("new(): invalid data type 'str'")
    if isinstance(data, dict) or not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        name = re.sub(r"^builtins\.", "", f"{type(data).__module__}.{type(data).__name__}")
        raise TypeError(f"new(): data must be a sequence (got {name})")
    return tensor(data, dtype=dtype)


def create(cls: type[Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's old constructor: `Tensor([1, 2])` or `Tensor(2, 3)`, of the default dtype."""
    return wrap(construct(args, dtypes.get_default_dtype())._array, cls)


def _constructor(dtype: dtypes.dtype) -> Callable[..., Tensor]:
    def create(*args: Any) -> Tensor:
        return construct(args, dtype)

    create.__name__ = create.__qualname__ = f"{dtype.short}Tensor"
    create.__doc__ = f"A {dtype.short.lower()} tensor of a sequence, or of uninitialized memory."
    create.dtype = dtype  # type: ignore[attr-defined]
    return create


_CONSTRUCTORS = [
    _constructor(d)
    for d in (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.int64, dtypes.int32,
              dtypes.int16, dtypes.int8, dtypes.uint8, dtypes.bool)
]  # fmt: skip
_BY_NAME = {f"torch.{f.__name__}": f for f in _CONSTRUCTORS}
PUBLIC.update({f.__name__: f for f in _CONSTRUCTORS})


@method("type")
def type_(input: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """PyTorch's old type name, `torch.FloatTensor`; or the tensor in another type.

    Raises:
        ValueError: for a name of no type.
    """
    if dtype is None:
        return f"torch.{'cuda.' if input.is_cuda else ''}{input.dtype.short}Tensor"
    if isinstance(dtype, str):
        if dtype not in _BY_NAME:
            raise ValueError(f"invalid type: '{dtype}'")
        dtype = _BY_NAME[dtype]
    dtype = getattr(dtype, "dtype", dtype)
    if not isinstance(dtype, dtypes.dtype):
        raise argument_error("type", "dtype", 1, "torch.dtype", dtype)
    return cast(input, dtype)
