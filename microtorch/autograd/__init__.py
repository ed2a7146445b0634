"""`microtorch.autograd`: backward, grad, the grad modes, and functions of one's own."""

import importlib
from typing import Any

from ..errors import unknown_name
from ..tensor import Tensor
from . import function
from . import hooks as hooks  # gives Tensor and Node their methods
from .backward import backward, grad
from .function import Function
from .modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .variable import Variable

# Loaded at first use: name -> module of this folder.
_LAZY = {
    "functional": "functional", "gradcheck": "gradcheck", "gradgradcheck": "gradcheck",
    "GradcheckError": "gradcheck", "detect_anomaly": "anomaly", "set_detect_anomaly": "anomaly",
    "is_anomaly_enabled": "anomaly",
}  # fmt: skip

__all__ = [
    "Function",
    "Tensor",
    "Variable",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "function",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise unknown_name("module 'microtorch.autograd'", name, [*globals(), *_LAZY])
    module = importlib.import_module("." + _LAZY[name], __name__)
    # A function of the name of its module, which the import has put in its place, comes first.
    found = getattr(module, name, module)
    globals()[name] = found
    return found
