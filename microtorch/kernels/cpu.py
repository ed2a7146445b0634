"""Kernels on NumPy arrays: rows and folds as real NumPy ufuncs around our own machine code.

A compiled loop becomes a ufunc through NumPy's public C API, so broadcasting, strides and `out=`
come for free and a call costs as little as np.add. Every table of kernels is a dict from dtype
to ufunc that compiles what is asked for first. A loop over many elements is shared among threads
by one generic wrapper; reductions split at fixed places, whatever the number of threads.
"""

import contextvars
import ctypes
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

from ..table import FOLDS, ROWS, ROWWISE, STEPS, Fold, Row, Rowwise
from . import jit, text, threads
from .windows import conv as conv
from .windows import conv_input as conv_input
from .windows import conv_weight as conv_weight
from .windows import window_max as window_max
from .windows import window_spread as window_spread
from .windows import window_sum as window_sum
from .windows import windows as windows
from .windows import windows_back as windows_back

Array = np.ndarray[Any, Any]
Ufunc = Callable[..., Any]

_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_api = ctypes.cast(
    _capsule_pointer(_multiarray_umath._UFUNC_API, None), ctypes.POINTER(ctypes.c_void_p)
)
_plain = [ctypes.c_void_p] * 3 + [ctypes.c_int] * 4 + [ctypes.c_char_p] * 2 + [ctypes.c_int]
# Places in NumPy's C-API table, fixed by its ABI.
_from_loop = ctypes.PYFUNCTYPE(ctypes.py_object, *_plain)(_api[1] or 0)
_from_core_loop = ctypes.PYFUNCTYPE(ctypes.py_object, *_plain, ctypes.c_char_p)(_api[31] or 0)
_kept: list[Any] = []


def make_ufunc(
    name: str, loop: int, data: int, types: list[np.dtype[Any]], outputs: int, signature: str = ""
) -> Ufunc:
    """A ufunc with one loop: `types` are the dtypes of its inputs, then of its outputs."""
    loops = (ctypes.c_void_p * 1)(loop)
    datas = (ctypes.c_void_p * 1)(data)
    codes = (ctypes.c_char * len(types)).from_buffer_copy(bytes(t.num for t in types))
    label, doc, core = name.encode(), b"", signature.encode()
    _kept.extend((loops, datas, codes, label, doc, core))
    arguments = (
        ctypes.addressof(loops), ctypes.addressof(datas), ctypes.addressof(codes), 1,
        len(types) - outputs, outputs, -1, label, doc, 0,
    )  # fmt: skip
    made = _from_core_loop(*arguments, core) if signature else _from_loop(*arguments)
    return made  # type: ignore[no-any-return]


class ByDtype(dict[Any, Any]):
    """dtype -> kernel, made at the first use."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[np.dtype[Any]], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, dtype: np.dtype[Any]) -> Any:
        if dtype.name not in text.C_TYPE:
            raise NotImplementedError(f"no kernel is made for arrays of dtype {dtype}")
        kernel = self[dtype] = self._make(dtype)
        return kernel


BOOL = np.dtype(bool)


def forward(row: Row, in_place: bool = False) -> ByDtype:
    """Kernels of z = formula: `kernel(*operands)`, or `kernel(x, ..., x)` if in place."""

    def make(dtype: np.dtype[Any]) -> Ufunc:
        loop = jit.address("loop", text.forward(row, dtype.name, in_place))
        cheap = text.is_cheap([row.formula])
        types = [dtype] * len(row.operands) + [BOOL if row.types == "bool" else dtype]
        return make_ufunc(row.name, *threads.share(loop, len(types), cheap), types, 1)

    return ByDtype(make)


def backward(row: Row, needed: tuple[bool, ...]) -> ByDtype:
    """Kernels of all needed input gradients in one pass: `kernel(g, *saved)`."""
    operands = 1 + len(text.backward_operands(row, needed))
    outputs = sum(needed)
    name = row.name + "_backward"

    def make(dtype: np.dtype[Any]) -> Ufunc:
        loop = jit.address("loop", text.backward(row, needed, dtype.name))
        cheap = text.is_cheap(row.derivatives or ())
        count = operands + outputs
        return make_ufunc(name, *threads.share(loop, count, cheap), [dtype] * count, outputs)

    return ByDtype(make)


def fold(kind: Fold, row: Row | None = None) -> ByDtype:
    """Kernels of a reduction of x, or of a row's formula: `kernel(*operands, axis=-1)`."""
    count = len(row.operands) if row else 1
    name = f"{kind.name}_{row.name}" if row else kind.name
    signature = ",".join(["(n)"] * count) + "->()"

    def make(dtype: np.dtype[Any]) -> Ufunc:
        whole = dtype.kind in "iub" and kind.name in ("sum", "prod")
        out = np.dtype(np.int64) if whole else dtype
        loop = jit.address("loop", text.fold(kind, row, dtype.name, out.name))
        return make_ufunc(name, loop, 0, [dtype] * count + [out], 1, signature)

    return ByDtype(make)


def rowwise(row: Rowwise) -> ByDtype:
    """Kernels of an op on rows: `kernel(*inputs, *params, axis=-1)`."""
    count = len(row.inputs) + len(row.params)
    signature = ",".join(["(n)"] * len(row.inputs) + ["()"] * len(row.params)) + "->(n)"

    def make(dtype: np.dtype[Any]) -> Ufunc:
        loop = jit.address("loop", text.rowwise(row, dtype.name))
        shared = threads.share(loop, count + 1, False, rows=True)
        return make_ufunc(row.name, *shared, [dtype] * (count + 1), 1, signature)

    return ByDtype(make)


def step(name: str) -> ByDtype:
    """Kernels of an optimizer update: `kernel(table address, lines, numbers address, 0)`."""
    return ByDtype(
        lambda dtype: jit.function(
            "loop", text.step(STEPS[name], dtype.name), "void(i64,i64,i64,i64)"
        )
    )


# --------------------------------------------------------------------------- primitives
# What the backward rules of `functions/` are written in, on arrays; the same names on Tensors
# are those of `functions`. A gradient array may be a broadcast view: nothing writes into one.
ROW_KERNELS = {name: forward(row) for name, row in ROWS.items()}
IN_PLACE = {name: forward(row, True) for name, row in ROWS.items() if row.types != "bool"}
FOLD_KERNELS = {name: fold(kind) for name, kind in FOLDS.items()}

ROWWISE_KERNELS = {name: rowwise(row) for name, row in ROWWISE.items()}


def kernels_of(row: Row) -> ByDtype:
    """The forward kernels of a row of the table, or of one's own."""
    return ROW_KERNELS[row.name] if ROWS.get(row.name) is row else forward(row)


_quiet = threading.local()


def matmul(x: Array, y: Array) -> Array:
    """NumPy's product (BLAS), without its floating-point warnings.

    np.dot gives none and is twice as fast for small matrices. np.matmul is called in a context
    of its own where errors are ignored, which costs 0.1 us; entering np.errstate costs 0.7 us.
    """
    if x.ndim <= 2 and y.ndim <= 2:
        return np.dot(x, y)  # type: ignore[no-any-return]
    try:
        run = _quiet.run
    except AttributeError:
        context = contextvars.copy_context()
        context.run(np.seterr, all="ignore")
        run = _quiet.run = context.run
    return run(np.matmul, x, y)  # type: ignore[no-any-return]


def apply(name: str, *operands: Array) -> Array:
    """A row on arrays of one dtype."""
    return ROW_KERNELS[name][operands[0].dtype](*operands, out=...)  # type: ignore[no-any-return]


_add, _add_into = ROW_KERNELS["add"], IN_PLACE["add"]


def add(a: Array, b: Array) -> Array:
    """Sum of two gradients, in a new array; those of Values are numbers."""
    try:
        return _add[a.dtype](a, b, out=...)  # type: ignore[no-any-return]
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
    return ROW_KERNELS["neg"][x.dtype](x, out=...)  # type: ignore[no-any-return]


def mul(x: Array, y: Any) -> Array:
    """Product with an array or a number."""
    kernel = ROW_KERNELS["mul"][x.dtype]
    if not isinstance(y, np.ndarray):
        y = constant(y, x.dtype)
    elif y.dtype != x.dtype:
        y = y.astype(x.dtype)
    return kernel(x, y, out=...)  # type: ignore[no-any-return]


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
    return np.ndarray(shape, x.dtype, x, 0, lead + own)


_STILL = [(0,) * rank for rank in range(65)]


def spread(g: Array, shape: tuple[int, ...]) -> Array:
    """One element as an array of a shape, as a view."""
    return np.ndarray(shape, g.dtype, g, 0, _STILL[len(shape)])


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """The array summed over the dimensions along which `shape` was repeated."""
    if x.shape == shape:
        return x
    if math.prod(shape) == 1:
        return reduce_all("sum", x).reshape(shape)
    lead = x.ndim - len(shape)
    dims = (*range(lead), *(lead + k for k, n in enumerate(shape) if n == 1 != x.shape[lead + k]))
    return reduce("sum", x, dims).reshape(shape)


def reduce(name: str, x: Array, dims: tuple[int, ...]) -> Array:
    """A fold over some dimensions, which are dropped; () leaves x as it is."""
    kernel = FOLD_KERNELS[name][x.dtype]
    if dims == (0,) and x.ndim == 2 and x.shape[1] == 1:
        return kernel(x.reshape(-1), out=...).reshape(1)  # type: ignore[no-any-return]
    if len(dims) == x.ndim:
        return kernel(x if x.ndim == 1 else x.ravel("K"), out=...)  # type: ignore[no-any-return]
    if len(dims) == 1:
        return kernel(x, axis=dims[0], out=...)  # type: ignore[no-any-return]
    if not dims:
        return x
    kept = tuple(d for d in range(x.ndim) if d not in dims)
    if dims == tuple(range(len(dims))):
        # Leading dimensions: one reduction over rows, whose columns are contiguous.
        flat = x.reshape((-1, *(x.shape[d] for d in kept)))
        return kernel(flat, axis=0, out=...)  # type: ignore[no-any-return]
    moved = x.transpose(kept + dims).reshape(*(x.shape[d] for d in kept), -1)
    return kernel(moved, out=...)  # type: ignore[no-any-return]


def reduce_all(name: str, x: Array) -> Array:
    """A fold over all elements."""
    flat = x if x.ndim == 1 else x.ravel("K")
    return FOLD_KERNELS[name][x.dtype](flat, out=...)  # type: ignore[no-any-return]


def along(name: str, dim: int, *operands: Array) -> Array:
    """An op on the rows along a dimension."""
    if operands[0].ndim == 0:
        return along(name, 0, *(x.reshape(1) for x in operands)).reshape(())
    kernel = ROWWISE_KERNELS[name][operands[0].dtype]
    if dim == operands[0].ndim - 1:
        return kernel(*operands)  # type: ignore[no-any-return]
    # NumPy would lay the result out with the rows innermost.
    made = np.empty(operands[0].shape, operands[0].dtype)
    return kernel(*operands, axis=dim, out=made)  # type: ignore[no-any-return]


def cast(x: Array, dtype: Any) -> Array:
    """The elements as another dtype (`dtypes.dtype`); out of range is not an error."""
    with np.errstate(all="ignore"):
        return x.astype(dtype.numpy)


def div(x: Array, y: Any) -> Array:
    """Quotient by an array or a number."""
    kernel = ROW_KERNELS["div"][x.dtype]
    return kernel(x, y if isinstance(y, np.ndarray) else constant(y, x.dtype), out=...)  # type: ignore[no-any-return]


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
    made = np.zeros(shape, x.dtype)
    narrow(made, dim, before, x.shape[dim])[...] = x
    return made


def take_index(x: Array, key: Any) -> Array:
    """`x[key]`."""
    return np.asarray(x[key])


def put_index(g: Array, key: Any, shape: tuple[int, ...]) -> Array:
    """Zeros with g added at key, once for each time that an element was taken."""
    made = np.zeros(shape, g.dtype)
    if len(key) == 1 and g.ndim > 1 and isinstance(key[0], np.ndarray):
        if key[0].ndim == 1 and key[0].dtype != np.bool_:
            return _put_rows(made, key[0], g)
    if any(isinstance(i, np.ndarray) and i.dtype != np.bool_ for i in key):
        np.add.at(made, key, g)
    else:
        made[key] = g
    return made


def _put_rows(made: Array, places: Array, g: Array) -> Array:
    """Rows added up by their places: sorted first, as np.add.at is ten times slower."""
    if places.size:
        places = places % made.shape[0]
        order = places.argsort(kind="stable")
        places = places[order]
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        made[places[starts]] = np.add.reduceat(g[order], starts, axis=0)
    return made


def clear_index(g: Array, key: Any) -> Array:
    """A copy of g with zeros at key."""
    made = g.copy()
    made[key] = 0
    return made


def put_along(g: Array, index: Array, shape: tuple[int, ...], dim: int) -> Array:
    """Zeros with g at the places that `index` (keeping the dimension) names along dim."""
    made = np.zeros(shape, g.dtype)
    np.put_along_axis(made, index, g.reshape(index.shape), dim if made.ndim else None)
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
    known = constants.setdefault(dtype, {})
    found = known.get(value)
    if found is None:
        with np.errstate(all="ignore"):
            found = np.array(value).astype(dtype)
        # 0.0 == -0.0, so zeros have no place in a dict.
        if value != 0 and len(known) < 4096:
            known[value] = found
    return found
