"""Functions of Values: scalar operations noted as a list, run again by one compiled walker.

While a function is recorded, `Value.data` and `Value.grad` give a `Number`, which knows no value:
it only notes what is done with it. Values of the caller get their numbers back, and all that the
function does to them is done by the program, at the first call too.

Operations that do not wait for each other stand side by side: sorted by how many operations come
before them in a chain, then by formula, they are runs of one formula over many operands. The
walker, made of the formulas that occur, is a loop over runs; each has a tight loop of its own.
"""

import functools
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..graph.node import next_seq
from ..kernels import jit, text
from ..table import Row, names_in
from ..value import ScalarOp, Value
from .live import Live, plain_number
from .numbers import Numbers
from .tape import CaptureError, active, place, refusal

_SLOTS = {name: Value.__dict__[name] for name in ("data", "grad")}


class Formula(NamedTuple):
    """A formula over numbers, and their names in it."""

    text: str
    names: tuple[str, ...]


class NumberRead(CaptureError, ValueError):
    """A number is looked at; rows that do so are noted as a whole instead."""


class Number:
    """What is known of a number while a function is recorded: its place in the list."""

    __slots__ = ("index", "scalars")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, scalars: "Scalars", index: int) -> None:
        self.scalars = scalars
        self.index = index

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return float

    def _read(self, *_: Any) -> Any:
        error = NumberRead(
            f"{place(True)}: a number of a Value is read in Python inside a compiled function, "
            "which the compiled program could not do again. Return it and read it after the call, "
            'use relu, maximum and the like for choices, or compile with fallback="eager".'
        )
        module = sys._getframe(1).f_globals.get("__name__")
        if module is not None and not module.startswith(("microtorch.", "numpy.")):
            # The user's code may not go on as if nothing had been asked.
            self.scalars.failure = self.scalars.failure or error
        raise error

    def __neg__(self) -> Any:
        return self.scalars.note(_NEGATED, (self,))

    def __abs__(self) -> Any:
        return self.scalars.note(_ABSOLUTE, (self,))

    __round__ = __floor__ = __ceil__ = __trunc__ = __mod__ = __rmod__ = __floordiv__ = _read
    __bool__ = __float__ = __int__ = __index__ = __format__ = __str__ = __repr__ = _read
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _read

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """NumPy's numbers come here: 2 * x, say."""
        if ufunc.__name__ not in _OPERATORS or method != "__call__" or options:
            self._read()
        return self.scalars.note(_OPERATORS[ufunc.__name__], inputs)


def _operators(formula: Formula) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forward(self: Number, other: Any) -> Any:
        if type(other) is not Number and not isinstance(other, (int, float, np.generic)):
            return NotImplemented
        return self.scalars.note(formula, (self, other))

    def reflected(self: Number, other: Any) -> Any:
        if not isinstance(other, (int, float, np.generic)):
            return NotImplemented
        return self.scalars.note(formula, (other, self))

    return forward, reflected


_NEGATED, _ABSOLUTE = Formula("-x", ("x",)), Formula("fabs(x)", ("x",))
_OPERATORS = {name: Formula(f, ("x", "y")) for name, f in (
    ("add", "x + y"), ("subtract", "x - y"), ("multiply", "x * y"), ("divide", "x / y"),
    ("power", "pow(x, y)"))}  # fmt: skip
_SUM = _OPERATORS["add"]
for _name, _formula in zip("add sub mul truediv pow".split(), _OPERATORS.values(), strict=True):
    _forward, _reflected = _operators(_formula)
    setattr(Number, f"__{_name}__", _forward)
    setattr(Number, f"__r{_name}__", _reflected)


class Scalars:
    """A list of scalar operations: number k is made from the numbers of its operands."""

    def __init__(self, numbers: Numbers) -> None:
        # Formula and operands of each number; an input or a constant has none.
        self.formulas: list[Formula | None] = []
        self.operands: list[tuple[int, ...]] = []
        self.constants: dict[tuple[float, float], int] = {}
        # Numbers that Python computes before each call, by their keys.
        self.numbers = numbers.values
        self.taken: dict[str, int] = {}
        # (id of Value, slot) -> (Value, slot, number at entry, what the slot held).
        self.inputs: dict[tuple[int, str], tuple[Value, str, int, float]] = {}
        self.start = next_seq()
        self.closed = False
        # Why this cannot be a program, should the function have caught the error.
        self.failure: NumberRead | None = None

    def note(self, formula: Formula, operands: Any) -> Any:
        """The result of a formula.

        Raises:
            CaptureError: after the call.
        """
        if self.closed:
            raise CaptureError("a Value made in a compiled function is used outside: return it")
        if formula == _SUM:
            # Gradients begin at 0.
            x, y = operands
            if type(x) not in (Number, Live) and x == 0:
                return y
            if type(y) not in (Number, Live) and y == 0:
                return x
        return Number(self, self._enter(formula, tuple([self.place(x) for x in operands])))

    def _enter(self, formula: Formula | None = None, operands: tuple[int, ...] = ()) -> int:
        self.formulas.append(formula)
        self.operands.append(operands)
        return len(self.formulas) - 1

    def place(self, x: Any) -> int:
        """The place of an operand."""
        if type(x) is Number:
            if x.scalars is not self:
                raise CaptureError("a Value made in another compiled call is used; return it there")
            return x.index  # type: ignore[no-any-return]
        if type(x) is Live and x.numbers.values is self.numbers:
            text = x.numbers.key(x)
            if text not in self.taken:
                self.taken[text] = self._enter()
            return self.taken[text]
        x = float(x)
        # 0 and -0 are equal, but not the same.
        key = (x, math.copysign(1, x))
        if key not in self.constants:
            self.constants[key] = self._enter()
        return self.constants[key]

    # --------------------------------------------------------------- Values while recording
    def read(self, v: Value, name: str) -> Any:
        """A slot of a Value; those of the caller's Values are inputs."""
        held = _SLOTS[name].__get__(v)
        if v.seq < self.start or type(held) is Number or (id(v), name) in self.inputs:
            return held
        number = Number(self, self._enter())
        self.inputs[id(v), name] = (v, name, number.index, held)
        _SLOTS[name].__set__(v, number)
        return number

    def write(self, v: Value, name: str, x: Any) -> None:
        """Set a slot of a Value."""
        # A Value that is being made has no number yet, and no `seq`.
        if getattr(v, "seq", -math.inf) >= self.start:
            self.read(v, name)
        _SLOTS[name].__set__(v, self.number(x))

    def number(self, x: Any) -> Any:
        """What stands for a number: a recorded or live one as it is recorded."""
        return Number(self, self.place(x)) if type(x) in (Number, Live) else float(x)

    def restore(self) -> None:
        """Give the caller's Values their numbers back, at the end."""
        if self.closed:
            return
        self.closed = True
        for v, name, _, held in self.inputs.values():
            _SLOTS[name].__set__(v, held)

    @property
    def used(self) -> bool:
        """Whether the function did anything with Values."""
        return bool(self.inputs or self.formulas)

    # ------------------------------------------------------------------------- afterwards
    def program(self, result: Any) -> "ScalarProgram":
        """What does all that the function did, and gives its result; while it is recorded."""
        wanted: list[int] = []
        targets: dict[str, list[Value]] = {name: [] for name in _SLOTS}
        for slot, values in targets.items():
            for v, name, index, _ in self.inputs.values():
                if name == slot and (place := self.place(_SLOTS[name].__get__(v))) != index:
                    values.append(v)
                    wanted.append(place)
        structure = self._structure(result, wanted, {})
        return ScalarProgram(self, targets, wanted, structure)

    def _structure(
        self, result: Any, wanted: list[int], made: dict[int, int]
    ) -> Callable[[list[Any]], Any]:
        """A function from the wanted numbers, and the Values of results, to what the call returns.

        made: the place of each Value's two numbers, by its id; one Value is one object.
        """
        if isinstance(result, Value) and result.seq < self.start:
            if id(result) not in made:
                made[id(result)] = len(wanted)
                wanted += [self.place(_SLOTS[name].__get__(result)) for name in ("data", "grad")]
            at = made[id(result)]
            return lambda found: _result(found, at)
        if type(result) is Number:
            last = len(wanted)
            wanted.append(result.index)
            return lambda found: found[last]
        kind = type(result)
        if kind in (tuple, list) or (isinstance(result, tuple) and hasattr(kind, "_make")):
            parts = [self._structure(r, wanted, made) for r in result]
            join = getattr(kind, "_make", kind)
            return lambda found: join([p(found) for p in parts])
        if kind is dict:
            items = {k: self._structure(v, wanted, made) for k, v in result.items()}
            return lambda found: {k: p(found) for k, p in items.items()}
        if result is None or isinstance(result, (bool, int, float, str, Value)):
            result = plain_number(result)
            return lambda found: result
        raise refusal(
            f"an object of type {kind.__name__} is returned", "Return tuples, lists or dicts"
        )


class _Finished:
    """The op of a Value that a program gives."""

    symbol = "compiled"
    saves_result = False

    def push(self, node: Value) -> None:
        """Refused: the graph is in the program.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "backward() of a Value that a compiled function returned: call it inside the function"
        )

    backward = differentiate = gradients = push


_FINISHED = _Finished()


def _result(found: list[Any], at: int) -> Value:
    """The Value of two numbers, made once a call."""
    if type(found[at]) is not Value:
        made, made_grad = Value(found[at]), found[at + 1]
        made.grad, made.op = made_grad, _FINISHED
        found[at] = made
    return found[at]  # type: ignore[no-any-return]


class ScalarProgram:
    """The operations of a recorded call in the order in which the walker does them."""

    def __init__(
        self,
        scalars: Scalars,
        targets: dict[str, list[Value]],
        wanted: list[int],
        structure: Callable[[list[float]], Any],
    ) -> None:
        operands, needed = scalars.operands, set(wanted)
        for k in reversed(range(len(operands))):
            if k in needed:
                needed.update(operands[k])
        formulas: dict[Formula, int] = {}
        depth = [0] * len(operands)
        # What is made by one formula after equally many others in a chain.
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for k, formula in enumerate(scalars.formulas):
            if formula is not None and k in needed:
                depth[k] = 1 + max([depth[j] for j in operands[k]], default=0)
                groups[depth[k], formulas.setdefault(formula, len(formulas))].append(k)
        inputs = {
            slot: [
                (v, k) for v, name, k, _ in scalars.inputs.values() if name == slot and k in needed
            ]
            for slot in _SLOTS
        }
        taken = {key: k for key, k in scalars.taken.items() if k in needed}
        # Places: inputs, constants, then results in the order in which they are made.
        order = [k for of_slot in inputs.values() for _, k in of_slot] + [*taken.values()]
        count = len(order)
        places = {k: at for at, k in enumerate([*order, *scalars.constants.values()])}
        runs: list[tuple[int, int, int, int]] = []
        columns: list[int] = []
        for (_, number), group in sorted(groups.items()):
            runs.append((number, len(group), len(columns), len(places)))
            for column in zip(*[operands[k] for k in group], strict=True):
                columns += [places[j] for j in column]
            places.update(zip(group, itertools.count(len(places))))
        self.reads = {slot: [v for v, _ in of_slot] for slot, of_slot in inputs.items()}
        self.writes = targets
        self.numbers, self.taken = scalars.numbers, [*taken]
        self.structure = structure
        self.registers = np.zeros(len(places))
        self.registers[count : count + len(scalars.constants)] = [x for x, _ in scalars.constants]
        self.inputs = self.registers[:count]
        self.outputs = np.array([places[k] for k in wanted], np.int64)
        self.source = walker(list(formulas))
        walk = jit.function("walk", self.source, "void(i64,i64,i64,i64)")
        self._formulas = [(f, sum(n for k, n, *_ in runs if k == number))
                          for (f, _), number in formulas.items()]  # fmt: skip
        self._kept = np.array(runs, np.int64).reshape(-1, 4), np.array(columns, np.int32)
        tables = [x.ctypes.data for x in (self.registers, *self._kept)]
        self.walk = lambda: walk(tables[0], tables[1], len(runs), tables[2])

    def explain(self) -> str:
        """A table of the formulas, and for how many operands each is done."""
        lines = [f"{'formula':60} {'operations':>11}"]
        lines += [f"{formula[:60]:60} {count:11,}" for formula, count in self._formulas]
        return "\n".join([*lines, f"{len(self._kept[0])} runs of one formula"])

    def run(self) -> Any:
        """One call: the caller's Values are read first, and written at the end."""
        reads, writes = self.reads, self.writes
        self.inputs[:] = [*(v.data for v in reads["data"]), *(v.grad for v in reads["grad"]),
                          *(self.numbers[key] for key in self.taken)]  # fmt: skip
        self.walk()
        found = self.registers[self.outputs].tolist()
        for v, x in zip(writes["data"], found, strict=False):
            v.data = x
        for v, x in zip(writes["grad"], found[len(writes["data"]) :], strict=False):
            v.grad = x
        return self.structure(found)


def walker(formulas: list[Formula]) -> str:
    """The text of a loop over runs: number of the formula, operations, operands, first result."""
    lines = ["def walk(registers, runs, count, operands):", "    r = f64_at(registers)",
             "    t = i64_at(runs)", "    for k in range(count):", "        op = t[4 * k]",
             "        n = t[4 * k + 1]", "        p = i32_at(operands + 4 * t[4 * k + 2])",
             "        z = f64_at(registers + 8 * t[4 * k + 3])"]  # fmt: skip
    functions = []
    for number, (formula, names) in enumerate(formulas):
        functions.append(text.function(f"f{number}", names, formula))
        at = ", ".join(f"r[p[{k} * n + i]]" for k in range(len(names)))
        lines += [f"        {'elif' if number else 'if'} op == {number}:",
                  "            for i in range(n):",
                  f"                z[i] = f{number}({at})"]  # fmt: skip
    head = text.prologue("float64", [formula for formula, _ in formulas])
    return head + "".join(functions) + "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------- hooks
def _recorded() -> Scalars | None:
    return getattr(active.tape, "scalars", None)


class _Slot:
    """`Value.data` or `Value.grad` while some thread records."""

    def __init__(self, name: str) -> None:
        self.name, self.slot = name, _SLOTS[name]

    def __get__(self, v: Any, owner: Any = None) -> Any:
        held = self.slot.__get__(v)
        if type(held) is Number:
            return held
        scalars = _recorded()
        return scalars.read(v, self.name) if scalars else held

    def __set__(self, v: Any, x: Any) -> None:
        scalars = _recorded()
        if scalars:
            scalars.write(v, self.name, x)
        else:
            self.slot.__set__(v, x)


def _exactly(self: ScalarOp, *operands: Any) -> Any:
    """A row whose formula asks for the numbers, as one operation."""
    scalars = _recorded()
    if scalars is None or not any(type(x) is Number for x in operands):
        return EXACTLY(self, *operands)
    return scalars.note(Formula(self.row.formula, self.row.operands), operands)


def _gradients(self: ScalarOp, g: Any, node: Value) -> Any:
    """The same for its derivatives."""
    scalars = _recorded()
    if scalars is None:
        return GRADIENTS(self, g, node)
    operands = (*(p.data for p in node.parents), *node.numbers, node.data, g)
    values = dict(zip((*self.row.operands, "z", "g"), operands, strict=True))
    return [
        scalars.note(formula, [values[n] for n in formula.names])
        for formula in _derivatives(self.row)[: len(node.parents)]
    ]


@functools.cache
def _derivatives(row: Row) -> list[Formula]:
    """What a row's inputs get of a gradient."""
    texts = map(text.chain, row.derivatives or ())
    names = (*row.operands, "z", "g")
    return [Formula(t, tuple(n for n in names if n in names_in(t))) for t in texts]


def _init(self: Value, data: Any, *rest: Any, **label: Any) -> None:
    scalars = _recorded()
    if type(data) is not Number and (scalars is None or type(data) is not Live):
        return INIT(self, data, *rest, **label)
    INIT(self, 0.0, *rest, **label)
    _SLOTS["data"].__set__(self, scalars.number(data) if scalars else data)


EXACTLY, GRADIENTS, INIT = ScalarOp.exactly, ScalarOp.gradients, Value.__init__
HOOKS: list[tuple[Any, str, Any]] = [
    *((Value, name, _Slot(name)) for name in _SLOTS), (Value, "__init__", _init),
    (ScalarOp, "exactly", _exactly), (ScalarOp, "gradients", _gradients),
]  # fmt: skip
