"""`torch.nn.utils`: gradients clipped, parameters as one vector, parametrized weights, sequences
padded (`rnn`)."""

import math
import warnings
from collections.abc import Iterable
from types import GeneratorType

import numpy as np

from ...autograd.modes import no_grad
from ...errors import unknown_names
from ...functions.cat import cat, stack
from ...functions.elementwise import FUNCTIONS
from ...functions.statistics import vector_norm
from ...functions.view import reshape
from ...tensor import Tensor, wrap
from .norms import remove_spectral_norm as remove_spectral_norm
from .norms import remove_weight_norm as remove_weight_norm
from .norms import spectral_norm as spectral_norm
from .norms import weight_norm as weight_norm

Tensors = Tensor | Iterable[Tensor]


def _listed(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _gradients(parameters: Tensors) -> list[Tensor]:
    return [p.grad for p in _listed(parameters) if p.grad is not None]


@no_grad()
def get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """The norm of all tensors, taken as one vector.

    Raises:
        RuntimeError: if the norm is not finite and error_if_nonfinite.
    """
    p = float(norm_type)
    norms = [vector_norm(t, p, None, False) for t in _listed(tensors)]
    if not norms:
        return wrap(np.array(0.0, np.float32))
    total = vector_norm(stack(norms), p, None, False)
    if error_if_nonfinite and not math.isfinite(float(total)):
        raise RuntimeError(
            f"The total norm of order {p} for gradients from `parameters` is non-finite, so it "
            "cannot be clipped. To disable this error and scale the gradients by the non-finite "
            "norm anyway, set `error_if_nonfinite=False`"
        )
    return total


@no_grad()
def clip_grads_with_norm_(
    parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale all gradients, whose norm is total_norm, to a norm of at most max_norm."""
    factor = FUNCTIONS["clamp_max"](FUNCTIONS["div"](float(max_norm), total_norm + 1e-6), 1.0)  # type: ignore[operator]
    for g in _gradients(parameters):
        g.mul_(factor)  # type: ignore[attr-defined]


def clip_grad_norm_(
    parameters: Tensors, max_norm: float, norm_type: float = 2.0,
    error_if_nonfinite: bool = False, foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """Scale all gradients, taken as one vector, to a norm of at most max_norm; gives the norm.

    Raises:
        RuntimeError: if the norm is not finite and error_if_nonfinite.
    """
    listed = _listed(parameters)
    if not listed and isinstance(parameters, GeneratorType):
        warnings.warn(
            "`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=2
        )
    total = get_total_norm(_gradients(listed), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(listed, max_norm, total)
    return total


@no_grad()
def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Limit every element of the gradients to [-clip_value, clip_value]."""
    bound = float(clip_value)
    for g in _gradients(parameters):
        g.clamp_(-bound, bound)  # type: ignore[attr-defined]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, one after another, as one vector."""
    return cat([reshape(p, (-1,)) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Let parameters take over the elements of a vector, one after another.

    Raises:
        TypeError: if vec is no Tensor.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected torch.Tensor, but got: {type(vec)}")
    start = 0
    for p in parameters:
        count = p.numel()
        p.data = vec[start : start + count].view_as(p).data  # type: ignore[index]
        start += count


__getattr__ = unknown_names(__name__, ("parametrizations", "parametrize", "rnn"))
