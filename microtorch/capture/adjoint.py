"""Results that require grad: a second program, which turns their gradients into those of leaves.

It is recorded from the first call's graph. What it needs of the forward program's memory becomes
results of that, which the graph's node saves.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ..autograd.backward import _OnArrays
from ..autograd.function import Parts
from ..graph import engine
from ..graph.node import LEAF, Node, mode, next_seq
from ..tensor import Tensor, edge, wrap
from .ir import Op, Recording, Ref, Storage
from .session import Session
from .tape import refusal


class _Numbered:
    """The op of the small node of one result: it hands on its gradient with its number."""

    kind = "CompiledBackward"
    saves_result = False

    def backward(self, node: Node, g: Any) -> tuple[Any, ...]:
        """The gradient for the node of all results."""
        return (Parts({node.const: g}),)

    def differentiate(self, node: Node, g: Any) -> tuple[Any, ...]:
        """Refused: a program has no graph.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "a compiled function cannot be differentiated twice from outside; call backward with "
            "create_graph inside the compiled function"
        )


_NUMBERED = _Numbered()


class Adjoint:
    """The backward program of a recording, as an op of the graph."""

    kind = "CompiledBackward"
    saves_result = False

    def __init__(
        self, session: Session, made: list[Tensor], roots: list[int], tensors: list[Tensor]
    ) -> None:
        self.roots = roots
        places = {edge(t): k for k, t in enumerate(tensors) if t._node is not None}
        self.reached = [_targets(made[k]._node, places) for k in self.roots]
        targets = list(dict.fromkeys(x for found in self.reached for x in found))
        if any(places.keys() & _targets(p, places).keys() for x in targets
               for p in (x.parents if isinstance(x, Node) else ()) if p is not None):  # fmt: skip
            raise refusal("an argument was computed from another one", "Pass a detached tensor")
        forward, session.ops, session.frozen = session.ops, [], set(session.used)
        seeds = [np.ones(made[k].shape, made[k]._array.dtype) for k in self.roots]
        given = [session.capture(g, "argument", n) for n, g in enumerate(seeds)]
        heads = {made[k]._node: g for k, g in zip(self.roots, given, strict=True)}
        before, mode.enabled = mode.enabled, False
        try:
            found = engine.run(heads, _OnArrays, True, targets=set(targets))
        finally:
            mode.enabled = before
        self.targets = [x for x in targets if x in found]
        gradients = [session.result(session.lift(found[x])) for x in self.targets]
        ops, session.ops = session.ops, forward
        # Targets by position among the arguments, or the leaf itself.
        self.parents = [places.get(x, x) for x in self.targets]
        # The forward program's memory that is read: (storage, its whole).
        self.saved: list[Ref] = []
        # Arguments of the forward program that are read, by position.
        self.arguments: list[int] = []
        self.leaves = [x for x in self.targets if not isinstance(x, Node)]
        self.recording = self._apart(forward, ops, [g.ref for g in given], gradients)

    def _apart(
        self, forward: list[Op], ops: list[Op], given: list[Ref], gradients: list[Ref]
    ) -> Recording:
        """The backward operations with memory of their own."""
        written = {r.storage for op in forward for r in op.outs}
        seeds = {r.storage for r in given}
        twins: dict[Storage, Storage] = {}
        arguments: list[Ref] = []

        def own(ref: Ref) -> Ref:
            storage = ref.storage
            if storage in seeds:
                return ref
            handed = storage.kind == "argument"
            if not handed and (storage.kind == "captured" or storage not in written):
                return ref
            if storage not in twins:
                twins[storage] = Storage(storage.dtype, storage.size, "argument", storage.name)
                whole = Ref(storage, (storage.size,), (1,))
                if handed:
                    self.arguments.append(storage.position)
                else:
                    storage.kind = "result"
                    self.saved.append(whole)
                arguments.append(replace(whole, storage=twins[storage]))
            return replace(ref, storage=twins[storage])

        for op in ops:
            op.outs = tuple(map(own, op.outs))
            op.ins = tuple(map(own, op.ins))
        results = [own(r) for r in gradients]
        for k, r in enumerate(arguments):
            r.storage.position = len(given) + k
        return Recording(ops, [*given, *arguments], results)

    # ---------------------------------------------------------------------------- running
    def link(self, results: list[Tensor], saved: list[Any], tensors: list[Tensor]) -> None:
        """Put results into the graph."""
        node = object.__new__(Node)
        node.op = self
        node.seq = next_seq()
        node.parents = tuple(edge(tensors[p]) if isinstance(p, int) else p for p in self.parents)
        node.saved = (*map(wrap, saved), *(tensors[k] for k in self.arguments), *self.leaves)
        node.const = [(results[k].shape, results[k]._array.dtype) for k in self.roots]
        for number, k in enumerate(self.roots):
            results[k]._node = part = object.__new__(Node)
            part.op = _NUMBERED
            part.seq = next_seq()
            part.parents = (node,)
            part.saved = ()
            part.const = number

    def backward(self, node: Node, parts: Any) -> tuple[Any, ...]:
        """Gradients of the parents."""
        grads = [
            np.zeros(shape, dtype) if parts.get(k) is None else np.ascontiguousarray(parts[k])
            for k, (shape, dtype) in enumerate(node.const)
        ]
        count = len(self.saved) + len(self.arguments)
        held = [_flat(t._array) for t in (node.saved or ())[:count]]
        found = self.program.run([g.reshape(s) for g, (s, _) in zip(grads, node.const, strict=True)]
                                 + held)  # fmt: skip
        wanted = {x for k, reached in enumerate(self.reached) if parts.get(k) is not None
                  for x in reached}  # fmt: skip
        return tuple(g if x in wanted else None
                     for x, g in zip(self.targets, found, strict=True))  # fmt: skip

    differentiate = _Numbered.differentiate
    program: Any = None


class _Freed:
    """The op of a result whose graph was freed inside the call."""

    saves_result = False

    def __init__(self, kind: str) -> None:
        self.kind = kind


def freed_node(node: Node) -> Node | None:
    """What stands for a node whose saved values, or those it needs, are freed; else None."""
    seen: set[Any] = set()
    stack: list[Any] = [node]
    while stack:
        x = stack.pop()
        if isinstance(x, Node) and x is not LEAF and x not in seen:
            if x.saved is None:
                made = object.__new__(Node)
                made.op, made.seq, made.parents = _Freed(node.op.kind), next_seq(), ()
                made.saved = made.const = None
                return made
            seen.add(x)
            stack += x.parents
    return None


def _flat(array: Any) -> Any:
    """The elements in memory's order, as a vector."""
    low, high = np.lib.array_utils.byte_bounds(array)
    count = (high - low) // array.itemsize if array.size else 0
    return np.lib.stride_tricks.as_strided(array, (count,), (array.itemsize,))


def _targets(node: Any, places: Any) -> dict[Any, None]:
    """The leaves and arguments that a node's gradient reaches, in a fixed order."""
    found: dict[Any, None] = {}
    seen: set[Any] = set()
    stack = [node]
    while stack:
        x = stack.pop()
        if x is None or x in seen:
            continue
        seen.add(x)
        if x in places or not isinstance(x, Node):
            found[x] = None
        else:
            stack.extend(reversed(x.parents))
    return found
