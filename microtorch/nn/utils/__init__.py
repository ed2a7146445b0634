"""`torch.nn.utils`: gradients clipped, parameters as one vector, sequences padded (`rnn`)."""

import math
from collections.abc import Iterable

import numpy as np

from ...autograd.modes import no_grad
from ...errors import unknown_names
from ...functions.cat import cat, stack
from ...functions.elementwise import FUNCTIONS
from ...functions.reduce import amax, sum
from ...functions.view import reshape
from ...tensor import Tensor, wrap

Tensors = Tensor | Iterable[Tensor]


def _gradients(parameters: Tensors) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad for p in listed if p.grad is not None]


def _norm(x: Tensor, p: float) -> Tensor:
    if p == math.inf:
        return amax(FUNCTIONS["abs"](x))
    if p == 2.0:
        return FUNCTIONS["sqrt"](sum(FUNCTIONS["square"](x)))  # type: ignore[no-any-return]
    return FUNCTIONS["pow_number"](sum(FUNCTIONS["pow_number"](FUNCTIONS["abs"](x), p)), 1 / p)  # type: ignore[no-any-return]


@no_grad()
def clip_grad_norm_(
    parameters: Tensors, max_norm: float, norm_type: float = 2.0,
    error_if_nonfinite: bool = False, foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """Scale all gradients, taken as one vector, to a norm of at most max_norm; gives the norm.

    Raises:
        RuntimeError: if the norm is not finite and error_if_nonfinite.
    """
    gradients = _gradients(parameters)
    p = float(norm_type)
    if not gradients:
        return wrap(np.array(0.0, np.float32))
    total = _norm(stack([_norm(g, p) for g in gradients]), p)
    if error_if_nonfinite and not math.isfinite(float(total)):
        raise RuntimeError(
            f"The total norm of order {p} for gradients from `parameters` is non-finite, so it "
            "cannot be clipped. To disable this error and scale the gradients by the non-finite "
            "norm anyway, set `error_if_nonfinite=False`"
        )
    factor = FUNCTIONS["clamp_max"](FUNCTIONS["div"](float(max_norm), total + 1e-6), 1.0)  # type: ignore[operator]
    for g in gradients:
        g.mul_(factor)  # type: ignore[attr-defined]
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


__getattr__ = unknown_names(__name__, ("rnn",))
