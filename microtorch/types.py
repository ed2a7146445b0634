"""`torch.types`: names of types, for annotations."""

import os
from typing import IO, Any, TypeAlias

from .device import device as _device
from .dtypes import dtype as _dtype
from .errors import unknown_names
from .tensor import Size, Tensor

Number: TypeAlias = int | float | bool
Device: TypeAlias = _device | str | int | None
FileLike: TypeAlias = str | os.PathLike[str] | IO[bytes]
Storage: TypeAlias = Any
_int, _float, _bool, _size = int, float, bool, Size | list[int] | tuple[int, ...]

__all__ = ["Device", "FileLike", "Number", "Size", "Storage", "Tensor", "_device", "_dtype"]

__getattr__ = unknown_names(__name__)
