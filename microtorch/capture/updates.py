"""Optimizers while a call is recorded: an update is one map a parameter."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels.standin import method
from ..optim.optimizer import Optimizer, Update
from ..table import STEPS, substitute
from ..tensor import Tensor, changed, wrap
from .ir import Array, Map
from .live import KINDS
from .record import paused, perform, plain
from .session import Session
from .space import broadcast
from .tape import active, refusal
from .traced import Traced
from .values import simple

_STEP, _UPDATE, _STEPS_MADE = Optimizer.step, Update.__call__, Optimizer.steps_made


class Options(dict[str, Any]):
    """A parameter group, whose numbers are read again at every call; all else is guarded."""

    def __init__(self, tape: Session, group: dict[str, Any]) -> None:
        super().__init__(group)
        self.tape = tape
        self.group = group

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if name == "params":
            return value
        if type(value) in KINDS:
            return self.tape.number(self.group, name)
        if type(value) is tuple and all(type(v) in KINDS for v in value):
            return tuple(self.tape.number(self.group, name, k) for k in range(len(value)))
        # A tensor is the same one: its number may differ.
        self.tape.guards.note(f"an optimizer's {name}", self.group, f"[{name!r}]")
        return value


def stepping(self: Any, closure: Any = None) -> Any:
    """`Optimizer.step`, with numbers that are read again at every call."""
    tape, groups = active.tape, self.param_groups
    if self._hooks_of("step_pre") or self._hooks_of("step"):
        tape.give_up(refusal("an optimizer with hooks of its step", "Call it after the step"))
        return _STEP(self, closure)
    tape.optimizers[id(self)] = self
    tape.rollback.optimizer(self)
    tape.guards.members(self)
    entries = (entry for state in self.state.values() for entry in state.items())
    tape.guards.labels |= {id(t): name for name, t in entries if isinstance(t, Tensor)}
    self.param_groups = [Options(tape, g) for g in groups]
    try:
        return _STEP(self, closure)
    finally:
        self.param_groups = groups


def counting(count: Any) -> Any:
    """`Optimizer.steps_made`, as a part of the recording."""
    tape, number = active.tape, plain(count).item()
    if type(count) is not Traced or count.ref.storage.kind == "constant":
        return number + 1
    key = _together(tape, count, "steps", number)
    if key not in tape.casts:
        tape.casts[key] = count.astype(np.float64) + 1
    return tape.casts[key]


def reading(value: Any) -> Any:
    """`Optimizer.number`, likewise: equal ones are one."""
    tape, number = active.tape, plain(value).item()
    if type(value) is not Traced or value.ref.storage.kind == "constant":
        return number
    key = _together(tape, value, "number", number)
    return tape.casts.setdefault(key, value.astype(np.float64))


def _together(tape: Session, read: Traced, kind: str, number: float) -> Any:
    """A key that is one for numbers that stay equal while they are when a call begins.

    Parameters that have made equally many steps are updated together.
    """
    array = read.value
    _, first = tape.equal.setdefault(id(array), (array, (kind, number)))
    if first == (kind, number):
        return first
    # Changed by the call itself: counts go on together, other numbers may not.
    return kind, number, first if kind == "steps" else id(array)


def equal_numbers(tape: Session) -> Callable[[], bool]:
    """Whether numbers of which one stands for others are as equal as in the recording."""
    groups: dict[Any, list[Array]] = {}
    for array, key in tape.equal.values():
        groups.setdefault(key, []).append(array)
    several = [group for group in groups.values() if len(group) > 1]
    return lambda: all(len({simple(a.item()) for a in group}) == 1 for group in several)


def updating(self: Any, lines: Any, numbers: Any) -> None:
    """An update of parameters as one map each."""
    tape, row = active.tape, STEPS[self.name]
    texts: dict[str, str] = {}
    for statement in row.statements:
        target, _, formula = statement.partition(" = ")
        texts[target] = f"({substitute(formula, texts)})"
    for line in lines:
        arrays = [t._array for t in line]
        shape, dtype = arrays[0].shape, arrays[0].dtype
        if any(a.dtype != dtype or a.shape != shape for a in arrays):
            tape.give_up(refusal("a gradient or state of another dtype or shape", "Cast it"))
            return _UPDATE(self, lines, tuple([float(plain(n)) for n in numbers]))
        given = [_as_scalar(tape, n, dtype) for n in numbers]
        written = {n: tape.lift(a) for n, a in zip(row.arrays, arrays) if n in texts}
        for array in written.values():
            tape.writable(array)
        with paused():
            real = tuple([wrap(plain(a)) for a in arrays])
            _UPDATE(self, [real], tuple([float(plain(n)) for n in given]))
        ins = tuple(broadcast(tape.lift(x).ref, shape) for x in (*arrays, *given))
        tape.emit(Map(
            tuple(a.ref for a in written.values()), ins, label=self.name,
            formulas=tuple(texts[n] for n in written), names=(*row.arrays, *row.numbers),
        ))  # fmt: skip
        changed(line[0])


def _as_scalar(tape: Any, number: Any, dtype: Any) -> Any:
    if isinstance(number, Tensor):
        number = number._array.reshape(())
    if type(number) is not Traced:
        return np.asarray(number, dtype)
    if (number, dtype) not in tape.casts:
        cast = perform(tape, method("astype"), (number, dtype), {"copy": False})
        tape.casts[number, dtype] = cast
    return tape.casts[number, dtype]
