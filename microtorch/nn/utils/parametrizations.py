"""`torch.nn.utils.parametrizations`: weights given by their norms."""

from typing import Any

from ...autograd.modes import no_grad
from ...errors import unknown_names
from ...functions.distance import normalize
from ..convolution import ConvTranspose1d, ConvTranspose2d
from ..module import Module
from .parametrize import register_parametrization

__all__ = ["spectral_norm", "weight_norm"]


def norm_except_dim(v: Any, dim: int) -> Any:
    """The Euclidean norms of v over all dimensions but one, which stay as 1; over all for -1."""
    if dim == -1:
        return v.norm()
    if not -v.ndim <= dim < v.ndim:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-v.ndim}, {v.ndim - 1}], but "
            f"got {dim})"
        )
    others = [d for d in range(v.ndim) if d != dim % v.ndim]
    return v.norm(2, others, keepdim=True) if others else v.abs()


class _WeightNorm(Module):
    """A length times a direction (Salimans & Kingma 2016, arXiv:1602.07868)."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Any, weight_v: Any) -> Any:
        """weight_v with the norms weight_g."""
        return weight_v * (weight_g / norm_except_dim(weight_v, self.dim))

    def right_inverse(self, weight: Any) -> Any:
        """The norms of a weight, and the weight."""
        return norm_except_dim(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Let a weight be its norms (`original0`) times its direction (that of `original1`).

    dim: norms are over all other dimensions; None for one norm. States of `nn.utils.weight_norm`
    can be loaded.
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def rename(_: Any, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        old = [f"{prefix}{name}_g", f"{prefix}{name}_v"]
        if all(key in state_dict for key in old):
            for number, key in enumerate(old):
                new = f"{prefix}parametrizations.{name}.original{number}"
                state_dict[new] = state_dict.pop(key)

    module.register_load_state_dict_pre_hook(rename)
    return module


class _SpectralNorm(Module):
    """A weight divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).

    `_u` and `_v` are close to the singular vectors; every forward in training mode makes
    n_power_iterations steps of the power method.
    """

    def __init__(
        self, weight: Any, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12,
        first_steps: int = 15, v_first: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise IndexError(
                "Dimension out of range (expected to be in range of "
                f"[{-weight.ndim}, {weight.ndim - 1}] but got {dim})"
            )
        if n_power_iterations <= 0:
            raise ValueError(
                "Expected n_power_iterations to be positive, but got "
                f"n_power_iterations={n_power_iterations}"
            )
        self.dim = dim if dim >= 0 else dim + weight.ndim
        self.eps = eps
        self.n_power_iterations = n_power_iterations
        self.v_first = v_first
        if weight.ndim > 1:
            matrix = self._matrix(weight)
            rows, columns = matrix.shape
            with no_grad():
                u, v = (matrix.new_empty(n).normal_(0, 1) for n in (rows, columns))
                self.register_buffer("_u", normalize(u, dim=0, eps=eps))
                self.register_buffer("_v", normalize(v, dim=0, eps=eps))
                self._iterate(matrix, first_steps)

    def _matrix(self, weight: Any) -> Any:
        """The weight as a matrix, with a row for each place along dim."""
        return weight.movedim(self.dim, 0).flatten(1)

    @no_grad()
    def _iterate(self, matrix: Any, steps: int) -> None:
        u, v = self._u, self._v
        for _ in range(steps):
            if self.v_first:
                v = normalize(matrix.t().mv(u), dim=0, eps=self.eps)
            u = normalize(matrix.mv(v), dim=0, eps=self.eps)
            if not self.v_first:
                v = normalize(matrix.t().mv(u), dim=0, eps=self.eps)
        self._u.copy_(u)
        self._v.copy_(v)

    def forward(self, weight: Any) -> Any:
        """The weight, with a largest singular value of one."""
        if weight.ndim == 1:
            return normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix, self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()
        return weight / u.dot(matrix.mv(v))

    def right_inverse(self, value: Any) -> Any:
        """The value itself: its norm is taken away in `forward`."""
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
    dim: int | None = None,
) -> Module:  # fmt: skip
    """Let a weight be divided by its largest singular value, as a matrix with rows along dim.

    dim: by default 0, and 1 for transposed convolutions.

    Raises:
        ValueError: for a name that there is not, or no iterations.
    """
    weight = getattr(module, name, None)
    if weight is None:
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    made = _SpectralNorm(weight, n_power_iterations, dim_of_outputs(module, dim), eps)
    register_parametrization(module, name, made)
    return module


def dim_of_outputs(module: Module, dim: int | None) -> int:
    """Along which dim of a module's weight its outputs are, if dim does not say it."""
    if dim is not None:
        return dim
    return 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d)) else 0


__getattr__ = unknown_names(__name__)
