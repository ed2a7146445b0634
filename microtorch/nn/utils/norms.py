"""`weight_norm` and `spectral_norm` as PyTorch had them first.

The weight is a plain attribute, which a hook computes before every forward by the parametrization
of the same name.
"""

import warnings
from typing import Any

from ...autograd.modes import no_grad
from ..module import Module
from ..parameter import Parameter
from .parametrizations import _SpectralNorm, _WeightNorm, dim_of_outputs


class _Hook:
    """Sets a weight before a forward."""

    def __init__(self, kind: str, name: str, parametrization: Any, parts: list[str]) -> None:
        self.kind = kind
        self.name = name
        self.parametrization = parametrization
        self.parts = parts

    def value(self, module: Module) -> Any:
        """The weight, from the parameters of the module that it is computed from."""
        return self.parametrization(*[getattr(module, part) for part in self.parts])

    def __call__(self, module: Module, inputs: Any) -> None:
        self.parametrization.train(module.training)
        setattr(module, self.name, self.value(module))


def _hooks(module: Module, kind: str, name: str) -> dict[int, Any]:
    """The module's hooks for a weight, by their numbers."""
    own = module.__dict__.get("_hooks")
    hooks = own.forward_pre if own is not None else {}
    return {
        number: hook
        for number, hook in hooks.items()
        if isinstance(hook, _Hook) and (hook.kind, hook.name) == (kind, name)
    }


def _check_alone(module: Module, kind: str, name: str) -> None:
    if _hooks(module, kind, name):
        raise RuntimeError(f"Cannot register two {kind} hooks on the same parameter {name}")


def _remove(module: Module, kind: str, name: str, buffers: tuple[str, ...] = ()) -> Module:
    """Make the weight a parameter again, with the value that it has.

    Raises:
        ValueError: if there is no such hook.
    """
    found = _hooks(module, kind, name)
    if not found:
        raise ValueError(f"{kind} of '{name}' not found in {module}")
    for number, hook in found.items():
        hook.parametrization.eval()
        with no_grad():
            weight = hook.value(module)
        for part in (name, *hook.parts, *buffers):
            delattr(module, part)
        del module.__dict__["_hooks"].forward_pre[number]
        module.register_parameter(name, Parameter(weight.detach()))
    return module


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Let a weight be its norms (`weight_g`) times its direction (that of `weight_v`).

    Raises:
        RuntimeError: for a weight that is normalized already.
    """
    warnings.warn(
        "`torch.nn.utils.weight_norm` is deprecated in favor of "
        "`torch.nn.utils.parametrizations.weight_norm`.",
        FutureWarning,
        stacklevel=2,
    )
    _check_alone(module, "weight_norm", name)
    made = _WeightNorm(dim)
    weight = getattr(module, name)
    delattr(module, name)
    with no_grad():
        length, direction = made.right_inverse(weight)
    module.register_parameter(name + "_g", Parameter(length.detach()))
    module.register_parameter(name + "_v", Parameter(direction.detach()))
    hook = _Hook("weight_norm", name, made, [name + "_g", name + "_v"])
    setattr(module, name, hook.value(module))
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make a weight that `weight_norm` was applied to a parameter again.

    Raises:
        ValueError: if there is none.
    """
    return _remove(module, "weight_norm", name)


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
    dim: int | None = None,
) -> Module:  # fmt: skip
    """Let a weight be `weight_orig`, divided by its largest singular value as a matrix.

    Raises:
        RuntimeError: for a weight that is normalized already.
    """
    _check_alone(module, "spectral_norm", name)
    weight = getattr(module, name)
    along = dim_of_outputs(module, dim)
    made = _SpectralNorm(weight, n_power_iterations, along, eps, 0, v_first=True)
    delattr(module, name)
    module.register_parameter(name + "_orig", weight)
    setattr(module, name, weight.detach())
    module.register_buffer(name + "_u", made._u)
    module.register_buffer(name + "_v", made._v)
    module.register_forward_pre_hook(_Hook("spectral_norm", name, made, [name + "_orig"]))
    return module


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make a weight that `spectral_norm` was applied to a parameter again.

    Raises:
        ValueError: if there is none.
    """
    return _remove(module, "spectral_norm", name, (name + "_u", name + "_v"))
