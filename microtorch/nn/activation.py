"""Activations as modules."""

from typing import Any

from ..functions.elementwise import FUNCTIONS
from ..tensor import Tensor
from . import functional as F
from .module import Module


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return FUNCTIONS["sigmoid"](input)  # type: ignore[no-any-return]


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return FUNCTIONS["tanh"](input)  # type: ignore[no-any-return]


class ReLU(Module):
    """max(x, 0)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.relu(input, self.inplace)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return "inplace=True" if self.inplace else ""


class LeakyReLU(Module):
    """X where positive, else x * negative_slope."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """X where positive, else alpha * (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"alpha={self.alpha}"


class GELU(Module):
    """X * Phi(x)."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"approximate='{self.approximate}'"


class SiLU(Module):
    """X * sigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.silu(input)  # type: ignore[no-any-return]


class Softplus(Module):
    """log(1 + exp(beta x)) / beta."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"beta={self.beta}, threshold={self.threshold}"


class _AlongDim(Module):
    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"dim={self.dim}"


class Softmax(_AlongDim):
    """exp(x) divided by its sum along dim."""

    def forward(self, input: Tensor) -> Any:
        """The activation."""
        return F.softmax(input, self.dim)


class LogSoftmax(_AlongDim):
    """Logarithm of softmax along dim."""

    def forward(self, input: Tensor) -> Any:
        """The activation."""
        return F.log_softmax(input, self.dim)


class Softmin(_AlongDim):
    """exp(-x) divided by its sum along dim."""

    def forward(self, input: Tensor) -> Any:
        """The activation."""
        return F.softmin(input, self.dim)
