"""A recording: memory that a call touches, its operations, and the tensors that it met.

Operations on constants alone are not recorded: their results are constants.
"""

from dataclasses import replace
from typing import Any
from weakref import ref

import numpy as np

from ..graph.node import Node, next_seq
from ..optim.optimizer import Optimizer
from ..tensor import Tensor, device_of, root_of
from .guards import Guards
from .ir import Array, Map, Number, Op, Ref, Storage
from .record import perform, plain
from .rollback import Rollback
from .scalars import Scalars
from .tape import CaptureError, active, place, refusal
from .traced import Traced

ARRAY = Tensor.__dict__["_array"]


class Session:
    """What is recorded of one call."""

    def __init__(self, guards: Guards | None = None, lenient: bool = False) -> None:
        self.guards = guards or Guards(None, ())
        self.guards.live.tape = self
        self.arguments: Any = ()
        # Nodes made before are of higher numbers.
        self.started = next_seq()
        # What is looked at after each run: (array, condition, error, message).
        self.checks: list[tuple[Traced, str, Any, str]] = []
        self.ops: list[Op] = []
        # Whether operations are still recorded; whether what cannot be recorded ends the
        # recording, not the call; and then why.
        self.live = True
        self.lenient = lenient
        self.failure: CaptureError | None = None
        # Arrays by identity, with what stands for each; held, so that identities stay.
        self.known: dict[int, tuple[Array, Traced]] = {}
        # Memory from outside: (first address, end, storage).
        self.outside: list[tuple[int, int, Storage]] = []
        # Constants that np.empty made, until they are written.
        self.undefined: set[Storage] = set()
        # What the forward program reads, while the backward program is recorded.
        self.frozen: set[Storage] = set()
        # Tensors from outside: id -> (tensor, its array, its node, its storage's changes).
        self.tensors: dict[int, tuple[Any, Any, Any, Any]] = {}
        # Gradients of tensors from outside: id -> (tensor, at entry, whether that was looked at).
        self.grads: dict[int, tuple[Any, Any, bool]] = {}
        # Tensors made, with the places where.
        self.made: list[tuple[Any, str]] = []
        # Tensors from outside that got other memory, by id.
        self.swapped: set[int] = set()
        self.numbers: dict[Any, Any] = {}
        self.optimizers: dict[int, Optimizer] = {}
        self.casts: dict[Any, Any] = {}
        # Numbers in optimizers' states by id, with a key that is one for equal ones.
        self.equal: dict[int, tuple[Array, Any]] = {}
        self.scalars = Scalars(self.guards.live)
        self.rollback = Rollback()

    # ------------------------------------------------------------------------ operations
    def attempt(self, function: Any, args: Any, options: Any, **more: Any) -> Any:
        """Record an operation, or give up and do it eagerly."""
        try:
            return perform(self, function, args, options, **more)
        except CaptureError as error:
            self.give_up(error)
            return function(*plain(args), **plain(options))

    def give_up(self, error: CaptureError) -> None:
        """End the recording and let the call go on eagerly, if that is allowed.

        Raises:
            CaptureError: else.
        """
        if not self.lenient:
            self.failure = self.failure or error
            raise error
        self.live, self.failure, active.tape = False, error, None

    def undo(self) -> None:
        """Put back what the call has changed in tensors, optimizers and generators."""
        self.rollback.undo(self.tensors, self.grads, ARRAY)

    def emit(self, op: Op) -> None:
        """Note an operation."""
        op.origin = place()
        self.ops.append(op)

    # -------------------------------------------------------------------------- storages
    def fresh(self, value: Any, kind: str = "temporary") -> Traced:
        """A new array of memory of its own."""
        value = np.asarray(value)
        size, strides = value.size, _steps(value)
        extent = 1 + sum((n - 1) * s for n, s in zip(value.shape, strides, strict=True) if n)
        if size and (extent != size or min(strides, default=0) < 0):
            value = value.copy()
            strides = _steps(value)
        storage = Storage(value.dtype, size, kind, device=device_of(value).type)
        return Traced(self, value, Ref(storage, value.shape, strides))

    def constant(self, value: Array) -> Traced:
        """What stands for an array that is known now."""
        if id(value) not in self.known:
            made = self.fresh(value, "constant")
            memory = made.value
            made.ref.storage.array = _flat(memory, memory.size)
            self.known[id(value)] = value, made
        return self.known[id(value)][1]

    def lift(self, value: Any) -> Traced:
        """What stands for an operand: recorded, an array, or a number."""
        if type(value) is Traced:
            return value
        return self.constant(value if isinstance(value, np.ndarray) else np.asarray(value))

    def capture(self, value: Array, kind: str = "captured", position: int = -1) -> Traced:
        """What stands for memory from outside, which is read and written in place."""
        if id(value) in self.known:
            return self.known[id(value)][1]
        low, high = np.lib.array_utils.byte_bounds(value)
        for first, end, storage in self.outside if kind == "captured" and value.size else ():
            if low < end and first < high:
                if low < first or high > end or storage.dtype != value.dtype:
                    words = "tensors share a part of their memory in a way that cannot be recorded"
                    raise refusal(words, "Clone one of them")
                break
        else:
            root = value if kind == "argument" else _root(value)
            first, end = np.lib.array_utils.byte_bounds(root)
            size = (end - first) // root.itemsize if root.size else 0
            place = device_of(value).type
            storage = Storage(value.dtype, size, kind, position=position, device=place)
            if kind != "argument":
                ends = (slice(None, None, -1 if s < 0 else 1) for s in root.strides)
                at = root[(*ends, ...)]  # type: ignore[arg-type]
                storage.array = _flat(at, size)
                if size:
                    self.outside.append((first, end, storage))
        offset = (value.ctypes.data - first) // value.itemsize if value.size else 0
        made = Traced(self, value, Ref(storage, value.shape, _steps(value), offset))
        self.known[id(value)] = value, made
        return made

    def view(self, parent: Any, value: Array) -> Traced:
        """A view of the parent's memory."""
        offset = parent.ref.offset
        if value.size:
            offset += (value.ctypes.data - parent.value.ctypes.data) // value.itemsize
        return Traced(self, value, Ref(parent.ref.storage, value.shape, _steps(value), offset))

    def untouched(self, target: Any) -> bool:
        """Whether a constant may be written now, as nothing recorded has read it."""
        storage = target.ref.storage
        own = not any(np.may_share_memory(storage.array, a) for a in self.guards.arrays)
        if own and not any(storage is r.storage for op in self.ops for r in (*op.ins, *op.outs)):
            self.undefined.discard(storage)
            return storage not in self.frozen
        return False

    def writable(self, target: Any) -> None:
        """Prepare memory for being written: a constant becomes a copy of one."""
        storage = target.ref.storage
        if storage.kind == "number":
            raise refusal("a number of an optimizer is written", "Write to a tensor")
        if storage.kind in ("captured", "argument"):
            self.rollback.memory(target.ref, target.value)
        if storage.kind != "constant":
            return
        memory = storage.array
        if storage in self.frozen:
            raise refusal("a constant of the forward pass is written in backward", "Clone it")
        if any(np.may_share_memory(memory, a) for a in self.guards.arrays):
            raise refusal("an array from outside is written in place", "Use a tensor")
        kept = replace(storage, array=memory.copy())
        storage.kind, storage.array = "temporary", None
        if storage in self.undefined:
            return
        self.ops.insert(0, Map((storage.whole,), (kept.whole,), formulas=("x",), names=("x",)))

    def result(self, traced: Any) -> Ref:
        """Memory that a caller gets."""
        self.writable(traced)
        storage = traced.ref.storage
        if storage.kind not in ("temporary", "result") or storage.size != traced.size:
            traced = self.copied(traced)
        traced.ref.storage.kind = "result"
        return traced.ref  # type: ignore[no-any-return]

    def copied(self, traced: Any) -> Any:
        """The elements in memory of their own."""
        return perform(self, np.array, (traced,), {"order": "C"})

    # --------------------------------------------------------------- what eager mode refuses
    def check(self, traced: Any, bad: str, error: Any, message: str) -> None:
        """Let each later call raise if one number is bad: `bad` is an expression of `n`.

        The message is a format of `n`. What the call has written by then stays written.
        """
        if self.live and type(traced) is Traced and traced.ref.storage.kind != "constant":
            self.checks.append((traced, bad, error, message))

    def outside_graph(self, node: Any) -> bool:
        """Whether a node was made before the recording."""
        return isinstance(node, Node) and node.seq > self.started

    # ------------------------------------------------------- hyper-parameters and tensors
    def number(self, owner: Any, key: str, place: int = -1) -> Any:
        """A hyper-parameter, an item of a dict or of a tuple in it, read again at every call."""
        found = self.numbers.get((id(owner), key, place))
        if found is None:
            source = Number(owner, key, place)
            storage = Storage(np.dtype(float), 1, "number", str(source), source=source)
            found = Traced(self, np.array(float(source())), Ref(storage, (), ()))
            self.numbers[id(owner), key, place] = found
        return found

    def truth(self, number: Any) -> bool:
        """Whether a hyper-parameter is not 0, which a program takes for granted."""
        source = number.ref.storage.source
        source.truth = bool(number.value)
        self.guards.add("bool({}()) is {}", source, source.truth, rows=[])
        return source.truth  # type: ignore[no-any-return]

    def of_tensor(self, t: Tensor, array: Any) -> Any:
        """What stands for the array of a tensor from outside."""
        if id(t) not in self.tensors:
            self.tensors[id(t)] = (t, array, t._node, root_of(t).__dict__.get("_changes"))
        traced = self.capture(array)
        traced.ref.storage.name = traced.ref.storage.name or self.guards.labels.get(id(t), "")
        return traced


class ArrayHook:
    """`Tensor._array`."""

    def __get__(self, t: Any, owner: Any = None) -> Any:
        if t is None:
            return self
        value = ARRAY.__get__(t)
        tape: Any = active.tape
        if type(value) is Traced:
            return value if value.tape is tape else value.value
        return value if tape is None else tape.of_tensor(t, value)

    def __set__(self, t: Any, value: Any) -> None:
        tape: Any = active.tape
        if tape is None:
            ARRAY.__set__(t, plain(value))
            return
        try:
            before = ARRAY.__get__(t)
        except AttributeError:
            before = None
        traced = tape.lift(value)
        if before is not None and type(before) is not Traced:
            if value.shape != before.shape or value.dtype != before.dtype:
                words = "a tensor gets memory of another shape or dtype"
                tape.give_up(refusal(words, "Do that outside"))
                if not tape.live:
                    return ARRAY.__set__(t, plain(value))
            if tape.of_tensor(t, before).ref == traced.ref:
                return
            tape.swapped.add(id(t))
        ARRAY.__set__(t, traced)
        tape.made.append((ref(t), place(True)))


class GradHook:
    """`Tensor._grad`."""

    def __get__(self, t: Any, owner: Any = None) -> Any:
        if t is None:
            return None
        self._note(t, True)
        return t.__dict__.get("_grad")

    def __set__(self, t: Any, value: Any) -> None:
        self._note(t, False)
        t.__dict__["_grad"] = value

    def _note(self, t: Any, read: bool) -> None:
        """Remember the gradient that a tensor from outside had."""
        tape, array = active.tape, ARRAY.__get__(t)
        if tape is not None and id(t) not in tape.grads and type(array) is not Traced:
            tape.grads[id(t)] = (t, t.__dict__.get("_grad"), read)
            tape.of_tensor(t, array)


def _steps(value: Array) -> tuple[int, ...]:
    return tuple(s // value.itemsize for s in value.strides)


def _root(value: Array) -> Array:
    """The array of the same dtype that owns the memory."""
    if device_of(value).type != "cpu":
        return value.whole()  # type: ignore[attr-defined, no-any-return]
    while type(value.base) is np.ndarray and value.base.dtype == value.dtype:
        value = value.base
    return value


def _flat(memory: Array, size: int) -> Array:
    """Memory from its first element on, as one vector."""
    strided = np.lib.stride_tricks.as_strided
    return strided(memory, (size,), (memory.itemsize,))
