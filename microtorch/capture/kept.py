"""One recorded call: what it took for granted, how it runs again, and how it is finished."""

import gc
import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from numpy.lib.stride_tricks import as_strided

from .. import dtypes
from ..graph.node import LEAF, Node, clock, mode, next_change
from ..tensor import Tensor, wrap
from .adjoint import Adjoint, freed_node
from .guards import Watch
from .ir import Map, Recording, Ref
from .session import ARRAY, Session
from .tape import refusal
from .traced import Traced

# All programs that write gradients into memory of their own.
EVERY: "WeakSet[Kept]" = WeakSet()


class Kept:
    """A recorded call that can run again."""

    def __init__(self, session: Session, watch: Watch, arguments: list[Tensor]) -> None:
        self.arguments: list[int] = []
        self.uses = 0
        self.watch = watch
        self.session_guards = session.guards
        own = {id(t) for t in arguments if t._node is not LEAF}
        seen = [entry for k, entry in session.tensors.items() if k not in own]
        known = {id(t) for t, *_ in seen}
        seen += [(t, None, t._node, None) for t in watch.parameters() if id(t) not in known]
        self.tensors = [(t, array, node) for t, array, node, _ in seen]
        self.hooks = [(t, _hooks(t)) for t, *_ in seen]
        self.optimizers = [
            (o, o.state, [(g, list(g["params"])) for g in o.param_groups],
             {p: dict(s) for p, s in o.state.items()})
            for o in session.optimizers.values()
        ]  # fmt: skip
        self.same = watch.check()
        self.lists = watch.module_lists()
        self.modules = watch.modules_check()
        self.epoch = -1
        # At entry: (tensor, its gradient then); at exit: (tensor, its gradient now).
        self.before: list[tuple[Tensor, Any]] = []
        self.after: list[tuple[Tensor, Any]] = []
        # Tensors, or positions of arguments, once for each time that they are changed.
        self.changes: list[Any] = []
        # Tensors with memory that is written although eager mode would give them new one, and
        # how many refer to it as long as no one else does.
        self.owned: list[tuple[Tensor, Any]] = []
        self.references: list[int] = []
        # Gradients in memory of the program's: [tensor, gradient, array], and who refers to them.
        self.static: set[int] = set()
        self.gradients: list[list[Any]] = []
        self.counts: list[tuple[int, int]] = []
        self.escaped: list[str] = []
        self.structure: Any = None
        # Of the results: their types, and whether they are leaves that require grad.
        self.kinds: list[Any] = []
        self.leaves: list[bool] = []
        # Results whose graph is freed in the call, with the node that says so.
        self.freed: list[tuple[int, Node]] = []
        self.adjoint: Adjoint | None = None
        self.program: Any = None
        self.recording: Any = None

    def match(self, args: Any, tensors: list[Tensor]) -> None:
        """Make `fits(*args)`, a fast comparison of arguments that are all tensors."""
        self.count = len(args)
        self.fits = None
        if len(args) != len(tensors) or any(a is not t for a, t in zip(args, tensors, strict=True)):
            return
        names: dict[str, Any] = {"mode": mode, "dtypes": dtypes}
        terms = [
            f"mode.enabled is {mode.enabled}",
            f"mode.inference is {mode.inference}",
            "dtypes.get_default_dtype() is default",
        ]
        names["default"] = dtypes.get_default_dtype()
        for k, t in enumerate(tensors):
            a = t._array
            names |= {f"k{k}": type(t), f"s{k}": a.shape, f"r{k}": a.strides, f"d{k}": a.dtype}
            terms.append(
                f"t{k}.__class__ is k{k} and (a{k} := t{k}._array).shape == s{k} and "
                f"a{k}.strides == r{k} and a{k}.dtype is d{k}"
            )
            names[f"n{k}"] = t._node
            leaf = t._node is None or t._node is LEAF
            terms.append(f"t{k}._node is n{k}" if leaf else f"t{k}._node not in (None, leaf)")
            if t._node is LEAF:
                names[f"o{k}"] = t
                terms.append(f"t{k} is o{k}")
            terms += [f"a{k} is not a{j}" for j in range(k)]
        names["leaf"] = LEAF
        parameters = ", ".join(f"t{k}" for k in range(len(tensors)))
        self.fits = eval(f"lambda {parameters}: {' and '.join(terms)}", names)

    def holds(self) -> bool:
        """Whether everything outside of the arguments is as it was when recorded."""
        if self.epoch != clock.epoch:
            if not self._slowly():
                return False
            self.epoch = clock.epoch
        if not (self.same() and self.lists()):
            return False
        for guard in self.session_guards:
            if not guard():
                return False
        for t, g in self.before:
            if t._grad is not g:
                return False
        for o, state, _, own in self.optimizers:
            if o.state is not state or len(state) != len(own):
                return False
        if self.gradients and not self._gradients_alone():
            return False
        for (t, array), count in zip(self.owned, self.references, strict=True):
            if sys.getrefcount(array) > count:
                t._array = array.copy("K")
                clock.epoch += 1
                return False
        return True

    def _slowly(self) -> bool:
        """Tensors, modules and optimizers, after some of any program have been exchanged."""
        for t, array, node in self.tensors:
            if t._array is not array or t._node is not node:
                return False
        if any(_hooks(t) != was for t, was in self.hooks):
            return False
        for o, state, groups, own in self.optimizers:
            if o.state is not state or len(o.param_groups) != len(groups):
                return False
            for group, (was, params) in zip(o.param_groups, groups, strict=True):
                if group is not was or len(group["params"]) != len(params) or any(
                    p is not q for p, q in zip(group["params"], params, strict=True)
                ):  # fmt: skip
                    return False
            for p, values in own.items():
                now = state.get(p, {})
                if now.keys() != values.keys() or any(now[k] is not v for k, v in values.items()):
                    return False
        return self.modules()

    def find_aliases(self, session: Session, written: set[Any], tensors: list[Tensor]) -> None:
        """Note which memory is written, which arguments must not share."""
        arrays = [ARRAY.__get__(t) for t in tensors]
        outside = [
            (_owner(a), session.known[id(a)].ref.storage)
            for t, a, *_ in session.tensors.values() if not any(t is x for x in tensors)
        ]  # fmt: skip
        self.held = {o for o, _ in outside}
        self.writes = {o for o, s in outside if s in written}
        self.written = {
            k for k in self.arguments if session.known[id(arrays[k])].ref.storage in written
        }
        self.apart = bool(self.written or self.writes)
        # A tensor from outside that is an argument too is taken for the argument.
        self.mixed = any(s.kind == "argument" for _, s in outside)

    def aliased(self, arrays: list[Any]) -> bool:
        """Whether an argument shares memory that is written."""
        if not self.written:
            writes = self.writes
            return any([(id(a) if a.base is None else _owner(a)) in writes for a in arrays])
        owners = [id(a) if a.base is None else _owner(a) for a in arrays]
        if not self.writes.isdisjoint(owners):
            return True
        for k, o in zip(self.arguments, owners, strict=True):
            if k in self.written and (o in self.held or owners.count(o) > 1):
                return True
        return False

    def measure(self) -> None:
        """Count who refers to memory that programs write anew, as long as no one else does."""
        self.references = [sys.getrefcount(array) for _, array in self.owned]
        self.gradients = [
            [t, g, g._array] for t, g in self.after if g is not None and id(g) in self.static
        ]
        self.counts = self.referrers()
        EVERY.add(self)

    def referrers(self) -> list[tuple[int, int]]:
        """How many refer to each gradient, and to its memory."""
        return [(sys.getrefcount(g), sys.getrefcount(a)) for _, g, a in self.gradients]

    def _gradients_alone(self) -> bool:
        """Let gradients that someone else holds keep their values."""
        for line, (of_tensor, of_array) in zip(self.gradients, self.counts, strict=True):
            t, g, array = line
            if sys.getrefcount(array) > of_array:
                return False
            if sys.getrefcount(g) > of_tensor - (t.__dict__.get("_grad") is not g):
                g._array = array.copy()
                clock.epoch += 1
                line[1] = fresh = wrap(array)
                self.after = [(p, fresh if held is g else held) for p, held in self.after]
        return True

    def run(self, arrays: list[Any], tensors: list[Tensor]) -> Any:
        """One call of the program."""
        self.uses += 1
        found = self.program.run(arrays)
        results = [wrap(a, kind) for a, kind in zip(found, self.kinds, strict=False)]
        if True in self.leaves:
            for t, leaf in zip(results, self.leaves, strict=True):
                t._node = LEAF if leaf else None
        if self.adjoint is not None:
            self.adjoint.link(results, found[len(results) :], tensors)
        for k, node in self.freed:
            results[k]._node = node
        for t in self.changes:
            if t.__class__ is int:
                t = tensors[t]
            t._changes = next_change(t._changes)
        for t, g in self.after:
            t._grad = g
        return self.structure(results, tensors)


def finish(
    session: Session, kept: Kept, result: Any, tensors: list[Tensor], numbers: dict[int, Ref]
) -> None:
    """Turn a session into a recording, while it is still active."""
    finals = []
    for t, entry, read in session.grads.values():
        g = t.__dict__.get("_grad")
        if any(t is x for x in tensors) and t._node is not LEAF:
            if g is not entry:
                raise refusal("an argument's .grad is set inside a compiled function", "Return it")
            continue
        if (g is entry and read) or (g is not entry and read):
            kept.before.append((t, entry))
        if g is not entry or not read:
            kept.after.append((t, g))
        if g is not entry and g is not None:
            finals.append(g)
            if _keep_memory(session, g):
                kept.static.add(id(g))
    results: list[Ref] = []
    made: list[Tensor] = []
    structure = _structure(session, result, tensors, results, made)
    kept.structure = structure
    written = {r.storage for op in session.ops for r in op.outs}
    for t, array, node, changes in session.tensors.values():
        if t._node is not node:
            raise refusal(
                "a tensor from outside gets a history, or loses it, inside a compiled function",
                "Write into it under no_grad",
            )
        known = session.known.get(id(array))
        if known is not None and known.ref.storage in written:
            now = t.__dict__.get("_changes")
            times = (now[0] if now else 0) - (changes[0] if changes else 0)
            if times and t._base is None:
                position = next((k for k, x in enumerate(tensors) if x is t), None)
                kept.changes += [t if position is None else position] * times
    for t, array in session.swapped.values():
        kept.owned.append((t, _own_memory(session, t, array)))
    kept.kinds = [type(t) for t in made]
    kept.leaves = [t._node is LEAF for t in made]
    roots = []
    for k, t in enumerate(made):
        if t._node is not None and t._node is not LEAF:
            freed = freed_node(t._node)
            if freed is None:
                roots.append(k)
            else:
                kept.freed.append((k, freed))
    if roots:
        kept.adjoint = Adjoint(session, made, roots, tensors)
        results += kept.adjoint.saved
    kept.arguments = list(numbers)
    kept.recording = Recording(session.ops, list(numbers.values()), results)
    reachable = _reachable([*made, *finals]) | session.swapped.keys()
    kept.escaped = _escaped(session, reachable)
    if kept.escaped:
        # Graphs of gradients are circles.
        gc.collect()
        kept.escaped = _escaped(session, reachable)
    kept.find_aliases(session, written, tensors)


def _hooks(t: Tensor) -> tuple[Any, ...]:
    """The numbers of a leaf's hooks."""
    return tuple(tuple(t.__dict__.get(name, ())) for name in ("_hooks", "_leaf_hooks"))


def _escaped(session: Session, reachable: set[int]) -> list[str]:
    """Where tensors were made that still exist, other than results and gradients."""
    return [
        where for reference, where in session.made
        if (t := reference()) is not None and id(t) not in reachable
    ]  # fmt: skip


def _owner(array: Any) -> int:
    """Which object owns an array's memory."""
    while array.base is not None:
        array = array.base
    return id(array)


def _keep_memory(session: Session, g: Tensor) -> bool:
    """Give a new gradient memory that stays, and is written anew by each call."""
    traced = ARRAY.__get__(g)
    if type(traced) is not Traced:
        return False
    if traced.ref.storage.kind not in ("temporary", "constant") or not traced.flags.c_contiguous:
        traced = session.fresh(traced.value.copy())
        old = ARRAY.__get__(g)
        session.emit(Map((traced.ref,), (old.ref,), formulas=("x",), names=("x",), label="copy"))
        ARRAY.__set__(g, traced)
    session.writable(traced)
    storage = traced.ref.storage
    storage.kind, storage.name = "captured", "grad"
    storage.array = traced.value.reshape(-1)
    return True


def _own_memory(session: Session, t: Tensor, before: Any) -> Any:
    """Let a tensor that got new memory keep it: later calls write there.

    The memory that it had belongs to whoever else holds it.
    """
    storage, traced = session.known[id(before)].ref.storage, ARRAY.__get__(t)
    shared = sum(
        1 for x in session.known.values() if type(x) is Traced and x.ref.storage is storage
    )
    if storage.kind != "captured" or shared > 1 or before.size != storage.size:
        raise refusal("a tensor whose memory is shared gets other memory", "Use copy_")
    if traced.ref.storage.kind == "captured":
        raise refusal("two tensors come to share memory", "Use copy_")
    array = before.copy("K")
    array[...] = traced.value
    place = Ref(storage, before.shape, session.known[id(before)].ref.strides)
    session.emit(Map((place,), (traced.ref,), formulas=("x",), names=("x",), label="copy"))
    storage.array = as_strided(array, (array.size,), (array.itemsize,))
    ARRAY.__set__(t, array)
    return array


def _structure(
    session: Session, value: Any, tensors: list[Tensor], results: list[Ref], made: list[Tensor]
) -> Callable[[list[Any], list[Tensor]], Any]:
    """A function from the program's results and the arguments to what the call returns."""
    if isinstance(value, Tensor):
        for k, t in enumerate(tensors):
            if t is value:
                return lambda found, given: given[k]
        traced = ARRAY.__get__(value)
        if type(traced) is not Traced:
            return lambda found, given: value
        number = next((k for k, t in enumerate(made) if t is value), len(made))
        if number == len(made):
            made.append(value)
            results.append(session.result(traced))
        return lambda found, given: found[number]
    if type(value) in (tuple, list) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        parts = [_structure(session, v, tensors, results, made) for v in value]
        kind = type(value)
        if hasattr(kind, "_fields"):
            return lambda found, given: kind(*[p(found, given) for p in parts])
        return lambda found, given: kind([p(found, given) for p in parts])
    if type(value) is dict:
        items = {k: _structure(session, v, tensors, results, made) for k, v in value.items()}
        return lambda found, given: {k: p(found, given) for k, p in items.items()}
    return lambda found, given: value


def _reachable(roots: list[Tensor]) -> set[int]:
    """Tensors that belong to results: their bases and what their graphs hold."""
    seen: set[int] = set()
    stack: list[Any] = list(roots)
    while stack:
        x = stack.pop()
        if id(x) in seen or not isinstance(x, (Tensor, Node)):
            continue
        seen.add(id(x))
        if isinstance(x, Tensor):
            stack += [x._node, *x.__dict__.values()]
        else:
            stack += [*x.parents, *(x.saved or ())]
    return seen
