"""Softmax and the layers that normalize: ops on whole rows, and what is built on them."""

import math
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import argument_error
from ..kernels import cpu
from ..table import ROWWISE
from ..tensor import Tensor, changed, normal_dim, wrap
from .cat import pad_dim
from .elementwise import FLOATS, FUNCTIONS
from .names import function, public
from .op import Rule, record, tensors
from .reduce import mean
from .strided import unfold
from .view import reshape


def _softmax_rule(F: Any, g: Any, dim: int, z: Any) -> tuple[Any, ...]:
    return (F.along("softmax_backward", dim, g, z),)


def _log_softmax_rule(F: Any, g: Any, dim: int, z: Any) -> tuple[Any, ...]:
    return (F.along("log_softmax_backward", dim, g, z),)


def _layer_rule(F: Any, g: Any, const: Any, x: Any, w: Any, eps: Any) -> tuple[Any, ...]:
    """x as rows; w, if given, is a row that they share."""
    dw = db = None
    with_weight, with_bias = const
    if with_weight:
        dw = F.reduce("sum", F.along("layer_norm_weight", 1, g, x, eps), (0,))
    if with_bias:
        db = F.reduce("sum", g, (0,))
    return F.along("layer_norm_backward", 1, g, x, w, eps), dw, db


def _rms_rule(F: Any, g: Any, const: Any, x: Any, w: Any, ones: Any, eps: Any) -> tuple[Any, ...]:
    dw = None
    if const:
        dw = F.reduce("sum", F.mul(g, F.along("rms_norm", 1, x, ones, eps)), (0,))
    return F.along("rms_norm_backward", 1, g, x, w, eps), dw


SOFTMAX = Rule("SoftmaxBackward0", _softmax_rule, True)
LOG_SOFTMAX = Rule("LogSoftmaxBackward0", _log_softmax_rule, True)
LAYER_NORM = Rule("NativeLayerNormBackward0", _layer_rule)
RMS_NORM = Rule("FusedRmsNormBackward0", _rms_rule)


def _normalized(name: str, op: Rule) -> Callable[..., Tensor]:
    def apply(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
        if dim.__class__ is not int:
            dim = _as_int(name, dim)
        if dtype is not None:
            input = tensors.cast(input, dtype)
        a = input._array
        if a.dtype not in FLOATS:
            raise NotImplementedError(
                f"\"{name}_lastdim_kernel_impl\" not implemented for '{input.dtype.short}'"
            )
        dim = normal_dim(dim, a.ndim)
        return record(op, cpu.along(name, dim, a), (input,), (...,), dim)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = ROWWISE[name].doc
    return apply


def _as_int(name: str, dim: Any) -> int:
    try:
        return operator.index(dim)
    except TypeError:
        raise argument_error(name, "dim", 2, "int", dim) from None


softmax: Callable[..., Tensor] = public()(_normalized("softmax", SOFTMAX))
log_softmax: Callable[..., Tensor] = public()(_normalized("log_softmax", LOG_SOFTMAX))


def _with_choice(name: str, normalized: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function of `nn.functional`, which chooses a dimension, with a warning."""

    def apply(
        input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
    ) -> Tensor:
        if dim is None:
            warnings.warn(
                f"Implicit dimension choice for {name} has been deprecated. Change the call to "
                "include dim=X as an argument.",
                stacklevel=_stacklevel - 1,
            )
            dim = 0 if input._array.ndim in (0, 1, 3) else 1
        return normalized(input, dim, dtype)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = normalized.__doc__
    return apply


def _softmin(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Softmax of -input."""
    return softmax(FUNCTIONS["neg"](input), dim, dtype)


choosing_softmax = _with_choice("softmax", softmax)
choosing_log_softmax = _with_choice("log_softmax", log_softmax)
softmin = _with_choice("softmin", _softmin)


def along(name: str, dim: int, *operands: Tensor) -> Tensor:
    """The ops on rows that appear in gradients, on Tensors."""
    return _ALONG[name](dim, *operands)


def _softmax_backward(dim: int, g: Any, z: Any) -> Any:
    return z * (g - tensors.sum(g * z, dim, keepdim=True))


def _log_softmax_backward(dim: int, g: Any, z: Any) -> Any:
    return g - FUNCTIONS["exp"](z) * tensors.sum(g, dim, keepdim=True)


def _layer_norm_weight(dim: int, g: Any, x: Any, eps: Any) -> Any:
    d = x - mean(x, dim, keepdim=True)
    return g * (d * FUNCTIONS["rsqrt"](mean(d * d, dim, keepdim=True) + eps))


def _layer_norm_backward(dim: int, g: Any, x: Any, w: Any, eps: Any) -> Any:
    d = x - mean(x, dim, keepdim=True)
    v = mean(d * d, dim, keepdim=True) + eps
    h = g * w
    h = h - mean(h, dim, keepdim=True) - d * mean(h * d, dim, keepdim=True) / v
    return h * FUNCTIONS["rsqrt"](v)


def _rms_norm(dim: int, x: Any, w: Any, eps: Any) -> Any:
    return x * FUNCTIONS["rsqrt"](mean(x * x, dim, keepdim=True) + eps) * w


def _rms_norm_backward(dim: int, g: Any, x: Any, w: Any, eps: Any) -> Any:
    v = mean(x * x, dim, keepdim=True) + eps
    h = g * w
    return (h - x * mean(h * x, dim, keepdim=True) / v) * FUNCTIONS["rsqrt"](v)


_ALONG: dict[str, Any] = {
    "softmax_backward": _softmax_backward, "log_softmax_backward": _log_softmax_backward,
    "layer_norm_weight": _layer_norm_weight, "layer_norm_backward": _layer_norm_backward,
    "rms_norm": _rms_norm, "rms_norm_backward": _rms_norm_backward,
}  # fmt: skip


# ----------------------------------------------------------------------------- normal rows
def _check_shape(
    input: Tensor, normalized_shape: Any, *others: tuple[str, Tensor | None]
) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    a = input._array
    if shape and a.shape[-len(shape) :] == shape and a.dtype in FLOATS:
        for _, x in others:
            if x is not None and (x._array.shape != shape or x._array.dtype != a.dtype):
                break
        else:
            return shape
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one "
            "element, but got normalized_shape = []"
        )
    for name, x in others:
        if x is not None and x._array.shape != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
                f"{list(x._array.shape)} and normalized_shape = {list(shape)}"
            )
    if a.ndim < len(shape) or a.shape[-len(shape) :] != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape "
            f"[*{''.join(f', {n}' for n in shape)}], but got input of size{list(a.shape)}"
        )
    for _, x in others:
        if x is not None and x._array.dtype != a.dtype:
            raise RuntimeError(
                f"expected scalar type {input.dtype.short} but found {x.dtype.short}"
            )
    if a.dtype not in FLOATS:
        raise NotImplementedError(
            f"\"LayerNormKernelImpl\" not implemented for '{input.dtype.short}'"
        )
    return shape


def _row(x: Tensor | None, size: int) -> Tensor | None:
    return x if x is None or x._array.ndim == 1 else reshape(x, (size,))


@function()
def layer_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-05,
) -> Tensor:  # fmt: skip
    """Mean 0 and variance 1 over the last dimensions, then times weight, plus bias
    (arXiv:1607.06450).

    Raises:
        RuntimeError: for shapes or dtypes that do not fit.
    """
    shape = _check_shape(input, normalized_shape, ("weight", weight), ("bias", bias))
    size = math.prod(shape)
    weight, bias = _row(weight, size), _row(bias, size)
    x = input if input._array.ndim == 2 and len(shape) == 1 else reshape(input, (-1, size))
    dtype = x._array.dtype
    small = cpu.constant(eps, dtype)
    w = cpu.full((size,), 1.0, dtype) if weight is None else weight._array
    b = cpu.full((size,), 0.0, dtype) if bias is None else bias._array
    array = cpu.along("layer_norm", 1, x._array, w, b, small)
    saved = (x, w if weight is None else weight, small)
    const = (weight is not None, bias is not None)
    z = record(LAYER_NORM, array, (x, weight, bias), saved, const)
    return z if x is input else reshape(z, input._array.shape)


@function()
def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:  # fmt: skip
    """Mean square 1 over the last dimensions, then times weight (arXiv:1910.07467).

    eps: the dtype's machine precision if not given.
    """
    shape = _check_shape(input, normalized_shape, ("weight", weight))
    size = math.prod(shape)
    weight = _row(weight, size)
    x = input if input._array.ndim == 2 and len(shape) == 1 else reshape(input, (-1, size))
    dtype = x._array.dtype
    small = cpu.constant(float(np.finfo(dtype).eps) if eps is None else eps, dtype)
    ones = cpu.full((size,), 1.0, dtype)
    w = ones if weight is None else weight._array
    array = cpu.along("rms_norm", 1, x._array, w, small)
    saved = (x, w if weight is None else weight, ones, small)
    z = record(RMS_NORM, array, (x, weight), saved, weight is not None)
    return z if x is input else reshape(z, input._array.shape)


def _per_channel(z: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """z * weight + bias, one number for each channel (dimension 1)."""
    shape = (-1,) + (1,) * (z._array.ndim - 2)
    if weight is not None:
        z = FUNCTIONS["mul"](z, reshape(weight, shape))
    return z if bias is None else FUNCTIONS["add"](z, reshape(bias, shape))


def _check_channels(channels: int, **others: Tensor | None) -> None:
    for name, x in others.items():
        if x is not None and x._array.size != channels:
            raise RuntimeError(f"{name} should contain {channels} elements not {x._array.size}")


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-05,
) -> Tensor:  # fmt: skip
    """Mean 0 and variance 1 over each group of channels (N, C, *), then times weight, plus bias
    of each channel (arXiv:1803.08494).

    Raises:
        RuntimeError: for channels that cannot be grouped so, or a wrong weight or bias.
    """
    shape = input._array.shape
    if len(shape) < 2:
        raise RuntimeError(
            f"Expected at least 2 dimensions for input tensor but received {len(shape)}"
        )
    if num_groups <= 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if shape[1] % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of "
            f"shape {list(shape)} and num_groups={num_groups}"
        )
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and x._array.shape != shape[1:2]:
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, "
                f"but got {name} of shape {list(x._array.shape)} and input of shape {list(shape)}"
            )
    size = math.prod(shape[1:]) // num_groups
    if not input._array.size:
        return _per_channel(input * 1.0, weight, bias)  # type: ignore[operator]
    rows = reshape(input, (shape[0] * num_groups, size))
    return _per_channel(reshape(layer_norm(rows, (size,), eps=eps), shape), weight, bias)


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-05,
) -> Tensor:  # fmt: skip
    """Mean 0 and variance 1 over each channel of each sample (N, C, *) (arXiv:1607.08022)."""
    a = input._array
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RuntimeError(
                "Expected running_mean and running_var to be defined when use_input_stats is false"
            )
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    _check_values(a, math.prod(a.shape[2:]), "spatial element")
    _check_channels(a.shape[1], weight=weight, bias=bias)
    if running_mean is not None and running_var is not None:
        dims = tuple(range(2, a.ndim))
        m, v = cpu.reduce("mean", a, dims), _variance(a, dims)
        _follow(running_mean, cpu.reduce("mean", m, (0,)), momentum)
        _follow(running_var, cpu.reduce("mean", v, (0,)), momentum)
    return group_norm(input, a.shape[1], weight, bias, eps)


def _check_values(a: Any, count: int, what: str) -> None:
    if count == 1:
        raise ValueError(
            f"Expected more than 1 {what} when training, got input size torch.Size({list(a.shape)})"
        )


def _variance(a: Any, dims: tuple[int, ...]) -> Any:
    """The unbiased variance over dimensions."""
    return a.var(axis=dims, ddof=1, dtype=np.float64).astype(a.dtype)


def _follow(running: Tensor, new: Any, momentum: float) -> None:
    """running = (1 - momentum) * running + momentum * new, in place."""
    a = running._array
    a[...] = (1 - momentum) * a + momentum * new
    changed(running)


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-05,
) -> Tensor:  # fmt: skip
    """Mean 0 and variance 1 over each channel of a batch (N, C, *), or by running statistics when
    not training; then times weight, plus bias (arXiv:1502.03167).

    Running statistics, if given, are updated in training: momentum is the part of the new ones.

    Raises:
        ValueError: for one value a channel in training.
        RuntimeError: for statistics or weights of a wrong size.
    """
    a = input._array
    if a.ndim < 2:
        raise IndexError("Dimension out of range (expected to be in range of [-1, 0], but got 1)")
    if training:
        _check_values(a, a.size // (a.shape[1] or 1), "value per channel")
    elif running_mean is None or running_var is None:
        raise RuntimeError(
            "Expected running_mean and running_var to be defined when training=False"
        )
    _check_channels(
        a.shape[1], running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )
    if a.dtype not in FLOATS:
        raise NotImplementedError(f"\"batch_norm\" not implemented for '{input.dtype.short}'")
    dims = (0, *range(2, a.ndim))
    if training:
        m = mean(input, dims, keepdim=True)
        d = FUNCTIONS["sub"](input, m)
        v = mean(FUNCTIONS["square"](d), dims, keepdim=True)
        if running_mean is not None and running_var is not None:
            count = a.size // a.shape[1]
            _follow(running_mean, m._array.reshape(-1), momentum)
            _follow(running_var, v._array.reshape(-1) * (count / (count - 1)), momentum)
    else:
        shape = (-1,) + (1,) * (a.ndim - 2)
        m, v = (
            wrap(r._array.reshape(shape).copy())
            for r in (running_mean, running_var)
            if r is not None
        )
        d = FUNCTIONS["sub"](input, m)
    scale = FUNCTIONS["rsqrt"](FUNCTIONS["add"](v, eps))
    if weight is not None:
        shape = (-1,) + (1,) * (a.ndim - 2)
        scale = FUNCTIONS["mul"](scale, reshape(weight, shape))
    return _per_channel(FUNCTIONS["mul"](d, scale), None, bias)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """input (N, C, ...) over (k + alpha * mean of the squares of size channels around it)^beta;
    channels beyond the first and last count as 0.

    Raises:
        ValueError: for less than three dimensions.
        RuntimeError: for a size that is not positive.
    """
    rank = input._array.ndim
    if rank < 3:
        raise ValueError(
            "Expected 3D or higher dimensionality" + 25 * " " + f" input (got {rank} dimensions)"
        )
    if not input._array.size:
        return input
    if size <= 0:
        where = f"kH: {size} kW: 1" if rank == 3 else f"kT: {size} kH: 1 kW: 1"
        raise RuntimeError(f"kernel size should be greater than zero, but got {where}")
    padded = pad_dim(FUNCTIONS["mul"](input, input), 1, size // 2, (size - 1) // 2)
    means = mean(unfold(padded, 1, size, 1), -1)
    factor = FUNCTIONS["add"](FUNCTIONS["mul"](means, alpha), k)
    return FUNCTIONS["div"](input, FUNCTIONS["pow_number"](factor, beta))  # type: ignore[no-any-return]
