"""Reductions: folds of the table, and what is built on them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, combination_error
from ..graph.node import LEAF, Node, mode, next_seq
from ..kernels import cpu
from ..tensor import Tensor, edge, new, normal_dim, normal_dims, wrap
from .convert import cast
from .elementwise import FUNCTIONS
from .names import need_bool, numpy_names, public
from .op import Array, Rule, deliver, need_tensor, record
from .results import deliver_each, named

Dims = int | Sequence[int] | None


def _spread(F: Any, g: Any, const: Any) -> Any:
    """The gradient of a sum, repeated over what was summed."""
    shape, dims, _ = const
    if dims is not None and len(dims) != len(shape):
        g = F.reshape(g, tuple(1 if k in dims else n for k, n in enumerate(shape)))
    elif g.ndim != 0:
        g = F.reshape(g, ())
    return F.expand(g, shape)


def _sum_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    return (_spread(F, g, const),)


def _mean_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    return (_spread(F, F.div(g, const[2]), const),)


def _extreme_rule(F: Any, g: Any, const: Any, x: Any, z: Any) -> tuple[Any, ...]:
    """The gradient shared evenly by all elements that are the extreme."""
    shape, dims, _ = const
    kept = tuple(1 if k in dims else n for k, n in enumerate(shape))
    hit = F.equal_mask(x, F.reshape(z, kept))
    number = F.cast(hit, dtypes.of(F.numpy_dtype(g)))
    count = F.reshape(F.reduce("sum", number, dims), kept)
    return (F.where(hit, F.div(F.reshape(g, kept), count), 0.0),)


def _prod_rule(F: Any, g: Any, const: Any, x: Any) -> tuple[Any, ...]:
    shape, dims, _ = const
    kept = tuple(1 if k in dims else n for k, n in enumerate(shape))
    return (F.mul(F.reshape(g, kept), F.products_of_others(x, dims)),)


class OfAll(Rule):
    """The sum or mean of all elements: the gradient is one number, seen as an array."""

    __slots__ = ()

    def backward(self, node: Node, g: Array) -> tuple[Any, ...]:
        """Gradient of the input; of a large one as a view."""
        shape, _, count = node.const
        g = g if g.ndim == 0 else g.reshape(())
        # Small gradients are repeated at once: kernels are slower on views.
        if self is MEAN[0]:
            small = count <= cpu.LARGE
            g = _DIV[g.dtype](g, cpu.full(shape if small else (), count, g.dtype))
        elif small := math.prod(shape) <= cpu.LARGE:
            g = _MUL[g.dtype](g, cpu.full(shape, 1, g.dtype))
        return (g if small else cpu.spread(g, shape),)


_DIV, _MUL = cpu.ROW_KERNELS["div"], cpu.ROW_KERNELS["mul"]
SUM = [OfAll("SumBackward0", _sum_rule), Rule("SumBackward1", _sum_rule)]
MEAN = [OfAll("MeanBackward0", _mean_rule), Rule("MeanBackward1", _mean_rule)]
MAX = [Rule("MaxBackward1", _extreme_rule, True), Rule("AmaxBackward0", _extreme_rule, True)]
MIN = [Rule("MinBackward1", _extreme_rule, True), Rule("AminBackward0", _extreme_rule, True)]
MEDIAN = {
    name: Rule(f"{name.title()}Backward0", _extreme_rule, True) for name in ("median", "nanmedian")
}
PROD = [Rule("ProdBackward0", _prod_rule), Rule("ProdBackward1", _prod_rule)]


def _fold(
    name: str, x: Tensor, dim: Dims, keepdim: bool, ops: list[Rule], saves: tuple[str, ...] = ()
) -> Tensor:
    """A fold over dimensions, in the graph."""
    if not isinstance(dim, (int, tuple, list, type(None))):
        raise combination_error(name, x, dim, expected="an int or a tuple of ints for dim")
    a = x._array
    if dim is None:
        dims = tuple(range(a.ndim))
        array = cpu.reduce_all(name, a)
    else:
        dims = normal_dims(dim, a.ndim) if a.ndim else normal_dims(dim, 0)[:0]
        array = cpu.reduce(name, a, dims) if a.ndim else cpu.reduce_all(name, a)
    if keepdim:
        array = array.reshape(tuple(1 if k in dims else n for k, n in enumerate(a.shape)))
    z = wrap(array)
    if x._node is not None and mode.enabled:
        op = ops[dim is not None]
        z._node = node = new(Node)
        node.op = op
        node.seq = next_seq()
        node.parents = (edge(x),)
        node.saved = tuple(x if s == "x" else array for s in saves)
        count = a.size // (array.size or 1) if a.size else 0
        node.const = (a.shape, dims, count)
    return z


@public()
def sum(
    input: Tensor,
    dim: Any = ...,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Tensor | None = None,
    axis: Any = ...,
    keepdims: bool = False,
) -> Tensor:
    """Sum over all elements or over dimensions; integers and bools give int64.

    Raises:
        TypeError: for keepdim without a dim, which may be None.
    """
    dim, keepdim = dim if axis is ... else axis, keepdim or keepdims
    if dim is ...:
        if keepdim is False and dtype is None and out is None:
            return _of_all("sum", input, _SUMS, SUM[0])
        dim = need_dim("sum", None, keepdim)
    need_tensor("sum", "input", 1, input)
    if keepdim.__class__ is not bool:
        need_bool("sum", keepdim, 2)
    if dtype is not None:
        input = cast(input, dtype)
    z = _fold("sum", input, dim, keepdim, SUM)
    return deliver(z if dtype is None else cast(z, dtype), out)


_SUMS, _MEANS = cpu.FOLD_KERNELS["sum"], cpu.FOLD_KERNELS["mean"]


def _of_all(name: str, input: Tensor, kernels: Any, op: Rule) -> Tensor:
    """The usual way to a loss, without what only dimensions need."""
    try:
        a = input._array
    except AttributeError:
        raise argument_error(name, "input", 1, "Tensor", input) from None
    z = new(Tensor)
    z._array = kernels[a.dtype](a if a.ndim == 1 else a.ravel("K"))
    parent = input._node
    if parent is not None and mode.enabled:
        z._node = node = new(Node)
        node.op = op
        node.seq = next_seq()
        node.parents = (input if parent is LEAF else parent,)
        node.saved = ()
        node.const = (a.shape, None, a.size)
    else:
        z._node = None
    return z  # type: ignore[no-any-return]


@public()
def mean(
    input: Tensor,
    dim: Any = ...,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Tensor | None = None,
    axis: Any = ...,
    keepdims: bool = False,
) -> Tensor:
    """Mean over all elements or over dimensions.

    Raises:
        TypeError: for keepdim without a dim, which may be None.
        RuntimeError: for integer tensors.
    """
    dim, keepdim = dim if axis is ... else axis, keepdim or keepdims
    need_tensor("mean", "input", 1, input)
    if dtype is not None:
        input = cast(input, dtype)
    if input._array.dtype.kind != "f":
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or "
            f"complex dtype. Got: {input.dtype.short}"
        )
    if dim is ...:
        if keepdim is False and out is None:
            return _of_all("mean", input, _MEANS, MEAN[0])
        dim = need_dim("mean", None, keepdim)
    if keepdim.__class__ is not bool:
        need_bool("mean", keepdim, 2)
    return deliver(_fold("mean", input, dim, keepdim, MEAN), out)


@public()
@numpy_names
def prod(
    input: Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Tensor | None = None,
) -> Tensor:
    """Product over all elements or over one dimension; integers and bools give int64."""
    need_tensor("prod", "input", 1, input)
    need_dim("prod", dim, keepdim)
    if dim is not None and not isinstance(dim, int):
        raise combination_error("prod", input, dim, expected="(Tensor input, int dim)")
    if dtype is not None:
        input = cast(input, dtype)
    z = _fold("prod", input, dim, keepdim, PROD, ("x",))
    return deliver(z if dtype is None else cast(z, dtype), out)


def need_dim(name: str, dim: Dims, keepdim: bool) -> Dims:
    """Refuse to keep a dimension that is not named."""
    if keepdim and dim is None:
        raise TypeError(f'{name}() missing 1 required positional arguments: "dim"')
    return dim


def _need_elements(
    name: str, input: Tensor, dim: Dims, kind: type[Exception] = RuntimeError
) -> None:
    a = input._array
    if a.size:
        return
    if dim is None:
        end = "" if kind is IndexError else " Specify the reduction dim with the 'dim' argument."
        raise kind(f"{name}(): Expected reduction dim to be specified for input.numel() == 0.{end}")
    for d in normal_dims(dim, a.ndim):
        if a.shape[d] == 0:
            raise IndexError(f"{name}(): Expected reduction dim {d} to have non-zero size.")


def _most(name: str, fold: str, input: Tensor, dim: Dims, keepdim: bool, ops: list[Rule]) -> Tensor:
    """The extreme over dimensions, () for all; equal ones share the gradient."""
    need_tensor(name, "input", 1, input)
    _need_elements(name, input, None if dim == () else dim)
    return _fold(fold, input, normal_dims(dim, input._array.ndim), keepdim, ops, ("x", "z"))


@public()
@numpy_names
def amax(
    input: Tensor, dim: Dims = (), keepdim: bool = False, *, out: Tensor | None = None
) -> Tensor:
    """Largest element over dimensions; equal ones share the gradient."""
    return deliver(_most("amax", "max", input, dim, keepdim, MAX), out)


@public()
@numpy_names
def amin(
    input: Tensor, dim: Dims = (), keepdim: bool = False, *, out: Tensor | None = None
) -> Tensor:
    """Smallest element over dimensions; equal ones share the gradient."""
    return deliver(_most("amin", "min", input, dim, keepdim, MIN), out)


_AMINMAX = named("aminmax", "min", "max")


@public()
@numpy_names
def aminmax(
    input: Tensor, *, dim: int | None = None, keepdim: bool = False, out: Any = None
) -> Any:
    """Smallest and largest element, over all or over one dimension."""
    need_tensor("aminmax", "input", 1, input)
    if dim is None and not input._array.size:
        raise RuntimeError(
            "aminmax(): cannot compute aminmax over an empty dimension as the operation has no "
            "identity."
        )
    _need_elements("aminmax", input, dim)
    dims = () if dim is None else dim
    found = _AMINMAX((amin(input, dims, keepdim), amax(input, dims, keepdim)))
    return deliver_each(found, out)


def shared(op: Rule, input: Tensor, array: Array) -> Tensor:
    """One element of all, in the graph: the elements equal to it share the gradient."""
    const = (input._array.shape, tuple(range(input._array.ndim)), 1)
    return record(op, array, (input,), (input, ...), const)


def _take_rule(F: Any, g: Any, const: Any, index: Any) -> tuple[Any, ...]:
    shape, dim = const
    return (F.put_along(g, index, shape, dim),)


TAKE = {"max": Rule("MaxBackward0", _take_rule), "min": Rule("MinBackward0", _take_rule)}
_EXTREMES = {name: named(name, "values", "indices") for name in TAKE}


def _along(name: str, x: Tensor, dim: int, keepdim: bool) -> Any:
    dim = normal_dim(dim, x._array.ndim)
    _need_elements(name, x, dim)
    index = np.asarray(
        getattr(np, "arg" + name)(x._array, axis=dim if x.ndim else None, keepdims=True)
    )
    values = np.take_along_axis(x._array, index, dim) if x.ndim else x._array.copy()
    shape = values.shape if keepdim or not x.ndim else values.shape[:dim] + values.shape[dim + 1 :]
    const = (x._array.shape, dim)
    z = record(TAKE[name], values.reshape(shape), (x,), (wrap(index),), const)
    return _EXTREMES[name]((z, wrap(index.reshape(shape))))


@public()
@numpy_names
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, out: Any = None) -> Any:
    """Largest element; with dim (values, indices); with another tensor the elementwise maximum."""
    return _min_max("max", input, dim, keepdim, out)


@public()
@numpy_names
def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, out: Any = None) -> Any:
    """Smallest element; with dim (values, indices); with another tensor the elementwise one."""
    return _min_max("min", input, dim, keepdim, out)


def _min_max(name: str, input: Tensor, dim: Any, keepdim: bool, out: Any) -> Any:
    need_tensor(name, "input", 1, input)
    if isinstance(dim, Tensor):
        return deliver(FUNCTIONS[name + "imum"](input, dim), out)
    if dim is not None:
        if not isinstance(dim, int):
            raise combination_error(name, input, dim, expected="(Tensor input, int dim)")
        return deliver_each(_along(name, input, dim, keepdim), out)
    need_dim(name, dim, keepdim)
    _need_elements(name, input, None)
    return deliver(_fold(name, input, None, False, MAX if name == "max" else MIN, ("x", "z")), out)


def _index(name: str) -> Callable[..., Tensor]:
    def apply(
        input: Tensor, dim: int | None = None, keepdim: bool = False, *, out: Tensor | None = None
    ) -> Tensor:
        need_tensor(name, "input", 1, input)
        a = input._array
        if a.dtype == np.bool_:
            raise RuntimeError(f"{name}(): does not support bool input")
        _need_elements(name, input, dim, IndexError)
        if dim is not None:
            dim = normal_dim(dim, a.ndim) if a.ndim else None
        return deliver(wrap(np.asarray(getattr(np, name)(a, axis=dim, keepdims=keepdim))), out)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"Index of the {'largest' if name == 'argmax' else 'smallest'} element."
    return apply


def _logical(name: str) -> Callable[..., Tensor]:
    def apply(
        input: Tensor, dim: Dims = None, keepdim: bool = False, *, out: Tensor | None = None
    ) -> Tensor:
        need_tensor(name, "input", 1, input)
        a = input._array
        axis = None if dim is None else normal_dims(dim, a.ndim)
        found = np.asarray(getattr(np, name)(a, axis=axis, keepdims=keepdim))
        return deliver(wrap(found.astype(np.uint8 if a.dtype == np.uint8 else np.bool_)), out)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"Whether {name} element is true, over all or over dimensions."
    return apply


argmax = public()(numpy_names(_index("argmax")))
argmin = public()(numpy_names(_index("argmin")))
all = public()(numpy_names(_logical("all")))
any = public()(numpy_names(_logical("any")))


@public()
@numpy_names
def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """How many elements are not zero, over all or over dimensions."""
    need_tensor("count_nonzero", "input", 1, input)
    axis = normal_dims(dim, input._array.ndim)
    return wrap(np.asarray(np.count_nonzero(input._array, axis), np.int64))
