"""What each NumPy operation on recorded arrays becomes: map, fold, product, view or call.

`perform` does an operation on the real values. A result that lies in an operand's memory is a view
of it. For others a rule, found by the operation's name, says what they are; where there is none,
or it gives False, the program calls the same function again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..kernels.formulas import FLOATS, formula_of
from ..kernels.ufuncs import MEANINGS
from ..table import ROWWISE
from .ir import Call, Fold, Map, Product, Rows
from .space import broadcast, contiguous, inserted, permuted
from .tape import active, method, read_error, refusal
from .traced import Traced

# What gives numbers from shapes alone, and what has results whose shape depends on values.
SHAPES = frozenset("shape ndim size may_share_memory shares_memory result_type can_cast".split())
BY_VALUE = frozenset(
    "nonzero flatnonzero argwhere unique extract compress trim_zeros setdiff1d union1d "
    "intersect1d delete bincount histogram".split()
)
# Functions that write into their first argument, and those that make new memory.
WRITES = frozenset(
    "at copyto setitem put_along_axis place put putmask fill_diagonal sort partition".split()
)
MAKES = frozenset("zeros ones full zeros_like ones_like full_like".split())
Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


# -------------------------------------------------------------------------- real values
def plain(value: Any) -> Any:
    """The same with real arrays."""
    return replaced(value, lambda x: x.value if type(x) is Traced else x)


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same with all that is in nested tuples, lists and dicts changed."""
    if type(value) in (tuple, list):
        return type(value)([replaced(v, change) for v in value])
    if type(value) is dict:
        return {k: replaced(v, change) for k, v in value.items()}
    return change(value)


def recorded(value: Any) -> list[Traced]:
    """All recorded arrays in nested tuples, lists and dicts."""
    found: list[Traced] = []
    replaced(value, lambda x: found.append(x) if type(x) is Traced else None)
    return found


@contextmanager
def paused() -> Iterator[Any]:
    """Real arrays for a while, and no floating-point warnings."""
    tape, active.tape = active.tape, None
    try:
        with np.errstate(all="ignore"):
            yield tape
    finally:
        active.tape = tape


class _Slot(int):
    """The place of a recorded array among the arguments of a call."""


def again(function: Any, given: Any, places: list[int]) -> Any:
    """`f(outs, ins)` that calls the function with the arrays of a later call."""
    count = iter(range(len(recorded(given))))
    kept = replaced(given, lambda x: _Slot(next(count)) if type(x) is Traced else x)

    def once_more(outs: list[Any], ins: list[Any]) -> None:
        args, options = replaced(kept, lambda x: ins[x] if type(x) is _Slot else x)
        with np.errstate(all="ignore"):
            found = function(*args, **options)
        found = found if isinstance(found, (tuple, list)) else (found,)
        for out, k in zip(outs, places, strict=False):
            value = np.asarray(found[k])
            if value.shape != out.shape:
                raise RuntimeError(f"{function.__name__} gave {value.shape}, not {out.shape}")
            out[...] = value

    return once_more


# ----------------------------------------------------------------------------- recording
def perform(
    tape: Any, function: Any, args: Any, options: Any, target: Any = None, effect: bool = False
) -> Any:
    """Do an operation and record it.

    target: what it writes into. effect: it changes what no array shows, or asks for that.

    Raises:
        CaptureError: for what cannot be done again.
    """
    name, given = function.__name__, (args, options)
    if not tape.live or name in SHAPES:
        return function(*plain(args), **plain(options))
    if name in MAKES:
        with paused():
            return tape.constant(function(*plain(args), **plain(options)))
    if name == "getitem":
        args = given[0][0], _whole_key(args[1])
        given = (args, options)
    sources = recorded(given)
    if any(x.tape is not tape for x in sources):
        raise refusal("an array of another recording is used", "Keep calls apart")
    if name in WRITES and function not in (np.sort, np.partition) and not effect:
        target = args[0]
    elif options.get("out") is not None:
        target = options["out"]
    known = not effect and all(x.ref.storage.kind == "constant" for x in sources)
    if target is None:
        if not known:
            _refuse_by_value(name, args)
    elif type(target) is not Traced:
        raise refusal("a recorded array is written into a plain one", "Use tensors")
    elif known and tape.untouched(target):
        with paused():
            function(*plain(args), **plain(options))
        return target
    else:
        tape.writable(target)
    with paused():
        found = function(*plain(args), **plain(options))
    several = isinstance(found, (tuple, list))
    values = list(found) if several else [found]
    if target is not None:
        results, new = [target], [0]
    elif all(isinstance(v, (np.ndarray, np.generic)) for v in values):
        parents = [next((s for s in sources if _within(v, s)), None) for v in values]
        # What is made of constants may be written later, by what is no constant.
        own = tape.constant if known else tape.fresh
        results = [own(np.asarray(v)) if p is None else tape.view(p, v)
                   for v, p in zip(values, parents, strict=True)]  # fmt: skip
        new = [k for k, p in enumerate(parents) if p is None and not known]
    else:
        if effect:
            _call(tape, function, given, [], [], True)
        elif not known:
            tape.give_up(read_error(name))
        return found
    if new:
        rule = RULES.get("ufunc" if isinstance(function, np.ufunc) else name)
        if rule is None or effect or rule(tape, results, function, *args, **options) is False:
            outs = [results[k] for k in new]
            _call(tape, function, given, outs, [] if target is not None else new, effect)
    if not several or target is not None:
        return results[0]
    return type(found)(*results) if hasattr(found, "_fields") else type(found)(results)


def _call(
    tape: Any, function: Any, given: Any, outs: list[Any], places: list[int], effect: bool
) -> None:
    """Record that the function is called again; its results go to `places` of the outs."""
    refs = tuple(x.ref for x in outs), tuple(x.ref for x in recorded(given))
    once_more = again(function, given, places)
    tape.emit(Call(*refs, function=once_more, label=function.__name__, effect=effect))


def _within(value: Any, x: Traced) -> bool:
    return bool(value.size and np.may_share_memory(value, x.value) and value.dtype == x.dtype)


def _whole_key(key: Any) -> Any:
    """A key that gives an array, where NumPy would give one element as a number."""
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(k, (np.ndarray, list)) or k is ... for k in parts):
        return key
    return (*parts, ...)


def _refuse_by_value(name: str, args: Any) -> None:
    """Refuse results whose shape depends on values."""
    keys = args[1] if isinstance(args[1:2], tuple) and name == "getitem" else ()
    masks = [k for k in recorded((keys,)) if k.dtype == np.bool_]
    if any(m.ref.storage.kind != "constant" for m in masks):
        raise refusal("the shape of a result depends on values (a mask)", "Use torch.where")
    counts = name == "repeat" and isinstance(args[1], np.ndarray)
    if name in BY_VALUE or counts:
        raise refusal(f"the shape of a result depends on values ({name})", "Use masks")


# --------------------------------------------------------------------------------- rules
def rule(names: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of these operations: `rule(tape, results, function, *args)`."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return enter


def _as_dtype(tape: Any, x: Any, dtype: Any) -> Any:
    """An operand as the dtype that a loop takes."""
    if type(x) is not Traced:
        return tape.constant(np.asarray(x, dtype))
    return x if x.dtype == dtype else perform(tape, method("astype"), (x, dtype), {})


def _map(tape: Any, outs: list[Any], ins: list[Any], formulas: Any, names: Any, label: str) -> Any:
    """Formulas over whole arrays; a target of another shape or dtype gets a copy."""
    if any(x.dtype == np.float16 for x in (*outs, *ins)):
        # No kernels are made for it.
        return False
    shape = outs[0].shape
    refs = tuple(broadcast(x.ref, shape) for x in ins)
    targets = tuple(x.ref for x in outs)
    tape.emit(Map(targets, refs, formulas=tuple(formulas), names=tuple(names), label=label))
    return True


def _copy(tape: Any, out: Any, x: Any, label: str = "copy") -> Any:
    formula = "x != 0" if out.dtype == np.bool_ != x.dtype else "x"
    return _map(tape, [out], [x], (formula,), ("x",), label)


@rule("ufunc")
def _ufunc(tape: Any, results: list[Any], ufunc: Any, *inputs: Any, **options: Any) -> Any:
    """A kernel of the package's, whose meaning is known, or a ufunc of NumPy's."""
    out = options.pop("out", None)
    kind, *meaning = MEANINGS.get(ufunc, ("map",))
    if kind == "call":
        return False
    if kind != "map":
        return out is None and _reduction(tape, results[0], kind, meaning, inputs, **options)
    if ufunc is np.matmul:
        return out is None and _product(tape, results, ufunc, *inputs)
    if options.keys() - {"dtype", "casting"}:
        return False
    kinds = [type(x) if type(x) in (int, float) else np.asarray(plain(x)).dtype for x in inputs]
    types: Any = {"signature": (None,) * ufunc.nin + (options["dtype"],)} if (
        "dtype" in options) else {}  # fmt: skip
    loop = ufunc.resolve_dtypes((*kinds, *(None,) * ufunc.nout), **types)
    formulas, names = meaning or (formula_of(ufunc.__name__, loop), ("x", "y")[: ufunc.nin])
    if formulas is None:
        return False
    ins = [_as_dtype(tape, x, dtype) for x, dtype in zip(inputs, loop, strict=False)]
    shape = np.broadcast_shapes(*(x.shape for x in ins))
    if out is None or (shape == results[0].shape and loop[-1] == results[0].dtype):
        return _map(tape, results, ins, formulas, names, ufunc.__name__)
    made = tape.fresh(np.empty(shape, loop[-1], like=results[0].value))
    return _map(tape, [made], ins, formulas, names, ufunc.__name__) and _copy(
        tape, results[0], made
    )


def _reduction(
    tape: Any, result: Any, kind: str, meaning: Any, inputs: Any, axis: int = -1
) -> bool:
    """A fold or an op on rows, along one dimension."""
    ins = [tape.lift(x) for x in inputs]
    full = np.broadcast_shapes(*(x.shape for x in ins))
    dim = axis % len(full)
    if kind == "fold":
        return _fold(tape, result, ins, meaning[0], (dim,), *meaning[1:])
    name = meaning[0]
    order = [d for d in range(len(full)) if d != dim] + [dim]
    count, lead = len(ROWWISE[name].inputs), tuple(full[d] for d in order[:-1])
    refs = [permuted(broadcast(x.ref, full), order) for x in ins[:count]]
    refs += [broadcast(x.ref, lead) for x in ins[count:]]
    tape.emit(Rows((permuted(result.ref, order),), tuple(refs), name=name, label=name))
    return True


def _fold(
    tape: Any, result: Any, ins: Any, name: str, dims: Any, formula: str = "x", names: Any = ("x",)
) -> bool:
    full = np.broadcast_shapes(*(x.shape for x in ins))
    kept = tuple(n for d, n in enumerate(full) if d not in dims)
    strides = result.ref.strides
    if len(strides) != len(kept):
        strides = tuple(s for d, s in enumerate(strides) if d not in dims)
    target = result.ref.over(kept, strides)
    refs = tuple(broadcast(x.ref, full) for x in ins)
    tape.emit(Fold((target,), refs, fold=name, dims=tuple(dims), formula=formula, names=names,
                   label=name))  # fmt: skip
    return True


@rule("sum mean prod max min amax amin any all")
def _numpy_fold(
    tape: Any, results: list[Any], function: Any, x: Any, axis: Any = None, *rest: Any,
    dtype: Any = None, keepdims: bool = False, **others: Any,
) -> bool:  # fmt: skip
    """A fold of NumPy's; any and all are the largest and the smallest of bools."""
    name = function.__name__
    kinds = (np.bool_,) if name in ("any", "all") else FLOATS
    if rest or others or not x.size or x.dtype not in kinds or dtype not in (None, x.dtype):
        return False
    if x.ndim == 0:
        return bool(_copy(tape, results[0], x))
    fold = {"any": "max", "all": "min"}.get(name, name.removeprefix("a"))
    dims = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return _fold(tape, results[0], [x], fold, tuple(d % x.ndim for d in dims))


@rule("dot matmul")
def _product(tape: Any, results: list[Any], function: Any, a: Any, b: Any) -> bool:
    """A product of vectors, matrices or stacks of matrices."""
    x, y = tape.lift(a), tape.lift(b)
    if x.ndim == 0 or y.ndim == 0 or (function is np.dot and max(x.ndim, y.ndim) > 2):
        return False
    if x.dtype != y.dtype or x.dtype not in FLOATS:
        return False
    left = inserted(x.ref, 0) if x.ndim == 1 else x.ref
    right = inserted(y.ref, 1) if y.ndim == 1 else y.ref
    target = results[0].ref
    if x.ndim == 1:
        target = inserted(target, len(target.shape) - (y.ndim > 1))
    if y.ndim == 1:
        target = inserted(target, len(target.shape))
    refs = tuple(broadcast(r, (*target.shape[:-2], *r.shape[-2:])) for r in (left, right))
    tape.emit(Product((target,), refs, label="matmul"))
    return True


@rule("where")
def _where(tape: Any, results: list[Any], function: Any, condition: Any, x: Any, y: Any) -> Any:
    if plain(condition).dtype != np.bool_:
        condition = condition != 0
    ins = [tape.lift(condition), *(_as_dtype(tape, v, results[0].dtype) for v in (x, y))]
    return _map(tape, results, ins, ("where(c, x, y)",), ("c", "x", "y"), "where")


@rule("astype copy array asarray ascontiguousarray")
def _copied(tape: Any, results: list[Any], function: Any, x: Any, *_: Any, **options: Any) -> Any:
    return _copy(tape, results[0], x) if type(x) is Traced else False


@rule("reshape ravel flatten")
def _flattened(
    tape: Any, results: list[Any], function: Any, x: Any, *args: Any, order: str = "C", **_: Any
) -> Any:
    """A copy of another shape: the same elements in the same order."""
    order = next((a for a in args if isinstance(a, str)), order)
    if order not in "CK" or type(x) is not Traced or x.dtype == np.float16:
        return False
    turned = sorted(range(x.ndim), key=lambda d: -abs(x.strides[d]))
    source = permuted(x.ref, turned) if order == "K" else x.ref
    target = results[0].ref.over(source.shape, contiguous(source.shape))
    tape.emit(Map((target,), (source,), formulas=("x",), names=("x",), label="copy"))
    return True


@rule("stack concatenate")
def _joined(
    tape: Any, results: list[Any], function: Any, parts: Any, axis: int = 0, **others: Any
) -> Any:
    """Arrays one after another: each is copied into its part."""
    out, start = results[0], 0
    if others or out.dtype == np.float16:
        return False
    for p in parts:
        n = 1 if function is np.stack else p.shape[axis]
        at = slice(start, start + n) if function is np.concatenate else start
        start += n
        if np.size(p):
            part = tape.view(out, out.value[(slice(None),) * (axis % out.ndim) + (at, ...)])
            _copy(tape, part, _as_dtype(tape, p, out.dtype), "join")
    return True


@rule("copyto")
def _copyto(
    tape: Any, results: list[Any], function: Any, x: Any, value: Any, **options: Any
) -> Any:
    if options.keys() - {"casting"}:
        return False
    return _setitem(tape, results, function, x, ..., value)


@rule("setitem")
def _setitem(tape: Any, results: list[Any], function: Any, x: Any, key: Any, value: Any) -> Any:
    """Elements written: a copy into a view, or a choice by a mask."""
    parts = key if isinstance(key, tuple) else (key,)
    first: Any = parts[0] if parts else ...
    if len(parts) == 1 and getattr(first, "dtype", None) == np.bool_ and np.ndim(value) == 0:
        if first.shape == x.shape:
            ins = [tape.lift(first), _as_dtype(tape, value, x.dtype), x]
            return _map(tape, [x], ins, ("where(c, x, y)",), ("c", "x", "y"), "where")
    if any(isinstance(k, (np.ndarray, list)) for k in parts):
        return False
    part = tape.view(x, x.value[_whole_key(key)])
    if not isinstance(value, np.ndarray):
        value = np.asarray(value).astype(x.dtype)
    source = tape.lift(value)
    if source.ndim > part.ndim:
        source = source.reshape(source.shape[source.ndim - part.ndim :])
    return not part.size or _copy(tape, part, source)
