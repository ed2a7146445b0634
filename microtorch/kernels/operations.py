"""What NumPy's operations are: maps, folds, products and copies, with the text of the table.

NumPy hands operations on arrays of the GPU, and on those of a recording, to the package. A rule
says what one of them is, in terms of what `to` does: `gpu.ops` starts kernels, `capture.record`
writes notes. A rule gives NotImplemented for what is none of this.

`to` has: lift, an operand as an array that is there, perhaps of another dtype; placed, the same for
what may be elsewhere; map, fold, rows and product; empty, copied and copy; part, a view by a key;
scatter, elements written where indices say; rows_added, the kernel of that name.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .formulas import FLOATS, formula_of
from .ufuncs import MEANINGS

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
# Functions that write into their first argument; NumPy's sort and partition do not, methods do.
_WRITES = frozenset(
    "at copyto setitem put_along_axis place put putmask fill_diagonal sort partition".split()
)
BOOL = np.dtype(bool)
CHOICE: Any = ("where(c, x, y)",), ("c", "x", "y")


def rule(names: str, table: dict[str, Rule] = RULES) -> Callable[[Rule], Rule]:
    """Make a function the rule of these operations: `rule(to, function, *args, **options)`."""

    def enter(function: Rule) -> Rule:
        table.update(dict.fromkeys(names.split(), function))
        return function

    return enter


def apply(rules: dict[str, Rule], to: Any, function: Any, args: Any, options: Any) -> Any:
    """What the rule of an operation gives; NotImplemented where there is none."""
    found = rules.get("ufunc" if isinstance(function, np.ufunc) else function.__name__)
    return NotImplemented if found is None else found(to, function, *args, **options)


def writes(function: Any) -> bool:
    """Whether an operation writes into its first argument."""
    return function.__name__ in _WRITES and function not in (np.sort, np.partition)


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same with all that is in nested tuples, lists and dicts changed."""
    if type(value) in (tuple, list):
        return type(value)([replaced(v, change) for v in value])
    if type(value) is dict:
        return {k: replaced(v, change) for k, v in value.items()}
    return change(value)


def parts_of(key: Any) -> tuple[Any, ...]:
    """A key as a tuple."""
    return key if isinstance(key, tuple) else (key,)


def basic(key: Any) -> bool:
    """Whether a key names a view."""
    return not any(isinstance(k, (np.ndarray, list, bool, np.bool_)) for k in parts_of(key))


def whole(key: Any) -> Any:
    """A key that gives an array, where NumPy would give one element as a number."""
    return key if any(k is ... for k in parts_of(key)) else (*parts_of(key), ...)


# ------------------------------------------------------------------------------ elementwise
@rule("ufunc")
def _ufunc(to: Any, ufunc: Any, *inputs: Any, **options: Any) -> Any:
    """A kernel of the package's, whose meaning is known, or a ufunc of NumPy's."""
    out = options.pop("out", None)
    kind, *meaning = MEANINGS.get(ufunc, ("map",))
    if ufunc is np.matmul:
        return NotImplemented if options else _product(to, ufunc, *inputs, out=out)
    if kind == "call":
        return to.rows_added(*inputs)
    if kind == "map":
        if options.keys() - {"dtype", "casting"}:
            return NotImplemented
        loop = _loop(ufunc, inputs, options.get("dtype"))
        formulas, names = meaning or (formula_of(ufunc.__name__, loop), ("x", "y")[: ufunc.nin])
        if formulas is None or any(d == np.float16 for d in loop):
            return NotImplemented
        ins = [to.lift(x, d) for x, d in zip(inputs, loop, strict=False)]
        return to.map(ufunc.__name__, ins, formulas, names, loop[ufunc.nin :], out)
    if out is not None:
        return NotImplemented
    ins = [to.lift(x) for x in inputs]
    dim = options.get("axis", -1) % max(x.ndim for x in ins)
    if kind == "rows":
        return to.rows(meaning[0], ins, dim)
    name, formula, names = meaning
    return to.fold(name, ins, (dim,), _sum_of(name, ins[0].dtype), formula, names)


def _loop(ufunc: Any, inputs: Any, dtype: Any) -> Any:
    """The dtypes that a ufunc takes and gives; Python's numbers follow those of arrays."""
    kinds = [type(x) if type(x) in (int, float) else _dtype(x) for x in inputs]
    types: Any = {"signature": (None,) * ufunc.nin + (dtype,)} if dtype is not None else {}
    return ufunc.resolve_dtypes((*kinds, *(None,) * ufunc.nout), **types)


def _dtype(x: Any) -> Any:
    return x.dtype if isinstance(x, np.ndarray) else np.asarray(x).dtype


def _sum_of(name: str, dtype: Any) -> Any:
    """The dtype of a fold."""
    return np.dtype(np.int64) if dtype.kind in "iub" and name in ("sum", "prod") else dtype


@rule("sum mean prod max min amax amin any all")
def _fold(
    to: Any, function: Any, x: Any, axis: Any = None, dtype: Any = None, out: Any = None,
    keepdims: bool = False, **others: Any,
) -> Any:  # fmt: skip
    """A fold of NumPy's; any and all are the largest and the smallest of bools."""
    name = {"any": "max", "all": "min"}.get(function.__name__, function.__name__.removeprefix("a"))
    if not isinstance(x, np.ndarray) or others or out is not None or x.dtype == np.float16:
        return NotImplemented
    if function.__name__ in ("any", "all"):
        if not x.size:
            return NotImplemented
        x = x if x.dtype == BOOL else x != 0
    elif name == "mean" and x.dtype.kind != "f":
        x = to.lift(x, np.dtype(float))
    kind = np.dtype(dtype or _sum_of(name, x.dtype))
    if kind.kind == "f" != x.dtype.kind:
        x = to.lift(x, kind)
    if not x.ndim:
        return to.copied(x, kind)
    dims = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return to.fold(name, [x], tuple(d % x.ndim for d in dims), kind, keepdims=keepdims)


@rule("dot matmul")
def _product(to: Any, function: Any, a: Any, b: Any, out: Any = None) -> Any:
    """A product of vectors, matrices or stacks of matrices."""
    x, y = to.lift(a), to.lift(b)
    if x.ndim == 0 or y.ndim == 0 or (function is np.dot and max(x.ndim, y.ndim) > 2):
        return NotImplemented
    if x.dtype != y.dtype or x.dtype not in FLOATS:
        return NotImplemented
    left = x[None] if x.ndim == 1 else x
    right = y[:, None] if y.ndim == 1 else y
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"shapes {x.shape} and {y.shape} not aligned")
    lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    return to.product(left, right, (*lead, *x.shape[-2:-1], *y.shape[-1:] * (y.ndim > 1)), out)


@rule("where")
def _where(to: Any, function: Any, condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None:
        return NotImplemented
    kind = np.result_type(*(v.dtype if isinstance(v, np.ndarray) else v for v in (x, y)))
    if kind == np.float16:
        return NotImplemented
    condition = to.lift(condition)
    ins = [condition if condition.dtype == BOOL else condition != 0, to.lift(x, kind)]
    return to.map("where", [*ins, to.lift(y, kind)], *CHOICE, [kind])


@rule("tril triu")
def _triangle(to: Any, function: Any, x: Any, k: int = 0) -> Any:
    """Zeros above or below a diagonal."""
    if x.ndim < 2 or x.dtype == np.float16:
        return NotImplemented
    down, across = (to.placed(np.arange(n)) for n in x.shape[-2:])
    far = across - down[:, None]
    kept = far <= k if function.__name__ == "tril" else far >= k
    return to.map("where", [kept, x, to.lift(0, x.dtype)], *CHOICE, [x.dtype])


# ----------------------------------------------------------------------------------- copies
@rule("astype")
def _astype(
    to: Any, function: Any, x: Any, dtype: Any, *_: Any, copy: Any = True, **__: Any
) -> Any:
    return x if x.dtype == dtype and not copy else to.copied(x, dtype, "K")


@rule("copy")
def _copy(to: Any, function: Any, x: Any, order: str = "C", **_: Any) -> Any:
    return to.copied(x, order=order)


@rule("stack concatenate")
def _joined(
    to: Any, function: Any, parts: Any, axis: Any = 0, out: Any = None, **others: Any
) -> Any:
    """Arrays one after another: each is copied into its part."""
    if others or out is not None or axis is None:
        return NotImplemented
    parts = [to.lift(p) for p in parts]
    if function is np.stack:
        parts = [np.expand_dims(p, axis) for p in parts]
    axis %= parts[0].ndim
    across = {(p.ndim, *p.shape[:axis], *p.shape[axis + 1 :]) for p in parts}
    if len(across) > 1:
        raise ValueError("all the input array dimensions except for the concatenation axis "
                         "must match exactly")  # fmt: skip
    shape, first = list(parts[0].shape), 0
    shape[axis] = sum(p.shape[axis] for p in parts)
    made = to.empty(shape, np.result_type(*(p.dtype for p in parts)))
    for p in parts:
        end = first + p.shape[axis]
        if p.size:
            to.copy(to.part(made, (slice(None),) * axis + (slice(first, end), ...)), p)
        first = end
    return made


@rule("copyto")
def _copyto(to: Any, function: Any, out: Any, x: Any, casting: Any = None, **others: Any) -> Any:
    return NotImplemented if others else _setitem(to, function, out, ..., x)


@rule("setitem")
def _setitem(to: Any, function: Any, x: Any, key: Any, value: Any) -> Any:
    """Elements written: a copy into a view, a choice by a mask, or to where indices lead."""
    if not isinstance(value, np.ndarray):
        value = np.asarray(value).astype(x.dtype)
    if basic(key):
        part = to.part(x, whole(key))
        return to.copy(part, fitting(to.placed(value), part.shape))
    mask, *more = parts_of(key)
    if x.dtype == np.float16:
        return NotImplemented
    if not more and getattr(mask, "dtype", None) == BOOL and mask.shape == x.shape:
        if not value.ndim:
            ins = [to.placed(mask), to.lift(value, x.dtype), x]
            return to.map("where", ins, *CHOICE, [x.dtype], x)
    return to.scatter(x, key, to.placed(value))


def fitting(x: Any, shape: tuple[int, ...]) -> Any:
    """What is written to a place of a shape, without leading dims of length 1.

    Raises:
        ValueError: if it does not broadcast to the shape.
    """
    while x.ndim > len(shape) and x.shape[0] == 1:
        x = x[0]
    np.broadcast_to(np.broadcast_to(0, x.shape), shape)
    return x
