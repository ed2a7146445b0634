"""`finfo` and `iinfo`: the limits of element types."""

from typing import Any

import numpy as np

from . import dtypes


class finfo:
    """Limits of a floating-point dtype: bits, eps, max, min, tiny, smallest_normal, resolution.

    Raises:
        TypeError: for another dtype.
    """

    def __init__(self, dtype: dtypes.dtype | None = None) -> None:
        kind = dtypes.get_default_dtype() if dtype is None else dtype
        if not kind.is_floating_point:
            raise TypeError(
                f"torch.finfo() requires a floating point input type. Use torch.iinfo to handle "
                f"'{kind}'"
            )
        found: Any = np.finfo(kind.numpy)
        self.dtype = repr(kind).removeprefix("torch.")
        self.bits = int(found.bits)
        for name in ("eps", "max", "min", "tiny", "smallest_normal", "resolution"):
            setattr(self, name, float(getattr(found, name)))

    def __repr__(self) -> str:
        names = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")
        values = ", ".join(f"{n}={getattr(self, n):g}" for n in names)
        return f"finfo({values}, dtype={self.dtype})"


class iinfo:
    """Limits of an integer dtype: bits, max, min.

    Raises:
        TypeError: for another dtype.
    """

    def __init__(self, dtype: dtypes.dtype) -> None:
        if dtype.is_floating_point or dtype is dtypes.bool:
            raise TypeError(
                f"torch.iinfo() requires an integer input type. Use torch.finfo to handle '{dtype}'"
            )
        found = np.iinfo(dtype.numpy)
        self.dtype = repr(dtype).removeprefix("torch.")
        self.bits, self.max, self.min = int(found.bits), int(found.max), int(found.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"
