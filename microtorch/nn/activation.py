"""Activations as modules."""

from typing import Any

from ..functions.creation import empty
from ..functions.elementwise import FUNCTIONS
from ..tensor import Tensor
from . import functional as F
from .init import constant_
from .module import Module
from .parameter import Parameter


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


class _InPlace(Module):
    """An activation that can write into its input."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return "inplace=True" if self.inplace else ""

    def _shown(self, *names: str) -> str:
        shown = [f"{name}={getattr(self, name)}" for name in names]
        return ", ".join(shown + ["inplace=True"] * self.inplace)


class ReLU(_InPlace):
    """max(x, 0)."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.relu(input, self.inplace)


class SELU(_InPlace):
    """Scaled ELU (arXiv:1706.02515)."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.selu(input, self.inplace)


class SiLU(_InPlace):
    """X * sigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.silu(input, self.inplace)


class Mish(_InPlace):
    """X * tanh(softplus(x)) (arXiv:1908.08681)."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.mish(input, self.inplace)


class Hardsigmoid(_InPlace):
    """X / 6 + 0.5 limited to [0, 1]."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.hardsigmoid(input, self.inplace)

    def extra_repr(self) -> str:
        """Nothing, as in PyTorch."""
        return ""


class Hardswish(_InPlace):
    """X * hardsigmoid(x) (arXiv:1905.02244)."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.hardswish(input, self.inplace)

    def extra_repr(self) -> str:
        """Nothing, as in PyTorch."""
        return ""


class Threshold(_InPlace):
    """X where it is above the threshold, else value."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.threshold = threshold
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return self._shown("threshold", "value")


class PReLU(Module):
    """X where positive, else x * weight: one weight, or one a channel (arXiv:1502.01852)."""

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = Parameter(empty(num_parameters, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with the weights that were asked for."""
        constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"num_parameters={self.num_parameters}"


class GLU(Module):
    """A * sigmoid(b) for the halves a and b of x along dim (arXiv:1612.08083)."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"dim={self.dim}"


class LeakyReLU(_InPlace):
    """X where positive, else x * negative_slope."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return self._shown("negative_slope")


class ELU(_InPlace):
    """X where positive, else alpha * (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return self._shown("alpha")


class CELU(ELU):
    """X where positive, else alpha * (exp(x / alpha) - 1)."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.celu(input, self.alpha, self.inplace)


class Hardtanh(_InPlace):
    """X limited to [min_val, max_val].

    Raises:
        AssertionError: unless min_val < max_val.
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        if max_val <= min_val:
            raise AssertionError(f"max_val ({max_val}) must be greater than min_val ({min_val})")
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return self._shown("min_val", "max_val")


class ReLU6(Hardtanh):
    """X limited to [0, 6]."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return self._shown()


class GELU(Module):
    """X * Phi(x)."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"approximate='{self.approximate}'"


class Hardshrink(Module):
    """0 between -lambd and lambd, else x."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return f"{self.lambd}"


class Tanhshrink(Module):
    """x - tanh(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.tanhshrink(input)


class RReLU(_InPlace):
    """x where positive, else x times a slope that is random in training (arXiv:1505.00853)."""

    def __init__(
        self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False
    ) -> None:  # fmt: skip
        super().__init__(inplace)
        self.lower = lower
        self.upper = upper

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return self._shown("lower", "upper")


class Softshrink(Module):
    """x nearer to 0 by lambd; 0 between -lambd and lambd."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return str(self.lambd)


class Softsign(Module):
    """X / (1 + |x|)."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.softsign(input)


class LogSigmoid(Module):
    """log(sigmoid(x))."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation."""
        return F.logsigmoid(input)


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
        return F.softmax(input, self.dim, 5)


class Softmax2d(Module):
    """Softmax over the channels of images (*, C, H, W)."""

    def forward(self, input: Tensor) -> Any:
        """The activation.

        Raises:
            ValueError: for what is no image.
        """
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.ndim}D instead")
        return F.softmax(input, -3)


class LogSoftmax(_AlongDim):
    """Logarithm of softmax along dim."""

    def forward(self, input: Tensor) -> Any:
        """The activation."""
        return F.log_softmax(input, self.dim, 5)


class Softmin(_AlongDim):
    """exp(-x) divided by its sum along dim."""

    def forward(self, input: Tensor) -> Any:
        """The activation."""
        return F.softmin(input, self.dim, 5)
