"""What a call returns: tensors made anew, views of memory that others hold, and plain values."""

import gc
from collections import Counter
from typing import Any

import numpy as np

from ..device import device
from ..dtypes import dtype
from ..functions.history import remember
from ..graph.node import LEAF, Node
from ..tensor import OWN, Tensor, base_of, root_of
from .adjoint import Adjoint, spent_node, vars_of
from .guards import Guards
from .ir import Array, Ref, Storage
from .live import plain_number
from .session import ARRAY, Session
from .tape import CaptureError, refusal
from .traced import Traced
from .values import SIMPLE, walked

PLAIN = (*SIMPLE, dtype, device, np.dtype)
REMEDY = "Return tensors in tuples, lists or dicts"
# Memory that a call does not make.
_OTHERS = ("argument", "captured")
# What the package itself keeps with a tensor.
_OWN_ATTRIBUTES = frozenset("_base _family _views _cut _written _changes _unrecorded".split())


class Results:
    """The results of a recorded call.

    made: tensors that a call makes, as r0, r1, ...: results, and bases that several of them share.
    refs: the memory for them, in the order in which the program gives it. texts: how the call
    reaches tensors, by id. adjoint: the gradients, if any result has some.
    """

    adjoint: Adjoint | None = None

    def __init__(self, session: Session, guards: Guards, texts: dict[int, str]) -> None:
        self.session, self.guards, self.texts = session, guards, texts
        self.made: list[Tensor] = []
        self.refs: list[Ref] = []
        self.nodes: list[Any] = []
        # Where each tensor's array is among what the program gives; None for others' memory.
        self._places: list[int | None] = []
        held = [session.arguments, *guards.scope.values(), *guards.modules]
        # The ids of objects from outside.
        self._outside = set(walked(held, _parts))

    # --------------------------------------------------------------------------- structure
    def structure(self, value: Any) -> str:
        """The text of an expression for what the call returns."""
        text = self._text_of(value)
        storages = Counter(_storage(t) for t in self.made)
        shared = {s for s, n in storages.items() if n > 1 and s.kind not in _OTHERS}
        for base in map(root_of, list(self.made)):
            if type(ARRAY.__get__(base)) is Traced and _storage(base) in shared:
                self._add(base)
        for t in self.made:
            traced: Any = ARRAY.__get__(t)
            if _storage(t).kind in _OTHERS:
                self._places.append(None)
                continue
            self._places.append(len(self.refs))
            if _storage(t) in shared:
                self.session.writable(traced)
                _storage(t).kind = "result"
                self.refs.append(traced.ref)
            else:
                self.refs.append(self.session.result(traced))
        return text

    def _refusal(self, what: str, remedy: str) -> CaptureError:
        return refusal(what, remedy, self.guards.end())

    def _add(self, t: Tensor) -> None:
        if id(t) not in self.texts:
            self.texts[id(t)] = f"r{len(self.made)}"
            self.made.append(t)

    def _text_of(self, value: Any) -> str:
        value = plain_number(value)
        kind = type(value)
        if isinstance(value, Tensor):
            if type(ARRAY.__get__(value)) is Traced and id(value) not in self.session.tensors:
                self._add(value)
            return self.texts.get(id(value)) or self.guards.name(value)
        named = hasattr(value, "_fields") or kind.__module__.startswith(("microtorch", "torch"))
        if isinstance(value, tuple) and (kind is tuple or (named and not vars_of(value))):
            parts = "".join(f"{self._text_of(v)}, " for v in value)
            star = "*" if hasattr(value, "_fields") else ""
            return f"({parts})" if kind is tuple else f"{self.guards.name(kind)}({star}({parts}))"
        if kind in (list, dict) and id(value) in self._outside:
            raise self._refusal(f"a {kind.__name__} from outside is returned", "Return a new one")
        if kind is list:
            return f"[{', '.join(map(self._text_of, value))}]"
        if kind is dict:
            pairs = (f"{self._text_of(k)}: {self._text_of(v)}" for k, v in value.items())
            return f"{{{', '.join(pairs)}}}"
        # Objects that the call finds again are the same; what they contain is not the call's.
        known = id(value) in self._outside and not isinstance(value, (set, list, dict, np.ndarray))
        if not (isinstance(value, PLAIN) or known):
            raise self._refusal(f"an object of type {kind.__name__} is returned", REMEDY)
        return self.guards.name(value)

    # ---------------------------------------------------------------------------- the call
    def checks(self) -> list[str]:
        """The lines that look at what the program found, and raise what eager mode raises."""
        lines: list[str] = []
        for traced, bad, error, message in self.session.checks:
            ref = self.session.result(traced)
            if ref not in self.refs:
                self.refs.append(ref)
            lines += [f"n = found[{self.refs.index(ref)}].item()", f"if {bad}:",
                      f"    raise {error.__name__}({message!r}.format(n))"]  # fmt: skip
        return lines

    def link(self, tensors: list[Tensor], extra: list[str], names: dict[Storage, str]) -> list[str]:
        """The lines that make the tensors, in the graphs that they belong to.

        extra: texts of tensors besides the arguments whose memory is handed in. names: those of
        the arrays of memory that is handed in.
        """
        lines, roots = [], []
        for k, t in enumerate(self.made):
            self._check(t)
            kind, node = self.guards.name(type(t)), t._node
            if node is not None and node is not LEAF:
                node = spent_node(self.session, node)
                if node is None:
                    roots.append(k)
            text = "leaf" if node is LEAF else self.guards.name(node)
            self.nodes.append(node)
            lines += [f"r{k} = new({kind})", f"r{k}._array = {self._array(k, names)}",
                      f"r{k}._node = {text}"]  # fmt: skip
        if roots:
            count = len(self.refs)
            self.adjoint = Adjoint(self.session, self.made, roots, tensors)
            self.refs += self.adjoint.saved
            given = ", ".join(f"r{k}" for k in range(len(self.made)))
            reached = ", ".join(["*tensors", *extra])
            link = self.guards.name(self.adjoint.link)
            lines.append(f"{link}([{given}], found[{count}:], [{reached}])")
        return lines + self._bases(tensors)

    def single(self, structure: str) -> tuple[type, Any] | None:
        """The type and node of the one tensor that is returned, if that is all."""
        alone = structure == "r0" and self._places == [0] and len(self.refs) == 1
        if not alone or any(bad != "n != n" for _, bad, *_ in self.session.checks):
            return None
        return type(self.made[0]), self.nodes[0]

    def _array(self, k: int, names: dict[Storage, str]) -> str:
        place, traced = self._places[k], ARRAY.__get__(self.made[k])
        if place is not None:
            return f"found[{place}]"
        ref: Ref = traced.ref
        of = names.get(ref.storage) or self.guards.name(ref.storage.array)
        strides = tuple(s * ref.dtype.itemsize for s in ref.strides)
        self.guards.scope["part"] = _part
        return f"part({of}, {ref.shape}, {strides}, {ref.offset})"

    def _bases(self, tensors: list[Tensor]) -> list[str]:
        """The lines that make views those of their bases."""
        lines: list[str] = []
        name = self.guards.name
        # Bases by id, with a tensor that leads to each: a view of it or itself.
        reached = {id(root_of(t)): (t, name(t)) for t, *_ in self.session.tensors.values()}
        grads = [g for t, entry, _ in self.session.grads.values()
                 for g in (entry, t.__dict__.get("_grad")) if g is not None]  # fmt: skip
        reached |= {id(root_of(t)): (t, self.texts[id(t)])
                    for t in (*tensors, *grads) if id(t) in self.texts}  # fmt: skip
        reached |= {id(t): (t, f"r{k}") for k, t in enumerate(self.made)}
        for k, t in enumerate(self.made):
            single = self._places[k] is not None and id(t._base) not in self.texts
            if t._base is None or single:
                continue
            if id(t._base) not in reached:
                raise self._refusal("a result shares memory with a tensor from outside", "Clone it")
            x, text = reached[id(t._base)]
            detached = t._family is not None and t._family is not base_of(x)
            lines.append(f"as_view(r{k}, {text}, {detached}, {t._unrecorded})")
        self.guards.scope["as_view"] = _as_view
        return lines

    def _check(self, t: Tensor) -> None:
        """Refuse results with a gradient, or attributes of the user's."""
        more = {k for k, v in t.__dict__.items() if v is not None} - _OWN_ATTRIBUTES
        if more:
            name = min(more).removeprefix("_")
            raise self._refusal(
                f"a result has an attribute of its own ({name})", "Set it after the call"
            )


def _storage(t: Tensor) -> Storage:
    traced: Any = ARRAY.__get__(t)
    return traced.ref.storage  # type: ignore[no-any-return]


def _part(array: Array, shape: Any, strides: Any, offset: int) -> Array:
    """A view of memory from its first element on, whatever the array's own shape."""
    strided = np.lib.stride_tricks.as_strided
    flat = strided(array, (offset + 1,), (array.itemsize,))
    return strided(flat[offset:], shape, strides)


def _as_view(z: Tensor, x: Tensor, detached: bool, unrecorded: bool) -> None:
    """Let z be a view of the memory of x, in the history of x if not detached."""
    z._base = root_of(x)
    if detached:
        z._family = OWN
        return
    if x._family is not None:
        z._family = base_of(x)
    if unrecorded or x._unrecorded:
        z._unrecorded = True
    remember(z, base_of(z))


def _parts(value: Any) -> Any:
    """What a container contains, but for the globals of a module."""
    if isinstance(value, dict):
        return () if "__name__" in value else value.values()
    return value if isinstance(value, (tuple, list)) else ()


def escaped(session: Session, roots: list[Tensor], moved: set[int]) -> list[str]:
    """Where tensors were made that still exist, and belong to no result and no gradient."""
    known = moved | walked(roots, _held).keys()
    states = [s for o in session.optimizers.values() for s in o.state.values()]
    kept = {id(value) for state in states for value in state.values()}

    def found() -> list[tuple[int, str]]:
        made = [(id(t), where) for at, where in session.made if (t := at()) is not None]
        return [each for each in made if each[0] not in known]

    if (escaped := found()) and kept.isdisjoint(k for k, _ in escaped):
        # Graphs of gradients are circles.
        gc.collect()
    return [where for _, where in found()]


def _held(x: Any) -> Any:
    """What a result holds: its base, and what its graph does."""
    if isinstance(x, Tensor):
        return [x._node, *x.__dict__.values()]
    if isinstance(x, Node):
        return [*x.parents, *(x.saved or ()), x.const]
    if isinstance(x, slice):
        return x.start, x.stop, x.step
    return x if isinstance(x, tuple) else ()
