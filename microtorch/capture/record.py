"""What each NumPy operation on recorded arrays becomes: map, fold, product, view or call."""

from typing import Any

import numpy as np

from ..kernels.ufuncs import MEANINGS
from ..table import ROWWISE
from .ir import Fold, Product, Ref, Rows
from .replay import again, leaves, plain
from .tape import Tape, broadcast, literal, permuted, refusal
from .traced import Traced

# NumPy's own ufuncs, for floats; those of EXACT for integers too, those of LOGICAL for bools.
FORMULAS = {
    "add": "x + y", "subtract": "x - y", "multiply": "x * y", "divide": "x / y",
    "power": "pow(x, y)", "maximum": "maximum(x, y)", "minimum": "minimum(x, y)",
    "equal": "x == y", "not_equal": "x != y", "less": "x < y", "less_equal": "x <= y",
    "greater": "x > y", "greater_equal": "x >= y", "copysign": "copysign(x, y)",
    "negative": "-x", "absolute": "fabs(x)", "fabs": "fabs(x)", "square": "x * x",
    "sqrt": "sqrt(x)", "exp": "exp(x)", "expm1": "expm1(x)", "log": "log(x)",
    "log1p": "log1p(x)", "sin": "sin(x)", "cos": "cos(x)", "tanh": "tanh(x)",
    "floor": "floor(x)", "ceil": "-floor(-x)", "trunc": "trunc(x)", "rint": "rint(x)",
    "reciprocal": "1 / x", "isnan": "x != x", "isfinite": "x - x == 0",
    "isinf": "(x == x) * (x - x != 0) != 0",
    "sign": "where(x > 0, 1, where(x < 0, -1, x))",
}  # fmt: skip
EXACT = frozenset(
    "add subtract multiply maximum minimum equal not_equal less less_equal greater greater_equal "
    "negative absolute square".split()
)
_AND, _OR = "(x != 0) * (y != 0) != 0", "(x == 0) * (y == 0) == 0"
LOGICAL = {
    "bitwise_and": _AND, "logical_and": _AND, "multiply": _AND,
    "bitwise_or": _OR, "logical_or": _OR, "add": _OR,
    "invert": "x == 0", "logical_not": "x == 0",
    "equal": "(x == 0) == (y == 0)", "not_equal": "(x == 0) != (y == 0)",
    "bitwise_xor": "(x == 0) != (y == 0)", "logical_xor": "(x == 0) != (y == 0)",
}  # fmt: skip
FOLDS = {"sum": "sum", "mean": "mean", "prod": "prod", "max": "max", "min": "min",
         "amax": "max", "amin": "min"}  # fmt: skip
# What gives numbers from shapes alone, and what has results whose shape depends on values.
SHAPES = frozenset("shape ndim size may_share_memory shares_memory result_type can_cast".split())
BY_VALUE = frozenset(
    "nonzero flatnonzero argwhere unique extract compress trim_zeros setdiff1d union1d "
    "intersect1d delete bincount histogram repeat".split()
)
TO_PYTHON = frozenset("array_equal allclose array_equiv array_repr array_str array2string".split())
# Functions that write into their first argument.
WRITES = frozenset("put_along_axis put place putmask fill_diagonal sort partition".split())
_SIZES = frozenset("zeros_like empty_like ones_like full_like".split())


class Recorder(Tape):
    """A tape with the rules of NumPy's operations."""

    def __init__(self) -> None:
        super().__init__(Traced)

    # ---------------------------------------------------------------------------- ufuncs
    def ufunc(self, ufunc: Any, method: str, inputs: Any, options: dict[str, Any]) -> Any:
        """A ufunc or one of its methods."""
        options = dict(options)
        out = options.pop("out", None)
        outs = out if isinstance(out, tuple) and out[0] is not ... else ()
        if not self.live:
            found = getattr(ufunc, method)(*plain(inputs), **plain(options), **_out(plain(outs)))
            return found
        if method == "at":
            return self._writing(ufunc.at, inputs, options)
        if method != "__call__" or options.keys() - {"axis", "dtype", "casting", "where"}:
            return self.anything(getattr(ufunc, method), inputs, {**options, **_out(outs)})
        if any(type(o) is not Traced for o in outs):
            raise refusal("a recorded array is written into a plain one", "Use tensors")
        constant = all(_known(x) for x in inputs)
        if constant and all(o.ref.storage not in self.used and _known(o) for o in outs):
            for o in outs:
                self._overwritten(o)
            found = ufunc(*plain(inputs), **options, **_out(plain(outs)))
            return outs[0] if outs else found
        meaning = MEANINGS.get(ufunc)
        if meaning is not None and meaning[0] != "map":
            return self._reduction(ufunc, meaning, inputs, outs, options)
        kinds = [_kind(x) for x in inputs]
        loop = ufunc.resolve_dtypes((*kinds, *(None,) * ufunc.nout), **_signature(options))
        formulas = meaning[1] if meaning else _formula(ufunc.__name__, loop)
        names = meaning[2] if meaning else ("x", "y")[: ufunc.nin]
        if formulas is None or "where" in options or ufunc is np.matmul:
            if ufunc is np.matmul:
                return self._product(np.matmul, *inputs)
            return self.anything(ufunc, inputs, {**options, **_out(outs)})
        for o in outs:
            self.writable(o)
        with np.errstate(all="ignore"):
            values = ufunc(*plain(inputs), **options)
        values = values if isinstance(values, tuple) else (values,)
        ins = [self.as_dtype(x, dtype) for x, dtype in zip(inputs, loop, strict=False)]
        made = [self.fresh(np.asarray(v)) for v in values]
        if outs and made[0].shape == outs[0].shape and made[0].dtype == outs[0].dtype:
            for o, v in zip(outs, values, strict=True):
                o.value[...] = v
            made = list(outs)
        self.map(made, ins, formulas, names, ufunc.__name__)
        if outs and made[0] is not outs[0]:
            self.setitem(outs[0], ..., made[0])
            made = list(outs)
        return made[0] if len(made) == 1 else tuple(made)

    def _overwritten(self, x: Any) -> None:
        """A constant is written while nothing that is recorded has read it."""
        self.filled.pop(x.ref.storage, None)
        self.undefined.discard(x.ref.storage)

    def as_dtype(self, x: Any, dtype: Any) -> Any:
        """An operand as the dtype that a loop takes."""
        if type(x) is not Traced:
            return self.constant(np.asarray(x, dtype))
        return x if x.dtype == dtype else self.copied(x, dtype, "C")

    def _reduction(self, ufunc: Any, meaning: Any, inputs: Any, outs: Any, options: Any) -> Any:
        """A fold or an op on rows, along one dimension."""
        axis = options.get("axis", -1)
        rows = meaning[0] == "rows"
        with np.errstate(all="ignore"):
            value = np.asarray(ufunc(*plain(inputs), **options))
        result = self.fresh(value)
        ins = [self.lift(x) for x in inputs]
        full = np.broadcast_shapes(*(x.shape for x in ins))
        dim = axis % len(full)
        order = [d for d in range(len(full)) if d != dim] + [dim]
        if rows:
            count = len(_row_inputs(meaning[1]))
            lead = tuple(full[d] for d in order[:-1])
            refs = [permuted(broadcast(x.ref, full), order) for x in ins[:count]]
            refs += [broadcast(x.ref, lead) for x in ins[count:]]
            target = permuted(result.ref, order)
            self.emit(Rows((target,), tuple(refs), name=meaning[1], label=meaning[1]))
        else:
            self.fold(result, ins, meaning[1], (dim,), meaning[2], meaning[3])
        return result

    def fold(
        self, result: Any, ins: Any, name: str, dims: tuple[int, ...], formula: str, names: Any
    ) -> None:
        """Record a fold."""
        full = np.broadcast_shapes(*(x.shape for x in ins))
        kept = tuple(n for d, n in enumerate(full) if d not in dims)
        strides = result.ref.strides
        if len(strides) != len(kept):
            strides = tuple(s for d, s in enumerate(strides) if d not in dims)
        target = Ref(result.ref.storage, kept, strides, result.ref.offset)
        refs = tuple(broadcast(x.ref, full) for x in ins)
        self.emit(Fold((target,), refs, fold=name, dims=dims, formula=formula, names=names,
                       label=name))  # fmt: skip

    def _product(self, function: Any, a: Any, b: Any) -> Any:
        """A product of vectors, matrices or stacks of matrices."""
        if all(_known(x) for x in (a, b)):
            return function(*plain((a, b)))
        x, y = self.lift(a), self.lift(b)
        if x.ndim == 0 or y.ndim == 0 or (function is np.dot and max(x.ndim, y.ndim) > 2):
            return self.anything(function, (a, b), {})
        if x.dtype != y.dtype or x.dtype not in (np.float32, np.float64):
            return self.anything(function, (a, b), {})
        with np.errstate(all="ignore"):
            result = self.fresh(np.asarray(function(x.value, y.value)))
        left = _inserted(x.ref, 0) if x.ndim == 1 else x.ref
        right = _inserted(y.ref, 1) if y.ndim == 1 else y.ref
        target = result.ref
        if x.ndim == 1:
            target = _inserted(target, len(target.shape) - (y.ndim > 1))
        if y.ndim == 1:
            target = _inserted(target, len(target.shape))
        lead = target.shape[:-2]
        refs = tuple(broadcast(r, (*lead, *r.shape[-2:])) for r in (left, right))
        self.emit(Product((target,), refs, label="matmul"))
        return result

    # ------------------------------------------------------------------------- functions
    def function(self, function: Any, args: Any, options: dict[str, Any]) -> Any:
        """A function of NumPy's or a method of ndarray."""
        if not self.live:
            return function(*plain(args), **plain(options))
        name = function.__name__
        if name in SHAPES:
            return function(*plain(args), **plain(options))
        if name in _SIZES:
            return self.constant_of(function, args, options)
        if name in ("dot", "matmul"):
            return self._product(function, *args)
        if name == "where" and len(args) == 3:
            return self._where(*args)
        if name == "copyto":
            return self.setitem(args[0], ..., args[1])
        if name in ("stack", "concatenate"):
            return self._joined(function, name, args, options)
        if name in WRITES:
            return self._writing(function, args, options)
        known = all(_known(x) for x in leaves((args, options)))
        if known:
            return function(*plain(args), **plain(options))
        if name in BY_VALUE and not (name == "repeat" and not isinstance(args[1], np.ndarray)):
            raise refusal(f"the shape of a result depends on values ({name})", "Use masks")
        if name in TO_PYTHON:
            args[0].read(name)
        dtype = getattr(args[0], "dtype", None)
        extra = options.keys() - {"axis", "keepdims"}
        if extra == {"dtype"} and options["dtype"] == dtype:
            extra, options = set(), {k: v for k, v in options.items() if k != "dtype"}
        if name in FOLDS and dtype in (np.float32, np.float64) and not extra:
            folded = self._numpy_fold(function, name, args, options)
            if folded is not None:
                return folded
        if name in ("any", "all") and dtype == np.bool_ and not args[1:]:
            return self._logical_fold(function, name, args[0], options)
        return self.anything(function, args, options)

    def constant_of(self, function: Any, args: Any, options: dict[str, Any]) -> Any:
        """New memory of one known number everywhere."""
        made = self.fresh(function(*plain(args), **plain(options)), "constant")
        made.ref.storage.array = made.value.T.reshape(-1) if made.value.flags.f_contiguous else (
            made.value.reshape(-1)
        )  # fmt: skip
        name = function.__name__.removesuffix("_like")
        self.filled[made.ref.storage] = made.value.flat[0] if name == "full" and made.size else (
            1 if name == "ones" else 0
        )  # fmt: skip
        return made

    def _numpy_fold(self, function: Any, name: str, args: Any, options: Any) -> Any:
        x = args[0]
        axis = args[1] if len(args) > 1 else options.get("axis")
        if x.ndim == 0:
            return self.copied(x, x.dtype)
        if len(args) > 2 or not x.size:
            return None
        dims = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        result = self.fresh(np.asarray(function(*plain(args), **plain(options))))
        self.fold(result, [x], FOLDS[name], tuple(d % x.ndim for d in dims), "x", ("x",))
        return result

    def _logical_fold(self, function: Any, name: str, x: Any, options: Any) -> Any:
        """any and all are the largest and smallest of bools."""
        made = self._numpy_fold(function, "max" if name == "any" else "min", (x,), options)
        return self.anything(function, (x,), options) if made is None else made

    def _joined(self, function: Any, name: str, args: Any, options: Any) -> Any:
        """Arrays one after another: each is copied into its part."""
        parts = list(args[0])
        value = function(plain(parts), *args[1:], **options)
        if all(_known(p) for p in parts):
            return value
        result, start = self.fresh(value), 0
        dim = (args[1] if len(args) > 1 else options.get("axis", 0)) % value.ndim
        for p in parts:
            n = 1 if name == "stack" else p.shape[dim]
            at = (slice(None),) * dim + (
                (start,) if name == "stack" else (slice(start, start + n),)
            )
            start += n
            if np.size(p):
                part = self.view(result, value[(*at, ...)])
                self.map([part], [self.as_dtype(p, value.dtype)], ("x",), ("x",), "join")
        return result

    def _where(self, condition: Any, x: Any, y: Any) -> Any:
        values = plain((condition, x, y))
        if all(_known(v) for v in (condition, x, y)):
            return np.where(*values)
        result = self.fresh(np.asarray(np.where(*values)))
        if values[0].dtype != np.bool_:
            condition = condition != 0
        ins = [self.lift(condition), *(self.as_dtype(v, result.dtype) for v in (x, y))]
        self.map([result], ins, ("where(c, x, y)",), ("c", "x", "y"), "where")
        return result

    def copied(self, x: Any, dtype: Any, order: Any = "C") -> Any:
        """A copy, perhaps of another dtype."""
        dtype = np.dtype(dtype)
        with np.errstate(all="ignore"):
            value = x.value.astype(dtype, order=order)
        if not self.live or _known(x):
            return value
        result = self.fresh(value)
        formula = "x != 0" if dtype == np.bool_ != x.dtype else "x"
        self.map([result], [x], (formula,), ("x",), "copy")
        return result

    def anything(self, function: Any, args: Any, options: dict[str, Any]) -> Any:
        """A function without an op of its own: its results are views, or it is called again."""
        outs = options.get("out") or ()
        if outs:
            return self._writing(function, args, options, outs[0])
        with np.errstate(all="ignore"):
            found = function(*plain(args), **plain(options))
        several = isinstance(found, (tuple, list))
        values = [np.asarray(v) for v in (found if several else (found,))]
        sources = [x for x in leaves((args, options)) if type(x) is Traced]
        if not all(
            isinstance(v, (np.ndarray, np.generic)) for v in (found if several else (found,))
        ):
            sources[0].read(function.__name__)
        results = []
        for v in values:
            parent = next((s for s in sources if _within(v, s)), None)
            results.append(self.view(parent, v) if parent is not None else self.fresh(v))
        new = [r for r, v in zip(results, values, strict=True) if r.ref.storage not in self.used]
        new = [r for r in new if not any(r.ref.storage is s.ref.storage for s in sources)]
        if new:
            places = [k for k, r in enumerate(results) if any(r is n for n in new)]
            self.call(function.__name__, new, sources, again(function, args, options, places))
        return type(found)(results) if isinstance(found, list) else (
            _tuple(found, results) if several else results[0]
        )  # fmt: skip

    def _writing(
        self, function: Any, args: Any, options: dict[str, Any], target: Any = None
    ) -> Any:
        """A function that writes into its first argument, or into `target`."""
        target = args[0] if target is None else target
        sources = [x for x in leaves((args, options)) if type(x) is Traced]
        if type(target) is not Traced:
            raise refusal("a recorded array is written into a plain one", "Use tensors")
        self.writable(target)
        function(*plain(args), **plain(options))
        self.call(function.__name__, [target], sources, again(function, args, options, ()))
        return target

    # -------------------------------------------------------------------------- indexing
    def getitem(self, x: Any, key: Any) -> Any:
        """Elements: a view for a basic index, else what NumPy copies."""
        if not self.live:
            return x.value[plain(key)]
        parts = key if isinstance(key, tuple) else (key,)
        if any(getattr(k, "dtype", None) == np.bool_ for k in parts) and not all(
            map(_known, parts)
        ):
            raise refusal("the shape of a result depends on values (a mask)", "Use torch.where")
        found = x.value[plain(key)]
        if _known(x) and all(_known(k) for k in leaves(key)):
            return self.view(x, found) if _within(np.asarray(found), x) else found
        if not isinstance(found, np.ndarray) and not any(isinstance(k, np.ndarray) for k in parts):
            # An element, which NumPy gives as a number.
            return self.view(x, x.value[(*parts, ...)])
        return self.anything(_take, (x, key), {})

    def setitem(self, x: Any, key: Any, value: Any) -> None:
        """Write elements."""
        if not self.live:
            x.value[plain(key)] = plain(value)
            return
        known = _known(value) and all(_known(k) for k in leaves(key))
        if known and _known(x) and x.ref.storage not in self.used:
            self._overwritten(x)
            x.value[plain(key)] = plain(value)
            return
        parts = key if isinstance(key, tuple) else (key,)
        masks = [k for k in parts if getattr(k, "dtype", None) == np.bool_]
        self.writable(x)
        if len(parts) == 1 and masks and np.ndim(value) == 0 and masks[0].shape == x.shape:
            ins = [self.lift(masks[0]), self.as_dtype(value, x.dtype), x]
            x.value[plain(key)] = plain(value)
            self.map([x], ins, ("where(c, x, y)",), ("c", "x", "y"), "where")
            return
        if any(isinstance(k, (np.ndarray, list)) for k in parts):
            self._writing(_put, (x, key, value), {})
            return
        whole = key is ... or key == ()
        part = x if whole else self.view(x, x.value[(*parts, ...) if ... not in parts else key])
        with np.errstate(all="ignore"):
            part.value[...] = plain(value)
        if not part.size:
            return
        if not isinstance(value, np.ndarray):
            if x.dtype == np.float16:
                self.call("fill", [part], [], lambda outs, ins: outs[0].fill(value))
                return
            formula = literal(np.asarray(value).astype(x.dtype), x.dtype)
            self.map([part], [], (formula,), (), "fill")
            return
        source = self.lift(value)
        formula = "x != 0" if x.dtype == np.bool_ != source.dtype else "x"
        if source.ndim > part.ndim:
            source = source.reshape(source.shape[source.ndim - part.ndim :])
        self.map([part], [source], (formula,), ("x",), "copy")


def _take(x: Any, key: Any) -> Any:
    return x[key]


def _put(x: Any, key: Any, value: Any) -> None:
    x[key] = value


def _row_inputs(name: str) -> tuple[str, ...]:
    return ROWWISE[name].inputs


def _known(x: Any) -> bool:
    """Whether a value is known when recorded: no array, a plain one, or a constant."""
    return type(x) is not Traced or x.ref.storage.kind == "constant"


def _kind(x: Any) -> Any:
    return type(x) if type(x) in (int, float) else np.asarray(plain(x)).dtype


def _out(outs: Any) -> dict[str, Any]:
    return {"out": outs} if outs else {}


def _signature(options: dict[str, Any]) -> dict[str, Any]:
    return {"signature": (None, None, options["dtype"])} if "dtype" in options else {}


def _formula(name: str, loop: Any) -> tuple[str, ...] | None:
    """The formula of a ufunc of NumPy's for the dtypes of its loop."""
    first = loop[0]
    if any(d != first for d in loop[1:-1]):
        return None
    if first == np.bool_:
        found = LOGICAL.get(name)
    elif first in (np.float32, np.float64) or (first.kind in "iu" and name in EXACT):
        found = FORMULAS.get(name)
    else:
        found = None
    return None if found is None else (found,)


def _inserted(ref: Ref, dim: int) -> Ref:
    """With a dimension of length 1 more."""
    shape = (*ref.shape[:dim], 1, *ref.shape[dim:])
    strides = (*ref.strides[:dim], 0, *ref.strides[dim:])
    return Ref(ref.storage, shape, strides, ref.offset)


def _within(value: Any, x: Any) -> bool:
    return bool(value.size and np.may_share_memory(value, x.value) and value.dtype == x.dtype)


def _tuple(found: Any, results: list[Any]) -> Any:
    return type(found)(*results) if hasattr(found, "_fields") else tuple(results)
