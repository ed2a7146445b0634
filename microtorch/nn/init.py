"""Initial values, drawn in place from the default generator (`torch.nn.init`)."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..autograd.modes import no_grad
from ..errors import argument_error, unknown_names
from ..functions import convert, random
from ..tensor import Tensor, changed, wrap

F = TypeVar("F", bound=Callable[..., Any])
_GAINS = {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 0.75}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity's input is to be scaled.

    Raises:
        ValueError: for an unknown one.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity in ("linear", "sigmoid", "conv1d", "conv2d", "conv3d"):
        return 1.0
    if nonlinearity not in _GAINS:
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}")
    return _GAINS[nonlinearity]


def _need_tensor(f: F) -> F:
    """Refuse what is no Tensor, naming the function."""

    @functools.wraps(f)
    def apply(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(tensor, Tensor):
            raise argument_error(f.__name__, "tensor", 1, "Tensor", tensor)
        return f(tensor, *args, **kwargs)

    return apply  # type: ignore[return-value]


def _fans(tensor: Tensor) -> tuple[int, int]:
    shape = tensor._array.shape
    if len(shape) < 2:
        raise ValueError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"
        )
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


@_need_tensor
@no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform in [a, b)."""
    return random.uniform_(tensor, a, b, generator=generator)


@_need_tensor
@no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normal."""
    return random.normal_(tensor, mean, std, generator=generator)


@_need_tensor
@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """One number everywhere."""
    return convert.fill_(tensor, val)


@_need_tensor
def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)  # type: ignore[no-any-return]


@_need_tensor
def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)  # type: ignore[no-any-return]


@_need_tensor
@no_grad()
def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix."""
    if tensor._array.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    tensor._array[...] = np.eye(*tensor._array.shape)
    changed(tensor)
    return tensor


@_need_tensor
def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform with variance 2 gain^2 / (fan_in + fan_out) (Glorot & Bengio 2010)."""
    fan_in, fan_out = _fans(tensor)
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / (fan_in + fan_out))
    return uniform_(tensor, -bound, bound, generator)  # type: ignore[no-any-return]


@_need_tensor
def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with variance 2 gain^2 / (fan_in + fan_out) (Glorot & Bengio 2010)."""
    fan_in, fan_out = _fans(tensor)
    std = gain * math.sqrt(2.0 / (fan_in + fan_out))
    return normal_(tensor, 0.0, std, generator)  # type: ignore[no-any-return]


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


@_need_tensor
def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:  # fmt: skip
    """Uniform with variance gain^2 / fan (He et al. 2015, arXiv:1502.01852)."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)  # type: ignore[no-any-return]


@_need_tensor
def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:  # fmt: skip
    """Normal with variance gain^2 / fan (He et al. 2015, arXiv:1502.01852)."""
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return normal_(tensor, 0.0, std, generator)  # type: ignore[no-any-return]


@_need_tensor
def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Orthonormal rows or columns, all but the first dimension taken as one, times gain
    (Saxe et al. 2013, arXiv:1312.6120).

    Raises:
        ValueError: for fewer than 2 dimensions.
    """
    a = tensor._array
    if a.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if not a.size:
        return tensor
    drawn = np.empty((a.shape[0], a.size // a.shape[0]), a.dtype, like=a)
    random.normal_(wrap(drawn), generator=generator)
    wide = drawn.shape[0] < drawn.shape[1]
    q, r = np.linalg.qr(drawn.T if wide else drawn)
    q = q * np.sign(np.diagonal(r))
    a[...] = (q.T if wide else q).reshape(a.shape) * a.dtype.type(gain)
    changed(tensor)
    return tensor


@_need_tensor
def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
    generator: Any = None,
) -> Tensor:  # fmt: skip
    """Normal, drawn again until it is in [a, b]."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. The distribution of "
            "values may be incorrect.",
            stacklevel=2,
        )

    def below(x: float) -> float:
        return (1.0 + math.erf((x - mean) / std / math.sqrt(2.0))) / 2.0

    def draw(low: float = a, high: float = b) -> Any:
        return random.uniform_(wrap(np.empty_like(values)), low, high, generator=generator)._array

    values = tensor._array
    kind = values.dtype.type
    if below(b) - below(a) > 0.3:
        found = random.normal_(wrap(np.empty_like(values)), mean, std, generator=generator)._array
        while (outside := (found < kind(a)) | (found > kind(b))).any():
            again = random.normal_(wrap(np.empty_like(values)), mean, std, generator=generator)
            found = np.where(outside, again._array, found)
    else:
        # Uniform numbers, each kept with the probability of its density over the largest.
        peak = kind(-0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2)

        def refused(x: Any) -> Any:
            density = np.square((x - kind(mean)) / kind(std)) * kind(-0.5) - peak
            return np.log(draw(0.0, 1.0)) > density

        found = draw()
        pending = refused(found)
        while pending.any():
            candidates = draw()
            found = np.where(pending, candidates, found)
            pending = np.where(pending, refused(candidates), pending)
    return _keep(tensor, found)


@no_grad()
def _keep(tensor: Tensor, values: Any) -> Tensor:
    tensor._array[...] = values
    changed(tensor)
    return tensor


@_need_tensor
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The weight of a convolution that gives its input channels, as many as there are.

    Raises:
        ValueError: unless there are 3 to 5 dimensions, the first divisible by groups.
    """
    shape = tensor._array.shape
    if len(shape) not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    each = shape[0] // groups
    middle = tuple(n // 2 for n in shape[2:])
    values = np.zeros(shape, tensor._array.dtype, like=tensor._array)
    for group in range(groups):
        for k in range(min(each, shape[1])):
            values[(group * each + k, k, *middle)] = 1
    return _keep(tensor, values)  # type: ignore[no-any-return]


@_need_tensor
def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal, with a part of each column set to 0 (Martens 2010).

    Raises:
        ValueError: for what is no matrix.
    """
    if tensor._array.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows, columns = tensor._array.shape
    drawn = random.normal_(wrap(np.empty_like(tensor._array)), 0, std, generator=generator)
    for column in range(columns):
        drawn._array[random.randperm(rows)._array[: math.ceil(sparsity * rows)], column] = 0
    return _keep(tensor, drawn._array)  # type: ignore[no-any-return]


__getattr__ = unknown_names(__name__)
