"""One recorded call that can run again: it checks, runs and hands out.

A warm call is a built-in function, `fast`. What that does not expect, and what it cannot do, is
done in Python by `call`, with functions generated for the recording.

Tensors from outside are written where they are. Gradients that are there at entry, and the memory
of tensors that get other memory, are read anew at every call, so they need no comparison.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from ..graph.node import LEAF, clock
from ..kernels import entry, objects
from ..tensor import Tensor, changed, new, root_of
from .choice import build
from .fast import GRAD, MISS, builtin
from .gradients import Gradients
from .guards import Guards
from .held import MOVES, Lasting
from .ir import Recording, Ref, Storage
from .results import Results, escaped
from .session import ARRAY, Session
from .tape import refusal
from .traced import Traced
from .turn import Turn
from .updates import equal_numbers
from .versions import Changes, Runs


class Kept:
    """A recorded call.

    recording: what its program is made of. instead: what decides about a call that `fast` does not
    expect. turn: that of all programs of the function. fast: what does it again, where there is a
    built-in function for it.
    """

    # What its arguments were, in words, and whether they are tensors alone.
    title: str
    plain: bool
    program: Any = None
    fast: Callable[..., Any] | None = None
    instead: Callable[..., Any]
    turn: Turn
    # What the key names by identity.
    held: list[Any]

    def __init__(
        self, session: Session, guards: Guards, result: Any, tensors: list[Tensor]
    ) -> None:
        self.runs, self.guards = Runs(), guards
        self.epoch = -1
        self.written = {r.storage for op in session.ops for r in op.outs}
        # The memory that is handed in, and how: for the built-in function, with what is compared
        # only; and for Python.
        self.refs: list[Ref] = []
        self.reached: list[tuple[Ref | None, tuple[int, ...]]] = []
        # Comparisons for the built-in function; None if Python has to look.
        self.rows: list[list[int] | None] = []
        # Texts: of tensors with names of their arrays, of names, of comparisons, of what follows.
        self._inputs: list[tuple[str, str]] = []
        self._names: dict[str, str] = {}
        self._arrays: list[Any] = []
        self._reads: list[str] = []
        self._checks: list[str] = []
        self._after: list[str] = []
        # How the call reaches tensors; those beyond the arguments whose memory is handed in.
        self._texts = {id(t): f"t{k}" for k, t in enumerate(tensors)}
        self._extra: list[str] = []
        self.count = len(tensors)
        self.changes: list[list[Any]] = []
        places = Counter(x.ref.storage for _, x in session.known.values())
        self._read_arguments(session, tensors)
        finals = self._read_gradients(session, places)
        results = Results(session, guards, self._texts)
        self._results = results.refs
        self._structure = results.structure(result)
        self.tests = results.checks()
        moved = self._read_moved(session, places)
        last = self._read_switched(session)
        self._count_changes(session)
        if guards.live.writes:
            self._after.append("kept.guards.live.write()")
        if session.swapped or guards.writes_modules():
            self._after.append("kept.count_epoch()")
        self.numbers = [n.ref.storage.source for n in session.numbers.values()
                         if n.ref.storage.source.truth is not None]  # fmt: skip
        self.captured = [s.array for *_, s in session.outside if s.array is not None]
        self.usable = self._check_apart(session)
        self._arrays.clear()
        names = {r.storage: f"arrays[{k}]" for k, r in enumerate(self.own)}
        names |= {r.storage: name for r, (_, name) in zip(self.refs, self._inputs, strict=True)}
        plain, linked = not (self._after or last), results.link(tensors, self._extra, names)
        self._after += linked + last
        self.single = results.single(self._structure) if plain and len(linked) == 3 else None
        self.adjoint = results.adjoint
        other = moved | {id(t) for t in tensors if t._node is not LEAF}
        every = [t for t, *_ in session.tensors.values()]
        every += [t for m in guards.modules for t in (*m.parameters(False), *m.buffers(False))]
        seen = {id(t): t for t in every if id(t) not in other}
        nodes = {id(t): node for t, _, node, _ in session.tensors.values()}
        entries = [(t, nodes.get(id(t), t._node)) for t in seen.values()]
        self._lasting = Lasting(entries, guards, [*session.optimizers.values()])
        self._still_equal = equal_numbers(session)
        self.recording = Recording(session.ops, self.refs + self.own, self._results)
        self.escaped = escaped(session, [*results.made, *finals], moved)

    # ----------------------------------------------------------------- what comes and goes
    def _input(self, traced: Any, reached: str, name: str, how: tuple[int, ...]) -> None:
        """Hand in an array at every call; `reached` is a text whose value is the tensor."""
        array, named = traced.value, self.guards.name
        self.refs.append(traced.ref)
        self.reached.append((traced.ref, how))
        self._inputs.append((reached, name))
        self._arrays.append(array)
        self._names[name] = f"{reached}._array"
        self._reads.append(f"type({name} := {reached}._array) is {named(type(array))}")
        if how[0] != entry.TENSOR:
            # Those of arguments belong to the key.
            shape, strides, dtype = map(named, (array.shape, array.strides, array.dtype))
            self._checks += [f"{name}.shape == {shape}", f"{name}.strides == {strides}",
                             f"{name}.dtype == {dtype}"]  # fmt: skip

    def _grad_row(self, t: Tensor, kind: int, value: Any) -> None:
        """Compare a tensor's gradient, for the built-in function."""
        self.rows.append(self.guards.dict_row(t))
        self.rows.append([kind, id(vars(t)), id(GRAD), id(value)])

    def _further(
        self, traced: Any, reached: str, node: Any, places: Any, how: tuple[int, ...]
    ) -> bool:  # fmt: skip
        """Hand in the array of a tensor from outside, if its memory is its own."""
        storage = traced.ref.storage
        own = storage.kind == "captured" and places[storage] == 1 and storage.size == traced.size
        if own:
            storage.kind, storage.array = "argument", None
            storage.position = self.count + len(self._extra)
            self._extra.append(reached)
            self._input(traced, reached, f"b{len(self._inputs)}", (*how, id(node)))
            self._checks.append(f"{reached}._node is {self.guards.name(node)}")
        return own

    def _read_arguments(self, session: Session, tensors: list[Tensor]) -> None:
        first: dict[int, int] = {}
        for k, t in enumerate(tensors):
            self._reads.append(f"t{k}.__class__ is {self.guards.name(type(t))}")
            array = ARRAY.__get__(t)
            if t._node is LEAF or id(t) in self.guards.tensors:
                self._checks.append(f"t{k} is {self.guards.name(t)}")
                self.reached.append((None, (entry.SAME, k, id(t), 0, 0)))
            if t._node is LEAF:
                continue
            if first.setdefault(id(array), k) == k:
                node = "is None" if t._node is None else "not in (None, leaf)"
                self._checks.append(f"t{k}._node {node}")
                wanted = id(None) if t._node is None else 1
                how = entry.TENSOR, k, 0, id(type(t)), wanted
                self._input(session.known[id(array)][1], f"t{k}", f"a{k}", how)
            else:
                self._checks.append(f"t{k}._array is a{first[id(array)]}")
                how = entry.TWIN, k, first[id(array)], id(type(t)), 0
                self.reached.append((None, how))

    def _read_gradients(self, session: Session, places: Any) -> list[Tensor]:
        """Gradients at entry and at exit; gives those that are new."""
        new_ones: dict[int, tuple[Tensor, str]] = {}
        self.own: list[Ref] = []
        # The memory of gradients at entry that is handed in.
        self._of_gradients: set[Storage] = set()
        self._leaves: list[Tensor] = []
        # Those whose gradients at entry are changed.
        self.stamped: list[Tensor] = []
        for t, was, read in session.grads.values():
            g = t.__dict__.get("_grad")
            if id(t) in self._texts and t._node is not LEAF:
                if g is not was:
                    words = "an argument's .grad is set inside a compiled function"
                    raise refusal(words, "Return it")
                continue
            place = f"{self.guards.name(t)}._grad"
            if read and was is None:
                self._checks.append(f"{place} is None")
                self._grad_row(t, objects.NONE, None)
            elif read:
                name = f"g{len(self._reads)}"
                if (first := self._texts.setdefault(id(was), name)) != name:
                    self._checks.append(f"{name} is {first}")
                self._names[name] = place
                self._reads.append(f"({name} := {place}) is not None")
                _, array, node, changes = session.tensors.get(id(was), (None,) * 4)
                how = entry.GRADIENT, id(vars(t)), id(GRAD), id(type(was))
                if array is None:
                    self.rows.append(None)
                elif self._further(session.known[id(array)][1], name, node, places, how):
                    self._of_gradients.add(session.known[id(array)][1].ref.storage)
                    self.rows.append(self.guards.dict_row(t))
                    del session.tensors[id(was)]
                    if root_of(was).__dict__.get("_changes") != changes:
                        self.stamped.append(t)
                else:
                    self._checks.append(f"{name} is {self.guards.name(was)}")
                    self._grad_row(t, objects.ITEM, was)
            if g is was and (read or g is not None):
                continue
            if g is None or type(ARRAY.__get__(g)) is not Traced:
                value = "None" if g is None else self._texts.get(id(g)) or self.guards.name(g)
                self._after.append(f"{place} = {value}")
            elif id(g) in new_ones:
                self._after.append(f"{place} = {new_ones[id(g)][1]}")
            else:
                new_ones[id(g)] = (g, place)
                self._leaves.append(t)
                self.rows.append(self.guards.dict_row(t))
                self._texts[id(g)] = place
        if new_ones:
            self.own = [_own_memory(session, g).ref for g, _ in new_ones.values()]
        return [g for g, _ in new_ones.values()]

    def _read_moved(self, session: Session, places: Any) -> set[int]:
        """Tensors that get other memory: the old is handed in, the new is a result."""
        moved: set[int] = set()
        for t, array, node, _ in session.tensors.values():
            swapped = id(t) in session.swapped
            if (swapped or t.__dict__.get(MOVES, 0) > 1) and id(t) not in self._texts:
                name = self.guards.name(t)
                how = entry.OUTSIDE, id(t), 0, 0
                if self._further(session.known[id(array)][1], name, node, places, how):
                    moved.add(id(t))
                elif not swapped:
                    continue
            if swapped and id(t) not in moved:
                raise refusal("a tensor whose memory is shared gets other memory", "Use copy_")
            if swapped:
                t.__dict__[MOVES] = 2
                self._after.append(f"{name}._array = found[{len(self._results)}]")
                self._results.append(session.result(ARRAY.__get__(t)))
        return moved

    def _read_switched(self, session: Session) -> list[str]:
        """Tensors from outside that begin or cease to require grad; gives the last lines.

        Results are put into their graphs between the two, as all leaves require grad then.
        """
        last: list[str] = []
        for t, _, node, _ in session.tensors.values():
            if t._node is not node and t.is_leaf and node in (None, LEAF):
                if id(t) in self._texts:
                    words = "requires_grad of an argument is changed inside a compiled function"
                    where = self.guards.where("requires_grad", "requires_grad_")
                    raise refusal(words, "Set it before the call", where)
                lines = self._after if t._node is LEAF else last
                lines.append(f"{self.guards.name(t)}.requires_grad_({t._node is LEAF})")
        return last

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
        writes = {o for o, s in captured if s in self.written}
        # A tensor from outside that is an argument too, or a gradient, is taken for that.
        given = self._of_gradients
        good = not any(s.kind == "argument" and (s.position < self.count or s in given)
                       for _, s in outside)  # fmt: skip
        if any(r.storage in self.written for r in self.refs):
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
            if t._node is not node and not (t.is_leaf and node in (None, LEAF)):
                raise refusal(
                    "a tensor from outside gets a history, or loses it, inside a compiled function",
                    "Write into it under no_grad",
                    self.guards.where(self.guards.labels.get(id(t), "")),
                )
            root = root_of(t)
            known, now = session.known.get(id(array)), root.__dict__.get("_changes")
            times = (now[0] if now else 0) - (changes[0] if changes else 0)
            if times and known is not None and known[1].ref.storage in self.written:
                if id(t) in self._texts:
                    self._after += [f"changed({self._texts[id(t)]})"] * times
                elif id(root) not in counted:
                    self.changes.append([root, times, None])
                counted.add(id(root))

    # ---------------------------------------------------------------------------- running
    def ready(self) -> None:
        """Make the program, and the functions that do without it."""
        for part in (self, self.adjoint):
            if part is not None:
                part.program = build(part.recording)
        self.program.turn = self.turn
        like = [(r.shape, r.dtype, r.storage.device) for r in self.own]
        self.gradients = Gradients(self._leaves, like)
        scope = self.guards.scope
        scope |= {
            "leaf": LEAF, "new": new, "kept": self, "runs": self.runs, "owner": _owner,
            "changed": changed, "inf": math.inf, "arrays": self.gradients.arrays,
        }  # fmt: skip
        checks = [*self._reads, *self._checks, *self.guards.texts, "kept.current()"]
        names = "".join(f"t{k}, " for k in range(self.count))
        taken = [f"{names}= tensors"] * bool(names)
        given = "".join(f"{name}, " for _, name in self._inputs)
        lines = [
            "def given(tensors):", f"    if len(tensors) != {self.count}:", "        return None",
            *(f"    {line}" for line in taken), "    try:", f"        if {' and '.join(checks)}:",
            f"            return ({given})",
            "    except (LookupError, AttributeError, ValueError):",
            "        pass", "    return None",
        ]  # fmt: skip
        after = [*self.tests, *self._after, f"return {self._structure}"]
        for name, text in reversed(self._names.items()):
            if re.search(rf"\b{name}\b", "\n".join(after)):
                after.insert(0, f"{name} = {text}")
        lines += ["def finish(tensors, found):", *(f"    {x}" for x in [*taken, *after])]
        self.text = "\n".join(lines)
        exec(self.text, scope)
        self._given, self.finish = scope["given"], scope["finish"]
        self.compared, self.versions = np.zeros((1, 4), np.int64), 0
        # The dicts that the built-in function reads itself.
        self.tables: list[tuple[int, ...]] = []

    def call(self, tensors: Any) -> Any:
        """What `fast` does, with the tensors among the arguments; its caller holds the lock."""
        # Read before all is compared: a class that changes meanwhile is noticed by the next call.
        versions = self.guards.versions()
        given = self._given(tensors)
        if given is None:
            return MISS
        if self.changes and clock.latest_change != self.runs.when and not self.follow():
            return MISS
        if self._leaves:
            self.gradients.hand_out()
        try:
            found = self.program.run((*given, *self.gradients.arrays))
        except BaseException:
            # The gradients of the call before are not those of one that failed.
            self.gradients.take_back()
            raise
        self._renew(versions)
        if self.program.native and self.fast is None and None not in self.rows:
            self.fast = builtin(self, self.instead, versions)
        self.runs.add(bool(self.written))
        for t in self.stamped:
            t._grad._changes = (self.runs.count, self.runs.when, None)  # type: ignore[union-attr]
        return self.finish(tensors, found)

    def _renew(self, versions: list[list[int]]) -> None:
        """Tell the built-in function the versions of the classes, which are what they were."""
        if self.fast:
            if len(versions) != self.versions or objects.moved(self.tables):
                self.fast = None
            elif versions:
                self.compared[-1 - self.versions : -1] = versions

    def unpacked(self, tensors: Any, found: Any) -> Any:
        """What the call returns, of the memory that the built-in function has made."""
        parts = self.program.parts(found if found.__class__ is list else [found])
        return self.finish(tensors, parts)

    def current(self) -> bool:
        """Whether what is counted in epochs is the same."""
        return clock.epoch == self.epoch or self.rare()

    def _enter(self, epoch: int) -> None:
        self.epoch = epoch
        self.compared[-1, 3] = id(epoch)

    def count_epoch(self) -> None:
        """Count one more epoch, whose change is the program's own."""
        latest = clock.epoch == self.epoch
        clock.epoch += 1
        if latest:
            self._enter(clock.epoch)

    def rare(self) -> bool:
        """Whether tensors, modules and optimizers are the same; asked after epochs only."""
        epoch = clock.epoch
        if not self._lasting.same():
            return False
        if any(t._node is not None for t in self.gradients.tensors):
            # Someone has made them require grad.
            self.gradients.renew()
        self._enter(epoch)
        return True

    def follow(self) -> bool:
        """Let the versions of what is written follow the runs, if the program still fits."""
        if not self._still_equal():
            return False
        for line in self.changes:
            root, times, known = line
            now = root._changes
            if now is not known:
                if now.__class__ is not Changes:
                    root._changes = now = Changes(now)
                now.runs.setdefault(self.runs, (times, self.runs.count))
                line[2] = now
        return True

    @property
    def uses(self) -> int:
        """How often the program ran."""
        return self.runs.count


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
