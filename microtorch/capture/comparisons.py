"""Comparisons of Python values with what they are now: texts for Python, rows for machine code."""

import array
import ast
import operator
import os
import re
import types
from collections import UserList
from collections.abc import Iterable, Mapping, Set, ValuesView
from contextvars import ContextVar
from typing import Any

from ..kernels import objects
from ..nn.module import Module
from .live import EXACT, KINDS
from .numbers import Leaf, Numbers
from .tape import recorders
from .values import CTYPES, equal, frozen, module_state, simple

# Containers of no more than so many parts are compared part by part.
_FEW = 8
# The same for the built-in function.
_MANY = 64


class Comparisons:
    """What is compared before a later call.

    texts: each an expression over the names in `scope`. rows: the same for the built-in function.
    rest: the texts that have no such form. kinds: classes of the library's, for whose versions rows
    stand, each with the rows that do where there is no version.
    """

    def __init__(self, live: Set[Any] = frozenset()) -> None:
        # The ids of dicts that numbers are in which are to be live: others would not do instead.
        self._apart = {owner for owner, _ in (at for at in live if type(at) is tuple)}
        self.scope: dict[str, Any] = {"frozen": self.frozen, "equal": equal, "same": operator.is_,
                                      "recorders": recorders}  # fmt: skip
        self.texts: list[str] = []
        self.rows: list[list[int]] = []
        self.rest: list[str] = []
        self.kinds: dict[type, list[list[int]]] = {}
        # The numbers that were found, by their places; those of which are to be live, and those
        # that are.
        self.numbers: dict[Any, Leaf] = {}
        self._wanted, self.live = live, Numbers()
        # For each module the names of its live numbers, and what it is without them.
        self.modules: dict[Module, tuple[set[str], Any]] = {}
        # What was noted, in words and with the text that compares it.
        self.places: dict[Any, tuple[str, str]] = {}

    def name(self, value: Any) -> str:
        """The name of an object, which is held."""
        name = f"v{id(value)}"
        self.scope[name] = value
        return name

    def add(self, text: str, *values: Any, rows: list[list[int]] | None = None) -> str:
        """Add a comparison of objects; `rows` say the same, or less that is enough."""
        return self.compare(self.text(text, *values), rows)

    def compare(self, text: str, rows: list[list[int]] | None) -> str:
        """Add a comparison, given as text; `rows` as in `add`."""
        self.texts.append(text)
        self.rest += [text] if rows is None else []
        self.rows += rows or []
        return text

    def text(self, text: str, *values: Any) -> str:
        """A text with the names of objects in it."""
        return text.format(*map(self.name, values))

    def frozen(self, value: Any, depth: int = 8) -> Any:
        """A value as it is now, but for the numbers of dicts in it that may be live."""
        return frozen(value, depth, self._apart)

    def dict_row(self, owner: Any) -> list[int] | None:
        """The comparison that an object has the dict that it has now, which is held."""
        self.name(vars(owner))
        return objects.dict_row(owner)

    def rows_of(self, owner: Any, text: str, value: Any) -> list[list[int]] | None:
        """Comparisons of an object followed by a text; the dict that they look into is held."""
        rows = objects.rows(owner, text, value)
        if rows and len(rows) > 1:
            self.name(vars(owner))
        return rows

    def contents(self, value: Any, live: Set[str] = frozenset()) -> str:
        """A comparison of what a container contains; containers in it are compared apart.

        live: keys of a small dict whose values are not compared.
        """
        me, size = self.name(value), len(value)
        keys, fixed = list(value), dict.fromkeys(live, 0)
        if type(value) is list and size <= _FEW:
            places = [f"{me}[{k}]" for k in range(size)]
            same = " and ".join([f"len({me}) == {size}", *map(self._is, places, value)])
        elif few(value):
            parts = (self._is(f"{me}[{k!r}]", v) for k, v in value.items() if k not in live)
            same = " and ".join([f"[*{me}] == {self.name(keys)}", *parts])
        else:
            same = f"len({me}) == {size} and all(map(same, {me}, {self.name(keys)}))"
            if isinstance(value, dict):
                same += f" and all(map(same, {me}.values(), {self.name(list(value.values()))}))"
        now = f"{{**{me}, **{fixed}}}" if live else me
        was = self.frozen({**value, **fixed} if live else value)
        return f"({same} or frozen({now}) == {self.name(was)})"

    def contents_of(self, value: Any) -> Iterable[Any] | None:
        """Compare what an object of Python's own contains, which is given; None if nothing."""
        if isinstance(value, (bytearray, memoryview, array.array, *CTYPES)):
            self.add("bytes({}) == {}", value, bytes(value))
            return ()
        if isinstance(value, os._Environ):
            data = vars(value)["_data"]
            self.places[id(value), ""] = "os.environ", self.add("{} == {}", data, dict(data))
            return ()
        if isinstance(value, ContextVar):
            self.add("frozen({}.get(None)) == {}", value, self.frozen(value.get(None)))
            return (value.get(None),)
        if isinstance(value, Mapping):
            self.add("frozen(dict({})) == {}", value, self.frozen(dict(value)))
            return value.values()
        if isinstance(value, (UserList, ValuesView, Set)):
            self.add("frozen(list({})) == {}", value, self.frozen(list(value)))
            return value
        return None

    def all_of(self, variables: dict[str, Any]) -> None:
        """Compare all globals, for code that may read any: what they contain by identity."""
        if (id(variables), "") not in self.places:
            text = self.add("frozen({}, 2) == {}", variables, self.frozen(variables, 2))
            self.places[id(variables), ""] = "a global", text

    def _is(self, place: str, value: Any) -> str:
        return f"{place} is {self.name(value)}"

    def lacks(self, words: str, owner: dict[str, Any], *names: str, later: bool = True) -> None:
        """Note that names are not there; and, before later calls, compare."""
        if names and (id(owner), names) not in self.places:
            text = "{1}.isdisjoint({0})" if len(names) > 1 else f"{names[0]!r} not in {{0}}"
            text = self.text(text, owner, frozenset(names))
            self.places[id(owner), names] = words, text
            if later:
                rows = [objects.item(owner, name) for name in names] if len(names) <= _FEW else None
                self.compare(text, rows)

    def versions(self) -> list[list[int]]:
        """Rows of the classes as they are now; a class's version is that of its bases too."""
        known = {kind: objects.version(kind) for kind in self.kinds}
        bases = {base for kind in known if known[kind] for base in kind.__mro__[1:]}
        rows = []
        for kind, own in self.kinds.items():
            row = known[kind]
            rows += own if row is None else [row] * (kind not in bases)
        return rows

    def members(self, optimizer: Any) -> None:
        """Compare which groups, and which parameters, an optimizer has."""
        if (id(optimizer), "members") in self.places:
            return
        groups, found = optimizer.param_groups, []
        for name in ("param_groups", "state"):
            value, text = getattr(optimizer, name), f".{name}"
            same = self.text(f"{{}}{text} is {{}}", optimizer, value)
            found.append(self.compare(same, self.rows_of(optimizer, text, value)))
        for group in groups:
            same = self.text("{}['params'] is {}", group, group["params"])
            found.append(self.compare(same, [objects.item(group, "params", group["params"])]))
        for values in (groups, *(group["params"] for group in groups)):
            same = self.text(f"len({{0}}) == {len(values)} and all(map(same, {{0}}, {{1}}))",
                             values, list(values))  # fmt: skip
            rows = [objects.size(values, len(values)), *objects.parts(values)]
            found.append(self.compare(same, rows))
        self.places[id(optimizer), "members"] = "an optimizer's groups", " and ".join(found)

    def settle_modules(self) -> None:
        """Compare, after epochs, what modules are, but for their live numbers."""
        for module in self.modules:
            kind, held = type(module).__name__, vars(module)
            live = {name for name, x in held.items()
                    if self.is_live(f"{kind}.{name}", held, f"[{name!r}]", x, None)}  # fmt: skip
            self.modules[module] = live, module_state(module, live, self._apart)

    def rare(self) -> bool:
        """Whether all modules are as they were; asked after epochs only."""
        modules = self.modules.items()
        return all(module_state(m, names, self._apart) == was for m, (names, was) in modules)

    # ------------------------------------------------------------------------- numbers
    def is_live(
        self, words: str, owner: Any, text: str, value: Any, rows: list[list[int]] | None
    ) -> bool:  # fmt: skip
        """Whether a value, an owner followed by a text, is a live number, which is noted."""
        held = _held(owner, text, value) if type(value) in KINDS else None
        if held is None:
            return False
        place, where = (id(owner), text), self.name(owner) + text
        same = self.text(f"frozen({where}) == {{}}", frozen(value))
        leaf = self.numbers[place] = Leaf(place, where, value, *held, same, rows)
        if place not in self._wanted or not -EXACT < value < EXACT:
            return False
        self.places[place] = words, same
        self.live.add(last(words), leaf)
        return True

    def moved(self) -> set[Any]:
        """The places of numbers where other numbers are now."""
        found = ((leaf, self.found(leaf.text)) for leaf in self.numbers.values())
        return {leaf.place for leaf, now in found
                if type(now) in KINDS and simple(now) != simple(leaf.value)}  # fmt: skip

    def writes_modules(self) -> bool:
        """Whether numbers of modules are changed, which others notice by the epoch alone."""
        owners = {id(vars(module)) for module in self.modules}
        return any(id(leaf.owner) in owners for leaf in self.live.writes)

    def restore(self) -> None:
        """Put the numbers back that were there before the recorded call."""
        for leaf in self.numbers.values():
            if leaf.get() is not leaf.value:
                leaf.put(leaf.value)

    def settle(self) -> set[Any]:
        """Compare the live numbers that were read after all, and let the others be computed.

        Gives the places of those that were read.
        """
        pinned = [leaf for leaf in self.live.leaves if leaf.pinned]
        for leaf in pinned:
            if leaf.same:
                self.compare(leaf.same, leaf.rows)
        if len(pinned) < len(self.live.leaves):
            self.compare(self.live.refresh(self.scope), None)
        return {leaf.place for leaf in pinned}

    # -------------------------------------------------------------------------- afterwards
    def found(self, text: str) -> Any:
        """What a text gives now; None if nothing."""
        try:
            return eval(text, self.scope)
        except (LookupError, AttributeError, ValueError):
            return None

    def holds(self, text: str) -> bool:
        """Whether a comparison holds now."""
        return bool(self.found(text))


def last(words: str) -> str:
    """The name that the words of a place end with."""
    return re.split(r"[ .]", words)[-1]


def few(value: Any) -> bool:
    """Whether a container is a dict of few values, by names."""
    return type(value) is dict and len(value) <= _FEW and {type(k) for k in value} <= {str}


def parts_rows(value: Any) -> list[list[int]] | None:
    """Comparisons of a short list's size and parts."""
    few = type(value) is list and len(value) <= _MANY
    return [objects.size(value, len(value)), *objects.parts(value)] if few else None


def _held(owner: Any, text: str, value: Any) -> tuple[Any, Any] | None:
    """The dict or object, with the key, or the cell where a text leads to a value, if any."""
    if isinstance(owner, types.CellType):
        return owner, None
    named = text[0] == "["
    held = owner if named else getattr(owner, "__dict__", None)
    key = ast.literal_eval(text[1:-1]) if named else text[1:]
    # A property may give something else.
    return (owner, key) if type(held) is dict and held.get(key) is value else None
