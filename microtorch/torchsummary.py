"""`summary(model, input_size)`: the table of layers that the package torchsummary prints."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .functions.random import rand
from .nn import Module, ModuleList, Sequential
from .tensor import Tensor

_LINE = "-" * 64
_DOUBLE = "=" * 64


class _Layer:
    """One line of the table: name, output shape, parameters."""

    def __init__(self, name: str, output: Any, batch_size: int, module: Module) -> None:
        self.name = name
        if isinstance(output, (list, tuple)):
            self.shape: list[Any] = [[-1, *o.shape[1:]] for o in output]
        else:
            self.shape = [batch_size, *output.shape[1:]]
        self.parameters = 0
        self.trainable = False
        for kind in ("weight", "bias"):
            parameter = getattr(module, kind, None)
            if isinstance(parameter, Tensor):
                self.parameters += parameter.numel()
                if kind == "weight":
                    self.trainable = parameter.requires_grad


def summary(model: Module, input_size: Any, batch_size: int = -1, device: str = "cuda") -> None:
    """Run the model on random numbers of shape (2, *input_size) and print its layers.

    input_size: the shape of one sample, or a list of shapes. The device is taken for granted.
    """
    sizes: list[Sequence[int]] = [input_size] if isinstance(input_size, tuple) else list(input_size)
    layers: list[_Layer] = []
    watched = [
        m for m in model.modules()
        if m is not model and not isinstance(m, (Sequential, ModuleList))
    ]  # fmt: skip
    inputs = [rand(2, *size) for size in sizes]
    for module in watched:
        _watch(module, layers, batch_size)
    try:
        model(*inputs)
    finally:
        for module in watched:
            del module.__dict__["forward"]
    _print(layers, sizes, batch_size)


def _watch(module: Module, layers: list[_Layer], batch_size: int) -> None:
    """Note every call of a module, by a forward of its own that shadows the class's."""
    forward = module.forward

    def noting(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        name = f"{type(module).__name__}-{len(layers) + 1}"
        layers.append(_Layer(name, output, batch_size, module))
        return output

    module.__dict__["forward"] = noting


def _print(layers: list[_Layer], sizes: list[Sequence[int]], batch_size: int) -> None:
    print(_LINE)
    print(f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}")
    print(_DOUBLE)
    for layer in layers:
        print(f"{layer.name:>20}  {layer.shape!s:>25} {layer.parameters:>15,}")
    total = sum(layer.parameters for layer in layers)
    trainable = sum(layer.parameters for layer in layers if layer.trainable)
    outputs = sum(int(np.prod(layer.shape)) for layer in layers)
    # Four bytes a number; forward and backward values are counted as twice the outputs.
    in_mb = abs(float(np.prod([n for s in sizes for n in s])) * batch_size * 4.0 / 2**20)
    out_mb = abs(2.0 * outputs * 4.0 / 2**20)
    parameters_mb = abs(total * 4.0 / 2**20)
    print(_DOUBLE)
    print(f"Total params: {total:,}")
    print(f"Trainable params: {trainable:,}")
    print(f"Non-trainable params: {total - trainable:,}")
    print(_LINE)
    print(f"Input size (MB): {in_mb:0.2f}")
    print(f"Forward/backward pass size (MB): {out_mb:0.2f}")
    print(f"Params size (MB): {parameters_mb:0.2f}")
    print(f"Estimated Total Size (MB): {parameters_mb + out_mb + in_mb:0.2f}")
    print(_LINE)
