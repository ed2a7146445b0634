"""What the package needs to know once a GPU is used; until then nothing of this is imported.

`np.asarray` and its like would read an array of the GPU as a sequence: modules of the package get
a NumPy that leaves such arrays where they are. Functions of `kernels` that work on addresses are
done on the CPU, or by NumPy's operations.
"""

import functools
import importlib
import sys
import types
from typing import Any

import numpy as np

from ..device import device as Device
from ..kernels import convolve, cpu, lapack, rows, scans, windows
from . import ops
from .array import Array

# Modules with arrays that are loaded at first use otherwise.
LATE = "autograd.functional linalg nn nn.utils optim utils.data".split()
APART = ("microtorch.capture", "microtorch.gpu", "microtorch.checkpoint", "microtorch.kernels")
WHOLE = "recurrence products_of_others inv svd qr eigh cholesky solve pinv".split()
PLACE = Array.device


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


def _numpy() -> Any:
    """NumPy as the package sees it."""
    seen = types.ModuleType("numpy")
    seen.__dict__.update(np.__dict__)
    seen.__getattr__ = lambda name: getattr(np, name)  # type: ignore[method-assign]
    seen.asarray, seen.array = _asarray, _array  # type: ignore[attr-defined]
    seen.ascontiguousarray = _ascontiguousarray  # type: ignore[attr-defined]
    tricks = types.SimpleNamespace(**vars(np.lib.stride_tricks))
    tricks.as_strided = _as_strided
    seen.lib = types.SimpleNamespace(  # type: ignore[attr-defined]
        stride_tricks=tricks, array_utils=np.lib.array_utils
    )
    return seen


def _on_host(function: Any) -> Any:
    """A function on arrays that is done on the CPU as a whole."""

    @functools.wraps(function)
    def apply(*args: Any, **options: Any) -> Any:
        if any(type(x) is Array for x in (*args, *options.values())):
            return ops.on_host(function, args, options)
        return function(*args, **options)

    return apply


def _choice(function: Any, other: Any) -> Any:
    """`other` for an array on the GPU."""

    @functools.wraps(function)
    def apply(x: Any, *args: Any, **options: Any) -> Any:
        return (other if type(x) is Array else function)(x, *args, **options)

    return apply


def _spread(g: Any, shape: Any) -> Any:
    return np.broadcast_to(g.reshape(()) if g.ndim else g, shape)


@functools.cache
def install() -> None:
    """Prepare the package for arrays on the GPU."""
    for name in LATE:
        importlib.import_module("microtorch." + name)
    seen = _numpy()
    inside = [m for n, m in list(sys.modules.items()) if n.startswith("microtorch.")]
    for module in inside:
        if module.__name__.startswith(APART) and module not in (cpu, lapack, rows, scans, windows):
            continue
        if module.__dict__.get("np") is np:
            module.np = seen  # type: ignore[attr-defined]
    as_strided = np.lib.stride_tricks.as_strided
    for module in inside:
        if module.__dict__.get("as_strided") is as_strided and module in (windows,):
            module.as_strided = _as_strided  # type: ignore[attr-defined]
    for name in WHOLE:
        setattr(cpu, name, _on_host(getattr(cpu, name)))
    for name in ("conv", "conv_input", "conv_weight"):
        setattr(cpu, name, _choice(getattr(convolve, name), getattr(windows, name)))
    cpu.spread = _choice(cpu.spread, _spread)
    cpu.expand = _choice(cpu.expand, np.broadcast_to)


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
    return PLACE
