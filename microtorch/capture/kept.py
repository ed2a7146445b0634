"""One recorded call that can run again: one generated function that checks, runs and hands out.

Tensors from outside are written where they are. Gradients that are there at entry, and the memory
of tensors that get other memory, are read anew at every call, so they need no comparison.
"""

import gc
import math
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from .. import dtypes
from ..graph.node import LEAF, Node, clock, mode, next_seq
from ..tensor import Tensor, changed, new, root_of
from .choice import build
from .gradients import Gradients
from .guards import Guards, frozen
from .ir import Recording, Ref
from .results import Results
from .session import ARRAY, Session
from .tape import refusal
from .traced import Traced
from .versions import Changes, Runs

# What a call gives whose program does not fit.
MISS = object()
# How often a tensor was found with other memory; from twice on, recordings look where it is at
# every call.
MOVES = "_moves"


class Kept:
    """A recorded call.

    recording: what its program is made of. call: what does it again, with the tensors among the
    arguments, or gives MISS; made by `ready` once there is a program.
    """

    program: Any = None
    call: Callable[[Any], Any]
    # What the key names by identity.
    held: list[Any]

    def __init__(
        self, session: Session, guards: Guards, result: Any, tensors: list[Tensor]
    ) -> None:
        self.runs = Runs()
        self.guards = guards
        self.epoch = self.seen = -1
        self._written = {r.storage for op in session.ops for r in op.outs}
        # The memory that is handed in, and texts: of the tensors and names of their arrays, of
        # what is compared first and later, and of what is done after the program.
        self._refs: list[Ref] = []
        self._inputs: list[tuple[str, str]] = []
        self._arrays: list[Any] = []
        self._reads: list[str] = []
        self._checks: list[str] = []
        self._after: list[str] = []
        # How the call reaches tensors; those beyond the arguments whose memory is handed in.
        self._texts = {id(t): f"t{k}" for k, t in enumerate(tensors)}
        self._extra: list[str] = []
        self._count = len(tensors)
        self._changes: list[list[Any]] = []
        places = Counter(x.ref.storage for _, x in session.known.values())
        self._read_arguments(session, tensors)
        finals = self._read_gradients(session, places)
        results = Results(session, guards, self._texts)
        self._results = results.refs
        self._structure = results.structure(result)
        self._tests = results.checks()
        moved = self._read_moved(session, places)
        self._count_changes(session)
        self.usable = self._check_apart(session)
        self._arrays.clear()
        names = {r.storage: f"arrays[{k}]" for k, r in enumerate(self._own)}
        names |= {r.storage: name for r, (_, name) in zip(self._refs, self._inputs, strict=True)}
        self._after += results.link(tensors, self._extra, names)
        self.adjoint = results.adjoint
        other = moved | {id(t) for t in tensors if t._node is not LEAF}
        every = [t for t, *_ in session.tensors.values()]
        every += [t for m in guards.modules for t in (*m.parameters(False), *m.buffers(False))]
        seen = {id(t): t for t in every if id(t) not in other}
        self._tensors = [(t, ARRAY.__get__(t), t._node, _hooks(t)) for t in seen.values()]
        self._optimizers = [(o, _members(o)) for o in session.optimizers.values()]
        self.recording = Recording(session.ops, self._refs + self._own, self._results)
        self.escaped = _escaped(session, [*results.made, *finals], moved)

    # ----------------------------------------------------------------- what comes and goes
    def _input(self, traced: Any, reached: str, name: str) -> None:
        """Hand in an array at every call; `reached` is a text whose value is the tensor."""
        array = traced.value
        shape, strides, dtype = map(self.guards.name, (array.shape, array.strides, array.dtype))
        self._refs.append(traced.ref)
        self._inputs.append((reached, name))
        self._arrays.append(array)
        self._reads += [
            f"({name} := {reached}._array).shape == {shape}", f"{name}.strides == {strides}",
            f"({name}.dtype is {dtype} or {name}.dtype == {dtype})",
        ]  # fmt: skip

    def _further(self, traced: Any, reached: str, node: Any, places: Any) -> bool:
        """Hand in the array of a tensor from outside, if its memory is its own."""
        storage = traced.ref.storage
        own = storage.kind == "captured" and places[storage] == 1 and storage.size == traced.size
        if own:
            storage.kind, storage.array = "argument", None
            storage.position = self._count + len(self._extra)
            self._extra.append(reached)
            self._input(traced, reached, f"b{len(self._inputs)}")
            self._checks.append(f"{reached}._node is {self.guards.name(node)}")
        return own

    def _read_arguments(self, session: Session, tensors: list[Tensor]) -> None:
        first: dict[int, int] = {}
        for k, t in enumerate(tensors):
            self._reads.append(f"t{k}.__class__ is {self.guards.name(type(t))}")
            array = ARRAY.__get__(t)
            if t._node is LEAF or id(t) in self.guards.tensors:
                self._checks.append(f"t{k} is {self.guards.name(t)}")
            if t._node is LEAF:
                continue
            if first.setdefault(id(array), k) == k:
                node = "is None" if t._node is None else "not in (None, leaf)"
                self._checks.append(f"t{k}._node {node}")
                self._input(session.known[id(array)][1], f"t{k}", f"a{k}")
            else:
                self._checks.append(f"t{k}._array is a{first[id(array)]}")

    def _read_gradients(self, session: Session, places: Any) -> list[Tensor]:
        """Gradients at entry and at exit; gives those that are new."""
        new_ones: dict[int, tuple[Tensor, str]] = {}
        stamped: list[str] = []
        self._own: list[Ref] = []
        self._targets: list[str] = []
        for t, entry, read in session.grads.values():
            g = t.__dict__.get("_grad")
            if id(t) in self._texts and t._node is not LEAF:
                if g is not entry:
                    words = "an argument's .grad is set inside a compiled function"
                    raise refusal(words, "Return it")
                continue
            place = f"{self.guards.name(t)}._grad"
            if read and entry is None:
                self._checks.append(f"{place} is None")
            elif read:
                name = self._texts[id(entry)] = f"g{len(self._reads)}"
                self._reads.append(f"({name} := {place}) is not None")
                _, array, node, changes = session.tensors.get(id(entry), (None,) * 4)
                if array is not None:
                    traced = session.known[id(array)][1]
                    if self._further(traced, name, node, places):
                        del session.tensors[id(entry)]
                        if root_of(entry).__dict__.get("_changes") != changes:
                            stamped.append(f"{name}._changes = ")
                    else:
                        self._checks.append(f"{name} is {self.guards.name(entry)}")
            if g is entry and (read or g is not None):
                continue
            if g is None or type(ARRAY.__get__(g)) is not Traced:
                value = "None" if g is None else self._texts.get(id(g)) or self.guards.name(g)
                self._after.append(f"{place} = {value}")
            elif id(g) in new_ones:
                self._after.append(f"{place} = {new_ones[id(g)][1]}")
            else:
                new_ones[id(g)] = (g, place)
                self._texts[id(g)] = place
        if stamped:
            self._after.append("".join(stamped) + "(runs.count, runs.when, None)")
        if new_ones:
            self._targets = [place for _, place in new_ones.values()]
            self._own = [_own_memory(session, g).ref for g, _ in new_ones.values()]
        return [g for g, _ in new_ones.values()]

    def _read_moved(self, session: Session, places: Any) -> set[int]:
        """Tensors that get other memory: the old is handed in, the new is a result."""
        moved: set[int] = set()
        for t, array, node, _ in session.tensors.values():
            swapped = id(t) in session.swapped
            if (swapped or t.__dict__.get(MOVES, 0) > 1) and id(t) not in self._texts:
                name = self.guards.name(t)
                if self._further(session.known[id(array)][1], name, node, places):
                    moved.add(id(t))
                elif not swapped:
                    continue
            if swapped:
                if id(t) not in moved:
                    raise refusal("a tensor whose memory is shared gets other memory", "Use copy_")
                t.__dict__[MOVES] = 2
                self._after.append(f"{name}._array = found[{len(self._results)}]")
                self._results.append(session.result(ARRAY.__get__(t)))
        if session.swapped:
            self._after += ["clock.epoch += 1", "kept.epoch += 1"]
        return moved

    def _check_apart(self, session: Session) -> bool:
        """Refuse arguments that share memory with each other, or others, where it is written.

        Gives whether those of this call are accepted.
        """
        known = session.known
        entries = [(t, known[id(a)]) for t, a, *_ in session.tensors.values()]
        outside = [(_owner(a), x.ref.storage) for t, (a, x) in entries if id(t) not in self._texts]
        captured = [(o, s) for o, s in outside if s.kind == "captured"]
        names = [name for _, name in self._inputs]
        owners = [_owner(a) for a in self._arrays]
        writes = {o for o, s in captured if s in self._written}
        # A tensor from outside that is an argument too is taken for the argument.
        good = not any(s.kind == "argument" and s.position < self._count for _, s in outside)
        if any(r.storage in self._written for r in self._refs):
            writes |= {o for o, _ in captured}
            good = good and len(set(owners)) == len(owners)
            if len(names) > 1:
                different = ", ".join(f"owner({name})" for name in names)
                self._checks.append(f"len({{{different}}}) == {len(names)}")
        if writes:
            self.guards.scope["writes"] = writes
            self._checks += [
                f"(id({n}) if {n}.base is None else owner({n})) not in writes" for n in names
            ]
        return good and writes.isdisjoint(owners)

    def _count_changes(self, session: Session) -> None:
        """How often each tensor from outside is changed in place."""
        counted = set()
        for t, array, node, changes in session.tensors.values():
            if t._node is not node:
                raise refusal(
                    "a tensor from outside gets a history, or loses it, inside a compiled function",
                    "Write into it under no_grad",
                )
            root = root_of(t)
            known, now = session.known.get(id(array)), root.__dict__.get("_changes")
            times = (now[0] if now else 0) - (changes[0] if changes else 0)
            if times and known is not None and known[1].ref.storage in self._written:
                if id(t) in self._texts:
                    self._after += [f"changed({self._texts[id(t)]})"] * times
                elif id(root) not in counted:
                    self._changes.append([root, times, None])
                counted.add(id(root))

    # ---------------------------------------------------------------------------- running
    def ready(self) -> None:
        """Make the program, and `call`."""
        for part in (self, self.adjoint):
            if part is not None:
                part.program = build(part.recording)
        default = dtypes.get_default_dtype()
        scope = self.guards.scope
        like = [(r.shape, r.dtype, r.storage.device) for r in self._own]
        self._gradients = gradients = Gradients(like, scope)
        scope |= {
            "MISS": MISS, "mode": mode, "leaf": LEAF, "clock": clock, "new": new, "kept": self,
            "runs": self.runs, "owner": _owner, "run": self.program.run, "gradients": gradients,
            "alone": gradients.alone, "changed": changed, "next_seq": next_seq,
            "inf": math.inf, "default": dtypes.get_default_dtype, "arrays": gradients.arrays,
        }  # fmt: skip
        checks = [
            f"mode.enabled is {mode.enabled}",
            *[f"mode.inference is {mode.inference}"] * (not mode.enabled),
            f"default() is {self.guards.name(default)}", *self._reads, *self._checks,
            *self.guards.texts, "(clock.epoch == kept.epoch or kept.rare())",
        ]  # fmt: skip
        given = [name for _, name in self._inputs] + ["*arrays"] * bool(self._own)
        names = [f"t{k}" for k in range(self._count)]
        targets = self._targets
        same = [f"{t} is {name}" for t, name in zip(targets, gradients.names, strict=True)]
        before = [
            f"if not ({' and '.join([*same, 'alone()'])}):", f"    {' = '.join(targets)} = None",
            "    gradients.replace_held()", f"    {', '.join(targets)}, = gradients.tensors",
        ] * bool(same)  # fmt: skip
        run = [f"found = run([{', '.join(given)}])"]
        if targets:
            # The gradients of the call before are not those of one that failed.
            run = ["try:", f"    {run[0]}", "except BaseException:",
                   f"    {' = '.join(targets)} = None", "    raise"]  # fmt: skip
        lines = [
            f"if len(tensors) != {self._count}:", "    return MISS",
            *([f"{', '.join(names)}, = tensors"] if names else []),
            "try:", f"    if not ({' and '.join(checks)}):", "        return MISS",
            "except (LookupError, AttributeError, ValueError):", "    return MISS",
            *before,
            *["if clock.latest_change != kept.seen:", "    kept.follow()"] * bool(self._changes),
            *run, "runs.count += 1",
            *["runs.when = kept.seen = now = next_seq()", "if now < clock.latest_change:",
              "    clock.latest_change = now"] * bool(self._written),
            *self._tests, *self._after, f"return {self._structure}",
        ]  # fmt: skip
        self.text = "def call(tensors):\n    " + "\n    ".join(lines)
        exec(self.text, scope)
        self.call = scope["call"]

    def rare(self) -> bool:
        """Whether tensors, modules and optimizers are the same; asked after epochs only."""
        epoch = clock.epoch
        for t, array, node, hooks in self._tensors:
            if t._array is not array:
                t.__dict__[MOVES] = t.__dict__.get(MOVES, 0) + 1
                return False
            if t._node is not node or _hooks(t) != hooks:
                return False
        if any(_members(o) != was for o, was in self._optimizers) or not self.guards.rare():
            return False
        # Someone may have made them require grad.
        self._gradients.renew()
        self.epoch = epoch
        return True

    def follow(self) -> None:
        """Let the versions of all tensors that the program writes follow its runs."""
        for line in self._changes:
            root, times, known = line
            now = root._changes
            if now is not known:
                if now.__class__ is not Changes:
                    root._changes = now = Changes(now)
                now.runs.setdefault(self.runs, (times, self.runs.count))
                line[2] = now

    @property
    def uses(self) -> int:
        """How often the program ran."""
        return self.runs.count


class KeptScalars:
    """One recorded call of a function of Values that can run again."""

    usable = True
    escaped = ()
    held: list[Any]

    def __init__(
        self, session: Session, guards: Guards, result: Any, tensors: list[Tensor]
    ) -> None:
        self.guards = guards
        self.uses = 0
        self.program = session.scalars.program(result)

    def ready(self) -> None:
        """Make `call`."""
        holds = eval(f"lambda: {' and '.join(self.guards.texts) or True}", self.guards.scope)

        def call(tensors: Any) -> Any:
            if tensors or not (holds() and self.guards.rare()):
                return MISS
            self.uses += 1
            return self.program.run()

        self.call = call


def _hooks(t: Tensor) -> tuple[Any, ...]:
    """The numbers of a leaf's hooks."""
    return tuple(tuple(t.__dict__.get(name, ())) for name in ("_hooks", "_leaf_hooks"))


def _members(optimizer: Any) -> Any:
    """Which groups, parameters and tensors of state an optimizer has, by identity."""
    groups = [(id(g), [*map(id, g["params"])]) for g in optimizer.param_groups]
    return id(optimizer.state), groups, {id(p): frozen(s) for p, s in optimizer.state.items()}


def _owner(array: Any) -> int:
    """Which object owns an array's memory."""
    while (base := getattr(array, "base", None)) is not None:
        array = base
    return id(array)


def _own_memory(session: Session, g: Tensor) -> Any:
    """A new gradient's array, with memory that is handed in at every call."""
    traced: Any = ARRAY.__get__(g)
    own = traced.ref.storage.kind in ("temporary", "constant") and traced.flags.c_contiguous
    if not own or traced.ref.storage.size != traced.size:
        traced = session.copied(traced)
        ARRAY.__set__(g, traced)
    session.writable(traced)
    traced.ref.storage.kind, traced.ref.storage.name = "argument", "grad"
    traced.ref.storage.position = sys.maxsize
    return traced


def _escaped(session: Session, roots: list[Tensor], moved: set[int]) -> list[str]:
    """Where tensors were made that still exist, and belong to no result and no gradient."""
    known = moved | _reachable(roots)

    def found() -> list[str]:
        made = ((reference(), where) for reference, where in session.made)
        return [where for t, where in made if t is not None and id(t) not in known]

    if found():
        # Graphs of gradients are circles.
        gc.collect()
    return found()


def _reachable(roots: list[Tensor]) -> set[int]:
    """Tensors that belong to results: their bases and what their graphs hold."""
    seen: set[int] = set()
    stack: list[Any] = list(roots)
    while stack:
        x = stack.pop()
        if id(x) in seen or not isinstance(x, (Tensor, Node)):
            continue
        seen.add(id(x))
        stack += [x._node, *x.__dict__.values()] if isinstance(x, Tensor) else [
            *x.parents, *(x.saved or ())
        ]  # fmt: skip
    return seen
