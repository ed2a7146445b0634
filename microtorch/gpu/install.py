"""What the package needs to know once a GPU is used; until then nothing of this is imported.

`np.asarray` and its like would read an array of the GPU as a sequence: modules of the package get
a NumPy that leaves such arrays where they are.
"""

import functools
import importlib
import sys
import types
from typing import Any

import numpy as np

from ..device import device as Device
from ..kernels import convolve, cpu, lapack, rows, scans, windows
from . import ops as _ops  # noqa: F401 - puts itself in place
from .array import Array

# Modules with arrays that are loaded at first use otherwise.
LATE = "autograd.functional linalg nn nn.utils optim utils.data capture.program".split()
# Those that keep NumPy as it is, and the exceptions.
_APART = "gpu checkpoint kernels capture.hooks capture.traced".split()
APART = tuple(f"microtorch.{name}" for name in _APART)
KERNELS = (convolve, cpu, lapack, rows, scans, windows)


def _asarray(
    x: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, like: Any = None
) -> Any:
    if type(x) is not Array:
        return np.asarray(x, dtype, order, copy=copy, like=like)
    if dtype is not None and np.dtype(dtype) != x.dtype:
        return x.astype(dtype)
    if copy or (order == "C" and not x.flags.c_contiguous):
        return x.copy()
    return x


def _array(x: Any, dtype: Any = None, *, copy: Any = True, order: Any = "K", **options: Any) -> Any:
    if type(x) is not Array:
        return np.array(x, dtype, copy=copy, order=order, **options)
    return _asarray(x, dtype, "C" if order == "C" else None, copy=copy)


def _ascontiguousarray(x: Any, dtype: Any = None) -> Any:
    return _asarray(x, dtype, "C") if type(x) is Array else np.ascontiguousarray(x, dtype)


def _as_strided(x: Any, *args: Any, **options: Any) -> Any:
    if type(x) is not Array:
        return np.lib.stride_tricks.as_strided(x, *args, **options)
    options.pop("writeable", None)
    return Array(np.lib.stride_tricks.as_strided(x.ghost, *args, **options), x.block)


def _byte_bounds(x: Any) -> tuple[int, int]:
    return np.lib.array_utils.byte_bounds(x.ghost if type(x) is Array else x)


@functools.cache
def numpy() -> Any:
    """NumPy as the package sees it."""
    seen: Any = types.ModuleType("numpy")
    seen.__dict__.update(np.__dict__)
    seen.__getattr__ = lambda name: getattr(np, name)
    for function in (_asarray, _array, _ascontiguousarray):
        function.__name__ = function.__name__.removeprefix("_")
        setattr(seen, function.__name__, function)
    tricks = types.SimpleNamespace(**vars(np.lib.stride_tricks))
    tricks.as_strided = _as_strided
    utils = types.SimpleNamespace(byte_bounds=_byte_bounds)
    seen.lib = types.SimpleNamespace(stride_tricks=tricks, array_utils=utils)
    return seen


@functools.cache
def install() -> None:
    """Prepare the package for arrays on the GPU."""
    for name in LATE:
        importlib.import_module("microtorch." + name)
    for name, module in list(sys.modules.items()):
        ours = name.startswith("microtorch.") and not name.startswith(APART)
        if (ours or module in KERNELS) and module.__dict__.get("np") is np:
            module.np = numpy()  # type: ignore[attr-defined]
    vars(windows)["as_strided"] = _as_strided


@functools.cache
def place(index: int | None) -> Device:
    """The device, once the GPU is in use.

    Raises:
        RuntimeError: for the number of a GPU that there is not.
    """
    if index:
        raise RuntimeError(
            f"CUDA error: invalid device ordinal: microtorch uses one GPU, cuda:0, not cuda:{index}"
        )
    install()
    return Array.device
