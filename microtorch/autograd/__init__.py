"""`microtorch.autograd`: backward, grad, and the grad modes."""

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
    set_detect_anomaly,
    set_grad_enabled,
)
from .variable import Variable

__all__ = [
    "Function",
    "Tensor",
    "Variable",
    "backward",
    "enable_grad",
    "function",
    "grad",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
]
