"""Reductions: folds of the table, and what is built on them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..graph.node import LEAF, Node, mode, next_seq
from ..kernels import cpu
from ..tensor import Tensor, edge, new, normal_dim, normal_dims, wrap
from .convert import cast
from .elementwise import FUNCTIONS
from .names import public
from .op import Array, Rule, record

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
        """Gradient of the input, as a view."""
        shape, _, count = node.const
        if self is MEAN[0]:
            g = _DIV[g.dtype](g, cpu.constant(count, g.dtype))
        return (cpu.spread(g if g.ndim == 0 else g.reshape(()), shape),)


_DIV = cpu.ROW_KERNELS["div"]
SUM = [OfAll("SumBackward0", _sum_rule), Rule("SumBackward1", _sum_rule)]
MEAN = [OfAll("MeanBackward0", _mean_rule), Rule("MeanBackward1", _mean_rule)]
MAX = [Rule("MaxBackward1", _extreme_rule, True), Rule("AmaxBackward0", _extreme_rule, True)]
MIN = [Rule("MinBackward1", _extreme_rule, True), Rule("AminBackward0", _extreme_rule, True)]
PROD = [Rule("ProdBackward0", _prod_rule), Rule("ProdBackward1", _prod_rule)]


def _fold(
    name: str, x: Tensor, dim: Dims, keepdim: bool, ops: list[Rule], saves: tuple[str, ...] = ()
) -> Tensor:
    """A fold over dimensions, in the graph."""
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
        z._node = node = object.__new__(op.kind)
        node.op = op
        node.seq = next_seq()
        node.parents = (edge(x),)
        node.saved = tuple(x if s == "x" else array for s in saves)
        count = a.size // (array.size or 1) if a.size else 0
        node.const = (a.shape, dims, count)
    return z


@public()
def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over all elements or over dimensions; integers and bools give int64."""
    if dtype is not None:
        input = cast(input, dtype)
    if dim is not None or keepdim:
        return _fold("sum", input, dim, keepdim, SUM)
    return _of_all(input, _SUMS, SUM[0])


_SUMS, _MEANS = cpu.FOLD_KERNELS["sum"], cpu.FOLD_KERNELS["mean"]


def _of_all(input: Tensor, kernels: Any, op: Rule) -> Tensor:
    """The usual way to a loss, without what only dimensions need."""
    a = input._array
    z = new(Tensor)
    z._array = kernels[a.dtype](a if a.ndim == 1 else a.ravel("K"))
    parent = input._node
    if parent is not None and mode.enabled:
        z._node = node = new(op.kind)
        node.op = op
        node.seq = next_seq()
        node.parents = (input if parent is LEAF else parent,)
        node.saved = ()
        node.const = (a.shape, None, a.size)
    else:
        z._node = None
    return z  # type: ignore[no-any-return]


@public()
def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over all elements or over dimensions.

    Raises:
        RuntimeError: for integer tensors.
    """
    if dtype is not None:
        input = cast(input, dtype)
    if input._array.dtype.kind != "f":
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or "
            f"complex dtype. Got: {input.dtype.short}"
        )
    if dim is None and not keepdim:
        return _of_all(input, _MEANS, MEAN[0])
    return _fold("mean", input, dim, keepdim, MEAN)


@public()
def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """Product over all elements or over one dimension."""
    if dtype is not None:
        input = cast(input, dtype)
    return _fold("prod", input, dim, keepdim, PROD, ("x",))


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


@public()
def amax(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """Largest element over dimensions; equal ones share the gradient."""
    _need_elements("amax", input, None if dim == () else dim)
    return _fold(
        "max", input, dim if dim != () else tuple(range(input.ndim)), keepdim, MAX, ("x", "z")
    )


@public()
def amin(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """Smallest element over dimensions; equal ones share the gradient."""
    _need_elements("amin", input, None if dim == () else dim)
    return _fold(
        "min", input, dim if dim != () else tuple(range(input.ndim)), keepdim, MIN, ("x", "z")
    )


class _Extreme(tuple[Tensor, Tensor]):
    """`(values, indices)` with names."""

    __slots__ = ()
    values = property(lambda self: self[0])
    indices = property(lambda self: self[1])

    def __repr__(self) -> str:
        return f"torch.return_types.max(\nvalues={self[0]!r},\nindices={self[1]!r})"


def _take_rule(F: Any, g: Any, const: Any, index: Any) -> tuple[Any, ...]:
    shape, dim = const
    return (F.put_along(g, index, shape, dim),)


TAKE_MAX = Rule("MaxBackward0", _take_rule)


def _along(name: str, x: Tensor, dim: int, keepdim: bool) -> _Extreme:
    dim = normal_dim(dim, x._array.ndim)
    _need_elements(name, x, dim)
    index = np.asarray(
        getattr(np, "arg" + name)(x._array, axis=dim if x.ndim else None, keepdims=True)
    )
    values = np.take_along_axis(x._array, index, dim) if x.ndim else x._array.copy()
    shape = values.shape if keepdim or not x.ndim else values.shape[:dim] + values.shape[dim + 1 :]
    z = record(TAKE_MAX, values.reshape(shape), (x,), (wrap(index),), (x._array.shape, dim))
    return _Extreme((z, wrap(index.reshape(shape))))


@public()
def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Largest element; with dim (values, indices); with another tensor the elementwise maximum."""
    return _min_max("max", input, dim, keepdim)


@public()
def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Smallest element; with dim (values, indices); with another tensor the elementwise one."""
    return _min_max("min", input, dim, keepdim)


def _min_max(name: str, input: Tensor, dim: Any, keepdim: bool) -> Any:
    if isinstance(dim, Tensor):
        return FUNCTIONS[name + "imum"](input, dim)
    if dim is not None:
        return _along(name, input, dim, keepdim)
    _need_elements(name, input, None)
    return _fold(name, input, None, False, MAX if name == "max" else MIN, ("x", "z"))


def _index(name: str) -> Callable[..., Tensor]:
    def apply(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        a = input._array
        _need_elements(name, input, dim, IndexError)
        if dim is not None:
            dim = normal_dim(dim, a.ndim) if a.ndim else None
        return wrap(np.asarray(getattr(np, name)(a, axis=dim, keepdims=keepdim)))

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"Index of the {'largest' if name == 'argmax' else 'smallest'} element."
    return apply


def _logical(name: str) -> Callable[..., Tensor]:
    def apply(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
        a = input._array
        axis = None if dim is None else normal_dims(dim, a.ndim)
        return wrap(np.asarray(getattr(np, name)(a, axis=axis, keepdims=keepdim)))

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"Whether {name} element is true, over all or over dimensions."
    return apply


argmax, argmin = public()(_index("argmax")), public()(_index("argmin"))
all, any = public()(_logical("all")), public()(_logical("any"))
