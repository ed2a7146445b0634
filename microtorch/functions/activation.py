"""Activations: the functions of `nn.functional` that work element by element."""

import math
from collections.abc import Callable

import numpy as np

from .. import dtypes
from ..errors import argument_error, combination_error
from ..tensor import Tensor, check_in_place, normal_dim, wrap
from .elementwise import FUNCTIONS
from .in_place import placed
from .names import PUBLIC, function, public
from .op import Rule, need_tensor, record
from .random import source_for
from .refusals import not_implemented
from .view import narrow, reshape

sigmoid, tanh = FUNCTIONS["sigmoid"], FUNCTIONS["tanh"]
logsigmoid: Callable[[Tensor], Tensor] = FUNCTIONS["logsigmoid"]
RRELU = Rule("RreluWithNoiseBackward0", lambda F, g, const, slopes: (F.mul(g, slopes),))


def _placed(input: Tensor, z: Tensor, inplace: bool) -> Tensor:
    """The result; written into the input if `inplace`."""
    return placed(input, z) if inplace else z


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0)."""
    return input.relu_() if inplace else FUNCTIONS["relu"](input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """input limited to [0, 6]."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """input limited to [min_val, max_val]; derivative 0 at the bounds.

    Raises:
        ValueError: if min_val > max_val.
        RuntimeError: for bools, and for unsigned integers with negative limits.
    """
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    if isinstance(input, Tensor) and not input.is_floating_point():
        if input.dtype is dtypes.bool:
            raise RuntimeError("Bool inputs not supported for hardtanh")
        min_val, max_val = int(min_val), int(max_val)
        if not input.dtype.is_signed and min_val < 0:
            raise RuntimeError("cannot do hardtanh on an unsigned type with negative limits")
    return _placed(input, FUNCTIONS["hardtanh"](input, min_val, max_val), inplace)


@function()
def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """input where it is above the threshold, else value."""
    return _placed(input, FUNCTIONS["threshold"](input, threshold, value), inplace)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b) for the halves a and b of input along dim.

    Raises:
        RuntimeError: for a number, and for an odd length.
    """
    need_tensor("glu", "input", 1, input)
    if not input._array.ndim:
        raise RuntimeError("glu does not support 0-dimensional tensors")
    length = input._array.shape[normal_dim(dim, input._array.ndim)]
    if length % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim} is size {length}")
    if not input.is_floating_point():
        raise NotImplementedError(f"\"glu_cpu\" not implemented for '{input.dtype.short}'")
    a, b = narrow(input, dim, 0, length // 2), narrow(input, dim, length // 2, length // 2)
    return FUNCTIONS["mul"](a, sigmoid(b))  # type: ignore[no-any-return]


@function()
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """input where positive, else input * weight: one weight, or one a channel (dimension 1).

    Raises:
        RuntimeError: for weights that do not fit.
    """
    need_tensor("prelu", "input", 1, input)
    need_tensor("prelu", "weight", 2, weight)
    a, w = input._array, weight._array
    if a.dtype != w.dtype:
        raise RuntimeError(
            f"prelu: Type promoting not supported. Got {input.dtype} and {weight.dtype}"
        )
    if w.ndim > 1:
        raise RuntimeError(
            f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {w.ndim}"
        )
    if w.size != 1:
        if not a.ndim:
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = a.shape[1] if a.ndim > 1 else 1
        if channels != w.size:
            raise RuntimeError(
                f"Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                f"{w.size} and channel size = {channels}."
            )
    shape = (1, w.size) + (1,) * (a.ndim - 2) if a.ndim > 1 else (1,) * a.ndim
    return FUNCTIONS["prelu_kernel"](input, reshape(weight, shape))  # type: ignore[no-any-return]


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """input where positive, else input * negative_slope."""
    return _placed(input, FUNCTIONS["leaky_relu"](input, negative_slope), inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where positive, else alpha * (exp(input) - 1)."""
    return _placed(input, FUNCTIONS["elu"](input, alpha), inplace)


@function()
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """1.0507 * (input where positive, else 1.6733 * (exp(input) - 1)) (arXiv:1706.02515)."""
    return _placed(input, FUNCTIONS["selu"](input), inplace)


@function()
def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where positive, else alpha * (exp(input / alpha) - 1).

    Raises:
        RuntimeError: for alpha 0.
    """
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return _placed(input, FUNCTIONS["celu"](input, alpha), inplace)


def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """input * Phi(input), or its tanh approximation (arXiv:1606.08415).

    Raises:
        RuntimeError: for another approximation.
    """
    if not isinstance(approximate, str):
        raise combination_error("gelu", input, approximate)
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    return FUNCTIONS["gelu" if approximate == "none" else "gelu_tanh"](input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """input * sigmoid(input)."""
    return _placed(input, FUNCTIONS["silu"](input), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * tanh(softplus(input)) (arXiv:1908.08681)."""
    return _placed(input, FUNCTIONS["mish"](input), inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * input)) / beta; input where beta * input > threshold."""
    return FUNCTIONS["softplus_beta"](input, beta, threshold)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """input nearer to 0 by lambd; 0 between -lambd and lambd.

    Raises:
        RuntimeError: for a negative lambd.
    """
    need_tensor("softshrink", "input", 1, input)
    if not lambd >= 0:
        raise RuntimeError(
            f"lambda must be in range [0, inf) for input dtype {input.dtype.short}, but found "
            f"{lambd:g}"
        )
    if not input.is_floating_point():
        raise not_implemented("softshrink_check", input.dtype)
    return FUNCTIONS["softshrink"](input, lambd)


@public()
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """0 between -lambd and lambd, else input."""
    need_tensor("hardshrink", "input", 1, input)
    if isinstance(lambd, bool) or not isinstance(lambd, (int, float)):
        raise argument_error("hardshrink", "lambd", 2, "Number", lambd)
    return FUNCTIONS["hardshrink"](input, lambd)


def tanhshrink(input: Tensor) -> Tensor:
    """input - tanh(input)."""
    return FUNCTIONS["tanhshrink"](input)


@function()
def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False,
    inplace: bool = False,
) -> Tensor:  # fmt: skip
    """input where positive, else input times a slope: random in [lower, upper) for each element
    in training, their mean otherwise (arXiv:1505.00853).

    Raises:
        RuntimeError: for bounds that are not finite, or in the wrong order.
    """
    need_tensor("rrelu", "input", 1, input)
    for name, bound in (("lower", lower), ("upper", upper)):
        if not math.isfinite(bound):
            raise RuntimeError(f"rrelu: {name} bound must be finite, got {bound:g}")
    if lower > upper:
        raise RuntimeError("Lower bound should be less than or equal to the upper bound")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    if not input.is_floating_point():
        raise not_implemented("rrelu_with_noise_out_cpu", input.dtype)
    if inplace:
        check_in_place(input)
    a = input._array
    slopes = np.empty(a.shape, a.dtype, like=a)
    source_for(a).slopes(slopes, a, lower, upper)
    return _placed(input, record(RRELU, a * slopes, (input,), (wrap(slopes),)), inplace)


def softsign(input: Tensor) -> Tensor:
    """input / (1 + |input|)."""
    return input / (FUNCTIONS["abs"](input) + 1)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """input / 6 + 0.5 limited to [0, 1]."""
    return _placed(input, FUNCTIONS["hardsigmoid"](input), inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * hardsigmoid(input) (arXiv:1905.02244)."""
    return _placed(input, FUNCTIONS["hardswish"](input), inplace)


def _in_place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`name_(input, ...)`: the function with `inplace=True`."""

    def apply(input: Tensor, *args: float, **kwargs: float) -> Tensor:
        return function(input, *args, inplace=True, **kwargs)

    apply.__name__ = apply.__qualname__ = function.__name__ + "_"
    apply.__doc__ = f"In-place form of `{function.__name__}`."
    return apply


rrelu_ = _in_place(rrelu)
relu_ = _in_place(relu)
leaky_relu_ = _in_place(leaky_relu)
elu_ = _in_place(elu)
selu_ = _in_place(selu)
celu_ = _in_place(celu)
hardtanh_ = _in_place(hardtanh)
threshold_ = _in_place(threshold)
for _function in (relu_, rrelu_, selu_, celu_, threshold_):
    PUBLIC[_function.__name__] = _function
