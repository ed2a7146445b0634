"""`torch.nn.modules`: PyTorch's import paths, as other names of the modules of this package."""

import sys

from ..errors import unknown_names
from . import (
    activation,
    attention,
    container,
    convolution,
    distance,
    dropout,
    linear,
    loss,
    module,
    normalization,
    padding,
    parameter_container,
    pooling,
    recurrent,
    shape,
    sparse,
    transformer,
    tuples,
)

_MODULES = {
    "activation": activation, "batchnorm": normalization, "container": container,
    "conv": convolution, "distance": distance, "dropout": dropout, "flatten": shape,
    "fold": convolution, "instancenorm": normalization, "linear": linear, "loss": loss,
    "module": module, "normalization": normalization, "padding": padding, "pixelshuffle": shape,
    "pooling": pooling, "rnn": recurrent, "sparse": sparse,
    "transformer": transformer, "upsampling": shape, "utils": tuples,
}  # fmt: skip

for _name, _module in _MODULES.items():
    sys.modules[f"{__name__}.{_name}"] = _module
# The classes, too, are names of torch.nn.modules.
for _module in {*_MODULES.values(), attention, parameter_container}:
    globals().update({k: v for k, v in vars(_module).items() if isinstance(v, type)})
globals().update(_MODULES)

__getattr__ = unknown_names(__name__)
