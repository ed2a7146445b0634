"""Optimizers while a call is recorded: an update is one map a parameter."""

import functools
from typing import Any

import numpy as np

from ..table import STEPS
from ..tensor import Tensor, changed
from .replay import plain
from .session import ARRAY, Session, paused
from .tape import active, refusal, substitute
from .traced import Traced


class Options(dict[str, Any]):
    """A parameter group, whose numbers are read again at every call; all else is guarded."""

    def __init__(self, tape: Session, group: dict[str, Any]) -> None:
        super().__init__(group)
        self.tape = tape
        self.group = group

    def __getitem__(self, name: str) -> Any:
        value, group = super().__getitem__(name), self.group
        if name == "params":
            return value
        if type(value) in (int, float):
            return self.tape.number(group, f"[{name!r}]")
        if type(value) is tuple and all(type(v) in (int, float) for v in value):
            return tuple(self.tape.number(group, f"[{name!r}][{k}]") for k in range(len(value)))
        if not isinstance(value, Tensor):
            self.tape.guards.note(f"an optimizer's {name}", group, f"[{name!r}]")
        return value


def stepping(method: Any) -> Any:
    """`Optimizer.step`, with numbers that are read again at every call."""

    @functools.wraps(method)
    def step(self: Any, closure: Any = None) -> Any:
        tape: Any = active.tape
        if tape is None:
            return method(self, closure)
        tape.optimizers[id(self)] = self
        groups, self.param_groups = self.param_groups, [Options(tape, g) for g in self.param_groups]
        try:
            return method(self, closure)
        finally:
            self.param_groups = groups

    return step


def counting(function: Any) -> Any:
    """`Optimizer.steps_made`, as a part of the recording."""

    def steps_made(count: Any) -> Any:
        tape: Any = active.tape
        if tape is None:
            return function(count)
        number = plain(count).item()
        if type(count) is not Traced or count.ref.storage.kind == "constant":
            return number + 1
        # Parameters that have made equally many steps go together.
        key = ("steps", number)
        if key not in tape.casts:
            tape.casts[key] = count.astype(np.float64) + 1
        return tape.casts[key]

    return staticmethod(steps_made)


def updating(method: Any) -> Any:
    """An update of parameters as one map each."""

    @functools.wraps(method)
    def update(self: Any, lines: Any, numbers: Any) -> None:
        tape: Any = active.tape
        if tape is None:
            method(self, lines, numbers)
            return
        row = STEPS[self.name]
        for line in lines:
            arrays = [t._array for t in line]
            dtype = arrays[0].dtype
            if any(a.dtype != dtype or a.shape != arrays[0].shape for a in arrays):
                tape.give_up(refusal("a gradient or state of another dtype or shape", "Cast it"))
                return method(self, lines, [float(plain(n)) for n in numbers])
            given = [_as_scalar(tape, n, dtype) for n in numbers]
            texts: dict[str, str] = {}
            for line_text in row.statements:
                target, _, formula = line_text.partition(" = ")
                texts[target] = f"({substitute(formula, texts)})"
            written = [k for k, n in enumerate(row.arrays) if n in texts]
            ins = [tape.lift(x) for x in (*arrays, *given)]
            outs = [arrays[k] for k in written]
            for o in outs:
                tape.writable(o)
            with paused():
                method(self, [tuple(_plain_tensor(a) for a in arrays)], [plain(n) for n in given])
            formulas = tuple(texts[row.arrays[k]][1:-1] for k in written)
            tape.map(outs, ins, formulas, (*row.arrays, *row.numbers), self.name)
            changed(line[0])

    return update


def _as_scalar(tape: Any, number: Any, dtype: Any) -> Any:
    if isinstance(number, Tensor):
        number = number._array.reshape(())
    if type(number) is not Traced:
        return np.asarray(number, dtype)
    key = (number, dtype)
    if key not in tape.casts:
        tape.casts[key] = number.astype(dtype, copy=False)
    return tape.casts[key]


def _plain_tensor(a: Any) -> Tensor:
    made = object.__new__(Tensor)
    ARRAY.__set__(made, a.value)
    made._node = None
    return made
