"""microtorch: a small PyTorch-compatible autograd library, compiled by Numba.

`import microtorch as torch` runs tutorial code unchanged. Nothing heavy is imported here: NumPy
only. Kernels are compiled, or loaded from the cache, at their first use.
"""

import math as _math
from typing import TYPE_CHECKING, Any

from . import autograd, cuda, device, dtypes, random
from .autograd import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .device import device  # type: ignore[no-redef] # noqa: F811 - the class, as in PyTorch
from .dtypes import (
    bool,
    double,
    dtype,
    float,
    float16,
    float32,
    float64,
    get_default_dtype,
    half,
    int,
    int8,
    int16,
    int32,
    int64,
    long,
    set_default_dtype,
    short,
    uint8,
)
from .errors import OutOfMemoryError, unknown_name
from .functions import methods as _methods
from .functions.names import PUBLIC as _PUBLIC
from .kernels.info import cache_info, clear_cache
from .kernels.threads import get_num_threads, set_num_threads
from .random import (
    Generator,
    default_generator,
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)
from .tensor import Size, Tensor, contiguous_format, preserve_format, strided

__version__ = "0.1.0"
pi, e, inf, nan = _math.pi, _math.e, _math.inf, _math.nan
newaxis = None

_methods.attach()
globals().update(_PUBLIC)

# Loaded at first use: name -> module of this package.
_LAZY = {
    "is_anomaly_enabled": "autograd.anomaly", "set_anomaly_enabled": "autograd.anomaly",
    "is_anomaly_check_nan_enabled": "autograd.anomaly",
    "compile": "capture.program", "register": "custom", "save": "checkpoint", "load": "checkpoint",
    "summary": "torchsummary", "Value": "value",
    "from_dlpack": "interop", "draw": "drawing", "finfo": "limits", "iinfo": "limits",
    "set_printoptions": "printing", "get_printoptions": "printing",
}  # fmt: skip
_SUBMODULES = ("backends", "compiler", "func", "linalg", "nn", "optim", "testing", "types", "utils")
if TYPE_CHECKING:
    from . import nn, optim
    from .value import Value


def is_tensor(obj: Any) -> "bool":  # type: ignore[valid-type]
    """Whether obj is a Tensor."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> "bool":  # type: ignore[valid-type]
    """Whether the dtype of a tensor is a floating-point type."""
    return input.is_floating_point()


def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The smallest dtype that holds values of both."""
    return dtypes.promote(type1, type2)


def use_deterministic_algorithms(mode: "bool", *, warn_only: "bool" = False) -> None:  # type: ignore[valid-type]
    """Accepted: results are the same in every run anyway."""


def __getattr__(name: str) -> Any:
    import importlib

    if name in _SUBMODULES:
        return importlib.import_module("." + name, __name__)
    if name in _LAZY:
        found = getattr(importlib.import_module("." + _LAZY[name], __name__), name)
        globals()[name] = found
        return found
    if name.startswith(("complex", "cfloat", "cdouble")):
        raise AttributeError(f"microtorch has no complex tensors, so there is no torch.{name}")
    raise unknown_name("module 'microtorch'", name, [*globals(), *_LAZY, *_SUBMODULES])
