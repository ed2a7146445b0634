"""Python numbers that differ from call to call, such as a learning rate that decays.

Where a program did not fit because a float or an int had changed, the next recording has a `Live`
in the number's place. Where what is computed with it meets tensors or Values, there is a number of
the program, which Python computes anew before each call; answers to questions about it must be the
same again. A number that is pinned is compared before each call, as other values are.
"""

import contextlib
import keyword
import math
import types
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .live import EXACT, KINDS, Live
from .usercode import is_library, names_of, parts_of
from .values import CLOSED, CONTAINERS, SIMPLE, walked

# Names that the text of `refresh` has for itself.
_TAKEN = {"abs", "bool", "exact", "kinds", "math", "pinned", "round", "types", "values",
          "constants", "written", "Exception"}  # fmt: skip


@dataclass(eq=False, slots=True)
class Leaf:
    """A number's place.

    place: what it is known by. text: an expression for the number. owner: the dict or the cell that
    it is in, or the object whose dict; a dict under a key. same: the text that compares it, with
    rows for the built-in function; "" for arguments, whose key does. name: its variable in
    expressions. wrote: the expression that the call has put there, if it did.
    """

    place: Any
    text: str
    value: Any
    owner: Any
    key: Any = None
    same: str = ""
    rows: list[list[int]] | None = None
    name: str = ""
    wrote: str = ""
    pinned: bool = False

    def get(self) -> Any:
        """What is there now; None if nothing."""
        if isinstance(self.owner, types.CellType):
            return self.owner.cell_contents if _filled(self.owner) else None
        return self._dict().get(self.key)

    def put(self, x: Any) -> None:
        """Put something there."""
        if isinstance(self.owner, types.CellType):
            self.owner.cell_contents = x
        else:
            self._dict()[self.key] = x

    def _dict(self) -> dict[Any, Any]:
        # An object may have got another one.
        return self.owner if type(self.owner) is dict else vars(self.owner)


def _filled(cell: types.CellType) -> bool:
    return cell != types.CellType()


class Numbers:
    """The live numbers of a recording.

    values: those that a program takes, by their texts; `refresh` computes them before a call.
    conditions: what comparisons gave, likewise. written: what is put into places after a call.
    """

    def __init__(self) -> None:
        self.tape: Any = None
        self.leaves: list[Leaf] = []
        self.values: dict[str, float] = {}
        # The types of these, on which the dtypes of results depend.
        self.types: list[type] = []
        self.conditions: dict[str, bool] = {}
        self.written: list[Any] = []
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
            # All are looked at first, as two names may lead to one place.
            found = [(leaf, live, leaf.get()) for leaf, live in there.items()]
            for leaf, live, now in found:
                if now is live:
                    leaf.put(leaf.value)
                elif type(now) is Live and now.numbers is self:
                    leaf.wrote = now.text
                    leaf.put(now.value)
                elif type(now) in KINDS:
                    leaf.wrote = self.constant(now)
                else:
                    # Something else has been written there, which would not be written again.
                    leaf.pinned = True
            if there:
                clear(owners.values())

    @property
    def writes(self) -> list[Leaf]:
        """The places that a call puts other numbers into."""
        return [leaf for leaf in self.leaves if leaf.wrote and not leaf.pinned]

    def write(self) -> None:
        """Put the numbers there that `refresh` has computed for it."""
        for leaf, x in zip(self.writes, self.written, strict=True):
            leaf.put(x)

    @contextlib.contextmanager
    def before(self) -> Iterator[None]:
        """Let numbers that the recorded call has written be as they were before, for a while."""
        there = [(leaf, leaf.get()) for leaf in self.writes]
        for leaf, _ in there:
            leaf.put(leaf.value)
        try:
            yield
        finally:
            for leaf, x in there:
                leaf.put(x)

    def key(self, live: "Live") -> str:
        """The key of a number among those that the program takes."""
        if live.text not in self.values:
            self.types.append(type(live.value))
            self.values[live.text] = float(live.value)
        return live.text

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
            "math": math, "values": self.values, "types": self.types, "exact": _exact,
            "constants": self._constants, "written": self.written,
            "pinned": [leaf.value for leaf in self.leaves],
            "kinds": [type(leaf.value) for leaf in self.leaves],
        }  # fmt: skip
        for k, leaf in enumerate(self.leaves):
            lines.append(f"        {leaf.name} = {f'pinned[{k}]' if leaf.pinned else leaf.text}")
            lines.append(f"        if {leaf.name}.__class__ is not kinds[{k}]: return False")
        lines += [f"        if bool({text}) is not {truth}: return False"
                  for text, truth in self.conditions.items()]  # fmt: skip
        for k, text in enumerate(self.values):
            lines.append(f"        values[{text!r}] = exact({text}, types[{k}])")
        lines.append(f"        written[:] = ({''.join(f'{leaf.wrote}, ' for leaf in self.writes)})")
        lines += ["    except Exception:", "        return False", "    return True"]
        own = scope | own
        exec("\n".join(lines), own)
        scope["refresh"] = own["refresh"]
        return "refresh()"


def _exact(x: Any, kind: Any) -> float:
    if type(x) is not kind:
        raise TypeError
    if isinstance(x, (int, np.integer)) and not -EXACT <= x <= EXACT:
        raise OverflowError
    return float(x)


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
