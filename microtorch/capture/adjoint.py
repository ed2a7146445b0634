"""Results that require grad: a second program, which turns their gradients into those of leaves.

It is recorded from the first call's graph. What it needs of the forward program's memory becomes
results of that, which the graph's node saves.
"""

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import ref as weak

import numpy as np

from ..autograd.backward import _OnArrays
from ..autograd.function import Function, _OutputOp
from ..device import CPU
from ..functions.history import forget
from ..graph import engine
from ..graph.node import LEAF, Node, mode, next_seq
from ..kernels import cpu
from ..tensor import Tensor, check_saved, edge, new, wrap
from .ir import Op, Recording, Ref, Storage
from .session import Session
from .tape import refusal
from .values import walked

_NO_GRAPH = (
    "the gradients of a compiled function have no graph of their own, so create_graph is refused. "
    "Compute them inside the compiled function, or call it eagerly."
)


class CompiledFunction(Function):
    """A program's results in the graph, whose gradients another program gives."""

    @staticmethod
    def forward(ctx: Any, adjoint: Any, results: Any, saved: Any, *inputs: Tensor) -> Any:
        """The results as they are."""
        ctx.adjoint = adjoint
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved)
        ctx.kept, ctx.nodes = (), ()
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradients of the inputs that the results used depend on.

        Raises:
            RuntimeError: for create_graph, as a program's gradients have no graph.
        """
        if mode.enabled:
            raise RuntimeError(_NO_GRAPH)
        found = ctx.adjoint.gradients(ctx.saved_tensors, grads)
        if all((node := r()) is None or node.saved is None for r in ctx.nodes):
            ctx.kept = ()
        return (None, None, None, *found)


class _RootOp(_OutputOp):
    """The op of one of several results: backward of each may come at another time.

    The engine frees what a node saved with it, and refuses a second backward, each by itself: the
    nodes of the results "save" their numbers, and the context's values last until all are freed.
    """

    def backward(self, node: Node, g: Any) -> Any:
        """The gradient with the result's number, and the values that it needs."""
        context: Any = node.parents[0]
        if context.saved is None:
            context.saved = context.kept
        return super().backward(node, g)

    differentiate = backward


_ROOT = (_RootOp(False), _RootOp(True))


class _ProgramOp:
    """The op of a result that is the only one with a gradient."""

    kind = "CompiledFunctionBackward"

    def __init__(self, adjoint: Any, place: int | None) -> None:
        # Where the result is among what is saved. The graph has it at the end.
        self.adjoint, self.place, self.saves_result = adjoint, place, place is not None

    def backward(self, node: Node, g: Any) -> list[Any]:
        """Gradients of the inputs."""
        saved = list(node.saved or ())
        if self.place is not None:
            saved.insert(self.place, saved.pop())
        return self.adjoint.run([g], saved)  # type: ignore[no-any-return]

    def differentiate(self, node: Node, g: Any) -> Any:
        """Raise, as a program's gradients have no graph."""
        raise RuntimeError(_NO_GRAPH)


# Without the check of what users ask for while recording.
RUN = engine.run


class Adjoint:
    """The backward program of a recording."""

    program: Any = None
    op: _ProgramOp | None = None

    def __init__(
        self, session: Session, made: list[Tensor], roots: list[int], tensors: list[Tensor]
    ) -> None:
        self.roots = roots
        self.lock = threading.Lock()
        self.like = [(made[k].shape, made[k]._array.dtype, made[k].device) for k in roots]
        # The graph ends at arguments, and at tensors from outside that have a history.
        others = [t for t, *_ in session.tensors.values() if t._node is not LEAF]
        places: dict[Any, Any] = {t._node: t for t in others if session.outside_graph(t._node)}
        places |= {edge(t): k for k, t in enumerate(tensors) if t._node is not None}
        reached = [_targets(made[k]._node, places) for k in roots]
        targets = list(dict.fromkeys(x for found in reached for x in found))
        forward, session.ops = session.ops, []
        session.frozen = {r.storage for op in forward for r in (*op.ins, *op.outs)}
        given = [
            session.capture(_full(1, *like), "argument", n) for n, like in enumerate(self.like)
        ]
        heads = {made[k]._node: g for k, g in zip(roots, given, strict=True)}
        before, mode.enabled = mode.enabled, False
        try:
            with _ended_at(targets):
                found = RUN(heads, _OnArrays, True, targets=set(targets))
        finally:
            mode.enabled = before
        targets = [x for x in targets if x in found]
        # Which of the roots each target's gradient comes from.
        self.sources = [[k for k, r in enumerate(reached) if x in r] for x in targets]
        # The inputs: positions of arguments, or tensors.
        self.inputs = [places.get(x, x) for x in targets]
        gradients = [session.result(session.lift(found[x])) for x in targets]
        ops, session.ops = session.ops, forward
        # The forward program's memory that is read, and the positions of its arguments that are.
        self.saved: list[Ref] = []
        self.arguments: list[int] = []
        written = {r.storage for op in forward for r in op.outs}
        self.recording = self._apart(ops, written, [g.ref for g in given], gradients)
        # Results by the memory that is saved, and tensors from outside that are read: all that
        # may be changed before backward, which their versions tell.
        whole: dict[Storage, int] = {}
        for k, t in enumerate(made):
            storage = t._array.ref.storage  # type: ignore[attr-defined]
            if storage.size == t._array.size and (storage not in whole or t._base is None):
                whole[storage] = k
        self.shared = [whole.get(r.storage) for r in self.saved]
        reads = {r.storage for op in self.recording.ops for r in op.ins}
        places_of = ((t, session.known.get(id(array))) for t, array, *_ in session.tensors.values())
        self.outside = [t for t, known in places_of if known and known[1].ref.storage in reads]
        if len(roots) == 1:
            place = self.shared.index(roots[0]) if roots[0] in self.shared else None
            self.op = _ProgramOp(self, place)

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
                twins[storage] = replace(storage, kind="argument", array=None, source=None)
                if twins is saved:
                    storage.kind = "result"
            return ref._replace(storage=twins[storage])

        for op in ops:
            op.outs, op.ins = tuple(map(own, op.outs)), tuple(map(own, op.ins))
        results = [own(r) for r in gradients]
        self.saved = [s.whole for s in saved]
        self.arguments = [s.position for s in handed]
        arguments = [*given, *(s.whole for s in (*saved.values(), *handed.values()))]
        for k, ref in enumerate(arguments):
            ref.storage.position = k
        return Recording(ops, arguments, results)

    # ---------------------------------------------------------------------------- running
    def link(self, results: list[Tensor], saved: list[Any], tensors: Any) -> None:
        """Put results into the graph."""
        held: list[Any] = [wrap(array) if k is None else results[k]
                for k, array in zip(self.shared, saved, strict=True)]  # fmt: skip
        held += [*(tensors[k] for k in self.arguments), *self.outside]
        inputs = [tensors[x] if isinstance(x, int) else x for x in self.inputs]
        if self.op is not None:
            t = results[self.roots[0]]
            if self.op.place is not None:
                held.append(held.pop(self.op.place)._array)
            t._node = node = new(Node)
            node.op, node.seq, node.const = self.op, next_seq(), None
            node.parents, node.saved = tuple(map(edge, inputs)), tuple(held)
            forget(t)
            return
        roots = tuple([results[k] for k in self.roots])
        CompiledFunction.apply(self, roots, held, *inputs)
        nodes = [t._node for t in roots]
        if len(nodes) > 1 and nodes[0] is not None:
            context = nodes[0].parents[0]
            context.kept, context.nodes = context.saved, tuple(map(weak, nodes))
            for number, node in enumerate(nodes):
                node.op, node.saved = _ROOT[node.op.saves_result], (number,)

    def gradients(self, saved: Any, grads: Any) -> list[Any]:
        """Gradients of the inputs; None where they come from no result that was used."""
        found = self.run([None if g is None else g._array for g in grads], saved)
        return [
            wrap(g) if any(grads[k] is not None for k in ks) else None
            for g, ks in zip(found, self.sources, strict=True)
        ]

    def run(self, grads: list[Any], saved: Any) -> list[Any]:
        """Gradients of the inputs, as arrays, of those of the results and what was saved."""
        given = [
            _full(0, *like) if g is None else np.ascontiguousarray(g).reshape(like[0])
            for g, like in zip(grads, self.like, strict=True)
        ]
        held = saved[: len(self.saved) + len(self.arguments)]
        held = [_flat(x._array if isinstance(x, Tensor) else x) for x in held]
        with self.lock:
            return self.program.run((*given, *held))  # type: ignore[no-any-return]


class _Spent:
    """The op of a result through which eager mode goes back no more: it raises the same error."""

    saves_result = False

    def __init__(self, kind: str, message: str = "") -> None:
        self.kind, self.message = kind, message

    def backward(self, node: Node, g: Any) -> Any:
        """Raise, as values that backward needs were changed inside the call.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(self.message)

    differentiate = backward


def spent_node(session: Session, node: Node) -> Node | None:
    """What stands for a node with saved values that are freed, or were changed; else None.

    The same holds where those of a node that it needs are.
    """
    nodes = [x for x in engine.topological([node])[0] if isinstance(x, Node) and x is not LEAF]
    made = object.__new__(Node)
    made.seq, made.parents, made.saved, made.const = next_seq(), (), None, None
    if any(x.saved is None for x in nodes):
        made.op = _Spent(node.name())
        return made
    try:
        for x in nodes:
            if not session.outside_graph(x):
                check_saved(x)
    except RuntimeError as error:
        made.op, made.saved = _Spent(node.name(), str(error)), ()
        return made
    return None


@contextmanager
def _ended_at(targets: Iterable[Any]) -> Iterator[None]:
    """Targets without hooks and parents: the engine goes on there with what a program gave."""
    leaves = [(x, x.__dict__.pop("_hooks")) for x in targets if "_hooks" in vars_of(x)]
    nodes = [(x, x.op, x.parents) for x in targets if isinstance(x, Node)]
    for node, *_ in nodes:
        node.op, node.parents = None, ()
    try:
        yield
    finally:
        for leaf, hooks in leaves:
            leaf.__dict__["_hooks"] = hooks
        for node, op, parents in nodes:
            node.op, node.parents = op, parents


def vars_of(value: Any) -> dict[str, Any]:
    """The attributes of an object itself."""
    return getattr(value, "__dict__", {})


def _full(value: float, shape: Any, dtype: Any, place: Any) -> Any:
    made = np.full(shape, value, dtype)
    return made if place is CPU else cpu.move(made, place)


def _flat(array: Any) -> Any:
    """The elements in memory's order, as a vector."""
    if array.flags.c_contiguous:
        return array.reshape(-1)
    low, high = np.lib.array_utils.byte_bounds(array)
    count = (high - low) // array.itemsize if array.size else 0
    return np.lib.stride_tricks.as_strided(array, (count,), (array.itemsize,))


def _targets(node: Any, places: Any) -> dict[Any, None]:
    """The leaves and arguments that a node's gradient reaches, in a fixed order."""

    def ends(x: Any) -> bool:
        return x in places or not isinstance(x, Node)

    found = walked([node], lambda x: () if ends(x) else x.parents)
    return {x: None for x in found.values() if x is not None and ends(x)}
