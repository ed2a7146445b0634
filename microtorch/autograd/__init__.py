"""`microtorch.autograd`: backward, grad, and the grad modes."""

from ..errors import unknown_names
from ..tensor import Tensor
from .backward import backward, grad
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
    "Tensor",
    "Variable",
    "backward",
    "enable_grad",
    "grad",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
]

__getattr__ = unknown_names(__name__)
