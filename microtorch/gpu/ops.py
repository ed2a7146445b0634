"""What NumPy operations do with arrays on the GPU.

Views are made on the ghosts. What has a rule becomes maps, folds, ops on rows and products
(`launch`); anything else is done on the CPU, and its results are sent back.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DIFFERENT_DEVICES as DIFFERENT
from ..kernels.formulas import FLOATS, formula_of
from ..kernels.ufuncs import MEANINGS
from . import array
from .array import Array, empty, upload, view
from .compiler import memory
from .driver import start
from .launch import (
    added,
    cast,
    copied,
    copy,
    fold,
    laid,
    map_,
    operand,
    product,
    rows,
    spread,
    step,
)
from .memory import current

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
VIEWS = frozenset(
    "transpose swapaxes moveaxis rollaxis expand_dims squeeze broadcast_to diagonal fliplr "
    "flipud rot90 sliding_window_view split array_split broadcast_arrays may_share_memory "
    "shares_memory shape ndim size result_type can_cast view atleast_1d atleast_2d "
    "atleast_3d".split()
)
# NumPy's own Python code for these goes through rules.
COMPOSED = frozenset("take_along_axis put_along_axis vstack hstack flip".split())
WRITES = frozenset("at copyto setitem put place putmask fill_diagonal sort partition".split())


def placed(x: Any) -> Any:
    """The array on the GPU: itself, or a copy."""
    return x if type(x) is Array else upload(x)


def hosted(x: Any) -> Any:
    """The array on the CPU: itself, or a copy."""
    return x.host() if type(x) is Array else x


def rule(names: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of these operations; NotImplemented leaves them to the CPU."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return enter


def perform(function: Any, args: Any, options: Any) -> Any:
    """Do a NumPy operation on the GPU.

    Raises:
        RuntimeError: if an operand is an array on the CPU.
    """
    name = function.__name__
    if name in VIEWS:
        return _views(function, args, options)
    if name in COMPOSED:
        return function._implementation(*args, **options)
    found = RULES.get("ufunc" if isinstance(function, np.ufunc) else name)
    if found is not None:
        result = found(function, *args, **options)
        if result is not NotImplemented:
            return result
    return on_host(function, args, options)


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same with all that is in nested tuples, lists and dicts changed."""
    if type(value) in (tuple, list):
        return type(value)([changed(v, change) for v in value])
    if type(value) is dict:
        return {k: changed(v, change) for k, v in value.items()}
    return change(value)


def on_host(function: Any, args: Any, options: Any) -> Any:
    """The same on the CPU, with what it writes and what it gives sent back."""
    hosts: dict[int, Any] = {}

    def down(x: Any) -> Any:
        if type(x) is not Array:
            return x
        return hosts.setdefault(id(x), (x, x.host()))[1]

    with np.errstate(all="ignore"):
        found = function(*changed(args, down), **changed(options, down))
    written = options.get("out")
    if function.__name__ in WRITES and function not in (np.sort, np.partition):
        written = args[0]
    if type(written) is Array:
        copy(written, upload(hosts[id(written)][1]))
        return written
    up = lambda x: upload(x) if isinstance(x, (np.ndarray, np.generic)) else x
    if isinstance(found, tuple) and hasattr(found, "_fields"):
        return type(found)(*map(up, found))
    return changed(found, up)


def _views(function: Any, args: Any, options: Any) -> Any:
    owners: list[Array] = []

    def ghost(x: Any) -> Any:
        if type(x) is Array:
            owners.append(x)
            return x.ghost
        return x

    found = function(*changed(args, ghost), **changed(options, ghost))
    if not isinstance(found, (np.ndarray, list, tuple)) or (
        isinstance(found, tuple) and all(isinstance(v, int) for v in found)
    ):
        return found
    return changed(found, lambda x: _owned(x, owners) if isinstance(x, np.ndarray) else x)


def _owned(ghost: Any, owners: list[Array]) -> Array:
    if len(owners) > 1 and ghost.size:
        return view(next(o for o in owners if np.may_share_memory(o.ghost, ghost)), ghost)
    return view(owners[0], ghost)


# ------------------------------------------------------------------------------ elementwise
@rule("ufunc")
def _ufunc(ufunc: Any, *inputs: Any, **options: Any) -> Any:
    """A kernel of the package's, whose meaning is known, or a ufunc of NumPy's."""
    out = options.pop("out", None)
    if out is not None and type(out) is not Array:
        raise RuntimeError(DIFFERENT)
    kind, *meaning = MEANINGS.get(ufunc, ("map",))
    if kind == "call":
        return _rows_added(*inputs)
    if ufunc is np.matmul:
        return NotImplemented if options else _matmul(ufunc, *inputs, out=out)
    if kind != "map":
        return _reduction(kind, meaning, [operand(x) for x in inputs], **options)
    if options.keys() - {"dtype", "casting"}:
        return NotImplemented
    kinds = [type(x) if type(x) in (int, float, bool) else np.asarray(x).dtype
             if type(x) is not Array else x.dtype for x in inputs]  # fmt: skip
    kinds = [bool_ if k is bool else k for k in kinds]
    types: Any = (
        {"signature": (None,) * ufunc.nin + (options["dtype"],)} if "dtype" in options else {}
    )
    loop = ufunc.resolve_dtypes((*kinds, *(None,) * ufunc.nout), **types)
    formulas, names = meaning or (formula_of(ufunc.__name__, loop), ("x", "y")[: ufunc.nin])
    if formulas is None or any(d == np.float16 for d in loop):
        for x in inputs:
            operand(x)
        return NotImplemented
    ins = [cast(operand(x) if np.ndim(x) else x, d) for x, d in zip(inputs, loop, strict=False)]
    shape = np.broadcast_shapes(*(x.shape for x in ins))
    if out is not None:
        if out.shape != np.broadcast_shapes(shape, out.shape):
            raise ValueError(f"non-broadcastable output operand with shape {out.shape}")
        direct = out.dtype == loop[-1]
        made = [out if direct else empty(shape, loop[-1])]
    else:
        made = [laid(shape, ins, d) for d in loop[ufunc.nin :]]
    map_(made, ins, formulas, names, loop[0])
    if out is not None:
        if made[0] is not out:
            copy(out, made[0])
        return out
    return made[0] if len(made) == 1 else tuple(made)


bool_ = np.dtype(np.bool_)


def _reduction(kind: str, meaning: Any, ins: list[Array], axis: int = -1) -> Array:
    """A fold or an op on rows, along one dimension."""
    if kind == "rows":
        return rows(meaning[0], ins, axis % max(x.ndim for x in ins))
    name, formula, names = meaning
    full = np.broadcast_shapes(*(x.shape for x in ins))
    whole = ins[0].dtype.kind in "iub" and name in ("sum", "prod")
    return fold(name, ins, (axis % len(full),), np.int64 if whole else ins[0].dtype, formula, names)


def _rows_added(places: Any, g: Array, counted: Any) -> Array:
    g, made = operand(g), zeros((len(counted), g.shape[1]), g.dtype)
    added(made, hosted(places) % len(counted), g if g.flags.c_contiguous else copied(g))
    return made


@rule("sum mean prod max min amax amin any all")
def _fold(
    function: Any, x: Any, axis: Any = None, dtype: Any = None, out: Any = None,
    keepdims: bool = False, **others: Any,
) -> Any:  # fmt: skip
    """A fold of NumPy's; any and all are the largest and the smallest of bools."""
    name = {"amax": "max", "amin": "min"}.get(function.__name__, function.__name__)
    if type(x) is not Array or others or out is not None or x.dtype == np.float16:
        return NotImplemented
    if name in ("any", "all"):
        if not x.size:
            return NotImplemented
        x = x if x.dtype == np.bool_ else x != 0
        name = {"any": "max", "all": "min"}[name]
    elif name == "mean" and x.dtype.kind != "f":
        x = copied(x, np.float64)
    whole = x.dtype.kind in "iub" and name in ("sum", "prod")
    kind = np.dtype(dtype or (np.int64 if whole else x.dtype))
    if kind.kind == "f" and x.dtype.kind != "f":
        x = copied(x, kind)
    dims = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    dims = tuple(d % x.ndim for d in dims) if x.ndim else ()
    made = fold(name, [x], dims, kind) if x.ndim else copied(x, kind)
    if keepdims:
        made = made.reshape(tuple(1 if d in dims else n for d, n in enumerate(x.shape)))
    return made


@rule("dot matmul")
def _matmul(function: Any, a: Any, b: Any, out: Any = None) -> Any:
    """A product of vectors, matrices or stacks of matrices."""
    x, y = operand(a), operand(b)
    if x.ndim == 0 or y.ndim == 0 or (function is np.dot and max(x.ndim, y.ndim) > 2):
        return NotImplemented
    if x.dtype != y.dtype or x.dtype not in FLOATS or out is not None:
        return NotImplemented
    left = x[None] if x.ndim == 1 else x
    right = y[:, None] if y.ndim == 1 else y
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"shapes {x.shape} and {y.shape} not aligned")
    made = product(left, right)
    shape = made.shape[: -1 if y.ndim == 1 else None]
    if x.ndim == 1:
        shape = shape[:-1] if y.ndim == 1 else (*shape[:-2], shape[-1])
    return made.reshape(shape)


@rule("where")
def _where(function: Any, condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None:
        return NotImplemented
    kind = np.result_type(*(v.dtype if type(v) is Array else v for v in (x, y)))
    if kind == np.float16:
        return NotImplemented
    condition = operand(condition)
    if condition.dtype != np.bool_:
        condition = condition != 0
    ins = [condition, *(cast(v if type(v) is Array else operand(v), kind) for v in (x, y))]
    made = laid(np.broadcast_shapes(*(v.shape for v in ins)), ins, kind)
    map_([made], ins, ("where(c, x, y)",), ("c", "x", "y"), kind)
    return made


# ----------------------------------------------------------------------------------- copies
@rule("astype")
def _astype(function: Any, x: Any, dtype: Any, *_: Any, copy: bool = True, **__: Any) -> Any:
    return x if x.dtype == dtype and not copy else copied(x, dtype, "K")


@rule("copy")
def _copy(function: Any, x: Any, order: str = "C", **_: Any) -> Any:
    return copied(x, order=order)


@rule("reshape")
def _reshape(function: Any, x: Any, *shape: Any, order: str = "C", copy: Any = None) -> Any:
    if order not in "CAK":
        return NotImplemented
    wanted = shape[0] if len(shape) == 1 else shape
    try:
        return view(x, np.reshape(x.ghost, wanted, copy=False))
    except ValueError:
        if copy is False:
            raise
        whole = memory(x.shape, x.dtype, x.address)
        # Raises where the number of elements does not fit.
        np.reshape(whole, wanted, copy=False)
        made = copied(x)
        return view(made, np.reshape(made.ghost, wanted, copy=False))


@rule("ravel flatten")
def _ravel(function: Any, x: Any, order: str = "C") -> Any:
    if order == "K":
        x = x.transpose(np.argsort([-abs(s) for s in x.strides], kind="stable"))
    elif order not in "CA":
        return NotImplemented
    return copied(x).reshape(-1) if function.__name__ == "flatten" else x.reshape(-1)


@rule("stack concatenate")
def _joined(function: Any, parts: Any, axis: int = 0, out: Any = None, **others: Any) -> Any:
    if others or out is not None or axis is None:
        return NotImplemented
    parts = [operand(p) for p in parts]
    if function is np.stack:
        parts = [np.expand_dims(p, axis) for p in parts]
    kind = np.result_type(*(p.dtype for p in parts))
    ghosts = [np.broadcast_to(np.zeros((), p.dtype), p.shape) for p in parts]
    axis %= ghosts[0].ndim
    shape = list(ghosts[0].shape)
    for g in ghosts[1:]:
        if g.ndim != len(shape) or [*g.shape[:axis], *g.shape[axis + 1 :]] != [
            *shape[:axis],
            *shape[axis + 1 :],
        ]:
            raise ValueError("all the input array dimensions except for the concatenation axis "
                             "must match exactly")  # fmt: skip
    shape[axis] = sum(g.shape[axis] for g in ghosts)
    made, first = empty(shape, kind), 0
    for p in parts:
        n = p.shape[axis]
        if p.size:
            copy(made[(slice(None),) * axis + (slice(first, first + n),)], p)
        first += n
    return made


@rule("copyto")
def _copyto(function: Any, out: Any, x: Any, casting: Any = None, where: Any = None) -> Any:
    if where is not None:
        return NotImplemented
    if type(out) is not Array:
        np.copyto(out, x.host(), casting="unsafe")
        return None
    return copy(out, x if type(x) is Array else upload(x))


# --------------------------------------------------------------------------------- creation
def zeros(shape: Any, dtype: Any = np.float64) -> Array:
    """Zeros."""
    made = empty(shape, dtype)
    if made.size:
        start().clear(made.address, made.nbytes, current.stream)
    return made


def filled(shape: Any, value: Any, dtype: Any) -> Array:
    """One number, everywhere."""
    made = empty(shape, dtype)
    copy(made, operand(np.asarray(value).astype(made.dtype)) if type(value) is not Array else value)
    return made


_START: dict[str, Any] = {"zeros": 0, "ones": 1, "empty": None}


@rule("zeros ones empty full")
def _new(function: Any, shape: Any, *args: Any, dtype: Any = None, **_: Any) -> Any:
    if function is np.full:
        value, *rest = args
        kind = dtype or (rest[0] if rest else None) or np.asarray(value).dtype
        return filled(shape, value, kind)
    kind = dtype or (args[0] if args else None) or np.float64
    value = _START[function.__name__]
    if value is None:
        return empty(shape, kind)
    return filled(shape, 1, kind) if value else zeros(shape, kind)


@rule("zeros_like ones_like empty_like full_like")
def _like(function: Any, x: Any, *args: Any, dtype: Any = None, shape: Any = None, **_: Any) -> Any:
    name = function.__name__.removesuffix("_like")
    value = args[:1] if name == "full" else ()
    kind = dtype or next(iter(args[len(value) :]), None) or x.dtype
    return _new(getattr(np, name), x.shape if shape is None else shape, *value, dtype=kind)


@rule("arange array asarray eye tri")
def _sent(function: Any, *args: Any, **options: Any) -> Any:
    """What is made on the CPU: what `like=` asks for."""
    return upload(function(*args, **options))


# ----------------------------------------------------------------------------------- indexing
def _basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return not any(isinstance(k, (np.ndarray, list, bool, np.bool_)) for k in parts)


def _single(key: Any) -> bool:
    """Whether a part of a key is a mask of no dims."""
    parts = key if isinstance(key, tuple) else (key,)
    return any(np.ndim(k) == 0 and getattr(k, "dtype", type(k)) in (bool, bool_) for k in parts)


@rule("getitem")
def _getitem(function: Any, x: Any, key: Any) -> Any:
    if _basic(key):
        parts = key if isinstance(key, tuple) else (key,)
        return view(x, x.ghost[key if any(k is ... for k in parts) else (*parts, ...)])
    if x.dtype == np.float16 or _single(key):
        return NotImplemented
    far, at = _far(x, key)
    made = empty(far.shape, x.dtype)
    map_([made], [far, at], ("x",), ("x", "at"), far="x")
    return made


@rule("setitem")
def _setitem(function: Any, x: Any, key: Any, value: Any) -> Any:
    """Elements written: a copy into a view, or to places that indices name."""
    if type(x) is not Array:
        raise RuntimeError(DIFFERENT)
    if not _basic(key) and (x.dtype == np.float16 or _single(key)):
        return NotImplemented
    host = None if type(value) is Array else np.asarray(value).astype(x.dtype)
    source = value if host is None else upload(host) if host.ndim else operand(host)
    if _basic(key):
        part = _getitem(None, x, key)
        copy(part, _fitting(source, part.shape))
        return None
    if isinstance(key, np.ndarray) and key.dtype == np.bool_ and key.shape == x.shape:
        if not source.ndim:
            ins = [placed(key), cast(source, x.dtype), x]
            return map_([x], ins, ("where(c, x, y)",), ("c", "x", "y"), x.dtype)
    far, at = _far(x, key)
    part = _fitting(cast(source, x.dtype), far.shape)
    if part.block is x.block:
        # Any element may be written before it is read.
        part = copied(part)
    map_([far], [part, at], ("x",), ("x", "at"), x.dtype, far="out0")
    return None


def _fitting(x: Array, shape: tuple[int, ...]) -> Array:
    """What is written to a place of a shape, without leading dims of length 1.

    Raises:
        ValueError: if it does not broadcast to the shape.
    """
    while x.ndim > len(shape) and x.shape[0] == 1:
        x = x[0]
    np.broadcast_to(x.ghost, shape)
    return x


def _far(x: Array, key: Any) -> tuple[Array, Array]:
    """What a key with indices names: a view, and distances to be added to its own.

    Raises:
        IndexError: for an index outside.
    """
    parts: list[Any] = []
    for k in key if isinstance(key, tuple) else (key,):
        k = np.asarray(k) if isinstance(k, (list, bool, np.bool_)) else k
        if isinstance(k, np.ndarray) and k.dtype == np.bool_:
            parts += np.nonzero(hosted(k))
        else:
            parts.append(k)
    used = sum(k is not None and k is not ... for k in parts)
    rest = [slice(None)] * (x.ndim - used)
    at = next((p for p, k in enumerate(parts) if k is ...), len(parts))
    parts[at : at + 1] = rest
    parts = [k if isinstance(k, (np.ndarray, slice)) or k is None else np.asarray(k) for k in parts]
    seen = x.ghost[tuple(slice(None) if isinstance(k, np.ndarray) else k for k in parts)]
    dims = [p for p, k in enumerate(parts) if isinstance(k, np.ndarray)]
    indices = [parts[p] for p in dims]
    try:
        common = np.broadcast_shapes(*(i.shape for i in indices))
    except ValueError:
        raise IndexError("shape mismatch") from None
    together = dims[-1] - dims[0] + 1 == len(dims)
    first = dims[0] if together else 0
    kept = [d for d in range(seen.ndim) if d not in dims]
    before = [d for d in kept if d < first] if together else []
    after = [d for d in kept if d not in before]
    for i, d in zip(indices, dims, strict=True):
        _check(i, d, seen.shape[d])
    at_all = _distance([(i, seen.shape[d], seen.strides[d] // x.itemsize)
                        for i, d in zip(indices, dims, strict=True)], common)  # fmt: skip
    shape = (*(seen.shape[d] for d in before), *common, *(seen.shape[d] for d in after))
    still = (0,) * len(common)
    strides = (*(seen.strides[d] for d in before), *still, *(seen.strides[d] for d in after))
    far = Array(memory(shape, x.dtype, seen.ctypes.data, strides), x.block)
    spread = (*(0 for _ in before), *at_all.strides, *(0 for _ in after))
    return far, Array(memory(shape, np.int64, at_all.address, spread), at_all.block)


def _check(index: Any, d: int, n: int) -> None:
    if index.size:
        low, high = (int(v) for v in (index.min(), index.max()))
        if low < -n or high >= n:
            worst = low if low < -n else high
            raise IndexError(f"index {worst} is out of bounds for axis {d} with size {n}")


def _distance(indices: list[Any], shape: tuple[int, ...]) -> Array:
    """The distance, in elements, that indices along some dims lead to together."""
    fixed, total = np.zeros(shape, np.int64), None
    for index, n, far in indices:
        on_device = type(index) is Array
        if not on_device:
            fixed = fixed + np.where(index < 0, index + n, index) * far
            continue
        made = empty(shape, np.int64)
        before = total if total is not None else operand(0, np.int64)
        ins = [cast(index, np.int64), operand(n, np.int64), operand(far, np.int64), before]
        map_([made], ins, ("where(x < 0, x + y, x) * w + b",), ("x", "y", "w", "b"))
        total = made
    if total is None:
        return upload(np.broadcast_to(fixed, shape))
    return total + upload(np.broadcast_to(fixed, shape)) if fixed.any() else total


@rule("take")
def _take(function: Any, x: Any, indices: Any, axis: Any = None, **others: Any) -> Any:
    if others or type(x) is not Array:
        return NotImplemented
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x[(slice(None),) * (axis % x.ndim) + (indices,)]


@rule("at")
def _at(function: Any, x: Any, key: Any, g: Any) -> Any:
    """`np.add.at` on rows."""
    if function.__self__ is not np.add or x.ndim != 1 or not x.flags.c_contiguous:
        return NotImplemented
    if x.dtype not in FLOATS or not isinstance(key, np.ndarray):
        return NotImplemented
    places = hosted(key).reshape(-1)
    _check(places, 0, len(x))
    g = copied(spread(operand(g), key.shape), x.dtype)
    return added(x, places % len(x), g)


# ------------------------------------------------------------------------------ along a dim
@rule("cumsum cumprod accumulate")
def _running(function: Any, x: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """Running sums, products and extremes, over 2, 4, 8 ... elements."""
    name = function.__name__
    operation: Any = {"cumsum": np.add, "cumprod": np.multiply}.get(name) or function.__self__
    if x.dtype == np.float16 or operation not in (np.add, np.multiply, np.maximum, np.minimum):
        return NotImplemented
    whole = x.dtype.kind in "iub" and name != "accumulate"
    axis = 0 if name == "accumulate" and axis is None else axis
    made = copied(
        x if axis is not None else x.reshape(-1), dtype or (np.int64 if whole else x.dtype)
    )
    lead, reach = (slice(None),) * ((axis or 0) % made.ndim), 1
    while reach < made.shape[len(lead)]:
        before, made = made, copied(made)
        late, early = (*lead, slice(reach, None)), (*lead, slice(None, -reach))
        operation(before[late], before[early], out=made[late])
        reach *= 2
    if out is None:
        return made
    copy(out, made)
    return out


@rule("argmax argmin")
def _best(function: Any, x: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
    """The first place of the largest or smallest element, or of nan."""
    whole, rows = axis is None, x.reshape(-1) if axis is None else x
    axis = (axis or 0) % rows.ndim if rows.ndim else 0
    if out is not None or not rows.ndim or not rows.shape[axis] or x.dtype == np.float16:
        return NotImplemented
    n, places = rows.shape[axis], np.arange(rows.shape[axis], like=x)
    best = _fold(getattr(np, function.__name__[3:]), rows, axis, keepdims=True)
    ins = [rows, best, places.reshape(-1, *(1,) * (rows.ndim - axis - 1)), operand(n, np.int64)]
    formula = "where((x == m) | (x != x), i, n)"
    made = fold("min", ins, (axis,), np.int64, formula, ("x", "m", "i", "n"))
    if keepdims:
        made = made.reshape(*(1 if whole or d == axis else n for d, n in enumerate(x.shape)))
    return made


array.perform, array.step = perform, step
