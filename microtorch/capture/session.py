"""A recording in the terms of the package: its tensors, gradients and hyper-parameters."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from weakref import ref

import numpy as np

from ..optim.optimizer import Optimizer
from ..tensor import Tensor, root_of
from .guards import Guards
from .ir import Ref, Storage
from .record import Recorder
from .replay import plain
from .tape import active, place, refusal
from .traced import Traced

ARRAY = Tensor.__dict__["_array"]


class Session(Recorder):
    """A recording, with the tensors, gradients and numbers that it met."""

    def __init__(self, guards: Guards | None = None) -> None:
        super().__init__()
        self.guards = guards or Guards(None, ())
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

    def number(self, owner: Any, text: str) -> Any:
        """A hyper-parameter, the value of `owner` and the text, read again at every call."""
        found = self.numbers.get((id(owner), text))
        if found is None:
            source = eval(f"lambda: owner{text}", {"owner": owner})
            storage = Storage(np.dtype(float), 1, "number", re.sub(r"\W", "", text), source=source)
            found = Traced(self, np.array(float(source())), Ref(storage, (), ()))
            self.numbers[id(owner), text] = found
        return found

    def truth(self, number: Any) -> bool:
        """Whether a hyper-parameter is not 0, which a program takes for granted."""
        source, found = number.ref.storage.source, bool(number.value)
        self.guards.add(f"bool({{}}()) is {found}", source)
        return found

    def result(self, traced: Any) -> Ref:
        """Memory that a caller gets."""
        self.writable(traced)
        storage = traced.ref.storage
        if storage.kind not in ("temporary", "result") or storage.size != traced.size:
            copied = self.fresh(traced.value.copy())
            self.map([copied], [traced], ("x",), ("x",), "copy")
            traced = copied
        traced.ref.storage.kind = "result"
        return traced.ref  # type: ignore[no-any-return]

    def of_tensor(self, t: Tensor, array: Any) -> Any:
        """What stands for the array of a tensor from outside."""
        if id(t) not in self.tensors:
            self.tensors[id(t)] = (t, array, t._node, root_of(t).__dict__.get("_changes"))
        return self.capture(array)


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
        if type(before) is np.ndarray:
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
        tape: Any = active.tape
        if tape is not None:
            self.note(tape, t, True)
        return t.__dict__.get("_grad")

    def __set__(self, t: Any, value: Any) -> None:
        tape: Any = active.tape
        if tape is not None:
            self.note(tape, t, False)
        t.__dict__["_grad"] = value

    def note(self, tape: Any, t: Any, read: bool) -> None:
        """Remember the gradient that a tensor from outside had."""
        if id(t) not in tape.grads and type(ARRAY.__get__(t)) is np.ndarray:
            tape.grads[id(t)] = (t, t.__dict__.get("_grad"), read)
            tape.of_tensor(t, ARRAY.__get__(t))


@contextlib.contextmanager
def paused() -> Iterator[Any]:
    """Real arrays for a while."""
    tape, active.tape = active.tape, None
    try:
        yield tape
    finally:
        active.tape = tape
