"""Elementwise functions made of others: limits, mixtures, replacements."""

from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, combination_error
from ..tensor import Tensor, wrap
from . import convert
from .arithmetic import pow
from .division import on_arrays
from .elementwise import FUNCTIONS
from .names import method, public
from .op import deliver
from .refusals import not_implemented


def _is_number(x: Any) -> bool:
    return isinstance(x, (bool, int, float, np.generic))


@public("clip", in_place=True)
def clamp(input: Tensor, min: Any = None, max: Any = None, *, out: Tensor | None = None) -> Tensor:
    """input limited to [min, max], numbers or tensors; either may be left out.

    Raises:
        RuntimeError: if both are.
        TypeError: if one is a number and the other a tensor.
    """
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    bounds = [b for b in (min, max) if b is not None]
    if not isinstance(input, Tensor):
        raise argument_error("clamp", "input", 1, "Tensor", input)
    if all(_is_number(b) for b in bounds):
        if any(b != b for b in bounds):
            return deliver(input * float("nan"), out)
        name = "clamp_max" if min is None else "clamp_min" if max is None else "clamp"
        return FUNCTIONS[name](input, *bounds, out=out)
    if not all(isinstance(b, Tensor) for b in bounds):
        raise combination_error("clamp", input, *bounds)
    result = input if min is None else _limited(input, min, np.less)
    return deliver(result if max is None else _limited(result, max, np.greater), out)


def _limited(x: Tensor, bound: Tensor, beyond: Any) -> Tensor:
    """The bound where x is beyond it or it is nan, else x."""
    chosen = on_arrays(lambda a, b: beyond(a, b) | (b != b), x._array, bound._array)
    return convert.where(wrap(chosen), bound, x)


@public(in_place=True)
def clamp_min(input: Tensor, min: Any, *, out: Tensor | None = None) -> Tensor:
    """input, not below min, a number or a tensor."""
    if not isinstance(min, Tensor) and not _is_number(min):
        raise combination_error("clamp_min", input, min)
    return clamp(input, min, out=out)


@public(in_place=True)
def clamp_max(input: Tensor, max: Any, *, out: Tensor | None = None) -> Tensor:
    """input, not above max, a number or a tensor."""
    if not isinstance(max, Tensor) and not _is_number(max):
        raise combination_error("clamp_max", input, max)
    return clamp(input, max=max, out=out)


@public(in_place=True)
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """value where mask holds, else input."""
    return convert.where(mask, value, input)


@public(in_place=True)
def lerp(input: Tensor, end: Tensor, weight: Any, *, out: Tensor | None = None) -> Tensor:
    """input + weight * (end - input), for a weight that is a number or a tensor.

    Raises:
        RuntimeError: for operands of different dtypes.
        NotImplementedError: for integers.
    """
    if not isinstance(end, Tensor) or not (isinstance(weight, Tensor) or _is_number(weight)):
        raise combination_error("lerp", input, end, weight)
    for name, t in (("end", end), ("weight", weight)):
        if isinstance(t, Tensor) and t.dtype is not input.dtype:
            got, wanted = t.dtype.short.lower(), input.dtype.short.lower()
            raise RuntimeError(f"expected dtype {wanted} for `{name}` but got dtype {got}")
    if not input.is_floating_point():
        kind = "tensor" if isinstance(weight, Tensor) else "scalar"
        raise not_implemented(f"lerp_kernel_{kind}", input.dtype)
    # From the nearer end, so that weight 1 gives exactly `end`.
    step = end - input
    if isinstance(weight, Tensor):
        near, far = input + weight * step, end - step * (1 - weight)
        z = convert.where(wrap(np.asarray(np.abs(weight._array) < 0.5)), near, far)
    else:
        z = input + weight * step if abs(weight) < 0.5 else end - step * (1 - weight)
    return deliver(z, out)


def _check_three(name: str, input: Any, tensor1: Any, tensor2: Any) -> None:
    for position, (argument, t) in enumerate(
        (("input", input), ("tensor1", tensor1), ("tensor2", tensor2)), 1
    ):
        if not isinstance(t, Tensor):
            raise argument_error(name, argument, position, "Tensor", t)


@public(in_place=True)
def addcmul(
    input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1, out: Tensor | None = None
) -> Tensor:
    """input + value * tensor1 * tensor2."""
    _check_three("addcmul", input, tensor1, tensor2)
    kinds = (input.dtype, tensor1.dtype, tensor2.dtype)
    if not any(kind.category for kind in kinds):
        raise not_implemented("addcmul_cpu_out", input.dtype)
    if not any(kind.is_floating_point for kind in kinds):
        value = int(value)
    product = tensor1 * tensor2 if value == 1 else value * tensor1 * tensor2
    return deliver(input + product, out)


@public(in_place=True)
def addcdiv(
    input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1, out: Tensor | None = None
) -> Tensor:
    """input + value * tensor1 / tensor2.

    Raises:
        RuntimeError: if tensor1 and tensor2 are integers.
    """
    _check_three("addcdiv", input, tensor1, tensor2)
    if not (tensor1.is_floating_point() or tensor2.is_floating_point()):
        raise RuntimeError(
            "Integer division with addcdiv is no longer supported, and in a future  release "
            "addcdiv will perform a true division of tensor1 and tensor2. The historic addcdiv "
            "behavior can be implemented as (input + value * torch.trunc(tensor1 / "
            "tensor2)).to(input.dtype) for integer inputs and as (input + value * tensor1 / "
            "tensor2) for float inputs. The future addcdiv behavior is just the latter "
            "implementation: (input + value * tensor1 / tensor2), for all dtypes."
        )
    quotient = tensor1 / tensor2 if value == 1 else value * tensor1 / tensor2
    return deliver(input + quotient, out)


@public(in_place=True)
def nan_to_num(
    input: Tensor, nan: float | None = 0.0, posinf: float | None = None,
    neginf: float | None = None, *, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """input with numbers for nan, inf and -inf; by default 0 and the ends of the dtype's range."""
    if not isinstance(input, Tensor):
        raise argument_error("nan_to_num", "input", 1, "Tensor", input)
    for position, (name, x) in enumerate((("nan", nan), ("posinf", posinf), ("neginf", neginf)), 2):
        if not (x is None or _is_number(x)):
            raise argument_error("nan_to_num", name, position, "float", x)
    if not input.is_floating_point():
        return deliver(convert.clone(input), out)
    limit = float(np.finfo(input._array.dtype).max)
    above = limit if posinf is None else posinf
    below = -limit if neginf is None else neginf
    return FUNCTIONS["nan_to_num"](input, nan or 0.0, above, below, out=out)


@public(in_place=True)
def round(input: Tensor, *, decimals: int = 0, out: Tensor | None = None) -> Tensor:
    """The nearest integer, the even one where two are equally near; or nearest decimal.

    Raises:
        NotImplementedError: for decimals of integers.
    """
    if decimals == 0:
        return FUNCTIONS["round"](input, out=out)
    if isinstance(decimals, bool) or not isinstance(decimals, int):
        raise combination_error("round", input, decimals)
    if not input.is_floating_point():
        raise not_implemented("round_cpu", input.dtype)
    unit = 10.0 ** abs(decimals)
    if decimals > 0:
        return deliver(FUNCTIONS["round"](input * unit) / unit, out)
    return deliver(FUNCTIONS["round"](input / unit) * unit, out)


@public(in_place=True)
def logit(input: Tensor, eps: float | None = None, *, out: Tensor | None = None) -> Tensor:
    """log(input / (1 - input)), with input limited to [eps, 1 - eps]."""
    if eps is None:
        return FUNCTIONS["logit"](input, out=out)
    if not _is_number(eps):
        raise argument_error("logit", "eps", 2, "float", eps)
    return FUNCTIONS["logit"](clamp(input, float(eps), 1 - float(eps)), out=out)


@public()
def float_power(input: Any, exponent: Any, *, out: Tensor | None = None) -> Tensor:
    """input to the power of exponent, in float64.

    Raises:
        RuntimeError: if `out` is not of float64.
    """
    if not (isinstance(input, Tensor) or isinstance(exponent, Tensor)):
        raise combination_error("float_power", input, exponent)
    for x in (input, exponent):
        if not (isinstance(x, Tensor) or _is_number(x)):
            raise combination_error("float_power", input, exponent)
    if out is not None:
        _check_double(out, "output given to float_power")
    x, y = (
        convert.cast(t, dtypes.float64) if isinstance(t, Tensor) else float(t)
        for t in (input, exponent)
    )
    return pow(x, y, out=out)


@method()
def float_power_(input: Tensor, exponent: Any) -> Tensor:
    """In-place form of `float_power`.

    Raises:
        RuntimeError: if this tensor is not of float64.
    """
    _check_double(input, "base given to float_power_")
    return input.pow_(exponent)


def _check_double(x: Tensor, what: str) -> None:
    if x.dtype is not dtypes.float64:
        raise RuntimeError(
            f"the {what} has dtype {x.dtype.short} but the operation's result requires dtype Double"
        )
