"""Which function is which method and operator of Tensor, and which primitive of the rules."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..table import ROWS
from ..tensor import Tensor, wrap
from . import (  # noqa: F401 - the decorators of all enter their functions
    activation,
    affine,
    arithmetic,
    attention,
    bits,
    cat,
    changes,
    convert,
    convolution,
    copying,
    create_like,
    distance,
    division,
    einsum,
    gather,
    index,
    join,
    legacy,
    masked,
    memory,
    mix,
    normalization,
    norms,
    order,
    parts,
    pooling,
    product,
    queries,
    random,
    ranges,
    rearrange,
    reduce,
    resize,
    scan,
    search,
    statistics,
    strided,
    view,
)
from .arithmetic import same_dtype
from .elementwise import FUNCTIONS, OPERATORS, operand
from .in_place import in_place
from .names import IN_PLACE, METHODS, PUBLIC, public
from .op import primitive, tensors


def _reflected(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """`number op tensor`, by a function of (tensor, number); an ndarray is refused, as PyTorch
    does."""
    with_number = getattr(function, "with_number", function)

    def apply(self: Tensor, other: Any) -> Any:
        if other.__class__ is float or other.__class__ is int:
            return with_number(self, other)
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
        if other.__class__ is not int and other.__class__ is not float:
            other = operand(other, self)
            if other is None:
                return NotImplemented
        return function(self, other)

    return apply


_OPERATORS: dict[str, Callable[..., Any]] = {
    "pow": arithmetic.power, "mod": division.remainder, "floordiv": division.floor_divide,
    "and": PUBLIC["bitwise_and"], "or": PUBLIC["bitwise_or"], "xor": PUBLIC["bitwise_xor"],
    "lshift": PUBLIC["bitwise_left_shift"], "rshift": PUBLIC["bitwise_right_shift"],
}  # fmt: skip


# Operators like `+=`, by the methods that they are.
_IN_PLACE_OPERATORS = {
    "add": "add_", "sub": "sub_", "mul": "mul_", "truediv": "div_", "pow": "pow_",
    "floordiv": "floor_divide_", "mod": "remainder_", "and": "bitwise_and_", "or": "bitwise_or_",
    "xor": "bitwise_xor_", "lshift": "bitwise_left_shift_", "rshift": "bitwise_right_shift_",
}  # fmt: skip


def _enter_rows() -> None:
    """The rows that PyTorch has under their own name, unless a function above replaced them."""
    for name, row in ROWS.items():
        f = PUBLIC.get(name, FUNCTIONS[name])
        if row.public and f is FUNCTIONS[name]:
            public(in_place=name not in ("isnan", "isinf", "isfinite", "rsub"))(f)
    for alias, name in (("absolute", "abs"), ("negative", "neg"), ("arccos", "acos"),
                        ("arcsin", "asin"), ("arctan", "atan"), ("arctan2", "atan2"),
                        ("arcsinh", "asinh"), ("arccosh", "acosh"), ("arctanh", "atanh"),
                        ("multiply", "mul"), ("fix", "trunc"), ("not_equal", "ne"),
                        ("less", "lt"), ("less_equal", "le"),
                        ("greater", "gt"), ("greater_equal", "ge")):  # fmt: skip
        PUBLIC[alias] = METHODS[alias] = IN_PLACE[alias] = PUBLIC[name]


def attach() -> None:
    """Give Tensor its methods and operators, and the rules their primitives on Tensors."""
    _enter_rows()
    for name, f in METHODS.items():
        setattr(Tensor, name, f)
    for name, f in IN_PLACE.items():
        setattr(Tensor, name + "_", in_place(name, f))
    for name, function in _OPERATORS.items():
        setattr(Tensor, f"__{name}__", _operator(function))
        setattr(Tensor, f"__r{name}__", _reflected(_swapped(function)))
    for name, name_ in _IN_PLACE_OPERATORS.items():
        setattr(Tensor, f"__i{name}__", getattr(Tensor, name_))
    for name, function in OPERATORS.items():
        setattr(Tensor, f"__{'truediv' if name == 'div' else name}__", function)
    for name in ("add", "mul"):
        setattr(Tensor, f"__r{name}__", _reflected(OPERATORS[name]))
    setattr(Tensor, "__rsub__", _reflected(OPERATORS["rsub"]))  # noqa: B010
    special: dict[str, Any] = {
        "__neg__": FUNCTIONS["neg"], "__abs__": FUNCTIONS["abs"], "__matmul__": _matmul,
        "__pos__": lambda x: x, "__invert__": bits.invert, "__getitem__": index.getitem,
        "__setitem__": index.setitem, "__iter__": index.iterate, "T": property(view.reversed_dims),
        "mT": property(view.matrix_transpose), "__rtruediv__": _reciprocal_times,
        "__new__": staticmethod(legacy.create),
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
        "pad_dim": cat.pad_dim, "cast": convert.cast, "clone": convert.clone,
        "where": convert.where, "logical_not": FUNCTIONS["logical_not"],
        "take_index": index.take_index,
        "put_index": index.put_index, "clear_index": index.clear_index,
        "along": normalization.along,
        "same_dtype": same_dtype, "sum": reduce.sum, "mean": reduce.mean,
        "numpy_dtype": lambda x: x._array.dtype,
        "reduce": lambda name, x, dims: reduce.sum(x, dims),
        "equal_mask": lambda x, y: FUNCTIONS["eq"](x, y),
    }  # fmt: skip
    for name, function in primitives.items():
        setattr(tensors, name, function)


def _matmul(x: Tensor, y: Any) -> Any:
    """x @ y; an ndarray y makes the product itself, and `__array_wrap__` makes it a tensor."""
    return product.matmul(x, y) if isinstance(y, Tensor) else NotImplemented


def _reciprocal_times(x: Tensor, y: Any) -> Tensor:
    """y / x for a number y: PyTorch records reciprocal, then mul."""
    if isinstance(y, Tensor):
        return FUNCTIONS["div"](y, x)
    y = operand(y, x)
    if y is None:
        return NotImplemented
    if isinstance(y, Tensor) and y._node is not None:
        return FUNCTIONS["div"](y, x)
    return FUNCTIONS["mul"](FUNCTIONS["reciprocal"](x), y)


@primitive
def zeros_of(x: Tensor) -> Tensor:
    """Zeros of the shape and dtype of x."""
    return wrap(np.zeros(x._array.shape, x._array.dtype, like=x._array))


@primitive
def sum_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x summed over the dimensions along which `shape` was repeated."""
    if x._array.shape == shape:
        return x
    lead = x._array.ndim - len(shape)
    dims = [*range(lead)]
    dims += [lead + k for k, n in enumerate(shape) if n == 1 != x._array.shape[lead + k]]
    return view.reshape(reduce.sum(x, dims) if dims else x, shape)


@primitive
def put_along(g: Tensor, places: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """Zeros with g at the places along dim."""
    a = places._array
    if not shape:
        return view.reshape(g, ())
    grids = index.open_grid(a.shape)
    key = tuple(a if d == dim else grids[d] for d in range(a.ndim))
    return index.put_index(view.reshape(g, a.shape), key, shape)
