"""What each NumPy operation on recorded arrays becomes: map, fold, product, view or call.

`perform` does an operation on the real values. A result that lies in an operand's memory is a view
of it. For others a rule of `kernels.operations`, or of this module, says what they are; where there
is none, or it gives NotImplemented, the program calls the same function again.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ..kernels import gemm, operations
from ..kernels.operations import replaced, whole
from ..kernels.standin import method
from ..table import ROWWISE
from .ir import Call, Fold, Map, Product, Ref, Rows
from .space import broadcast, contiguous, permuted
from .tape import active, read_error, refusal
from .traced import Traced

# What gives numbers from shapes alone, and what has results whose shape depends on values.
SHAPES = frozenset("shape ndim size may_share_memory shares_memory result_type can_cast".split())
BY_VALUE = frozenset(
    "nonzero flatnonzero argwhere unique extract compress trim_zeros setdiff1d union1d "
    "intersect1d delete bincount histogram".split()
)
# What makes new memory.
MAKES = frozenset("zeros ones full zeros_like ones_like full_like".split())
# What eager mode does in the place of NumPy's: a recorded call has the same bits.
AS_EAGER: dict[Any, Any] = {np.dot: gemm.dot, np.matmul: gemm.matmul}
RULES = dict(operations.RULES)
rule = partial(operations.rule, table=RULES)


# -------------------------------------------------------------------------- real values
def plain(value: Any) -> Any:
    """The same with real arrays."""
    return replaced(value, lambda x: x.value if type(x) is Traced else x)


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


def again(function: Any, given: Any, places: list[int]) -> Any:
    """`f(outs, ins)` that calls the function with the arrays of a later call."""
    scope: dict[str, Any] = {"function": function}
    count = itertools.count()

    def text(value: Any) -> str:
        kind = type(value)
        if kind in (tuple, list):
            left, right = "()" if kind is tuple else "[]"
            return left + "".join(f"{text(v)}, " for v in value) + right
        if kind is dict:
            return "{" + "".join(f"{text(k)}: {text(v)}, " for k, v in value.items()) + "}"
        if kind is Traced:
            return f"ins[{next(count)}]"
        name = f"v{len(scope)}"
        scope[name] = value
        return name

    args, options = given
    call = eval(f"lambda ins: function(*{text(args)}, **{text(options)})", scope)

    def once_more(outs: list[Any], ins: list[Any]) -> None:
        with np.errstate(all="ignore"):
            found = call(ins)
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

    target: what it writes into, or a tuple of that. effect: it changes what no array shows, or
    asks for that.

    Raises:
        CaptureError: for what cannot be done again.
    """
    name, given = function.__name__, (args, options)
    if not tape.live or name in SHAPES:
        found = function(*plain(args), **plain(options))
        # The first call's graph goes on as in eager mode, where kernels make arrays of no dims.
        return np.asarray(found) if isinstance(found, np.generic) else found
    if name in MAKES:
        with paused():
            return tape.constant(function(*plain(args), **plain(options)))
    if name == "getitem":
        args = args[0], whole(args[1])
        given = (args, options)
    sources = recorded(given)
    if any(x.tape is not tape for x in sources):
        raise refusal("an array of another recording is used", "Keep calls apart")
    if operations.writes(function) and not effect:
        target = args[0]
    elif options.get("out") is not None:
        target = options["out"]
    known = not effect and all(x.ref.storage.kind == "constant" for x in sources)
    if target is None:
        if not known:
            _refuse_by_value(name, args)
    targets = target if isinstance(target, tuple) else (target,)
    if target is not None:
        if any(type(t) is not Traced for t in targets):
            raise refusal("a recorded array is written into a plain one", "Use tensors")
        if known and all(tape.untouched(t) for t in targets):
            with paused():
                function(*plain(args), **plain(options))
            return target
        for t in targets:
            tape.writable(t)
    done = function if options else AS_EAGER.get(function, function)
    with paused():
        found = done(*plain(args), **plain(options))
    several = isinstance(found, (tuple, list))
    values = list(found) if several else [found]
    if target is not None:
        results, new = list(targets), list(range(len(targets)))
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
    # No kernels are made for half precision.
    rough = any(x.dtype == np.float16 for x in (*results, *sources))
    if new and (effect or rough or operations.apply(
        RULES, Notes(tape, results), function, args, options) is NotImplemented):  # fmt: skip
        outs = [results[k] for k in new]
        _call(tape, function, given, outs, [] if target is not None else new, effect)
    if target is not None:
        return target
    if not several:
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


def _refuse_by_value(name: str, args: Any) -> None:
    """Refuse results whose shape depends on values."""
    keys = args[1] if isinstance(args[1:2], tuple) and name == "getitem" else ()
    masks = [k for k in recorded((keys,)) if k.dtype == np.bool_]
    if any(m.ref.storage.kind != "constant" for m in masks):
        raise refusal("the shape of a result depends on values (a mask)", "Use torch.where")
    counts = name == "repeat" and isinstance(args[1], np.ndarray)
    if name in BY_VALUE or counts:
        raise refusal(f"the shape of a result depends on values ({name})", "Use masks")


# --------------------------------------------------------------------------------- notes
class Notes:
    """What `kernels.operations` asks for, as notes of how the results came about."""

    def __init__(self, tape: Any, results: list[Any]) -> None:
        self.tape, self.results = tape, results

    def lift(self, x: Any, dtype: Any = None) -> Any:
        """An operand, perhaps as another dtype."""
        if dtype is not None and type(x) is not Traced:
            x = np.asarray(x, dtype)
        x = self.tape.lift(x)
        same = dtype is None or x.dtype == dtype
        return x if same else perform(self.tape, method("astype"), (x, dtype), {})

    placed = lift

    def part(self, x: Any, key: Any) -> Any:
        """A view by a key."""
        return self.tape.view(x, x.value[key])

    def empty(self, shape: Any, dtype: Any) -> Any:
        """What a rule then fills: the result."""
        return self.results[0]

    def copied(self, x: Any, dtype: Any = None, order: str = "C") -> Any:
        """The result is a copy."""
        return self.copy(self.results[0], x)

    def copy(self, out: Any, x: Any) -> Any:
        """Elements written, converted, and repeated to a shape."""
        if out.size:
            formula = "x != 0" if out.dtype == np.bool_ != x.dtype else "x"
            self._map("copy", [out], [x], (formula,), ("x",))

    def _map(self, label: str, outs: Any, ins: Any, formulas: Any, names: Any) -> None:
        targets, shape = tuple(x.ref for x in outs), outs[0].shape
        refs = tuple(broadcast(x.ref, shape) for x in ins)
        self.tape.emit(Map(targets, refs, formulas=tuple(formulas), names=tuple(names),
                           label=label))  # fmt: skip

    def map(
        self, label: str, ins: Any, formulas: Any, names: Any, kinds: Any, out: Any = None
    ) -> None:
        """Formulas over whole arrays; a target of another shape or dtype gets a copy."""
        shape, made = np.broadcast_shapes(*(x.shape for x in ins)), self.results
        if out is not None:
            made = [z if (z.shape, z.dtype) == (shape, kind)
                    else self.tape.fresh(np.empty(shape, kind, like=z.value))
                    for z, kind in zip(made, kinds, strict=True)]  # fmt: skip
        self._map(label, made, ins, formulas, names)
        for z, own in zip(self.results, made, strict=True):
            if z is not own:
                self.copy(z, own)

    def fold(
        self, name: str, ins: Any, dims: Any, kind: Any, formula: str = "x", names: Any = ("x",),
        keepdims: bool = False,
    ) -> Any:  # fmt: skip
        """A fold over some dims."""
        full = np.broadcast_shapes(*(x.shape for x in ins))
        if 0 in full:
            return NotImplemented
        kept = tuple(n for d, n in enumerate(full) if d not in dims)
        refs = tuple(broadcast(x.ref, full) for x in ins)
        target = _shaped(self.results[0].ref, kept)
        self.tape.emit(Fold((target,), refs, fold=name, dims=tuple(dims), formula=formula,
                            names=names, label=name))  # fmt: skip

    def rows(self, name: str, ins: Any, dim: int) -> None:
        """An op on rows, along one dimension."""
        count, result = len(ROWWISE[name].inputs), self.results[0].ref
        full = np.broadcast_shapes(*(x.shape for x in ins[:count]))
        order = [d for d in range(len(full)) if d != dim] + [dim]
        lead = tuple(full[d] for d in order[:-1])
        refs = [permuted(broadcast(x.ref, full), order) for x in ins[:count]]
        refs += [broadcast(x.ref, lead) for x in ins[count:]]
        self.tape.emit(Rows((permuted(result, order),), tuple(refs), name=name, label=name))

    def product(self, x: Any, y: Any, shape: tuple[int, ...], out: Any = None) -> None:
        """A product of stacks of matrices."""
        lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        target = _shaped(self.results[0].ref, (*lead, x.shape[-2], y.shape[-1]))
        refs = tuple(broadcast(v.ref, (*lead, *v.shape[-2:])) for v in (x, y))
        self.tape.emit(Product((target,), refs, label="matmul"))

    def scatter(self, *_: Any) -> Any:
        """Not noted: the function is called again."""
        return NotImplemented

    rows_added = scatter


def _shaped(ref: Ref, shape: tuple[int, ...]) -> Ref:
    """The view with other dimensions of length 1."""
    own = (s for n, s in zip(ref.shape, ref.strides) if n != 1)
    strides = tuple(next(own) if n != 1 else 0 for n in shape)
    return ref.over(shape, strides)


@rule("array asarray ascontiguousarray")
def _copied(to: Notes, function: Any, x: Any, *_: Any, **options: Any) -> Any:
    return to.copied(x) if type(x) is Traced else NotImplemented


@rule("reshape ravel flatten")
def _flattened(to: Notes, function: Any, x: Any, *args: Any, order: str = "C", **_: Any) -> Any:
    """A copy of another shape: the same elements in the same order."""
    order = next((a for a in args if isinstance(a, str)), order)
    if order not in "CK" or type(x) is not Traced:
        return NotImplemented
    turned = sorted(range(x.ndim), key=lambda d: -abs(x.strides[d]))
    source = permuted(x.ref, turned) if order == "K" else x.ref
    target = to.results[0].ref.over(source.shape, contiguous(source.shape))
    to.tape.emit(Map((target,), (source,), formulas=("x",), names=("x",), label="copy"))
