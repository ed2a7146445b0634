"""The primitives that backward rules are written in, on NumPy arrays.

The same names on Tensors are in `functions`. A gradient array may be a broadcast view: nothing
writes into one.
"""

import contextvars
import functools
import math
import sys
import threading
from typing import Any

import numpy as np

from ..device import gpu
from ..table import FOLDS
from . import gemm
from .convolve import conv as conv
from .convolve import conv_input as conv_input
from .convolve import conv_weight as conv_weight
from .lapack import *  # noqa: F403
from .rows import rows_added
from .scans import *  # noqa: F403
from .ufuncs import *  # noqa: F403
from .ufuncs import FOLD_KERNELS, IN_PLACE, ROW_KERNELS, ROWWISE_KERNELS, Array, fold
from .windows import window_max as window_max
from .windows import window_spread as window_spread
from .windows import window_sum as window_sum
from .windows import windows as windows
from .windows import windows_back as windows_back

_quiet = threading.local()


def matmul(x: Array, y: Array) -> Array:
    """The product of two arrays.

    np.dot is twice as fast for small matrices. np.matmul is called in a context of its own where
    errors are ignored, which costs 0.1 us; entering np.errstate costs 0.7 us.
    """
    if x.ndim <= 2 and y.ndim <= 2:
        return np.dot(x, y) if x.size < gemm.FIRST else gemm.dot(x, y)
    try:
        run = _quiet.run
    except AttributeError:
        context = contextvars.copy_context()
        context.run(np.seterr, all="ignore")
        run = _quiet.run = context.run
    return run(gemm.matmul, x, y)  # type: ignore[no-any-return]


def apply(name: str, *operands: Array) -> Array:
    """A row on arrays of one dtype."""
    return ROW_KERNELS[name][operands[0].dtype](*operands)  # type: ignore[no-any-return]


_add, _add_into = ROW_KERNELS["add"], IN_PLACE["add"]


def _references(a: Array) -> int:
    return sys.getrefcount(a)


def _references_of_one() -> int:
    a = np.empty(0)
    return _references(a)


# What sys.getrefcount gives in a function for an argument that its caller alone refers to; it
# depends on the version of Python.
ALONE = _references_of_one()
# From this many elements on it pays to write into a gradient that nothing else refers to, and to
# keep one number for many.
LARGE = 8192


def add(a: Array, b: Array) -> Array:
    """Sum of two gradients, in the first if nothing else refers to it; Values have numbers."""
    try:
        if a.size > LARGE and a.base is None and sys.getrefcount(a) <= ALONE:
            return _add_into[a.dtype](a, b, a)  # type: ignore[no-any-return]
        return _add[a.dtype](a, b)  # type: ignore[no-any-return]
    except AttributeError:
        return a + b


def add_into(a: Array, b: Array) -> Array:
    """Sum of two gradients, in the first."""
    try:
        return _add_into[a.dtype](a, b, a)  # type: ignore[no-any-return]
    except AttributeError:
        return a + b


def neg(x: Array) -> Array:
    """Negative of a gradient."""
    return ROW_KERNELS["neg"][x.dtype](x)  # type: ignore[no-any-return]


def mul(x: Array, y: Any) -> Array:
    """Product with an array or a number."""
    kernel = ROW_KERNELS["mul"][x.dtype]
    if not isinstance(y, np.ndarray):
        y = constant(y, x.dtype)
    elif y.dtype != x.dtype:
        y = y.astype(x.dtype)
    return kernel(x, y)  # type: ignore[no-any-return]


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """The elements in another shape."""
    return x.reshape(shape)


def permute(x: Array, dims: tuple[int, ...]) -> Array:
    """The dimensions in another order."""
    return x.transpose(dims)


def mT(x: Array) -> Array:
    """The last two dimensions exchanged."""
    return x.T if x.ndim == 2 else x.swapaxes(-1, -2)


def expand(x: Array, shape: tuple[int, ...]) -> Array:
    """The array repeated along new dimensions and those of length 1, as a view."""
    if x.shape == shape:
        return x
    lead = (0,) * (len(shape) - x.ndim)
    own = tuple(s if n != 1 else 0 for s, n in zip(x.strides, x.shape, strict=True))
    # Four times cheaper than np.broadcast_to; needs a buffer without gaps.
    if not x.flags.c_contiguous:
        x = x.copy()
        return expand(x, shape)
    if type(x) is not np.ndarray:
        return np.broadcast_to(x, shape)
    return np.ndarray(shape, x.dtype, x, 0, lead + own)


_total = fold(FOLDS["sum"], total=True)
_STILL = [(0,) * rank for rank in range(65)]


def spread(g: Array, shape: tuple[int, ...]) -> Array:
    """One element as an array of a shape, as a view."""
    if type(g) is not np.ndarray:
        return np.broadcast_to(g.reshape(()), shape)
    return np.ndarray(shape, g.dtype, g, 0, _STILL[len(shape)])


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """The array summed over the dimensions along which `shape` was repeated."""
    if x.shape == shape:
        return x
    if shape == (1,):
        return _total[x.dtype](x)  # type: ignore[no-any-return]
    if math.prod(shape) == 1:
        return _total[x.dtype](x).reshape(shape)  # type: ignore[no-any-return]
    lead = x.ndim - len(shape)
    dims = (*range(lead), *(lead + k for k, n in enumerate(shape) if n == 1 != x.shape[lead + k]))
    return reduce("sum", x, dims).reshape(shape)


def reduce(name: str, x: Array, dims: tuple[int, ...]) -> Array:
    """A fold over some dimensions, which are dropped; () leaves x as it is."""
    if name == "sum" and dims == (0,) and x.ndim == 2 and x.shape[1] == 1:
        return _total[x.dtype](x)  # type: ignore[no-any-return]
    kernel = FOLD_KERNELS[name][x.dtype]
    if len(dims) == x.ndim:
        return kernel(x if x.ndim == 1 else x.ravel("K"))  # type: ignore[no-any-return]
    if len(dims) == 1:
        return kernel(x, axis=dims[0])  # type: ignore[no-any-return]
    if not dims:
        return x
    last = x.ndim - 1
    while last in dims:
        last -= 1
    rest = tuple(d for d in dims if d < last)
    if 0 < len(rest) < len(dims):
        # Rows first, without a copy of x; then what is left of them.
        rows = x.reshape(*x.shape[: last + 1], math.prod(x.shape[last + 1 :]))
        return reduce(name, kernel(rows), rest)
    kept = tuple(d for d in range(x.ndim) if d not in dims)
    if dims == tuple(range(len(dims))):
        # Leading dimensions: one reduction over rows, whose columns are contiguous.
        flat = x.reshape((math.prod(x.shape[d] for d in dims), *(x.shape[d] for d in kept)))
        return kernel(flat, axis=0)  # type: ignore[no-any-return]
    shape = (*(x.shape[d] for d in kept), math.prod(x.shape[d] for d in dims))
    moved = x.transpose(kept + dims).reshape(shape)
    return kernel(moved)  # type: ignore[no-any-return]


def reduce_all(name: str, x: Array) -> Array:
    """A fold over all elements."""
    flat = x if x.ndim == 1 else x.ravel("K")
    return FOLD_KERNELS[name][x.dtype](flat)  # type: ignore[no-any-return]


def along(name: str, dim: int, *operands: Array) -> Array:
    """An op on the rows along a dimension."""
    if operands[0].ndim == 0:
        return along(name, 0, *(x.reshape(1) for x in operands)).reshape(())
    kernel = ROWWISE_KERNELS[name][operands[0].dtype]
    if dim == operands[0].ndim - 1:
        return kernel(*operands)  # type: ignore[no-any-return]
    # NumPy lays the result out with this dimension innermost.
    return np.asarray(kernel(*operands, axis=dim), order="C")


def move(x: Array, place: Any, wait: bool = True) -> Array:
    """A copy of the elements on another device; `wait` False leaves it to the GPU's stream."""
    if place.type != "cpu":
        return gpu("array").upload(x, wait)  # type: ignore[no-any-return]
    made = None if wait else gpu("exchange").pinned(x.shape, x.dtype)
    return x.host(made, wait)  # type: ignore[attr-defined, no-any-return]


def cast(x: Array, dtype: Any) -> Array:
    """The elements as another dtype (`dtypes.dtype`); out of range is not an error."""
    with np.errstate(all="ignore"):
        return x.astype(dtype.numpy)


def div(x: Array, y: Any) -> Array:
    """Quotient by an array or a number."""
    kernel = ROW_KERNELS["div"][x.dtype]
    return kernel(x, y if isinstance(y, np.ndarray) else constant(y, x.dtype))  # type: ignore[no-any-return]


def where(condition: Array, x: Any, y: Any) -> Array:
    """x where the condition holds, else y; one of them may be a number."""
    return np.asarray(np.where(condition, x, y))


def divide_rounded(x: Array, y: Array, mode: str) -> Array:
    """Quotient rounded to the integer below ('floor') or towards zero ('trunc').

    Raises:
        ValueError: if the shapes do not broadcast.
    """
    with np.errstate(all="ignore"):
        if mode == "floor":
            return np.asarray(np.floor_divide(x, y))
        if x.dtype.kind == "f":
            return np.asarray(np.trunc(np.divide(x, y)))
        quotient = np.floor_divide(x, y)
        above = (quotient < 0) & (quotient * y != x)
        return np.asarray(quotient + above.astype(x.dtype))


def zeros_of(x: Array) -> Array:
    """Zeros of the shape and dtype of x."""
    return np.zeros(x.shape, x.dtype, like=x)


def logical_not(c: Array) -> Array:
    """The complement of a mask."""
    return ~c


def equal_mask(x: Array, y: Array) -> Array:
    """Where two arrays agree, nan with nan."""
    return (x == y) | ((x != x) & (y != y))


def numpy_dtype(x: Array) -> np.dtype[Any]:
    """The element type of a gradient."""
    return x.dtype


def narrow(x: Array, dim: int, start: int, length: int) -> Array:
    """`length` slices along a dimension, as a view."""
    return x[(slice(None),) * dim + (slice(start, start + length),)]


def pad_dim(x: Array, dim: int, before: int, after: int) -> Array:
    """Zeros before and after along one dimension."""
    shape = list(x.shape)
    shape[dim] += before + after
    made = np.zeros(shape, x.dtype, like=x)
    narrow(made, dim, before, x.shape[dim])[...] = x
    return made


def given(x: Array) -> Array:
    """A constant of a rule."""
    return x


def mapped(x: Array, maps: Any) -> Array:
    """The first of two linear maps, each the adjoint of the other."""
    return np.asarray(maps[0](x))


def take_index(x: Array, key: Any) -> Array:
    """`x[key]`."""
    return np.asarray(x[key])


def put_index(g: Array, key: Any, shape: tuple[int, ...]) -> Array:
    """Zeros with g added at key, once for each time that an element was taken."""
    arrays = [i for i in key if i.__class__ is np.ndarray and i.dtype.kind != "b"]
    if not arrays:
        made = np.zeros(shape, g.dtype, like=g)
        made[key] = g
        return made
    if len(key) == 1 and arrays[0].ndim == 1 and g.dtype.itemsize > 2:
        return rows_added(arrays[0], g, shape)
    made = np.zeros(shape, g.dtype, like=g)
    # np.add.at is fast for one index alone.
    places = np.arange(made.size, like=g).reshape(shape)[key]
    np.add.at(made.reshape(-1), places.ravel(), g.ravel())
    return made


def clear_index(g: Array, key: Any) -> Array:
    """A copy of g with zeros at key."""
    made = g.copy()
    made[key] = 0
    return made


def check_inside(places: Array, length: int, error: type[Exception], text: str) -> None:
    """Raise an error, its text a format of `bad`, for the first index outside [0, length)."""
    if places.size and (places.min() < 0 or places.max() >= length):
        raise error(text.format(bad=places[(places < 0) | (places >= length)].flat[0]))


def put_along(g: Array, index: Array, shape: tuple[int, ...], dim: int) -> Array:
    """Zeros with g at the places that `index` (keeping the dimension) names along dim."""
    made = np.zeros(shape, g.dtype, like=g)
    if not shape:
        return g.reshape(())
    np.put_along_axis(made, index, g.reshape(index.shape), dim)
    return made


def products_of_others(x: Array, dims: tuple[int, ...]) -> Array:
    """For each element, the product of all others reduced with it; zeros are no trouble."""
    kept = tuple(d for d in range(x.ndim) if d not in dims)
    moved = x.transpose(kept + dims)
    rows = moved.reshape(*(x.shape[d] for d in kept), -1)
    before = np.ones_like(rows)
    after = np.ones_like(rows)
    np.cumprod(rows[..., :-1], axis=-1, out=before[..., 1:])
    after[..., :-1] = np.cumprod(rows[..., :0:-1], axis=-1)[..., ::-1]
    return (before * after).reshape(moved.shape).transpose(np.argsort(kept + dims))


# One 0-d array a number: making one costs as much as half an operation.
constants: dict[Any, dict[Any, Array]] = {}


def constant(value: Any, dtype: np.dtype[Any]) -> Array:
    """A number as a 0-d array."""
    try:
        return constants[dtype][value]
    except KeyError:
        known = constants.setdefault(dtype, {})
    # 0.0 == -0.0
    key = value or repr(value)
    if key not in known:
        with np.errstate(all="ignore"):
            found = np.array(value).astype(dtype)
        # Many operations share it.
        found.flags.writeable = False
        if len(known) >= 4096:
            return found
        known[key] = found
    return known[key]


@functools.lru_cache(maxsize=64)
def full(shape: tuple[int, ...], value: float, dtype: np.dtype[Any]) -> Array:
    """A read-only array of one number; kernels are faster on it than on a repeated element."""
    made = np.full(shape, value, dtype)
    made.flags.writeable = False
    return made
