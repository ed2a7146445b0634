"""PyTorch's old constructors: `torch.LongTensor([1, 2])`, `torch.FloatTensor(2, 3)`."""

from collections.abc import Callable
from typing import Any

from .. import dtypes
from ..errors import argument_error
from ..tensor import Tensor
from .convert import cast
from .creation import empty, tensor
from .names import PUBLIC, method


def _constructor(dtype: dtypes.dtype) -> Callable[..., Tensor]:
    def create(*args: Any) -> Tensor:
        if len(args) == 1 and isinstance(args[0], (list, tuple, Tensor)):
            (data,) = args
            if isinstance(data, Tensor):
                return cast(data, dtype).clone()  # type: ignore[attr-defined,no-any-return]
            return tensor(data, dtype=dtype)
        return empty(*args, dtype=dtype) if args else empty(0, dtype=dtype)

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
