"""What NumPy operations do with arrays on the GPU.

Views are made on the ghosts. What `kernels.operations` or a rule here knows becomes maps, folds,
ops on rows and products (`launch`); the rest is done on the CPU, and its results are sent back.
"""

import functools
from typing import Any

import numpy as np

from ..errors import DIFFERENT_DEVICES as DIFFERENT
from ..kernels import operations
from ..kernels.formulas import FLOATS
from ..kernels.operations import BOOL, basic, fitting, parts_of, replaced, whole
from . import array, launch
from .array import Array, empty, upload, view
from .compiler import memory
from .driver import start
from .launch import added, cast, copied, copy, fold, laid, map_, operand, spread, step
from .memory import current

RULES = dict(operations.RULES)
rule = functools.partial(operations.rule, table=RULES)
VIEWS = frozenset(
    "transpose swapaxes moveaxis rollaxis expand_dims squeeze broadcast_to diagonal fliplr "
    "flipud rot90 sliding_window_view split array_split broadcast_arrays may_share_memory "
    "shares_memory shape ndim size result_type can_cast view atleast_1d atleast_2d "
    "atleast_3d".split()
)
# The most elements of rows that are sorted on the GPU.
FEW = 256
# NumPy's own Python code for these goes through rules.
COMPOSED = frozenset("take_along_axis put_along_axis vstack hstack flip".split())


def placed(x: Any) -> Any:
    """The array on the GPU: itself, or a copy."""
    return x if type(x) is Array else upload(x) if np.ndim(x) else operand(x)


def hosted(x: Any) -> Any:
    """The array on the CPU: itself, or a copy."""
    return x.host() if type(x) is Array else x


def perform(function: Any, args: Any, options: Any) -> Any:
    """Do a NumPy operation on the GPU.

    Raises:
        RuntimeError: if an operand is an array on the CPU.
    """
    if function.__name__ in VIEWS:
        return _views(function, args, options)
    if function.__name__ in COMPOSED:
        return function._implementation(*args, **options)
    result = operations.apply(RULES, There, function, args, options)
    return on_host(function, args, options) if result is NotImplemented else result


def on_host(function: Any, args: Any, options: Any) -> Any:
    """The same on the CPU, with what it writes and what it gives sent back."""
    if isinstance(function, np.ufunc):
        for x in args:
            operand(x)
    hosts: dict[int, Any] = {}

    def down(x: Any) -> Any:
        if type(x) is not Array:
            return x
        return hosts.setdefault(id(x), (x, x.host()))[1]

    with np.errstate(all="ignore"):
        found = function(*replaced(args, down), **replaced(options, down))
    written = args[0] if operations.writes(function) else options.get("out")
    if type(written) is Array:
        copy(written, upload(hosts[id(written)][1]))
        return written
    up = lambda x: upload(x) if isinstance(x, (np.ndarray, np.generic)) else x
    if isinstance(found, tuple) and hasattr(found, "_fields"):
        return type(found)(*map(up, found))
    return replaced(found, up)


def _views(function: Any, args: Any, options: Any) -> Any:
    owners: list[Array] = []

    def ghost(x: Any) -> Any:
        if type(x) is Array:
            owners.append(x)
            return x.ghost
        return x

    found = function(*replaced(args, ghost), **replaced(options, ghost))
    if not isinstance(found, (np.ndarray, list, tuple)) or (
        isinstance(found, tuple) and all(isinstance(v, int) for v in found)
    ):
        return found
    return replaced(found, lambda x: _owned(x, owners) if isinstance(x, np.ndarray) else x)


def _owned(ghost: Any, owners: list[Array]) -> Array:
    if len(owners) > 1 and ghost.size:
        return view(next(o for o in owners if np.may_share_memory(o.ghost, ghost)), ghost)
    return view(owners[0], ghost)


# ---------------------------------------------------------------------- what rules ask for
class There:
    """What `kernels.operations` asks for, by launches."""

    lift, placed, copied, copy = (staticmethod(f) for f in (cast, placed, copied, copy))
    empty, rows = staticmethod(empty), staticmethod(launch.rows)

    @staticmethod
    def map(
        name: str, ins: list[Array], formulas: Any, names: Any, kinds: Any, out: Any = None
    ) -> Any:
        """Formulas over operands, into new arrays or one that there is."""
        shape = np.broadcast_shapes(*(x.shape for x in ins))
        if out is None:
            made = [laid(shape, ins, d) for d in kinds]
            map_(made, ins, formulas, names)
            return made[0] if len(made) == 1 else tuple(made)
        outs = out if isinstance(out, tuple) else (out,)
        if any(type(z) is not Array for z in outs):
            raise RuntimeError(DIFFERENT)
        for z in outs:
            if z.shape != np.broadcast_shapes(shape, z.shape):
                raise ValueError(f"non-broadcastable output operand with shape {z.shape}")
        made = [z if z.dtype == d else empty(shape, d) for z, d in zip(outs, kinds, strict=True)]
        map_(made, ins, formulas, names)
        for z, own in zip(outs, made, strict=True):
            if z is not own:
                copy(z, own)
        return out

    @staticmethod
    def fold(*args: Any, keepdims: bool = False) -> Array:
        """A fold, whose dims may stay with length 1."""
        made, (_, [x, *_], dims, *_) = fold(*args), args
        kept = tuple(1 if d in dims else n for d, n in enumerate(x.shape))
        return made.reshape(kept) if keepdims else made

    @staticmethod
    def product(x: Array, y: Array, shape: tuple[int, ...], out: Any = None) -> Array:
        """A product of stacks of matrices, in a shape, or written into contiguous memory."""
        if out is None:
            return launch.product(x, y).reshape(shape)
        launch.product(x, y, out)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def part(x: Array, key: Any) -> Array:
        """A view by a key."""
        return view(x, x.ghost[key])

    @staticmethod
    def rows_added(places: Any, g: Any, counted: Any) -> Array:
        """The kernel of `kernels.rows`."""
        g, made = operand(g), zeros((len(counted), g.shape[1]), g.dtype)
        added(made, hosted(places) % len(counted), g if g.flags.c_contiguous else copied(g))
        return made

    @staticmethod
    def scatter(x: Array, key: Any, value: Array) -> Any:
        """Elements written to places that indices name."""
        if _single(key):
            return NotImplemented
        far, at = _far(x, key)
        part = fitting(cast(value, x.dtype), far.shape)
        if part.block is x.block:
            # Any element may be written before it is read.
            part = copied(part)
        return map_([far], [part, at], ("x",), ("x", "at"), x.dtype, far="out0")


# ----------------------------------------------------------------------------------- copies
@rule("reshape")
def _reshape(
    to: Any, function: Any, x: Any, *shape: Any, order: str = "C", copy: Any = None
) -> Any:
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
def _ravel(to: Any, function: Any, x: Any, order: str = "C") -> Any:
    if order == "K":
        x = x.transpose(np.argsort([-abs(s) for s in x.strides], kind="stable"))
    elif order not in "CA":
        return NotImplemented
    return copied(x).reshape(-1) if function.__name__ == "flatten" else x.reshape(-1)


@rule("copyto")
def _copyto(to: Any, function: Any, out: Any, x: Any, **options: Any) -> Any:
    if type(out) is Array:
        return operations.RULES["copyto"](to, function, out, x, **options)
    return np.copyto(out, x.host(), casting="unsafe")


# --------------------------------------------------------------------------------- creation
def zeros(shape: Any, dtype: Any = np.float64) -> Array:
    """Zeros."""
    made = empty(shape, dtype)
    if made.size:
        start().cuMemsetD8Async(made.address, 0, made.nbytes, current.stream)
    return made


_START: dict[str, Any] = {"zeros": 0, "ones": 1, "empty": None}


@rule("zeros ones empty full")
def _new(to: Any, function: Any, shape: Any, *args: Any, dtype: Any = None, **_: Any) -> Any:
    name = function.__name__
    value, *rest = args if name == "full" else (_START[name], *args)
    kind = dtype or next(iter(rest), None) or (
        np.float64 if name != "full" else np.asarray(value).dtype)  # fmt: skip
    if name == "zeros":
        return zeros(shape, kind)
    made = empty(shape, kind)
    if name != "empty":
        made[...] = value
    return made


@rule("zeros_like ones_like empty_like full_like")
def _like(
    to: Any, function: Any, x: Any, *args: Any, dtype: Any = None, shape: Any = None, **_: Any
) -> Any:
    name = function.__name__.removesuffix("_like")
    value = args[:1] if name == "full" else ()
    kind = dtype or next(iter(args[len(value) :]), None) or x.dtype
    make, shape = getattr(np, name), x.shape if shape is None else shape
    return make(shape, *value, dtype=kind, like=x)


@rule("arange array asarray eye tri")
def _sent(to: Any, function: Any, *args: Any, **options: Any) -> Any:
    """What is made on the CPU: what `like=` asks for."""
    return upload(function(*args, **options))


# ----------------------------------------------------------------------------------- indexing
def _single(key: Any) -> bool:
    """Whether a part of a key is a mask of no dims."""
    return any(np.ndim(k) == 0 and getattr(k, "dtype", type(k)) in (bool, BOOL)
               for k in parts_of(key))  # fmt: skip


@rule("getitem")
def _getitem(to: Any, function: Any, x: Any, key: Any) -> Any:
    if basic(key):
        return view(x, x.ghost[whole(key)])
    if x.dtype == np.float16 or _single(key):
        return NotImplemented
    far, at = _far(x, key)
    made = empty(far.shape, x.dtype)
    map_([made], [far, at], ("x",), ("x", "at"), far="x")
    return made


def _far(x: Array, key: Any) -> tuple[Array, Array]:
    """What a key with indices names: a view, and distances to be added to its own.

    Raises:
        IndexError: for an index outside.
    """
    parts: list[Any] = []
    for k in parts_of(key):
        k = np.asarray(k) if isinstance(k, (list, bool, np.bool_)) else k
        if isinstance(k, np.ndarray) and k.dtype == BOOL:
            parts += np.nonzero(hosted(k))
        else:
            parts.append(k)
    used = sum(k is not None and k is not ... for k in parts)
    rest = [slice(None)] * (x.ndim - used)
    gap = next((p for p, k in enumerate(parts) if k is ...), len(parts))
    parts[gap : gap + 1] = rest
    parts = [k if isinstance(k, (np.ndarray, slice)) or k is None else np.asarray(k) for k in parts]
    seen = x.ghost[tuple(slice(None) if isinstance(k, np.ndarray) else k for k in parts)]
    dims = [p for p, k in enumerate(parts) if isinstance(k, np.ndarray)]
    indices = [parts[p] for p in dims]
    try:
        common = np.broadcast_shapes(*(i.shape for i in indices))
    except ValueError:
        raise IndexError("shape mismatch") from None
    # Where the dims of the indices come among the others.
    first = dims[0] if dims[-1] - dims[0] + 1 == len(dims) else 0
    kept = [d for d in range(seen.ndim) if d not in dims]
    before, after = kept[:first], kept[first:]
    around: Any = lambda own, new: (*(own[d] for d in before), *new, *(own[d] for d in after))
    steps = []
    for i, d in zip(indices, dims, strict=True):
        _check(i, d, seen.shape[d])
        steps.append((i, seen.shape[d], seen.strides[d] // x.itemsize))
    at, shape = _distance(steps, common), around(seen.shape, common)
    strides = around(seen.strides, (0,) * len(common))
    far = Array(memory(shape, x.dtype, seen.ctypes.data, strides), x.block)
    still = around((0,) * seen.ndim, at.strides)
    return far, Array(memory(shape, np.int64, at.address, still), at.block)


def _check(index: Any, d: int, n: int) -> None:
    if index.size:
        low, high = (int(v) for v in (index.min(), index.max()))
        if low < -n or high >= n:
            worst = low if low < -n else high
            raise IndexError(f"index {worst} is out of bounds for axis {d} with size {n}")


def _distance(indices: list[Any], shape: tuple[int, ...]) -> Array:
    """The distance, in elements, that indices along some dims lead to together.

    indices: each with the length of its dim and the distance of its elements.
    """
    made, ins, names, terms = empty(shape, np.int64), [], [], []
    for k, (index, n, by) in enumerate(indices):
        ins += [cast(placed(index), np.int64), operand(n, np.int64), operand(by, np.int64)]
        names += [f"i{k}", f"n{k}", f"s{k}"]
        terms.append(f"where(i{k} < 0, i{k} + n{k}, i{k}) * s{k}")
    map_([made], ins, (" + ".join(terms),), names)
    return made


@rule("take")
def _take(to: Any, function: Any, x: Any, indices: Any, axis: Any = None, **others: Any) -> Any:
    if others or type(x) is not Array:
        return NotImplemented
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x[(slice(None),) * (axis % x.ndim) + (indices,)]


@rule("at")
def _at(to: Any, function: Any, x: Any, key: Any, g: Any) -> Any:
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
def _running(
    to: Any, function: Any, x: Any, axis: Any = None, dtype: Any = None, out: Any = None
) -> Any:
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
def _best(
    to: Any, function: Any, x: Any, axis: Any = None, out: Any = None, keepdims: bool = False
) -> Any:
    """The first place of the largest or smallest element, or of nan."""
    whole, rows = axis is None, x.reshape(-1) if axis is None else x
    axis = (axis or 0) % rows.ndim if rows.ndim else 0
    if out is not None or not rows.ndim or not rows.shape[axis] or x.dtype == np.float16:
        return NotImplemented
    n, places = rows.shape[axis], np.arange(rows.shape[axis], like=x)
    best = getattr(rows, function.__name__[3:])(axis, keepdims=True)
    ins = [rows, best, places.reshape(-1, *(1,) * (rows.ndim - axis - 1)), operand(n, np.int64)]
    formula = "where((x == m) | (x != x), i, n)"
    made = fold("min", ins, (axis,), np.int64, formula, ("x", "m", "i", "n"))
    if keepdims:
        made = made.reshape(*(1 if whole or d == axis else n for d, n in enumerate(x.shape)))
    return made


@rule("roll")
def _roll(to: Any, function: Any, x: Any, shift: Any, axis: Any = None) -> Any:
    """The last elements before the first, along each dim."""
    if axis is None:
        return np.roll(x.reshape(-1), shift, 0).reshape(x.shape)
    for far, d in np.broadcast(shift, axis):
        n = x.shape[d]
        parts = np.split(x, [n - far % n if n else 0], d)
        x = np.concatenate(parts[::-1], d)
    return x


@rule("argsort")
def _order(to: Any, function: Any, x: Any, axis: Any = -1, **_: Any) -> Any:
    """Places in order, in rows of few elements: each counts what comes before it; nan is last."""
    if x.ndim == 0 or x.shape[axis] > FEW or x.dtype == np.float16:
        return NotImplemented
    rows, n = np.moveaxis(x, axis, -1), x.shape[axis]
    places = np.broadcast_to(np.arange(n, like=x), rows.shape)
    ins = [rows[..., None, :], rows[..., None], places[..., None, :], places[..., None]]
    before = "((x < y) | ((y != y) & (x == x)))"
    same = "((x == y) | ((x != x) & (y != y)))"
    formula = f"where({before} | ({same} & (i < j)), 1, 0)"
    rank: Any = fold("sum", ins, (rows.ndim,), np.int64, formula, ("x", "y", "i", "j"))
    made: Any = empty(rows.shape, np.int64)
    np.put_along_axis(made, rank, places, -1)
    return np.moveaxis(made, -1, axis)


@rule("sort")
def _sort(to: Any, function: Any, x: Any, axis: Any = -1, **options: Any) -> Any:
    short = function is np.sort and x.ndim and x.shape[axis] <= FEW
    return np.take_along_axis(x, np.argsort(x, axis), axis) if short else NotImplemented


array.perform, array.step = perform, step
