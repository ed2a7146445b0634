"""Linear layers."""

import math
import warnings
from typing import Any

from ..functions.attention import bilinear
from ..functions.product import linear
from ..tensor import Tensor
from . import init
from .module import Module
from .parameter import parameter


class Linear(Module):
    """y = x W^T + b: input (*, in_features), output (*, out_features).

    weight (out_features, in_features) and bias (out_features) start uniform in +-1/sqrt(in).
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        for n in (out_features, in_features):
            if n < 0:
                raise RuntimeError(
                    f"Trying to create tensor with negative dimension {n}: "
                    f"[{out_features}, {in_features}]"
                )
        self.weight = parameter((out_features, in_features), dtype, device)
        own = parameter((out_features,), dtype, device) if bias else None
        self.register_parameter("bias", own)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters, weight first."""
        if not self.in_features or not self.out_features:
            warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=4)
        if self.in_features:
            init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """X W^T + b."""
        return linear(input, self.weight, self.bias)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class NonDynamicallyQuantizableLinear(Linear):
    """The Linear at the end of an attention, under PyTorch's name for it."""


class Identity(Module):
    """The input itself; any arguments are accepted and ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """The input."""
        return input


class Bilinear(Module):
    """y_k = x1^T W_k x2 + b_k: weight (out, in1, in2) and bias start uniform in +-1/sqrt(in1)."""

    def __init__(
        self, in1_features: int, in2_features: int, out_features: int, bias: bool = True,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        shape = (out_features, in1_features, in2_features)
        self.weight = parameter(shape, dtype, device)
        own = parameter((out_features,), dtype, device) if bias else None
        self.register_parameter("bias", own)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters, weight first."""
        if self.in1_features <= 0:
            raise ValueError(
                f"in1_features must be > 0, but got (in1_features={self.in1_features})"
            )
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """x1^T W x2 + b."""
        return bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )
