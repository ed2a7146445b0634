"""Results that require grad: a second program, which turns their gradients into those of leaves.

It is recorded from the first call's graph. What it needs of the forward program's memory becomes
results of that, which the graph's node saves.
"""

import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np

from ..autograd.backward import _OnArrays
from ..autograd.function import Function, once_differentiable
from ..graph import engine
from ..graph.node import LEAF, Node, mode, next_seq
from ..tensor import Tensor, edge, wrap
from .ir import Op, Recording, Ref, Storage
from .session import Session
from .tape import refusal


class CompiledFunction(Function):
    """A program's results in the graph, whose gradients another program gives."""

    @staticmethod
    def forward(ctx: Any, adjoint: Any, results: Any, saved: Any, *inputs: Tensor) -> Any:
        """The results as they are."""
        ctx.adjoint = adjoint
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradients of the inputs that the results used depend on."""
        return (None, None, None, *ctx.adjoint.gradients(ctx.saved_tensors, grads))


class Adjoint:
    """The backward program of a recording."""

    program: Any = None

    def __init__(
        self, session: Session, made: list[Tensor], roots: list[int], tensors: list[Tensor]
    ) -> None:
        self.roots = roots
        self.lock = threading.Lock()
        self.like = [(made[k].shape, made[k]._array.dtype) for k in roots]
        places = {edge(t): k for k, t in enumerate(tensors) if t._node is not None}
        reached = [_targets(made[k]._node, places) for k in roots]
        targets = list(dict.fromkeys(x for found in reached for x in found))
        beyond = [p for x in targets if isinstance(x, Node) for p in x.parents if p is not None]
        if any(places.keys() & _targets(p, places).keys() for p in beyond):
            raise refusal("an argument was computed from another one", "Pass a detached tensor")
        forward, session.ops = session.ops, []
        session.frozen = {r.storage for op in forward for r in (*op.ins, *op.outs)}
        given = [session.capture(np.ones(*like), "argument", n) for n, like in enumerate(self.like)]
        heads = {made[k]._node: g for k, g in zip(roots, given, strict=True)}
        before, mode.enabled = mode.enabled, False
        try:
            found = engine.run(heads, _OnArrays, True, targets=set(targets))
        finally:
            mode.enabled = before
        targets = [x for x in targets if x in found]
        # Which of the roots each target's gradient comes from.
        self.sources = [[k for k, r in enumerate(reached) if x in r] for x in targets]
        # The inputs: positions of arguments, or leaves.
        self.inputs = [places.get(x, x) for x in targets]
        gradients = [session.result(session.lift(found[x])) for x in targets]
        ops, session.ops = session.ops, forward
        # The forward program's memory that is read, and the positions of its arguments that are.
        self.saved: list[Ref] = []
        self.arguments: list[int] = []
        written = {r.storage for op in forward for r in op.outs}
        self.recording = self._apart(ops, written, [g.ref for g in given], gradients)
        # Tensors from outside whose memory backward reads, so they may not be changed before.
        read = {r.storage for op in ops for r in op.ins} | {
            r.storage for r in self.recording.results
        }
        known = ((t, session.known[id(array)][1]) for t, array, *_ in session.tensors.values())
        self.read = [
            t for t, x in known if x.ref.storage.kind == "captured" and x.ref.storage in read
        ]

    def _apart(
        self, ops: list[Op], written: set[Storage], given: list[Ref], gradients: list[Ref]
    ) -> Recording:  # fmt: skip
        """The backward operations with memory of their own."""
        saved: dict[Storage, Storage] = {}
        handed: dict[Storage, Storage] = {}
        seeds = {r.storage for r in given}

        def own(ref: Ref) -> Ref:
            storage = ref.storage
            twins = handed if storage.kind == "argument" else saved
            if storage in seeds or storage.kind == "captured":
                return ref
            if twins is saved and storage not in written:
                return ref
            if twins is handed and storage.position == sys.maxsize:
                raise refusal("a gradient is part of a result's graph", "Detach it")
            if storage not in twins:
                twins[storage] = Storage(storage.dtype, storage.size, "argument", storage.name)
                if twins is saved:
                    storage.kind = "result"
            return replace(ref, storage=twins[storage])

        for op in ops:
            op.outs, op.ins = tuple(map(own, op.outs)), tuple(map(own, op.ins))
        results = [own(r) for r in gradients]
        self.saved = [_whole(s) for s in saved]
        self.arguments = [s.position for s in handed]
        arguments = [*given, *map(_whole, [*saved.values(), *handed.values()])]
        for k, ref in enumerate(arguments):
            ref.storage.position = k
        return Recording(ops, arguments, results)

    # ---------------------------------------------------------------------------- running
    def link(self, results: list[Tensor], saved: list[Any], tensors: Any) -> None:
        """Put results into the graph."""
        held = (*map(wrap, saved), *(tensors[k] for k in self.arguments), *self.read)
        inputs = (tensors[x] if isinstance(x, int) else x for x in self.inputs)
        CompiledFunction.apply(self, tuple(results[k] for k in self.roots), held, *inputs)

    def gradients(self, saved: Any, grads: Any) -> list[Any]:
        """Gradients of the inputs; None where they come from no result that was used."""
        given = [
            np.zeros(*like) if g is None else np.ascontiguousarray(g._array).reshape(like[0])
            for g, like in zip(grads, self.like, strict=True)
        ]
        held = [_flat(t._array) for t in saved[: len(self.saved) + len(self.arguments)]]
        with self.lock:
            found = self.program.run(given + held)
        return [
            wrap(g) if any(grads[k] is not None for k in ks) else None
            for g, ks in zip(found, self.sources, strict=True)
        ]


class _Freed:
    """The op of a result whose graph was freed inside the call."""

    saves_result = False

    def __init__(self, kind: str) -> None:
        self.kind = kind


def freed_node(node: Node) -> Node | None:
    """What stands for a node whose saved values, or those it needs, are freed; else None."""
    for x in engine.topological([node])[0]:
        if isinstance(x, Node) and x is not LEAF and x.saved is None:
            made = object.__new__(Node)
            made.op, made.seq, made.parents = _Freed(node.op.kind), next_seq(), ()
            made.saved = made.const = None
            return made
    return None


def _whole(storage: Storage) -> Ref:
    return Ref(storage, (storage.size,), (1,))


def _flat(array: Any) -> Any:
    """The elements in memory's order, as a vector."""
    low, high = np.lib.array_utils.byte_bounds(array)
    count = (high - low) // array.itemsize if array.size else 0
    return np.lib.stride_tricks.as_strided(array, (count,), (array.itemsize,))


def _targets(node: Any, places: Any) -> dict[Any, None]:
    """The leaves and arguments that a node's gradient reaches, in a fixed order."""
    found: dict[Any, None] = {}
    seen: set[Any] = {None}
    stack = [node]
    while stack:
        x = stack.pop()
        if x in seen:
            continue
        seen.add(x)
        if x in places or not isinstance(x, Node):
            found[x] = None
        else:
            stack.extend(reversed(x.parents))
    return found
