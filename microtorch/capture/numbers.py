"""Python numbers that differ from call to call, such as a learning rate that decays.

Where a program did not fit because a float or an int had changed, the next recording has a `Live`
in the number's place, which passes for it. Arithmetic on it gives further ones; where these meet
tensors or Values, they are numbers of the program, which Python computes anew before each call.
Whatever else wants to know the value (a comparison, an index, `math.exp`) pins it: then it is
compared before each call, as other values are.
"""

import contextlib
import functools
import keyword
import math
import operator
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels.operations import replaced
from ..kernels.standin import method
from .tape import active
from .usercode import is_library, names_of, parts_of
from .values import CLOSED, CONTAINERS, SIMPLE, walked

KINDS = (int, float, np.float64, np.float32, np.int64, np.int32)
# Integers beyond have no float64 of their own.
EXACT = 2**53
# Longer expressions would be of more parentheses than Python reads, and may double at each step.
LONGEST = 500
# Names that the text of `refresh` has for itself.
_TAKEN = {"abs", "exact", "values", "types", "kinds", "pinned", "constants", "Exception"}
# What looks for a number in a dict of arrays, and makes one where it finds none.
_LOOKING = "microtorch.functions.elementwise"


@dataclass(eq=False, slots=True)
class Leaf:
    """A number's place.

    place: what it is known by. text: an expression for the number. owner: the dict or the cell that
    it is in, a dict under a key. same: the text that compares it, with rows for the built-in
    function; "" for arguments, whose key does. name: its variable in expressions.
    """

    place: Any
    text: str
    value: Any
    owner: Any
    key: Any = None
    same: str = ""
    rows: list[list[int]] | None = None
    name: str = ""
    pinned: bool = False

    def get(self) -> Any:
        """What is there now; None if nothing."""
        if not isinstance(self.owner, types.CellType):
            return self.owner.get(self.key)
        return self.owner.cell_contents if _filled(self.owner) else None

    def put(self, x: Any) -> None:
        """Put something there."""
        if isinstance(self.owner, types.CellType):
            self.owner.cell_contents = x
        else:
            self.owner[self.key] = x


def _filled(cell: types.CellType) -> bool:
    return cell != types.CellType()


class Numbers:
    """The live numbers of a recording.

    values: those that a program takes, by their texts; `refresh` computes them before a call.
    """

    def __init__(self) -> None:
        self.tape: Any = None
        self.leaves: list[Leaf] = []
        self.values: dict[str, float] = {}
        # The types of these, on which the dtypes of results depend.
        self.types: list[type] = []
        self._constants: list[Any] = []

    def add(self, label: str, leaf: Leaf) -> None:
        """Note a place, whose number the user calls by a label."""
        known = label.isidentifier() and not keyword.iskeyword(label)
        leaf.name = label if known else "number"
        while leaf.name in _TAKEN or any(leaf.name == other.name for other in self.leaves):
            leaf.name += "_"
        self.leaves.append(leaf)

    @contextlib.contextmanager
    def standing(self, owners: dict[str, Any]) -> Iterator[None]:
        """Let all stand in their places, and remain in no owner in the end."""
        there = {leaf: Live(self, leaf.value, leaf.name, (leaf,)) for leaf in self.leaves}
        try:
            for leaf, live in there.items():
                leaf.put(live)
            yield
        except Exception as error:
            error.args = plain_result(error.args)
            raise
        finally:
            for leaf, live in there.items():
                if leaf.get() is live:
                    leaf.put(leaf.value)
                else:
                    # What has been written there would not be written again.
                    leaf.pinned = True
            if there:
                clear(owners.values())

    def key(self, live: "Live") -> str:
        """The key of a number among those that the program takes."""
        if live.text not in self.values:
            self.types.append(type(live.value))
            self.values[live.text] = float(live.value)
        return live.text

    def array(self, live: "Live", dtype: Any) -> Any:
        """The number as a recorded array of no dims."""
        number = self.tape.number(self.values, self.key(live))
        number.ref.storage.name = "of_" * (len(live.text) > len(live.leaves[0].name)) + (
            live.leaves[0].name)  # fmt: skip
        made = (live.text, dtype)
        if made not in self.tape.casts:
            self.tape.casts[made] = self.tape.attempt(method("astype"), (number, dtype), {})
        return self.tape.casts[made]

    def constant(self, x: Any) -> str:
        """A number that is no live one, in an expression."""
        if type(x) in (int, float) and abs(x) < np.inf:
            return repr(x) if x >= 0 and repr(x)[0] != "-" else f"({x!r})"
        self._constants.append(x)
        return f"constants[{len(self._constants) - 1}]"

    def refresh(self, scope: dict[str, Any]) -> str:
        """The text that computes all numbers that the program takes, and says whether it could."""
        lines = ["def refresh():", "    try:"]
        own = {
            "values": self.values, "types": self.types, "exact": _exact,
            "constants": self._constants,
            "pinned": [leaf.value for leaf in self.leaves],
            "kinds": [type(leaf.value) for leaf in self.leaves],
        }  # fmt: skip
        for k, leaf in enumerate(self.leaves):
            lines.append(f"        {leaf.name} = {f'pinned[{k}]' if leaf.pinned else leaf.text}")
            lines.append(f"        if {leaf.name}.__class__ is not kinds[{k}]: return False")
        for k, text in enumerate(self.values):
            lines.append(f"        values[{text!r}] = exact({text}, types[{k}])")
        lines += ["    except Exception:", "        return False", "    return True"]
        own = scope | own
        exec("\n".join(lines), own)
        scope["refresh"] = own["refresh"]
        return "refresh()"


def _exact(x: Any, kind: type) -> float:
    same = type(x) is kind
    if not same:
        raise TypeError
    if isinstance(x, (int, np.integer)) and not -EXACT <= x <= EXACT:
        raise OverflowError
    return float(x)


class Live:
    """A number that differs from call to call, as it is in the recorded one.

    text: an expression for it over the names of `leaves`.
    """

    __slots__ = ("leaves", "numbers", "text", "value")

    def __init__(self, numbers: Numbers, value: Any, text: str, leaves: tuple[Leaf, ...]) -> None:
        self.numbers, self.value, self.text, self.leaves = numbers, value, text, leaves

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.value)

    def read(self) -> Any:
        """The value, on which what the program does depends from now on."""
        for leaf in self.leaves:
            leaf.pinned = True
        return self.value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.read(), name)

    def __hash__(self) -> int:
        looking = sys._getframe(1).f_globals.get("__name__") == _LOOKING
        return id(self) if looking else hash(self.read())

    def __copy__(self) -> "Live":
        return self

    def __deepcopy__(self, memo: Any) -> "Live":
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.read().__reduce_ex__(protocol)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self.read(), dtype)

    def __array_ufunc__(self, ufunc: Any, how: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, how)(*map(plain_number, inputs), **options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return function(*replaced(args, plain_number), **replaced(options, plain_number))


def plain_number(x: Any) -> Any:
    """What a live number is; anything else as it is."""
    return x.read() if type(x) is Live else x


def plain_result(value: Any) -> Any:
    """What a call returns, without live numbers in it; containers that can be changed are."""
    clear((value,))
    return _plain(value)


def _plain(value: Any) -> Any:
    """The same without live numbers in what cannot be changed: tuples of all kinds."""
    if type(value) is Live:
        return value.read()
    if isinstance(value, (tuple, frozenset)):
        parts = [_plain(x) for x in value]
        if any(x is not y for x, y in zip(parts, value, strict=True)):
            base: Any = tuple if isinstance(value, tuple) else frozenset
            return base.__new__(type(value), parts)
    return value


def _inside(value: Any) -> Iterable[Any]:
    """What may hold live numbers and lies in a container, or in an object of the user's."""
    if isinstance(value, CONTAINERS):
        return (x for x in parts_of(value) if not isinstance(x, SIMPLE))
    return _attributes(value) if not is_library(None, type(value).__module__) else ()


def _attributes(value: Any) -> tuple[Any, ...]:
    """The dict of an object's attributes, if it has one."""
    held = getattr(value, "__dict__", None)
    return (held,) if type(held) is dict else ()


def clear(owners: Iterable[Any]) -> None:
    """Put numbers, which count as read, into the places of live ones in all that owners hold."""
    roots = [*owners]
    roots += [held for owner in roots for held in _attributes(owner)]
    for owner in walked(roots, _inside).values():
        if isinstance(owner, dict):
            pairs = {_plain(k): _plain(x) for k, x in owner.items()}
            if any(k is not own for k, own in zip(pairs, list(owner), strict=True)):
                owner.clear()
            owner.update((k, x) for k, x in pairs.items() if owner.get(k) is not x)
        elif isinstance(owner, (list, deque)):
            for k, x in enumerate(owner):
                if (plain := _plain(x)) is not x:
                    owner[k] = plain
        elif isinstance(owner, set):
            found = [x for x in owner if _plain(x) is not x]
            owner.difference_update(found)
            owner.update(map(_plain, found))
        else:
            held = vars(owner) if isinstance(owner, type) else owner
            for name in _names(owner):
                x = held[name] if held is not owner else getattr(owner, name, None)
                if (plain := _plain(x)) is not x:
                    setattr(owner, name, plain)


def _names(owner: Any) -> Iterable[str]:
    """Where objects may have live numbers but in their dicts."""
    if isinstance(owner, types.CellType):
        return ("cell_contents",) if _filled(owner) else ()
    if isinstance(owner, types.FunctionType):
        return "__defaults__", "__kwdefaults__"
    if isinstance(owner, type):
        return list(vars(owner))
    slots = not (isinstance(owner, CLOSED) or is_library(None, type(owner).__module__))
    return names_of(owner) - getattr(owner, "__dict__", {}).keys() if slots else ()


def _made(numbers: Numbers, function: Any, form: str, *operands: Any) -> Any:
    """What an operation gives, as an expression where it is a number that a program can take."""
    found = function(*[x.value if type(x) is Live else x for x in operands])
    lives = [x for x in operands if type(x) is Live]
    recorded = numbers.tape is not None and active.tape is numbers.tape
    same = all(x.numbers is numbers for x in lives)
    text = form.format(*[x.text if type(x) is Live else numbers.constant(x) for x in operands])
    known = type(found) in KINDS and not abs(found) > EXACT and len(text) <= LONGEST
    if not (recorded and same and known):
        for x in lives:
            x.read()
        return found
    leaves = dict.fromkeys(leaf for x in lives for leaf in x.leaves)
    return Live(numbers, found, text, tuple(leaves))


def _binary(name: str, sign: str) -> None:
    function = getattr(operator, name)

    def forward(self: Live, other: Any) -> Any:
        if type(other) is Live or type(other) in (*KINDS, bool):
            return _made(self.numbers, function, f"({{}} {sign} {{}})", self, other)
        known = isinstance(other, (np.generic, np.ndarray, complex))
        return function(self.read(), other) if known else NotImplemented

    def reflected(self: Live, other: Any) -> Any:
        if type(other) in (*KINDS, bool):
            return _made(self.numbers, function, f"({{}} {sign} {{}})", other, self)
        known = isinstance(other, (np.generic, np.ndarray, complex))
        return function(other, self.read()) if known else NotImplemented

    setattr(Live, f"__{name}__", forward)
    setattr(Live, f"__r{name}__", reflected)


def _unary(name: str, form: str) -> None:
    function = getattr(operator, name)
    setattr(Live, f"__{name}__", lambda self: _made(self.numbers, function, form, self))


def _pinning(name: str, function: Callable[..., Any]) -> None:
    def read(self: Live, *others: Any) -> Any:
        return function(self.read(), *map(plain_number, others))

    setattr(Live, f"__{name}__", read)


def _swapped(function: Callable[..., Any], y: Any, x: Any) -> Any:
    return function(x, y)


for _name, _sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("truediv", "/"),
                     ("floordiv", "//"), ("mod", "%"), ("pow", "**")):  # fmt: skip
    _binary(_name, _sign)
for _name, _form in (("neg", "(-{})"), ("pos", "(+{})"), ("abs", "abs({})")):
    _unary(_name, _form)
for _function in (bool, float, int, complex, round, format, str, repr, divmod,
                  math.trunc, math.floor, math.ceil):  # fmt: skip
    _pinning(_function.__name__, _function)
for _name in "index eq ne lt le gt ge invert".split():
    _pinning(_name, getattr(operator, f"__{_name}__"))
for _name in "lshift rshift and or xor".split():
    _pinning(_name, getattr(operator, f"__{_name}__"))
    _pinning(f"r{_name}", functools.partial(_swapped, getattr(operator, f"__{_name}__")))
_pinning("rdivmod", functools.partial(_swapped, divmod))
