"""Which function is which method and operator of Tensor, and which primitive of the rules."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import broadcast_error
from ..tensor import Tensor, wrap
from . import convert, creation, index, loss, product, random, reduce, view
from .elementwise import FUNCTIONS, OPERATORS, operand
from .in_place import in_place
from .op import Rule, record, tensors


def _reflected(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """`number op tensor`, by a function of (tensor, number); an ndarray is refused, as PyTorch
    does."""

    def apply(self: Tensor, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return NotImplemented
        other = operand(other, self)
        return NotImplemented if other is None else function(self, other)

    return apply


def _swapped(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda self, other: function(other, self)


def _operator(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """`tensor op other`, where other may be an ndarray; the rest is left to the other side."""

    def apply(self: Tensor, other: Any) -> Any:
        other = operand(other, self)
        return NotImplemented if other is None else function(self, other)

    return apply


def same_dtype(x: Any, y: Any) -> list[Tensor]:
    """Two operands, tensors or numbers, as tensors of the dtype of their combination."""
    kinds = [
        (t.dtype, 2 if t.ndim else 1) if isinstance(t, Tensor) else (dtypes.of_number(t), 0)
        for t in (x, y)
    ]
    result = dtypes.result_type(kinds)
    return [
        convert.cast(t, result) if isinstance(t, Tensor) else wrap(np.array(t, result.numpy))
        for t in (x, y)
    ]


def add(input: Any, other: Any, *, alpha: Any = 1, out: Tensor | None = None) -> Tensor:
    """input + alpha * other."""
    if out is None and alpha.__class__ is int and alpha == 1:
        return FUNCTIONS["add"](input, other)
    return view.deliver(FUNCTIONS["add"](input, _scaled(input, other, alpha)), out)


def sub(input: Any, other: Any, *, alpha: Any = 1, out: Tensor | None = None) -> Tensor:
    """input - alpha * other."""
    return view.deliver(FUNCTIONS["sub"](input, _scaled(input, other, alpha)), out)


def _scaled(input: Any, other: Any, alpha: Any) -> Any:
    if alpha == 1 and type(alpha) is int:
        return other
    kinds = [t.dtype for t in (input, other) if isinstance(t, Tensor)]
    if isinstance(alpha, bool) and any(k is not dtypes.bool for k in kinds):
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if isinstance(alpha, float) and not any(k.is_floating_point for k in kinds):
        if not isinstance(other, float):
            raise RuntimeError(
                "For integral input tensors, argument alpha must not be a floating point number."
            )
    return FUNCTIONS["mul"](other, alpha) if isinstance(other, Tensor) else other * alpha


def _with_out(name: str) -> Callable[..., Tensor]:
    function = FUNCTIONS[name]

    def apply(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
        z = function(input, other)
        return z if out is None else view.deliver(z, out)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = function.__doc__
    return apply


def pow(input: Any, exponent: Any, *, out: Tensor | None = None) -> Tensor:
    """input to the power of exponent; integers stay integers.

    Raises:
        RuntimeError: for an integer to a negative integer power.
    """
    return view.deliver(_pow(input, exponent), out)


def _pow(x: Any, y: Any) -> Tensor:
    if isinstance(x, Tensor) and isinstance(y, (int, float)) and not isinstance(y, bool):
        if x.is_floating_point():
            return _number_power(x, float(y))
    a, b = same_dtype(x, y)
    if isinstance(x, (int, float)) and x > 0 and b._node is not None:
        array = FUNCTIONS["pow"](a, b.detach())._array
        return record(POWER_OF_NUMBER, array, (b,), (...,), math.log(x))
    if not a.is_floating_point():
        if isinstance(y, int) and y < 0:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        exponent = b._array.astype(np.int64)
        base = a._array.astype(np.int64)
        with np.errstate(all="ignore"):
            result = np.where(exponent < 0, base == 1, np.power(base, np.maximum(exponent, 0)))
        return wrap(np.asarray(result).astype(a._array.dtype))
    return FUNCTIONS["pow"](a, b)


def _number_power(x: Tensor, y: float) -> Tensor:
    """Common exponents are other rows, several times faster than the general power."""
    if y == 2.0:
        return FUNCTIONS["square"](x)
    return FUNCTIONS["pow_number"](x, y)


def div(input: Any, other: Any, *, rounding_mode: str | None = None, out: Any = None) -> Tensor:
    """input / other, or rounded to the integer below ('floor') or towards zero ('trunc').

    Raises:
        RuntimeError: for another rounding mode, or integers divided by zero and rounded.
    """
    if rounding_mode is None:
        return view.deliver(FUNCTIONS["div"](input, other), out)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
            f"'{rounding_mode}'"
        )
    a, b = same_dtype(input, other)
    if not a.is_floating_point():
        if (b._array == 0).any():
            raise RuntimeError("ZeroDivisionError")
        x, y = a._array, b._array
        quotient = np.floor_divide(x, y)
        if rounding_mode == "trunc":
            quotient = quotient + ((quotient < 0) & (quotient * y != x)).astype(x.dtype)
        return view.deliver(wrap(np.asarray(quotient)), out)
    quotient_ = FUNCTIONS["div"](a, b)
    rounded = FUNCTIONS["floor"](quotient_)
    if rounding_mode == "trunc":
        rounded = convert.where(quotient_ < 0, FUNCTIONS["ceil"](quotient_), rounded)
    return view.deliver(rounded, out)


def _remainder_rule(F: Any, g: Any, shapes: Any, quotient: Any) -> tuple[Any, ...]:
    return F.sum_to(g, shapes[0]), F.neg(F.sum_to(F.mul(g, quotient), shapes[1]))


REMAINDER = Rule("RemainderBackward0", _remainder_rule)


def remainder(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
    """input - other * floor(input / other): the sign is that of other.

    Raises:
        RuntimeError: for integers divided by zero.
    """
    x, y = same_dtype(input, other)
    a, b = x._array, y._array
    if not x.is_floating_point() and (b == 0).any():
        raise RuntimeError("ZeroDivisionError")
    try:
        with np.errstate(all="ignore"):
            array = np.asarray(np.remainder(a, b))
            quotient = np.asarray(np.floor_divide(a, b))
    except ValueError:
        raise broadcast_error(a.shape, b.shape) from None
    shapes = (a.shape, b.shape)
    return view.deliver(record(REMAINDER, array, (x, y), (wrap(quotient),), shapes), out)


POWER_OF_NUMBER = Rule(
    "PowBackward2", lambda F, g, log_base, z: (F.mul(F.mul(g, z), log_base),), True
)


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """input limited to [min, max], numbers or tensors; either may be left out.

    Raises:
        RuntimeError: if both are.
    """
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        result = input if min is None else FUNCTIONS["maximum"](input, min)
        return result if max is None else FUNCTIONS["minimum"](result, max)
    if max is None:
        return FUNCTIONS["clamp_min"](input, min)
    if min is None:
        return FUNCTIONS["clamp_max"](input, max)
    return FUNCTIONS["clamp"](input, min, max)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """value where mask holds, else input."""
    return convert.where(mask, value, input)  # type: ignore[no-any-return]


def logical_not(input: Tensor) -> Tensor:
    """Whether an element is zero."""
    return wrap(np.logical_not(input._array))


def _bitwise(name: str) -> Callable[..., Tensor]:
    function = getattr(np, name)

    def apply(input: Any, other: Any) -> Tensor:
        a, b = same_dtype(input, other)
        if a.is_floating_point():
            raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{a.dtype.short}'")
        return wrap(np.asarray(function(a._array, b._array)))

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"Elementwise {name.replace('_', ' ')} of integers or bools."
    return apply


def bitwise_not(input: Tensor) -> Tensor:
    """Elementwise complement of integers or bools."""
    if input.is_floating_point():
        raise TypeError(
            "~ (operator.invert) is only implemented on integer and Boolean-type tensors"
        )
    return wrap(np.invert(input._array))


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    return bool(np.array_equal(input._array, other._array))


def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether |input - other| <= atol + rtol * |other| everywhere."""
    return bool(np.allclose(input._array, other._array, rtol, atol, equal_nan))


def numel(input: Tensor) -> int:
    """Number of elements."""
    return input._array.size


_BITWISE = {n: _bitwise(n) for n in ("bitwise_and", "bitwise_or", "bitwise_xor")}

# Every public function of `microtorch`, by name.
PUBLIC: dict[str, Callable[..., Any]] = {
    **{n: f for n, f in FUNCTIONS.items() if not n.endswith("_loss")
       and n not in ("clamp_min", "clamp_max", "pow_number", "binary_cross_entropy",
                     "binary_cross_entropy_with_logits", "elu", "leaky_relu", "gelu", "silu")},
    **{n: _with_out(n) for n in ("mul", "maximum", "minimum", "atan2")},
    "add": add, "sub": sub, "subtract": sub, "multiply": FUNCTIONS["mul"], "pow": pow, "div": div,
    "remainder": remainder,
    "divide": div, "true_divide": div, "absolute": FUNCTIONS["abs"], "negative": FUNCTIONS["neg"],
    "clamp": clamp, "clip": clamp, "where": convert.where, "masked_fill": masked_fill,
    "logical_not": logical_not, "bitwise_not": bitwise_not, **_BITWISE, "equal": equal,
    "allclose": allclose, "clone": convert.clone, "numel": numel,
    "sum": reduce.sum, "mean": reduce.mean, "prod": reduce.prod, "max": reduce.max,
    "min": reduce.min, "amax": reduce.amax, "amin": reduce.amin, "argmax": reduce.argmax,
    "argmin": reduce.argmin, "all": reduce.all, "any": reduce.any,
    "matmul": product.matmul, "mm": product.mm, "mv": product.mv, "dot": product.dot,
    "bmm": product.bmm, "outer": product.outer,
    "reshape": view.reshape_function, "flatten": view.flatten, "squeeze": view.squeeze,
    "unsqueeze": view.unsqueeze, "permute": view.permute, "transpose": view.transpose,
    "t": view.t, "narrow": view.narrow, "cat": view.cat, "concat": view.cat,
    "stack": view.stack, "split": view.split, "chunk": view.chunk, "unbind": index.unbind,
    "index_select": index.index_select, "masked_select": index.masked_select,
    "gather": index.gather, "softmax": loss.softmax, "log_softmax": loss.log_softmax,
}  # fmt: skip

# Functions that are methods only, under their method's name.
_METHODS: dict[str, Callable[..., Any]] = {
    "reshape": view.reshape, "view": view.view_, "view_as": view.view_as, "expand": view.expand,
    "expand_as": view.expand_as, "contiguous": view.contiguous, "to": convert.to,
    "cpu": convert.cpu_, "cuda": convert.cuda, "copy_": convert.copy_, "fill_": convert.fill_,
    "zero_": convert.zero_, "unbind": index.unbind,
    "reshape_as": lambda x, o: view.reshape(x, o.shape),
    "uniform_": random.uniform_, "normal_": random.normal_, "bernoulli_": random.bernoulli_,
    "random_": random.random_, "exponential_": random.exponential_,
    "bernoulli": random.bernoulli, "multinomial": random.multinomial,
    "new_zeros": lambda x, *s, **o: creation.zeros(*s, **{"dtype": x.dtype, **o}),
    "new_ones": lambda x, *s, **o: creation.ones(*s, **{"dtype": x.dtype, **o}),
    "new_tensor": lambda x, d, **o: creation.tensor(d, **{"dtype": x.dtype, **o}),
    "new_full": lambda x, s, v, **o: creation.full(s, v, **{"dtype": x.dtype, **o}),
}  # fmt: skip

_OPERATORS: dict[str, Callable[..., Any]] = {
    "pow": _pow, "mod": remainder,
    "matmul": lambda x, y: product.matmul(x, y) if isinstance(y, Tensor) else NotImplemented,
    "floordiv": lambda x, y: div(x, y, rounding_mode="floor"),
    "and": _BITWISE["bitwise_and"], "or": _BITWISE["bitwise_or"], "xor": _BITWISE["bitwise_xor"],
}  # fmt: skip
_IN_PLACE_METHODS = (
    "add sub mul div pow neg abs exp log sqrt sigmoid tanh relu clamp square reciprocal sin cos"
    " floor ceil masked_fill"
).split()


def attach() -> None:
    """Give Tensor its methods and operators, and the rules their primitives on Tensors."""
    for name, function in {**PUBLIC, **_METHODS}.items():
        if name not in ("where", "numel"):
            setattr(Tensor, name, function)
    Tensor.where = lambda x, c, y: convert.where(c, x, y)  # type: ignore[attr-defined]
    for name in _IN_PLACE_METHODS:
        setattr(Tensor, name + "_", in_place(name, PUBLIC[name]))
    for name, function in _OPERATORS.items():
        setattr(Tensor, f"__{name}__", _operator(function))
        setattr(Tensor, f"__r{name}__", _reflected(_swapped(function)))
    for name in ("add", "sub", "mul", "pow"):
        setattr(Tensor, f"__i{name}__", getattr(Tensor, name + "_"))
    for name, function in OPERATORS.items():
        setattr(Tensor, f"__{'truediv' if name == 'div' else name}__", function)
    for name in ("add", "mul"):
        setattr(Tensor, f"__r{name}__", _reflected(OPERATORS[name]))
    setattr(Tensor, "__rsub__", _reflected(OPERATORS["rsub"]))  # noqa: B010
    special = {
        "__itruediv__": Tensor.__dict__["div_"], "__neg__": FUNCTIONS["neg"],
        "__abs__": FUNCTIONS["abs"],
        "__pos__": lambda x: x, "__invert__": bitwise_not, "__getitem__": index.getitem,
        "__setitem__": index.setitem, "__iter__": index.iterate, "T": property(view.reversed_dims),
        "mT": property(view.matrix_transpose), "__rtruediv__": _reflected(_reciprocal_times),
    }  # fmt: skip
    for name, function in special.items():
        setattr(Tensor, name, function)
    for name, dtype in (("float", dtypes.float32), ("double", dtypes.float64),
                        ("half", dtypes.float16), ("long", dtypes.int64), ("int", dtypes.int32),
                        ("short", dtypes.int16), ("bool", dtypes.bool), ("byte", dtypes.uint8),
                        ("char", dtypes.int8)):  # fmt: skip
        setattr(Tensor, name, lambda x, dtype=dtype: convert.cast(x, dtype))
    for name in ("add_into", "add"):
        setattr(tensors, name, FUNCTIONS["add"])
    primitives: dict[str, Any] = {
        "mul": FUNCTIONS["mul"], "div": FUNCTIONS["div"], "neg": FUNCTIONS["neg"],
        "reshape": view.reshape, "permute": view.permute, "expand": view.expand,
        "mT": view.matrix_transpose, "matmul": product.matmul, "narrow": view.narrow,
        "pad_dim": view.pad_dim, "cast": convert.cast, "clone": convert.clone,
        "where": convert.where, "logical_not": logical_not, "take_index": index.take_index,
        "put_index": index.put_index, "clear_index": index.clear_index, "along": loss.along,
        "same_dtype": same_dtype, "sum": reduce.sum, "mean": reduce.mean,
        "numpy_dtype": lambda x: x._array.dtype, "sum_to": sum_to,
        "reduce": lambda name, x, dims: reduce.sum(x, dims),
        "equal_mask": lambda x, y: FUNCTIONS["eq"](x, y),
        "put_along": put_along, "products_of_others": products_of_others,
    }  # fmt: skip
    for name, function in primitives.items():
        setattr(tensors, name, function)


def _reciprocal_times(x: Tensor, y: Any) -> Tensor:
    """y / x for a number y: PyTorch records reciprocal, then mul."""
    if isinstance(y, Tensor):
        return FUNCTIONS["div"](y, x)
    return FUNCTIONS["mul"](FUNCTIONS["reciprocal"](x), y)


def sum_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x summed over the dimensions along which `shape` was repeated."""
    if x._array.shape == shape:
        return x
    lead = x._array.ndim - len(shape)
    dims = [*range(lead)]
    dims += [lead + k for k, n in enumerate(shape) if n == 1 != x._array.shape[lead + k]]
    return view.reshape(reduce.sum(x, dims) if dims else x, shape)


def put_along(g: Tensor, places: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """Zeros with g at the places along dim."""
    a = places._array
    if not shape:
        return view.reshape(g, ())
    grids = np.ogrid[tuple(slice(n) for n in a.shape)]
    key = tuple(a if d == dim else grids[d] for d in range(a.ndim))
    return index.put_index(view.reshape(g, a.shape), key, shape)


def products_of_others(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """For each element, the product of all others reduced with it (no element may be 0)."""
    return FUNCTIONS["div"](reduce_keep(x, dims), x)


def reduce_keep(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The product over dims, which are kept."""
    if len(dims) == x._array.ndim:
        return reduce.prod(x)
    return reduce.prod(x, dims[0], keepdim=True)
