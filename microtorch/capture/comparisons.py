"""Comparisons of Python values with what they are now: texts for Python, rows for machine code."""

import operator
import re
from collections.abc import Set
from typing import Any

from ..kernels import objects
from .tape import recorders
from .values import equal, frozen

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

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {"frozen": frozen, "equal": equal, "same": operator.is_,
                                      "recorders": recorders}  # fmt: skip
        self.texts: list[str] = []
        self.rows: list[list[int]] = []
        self.rest: list[str] = []
        self.kinds: dict[type, list[list[int]]] = {}
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
        keys = list(value)
        if type(value) is list and size <= _FEW:
            places = [f"{me}[{k}]" for k in range(size)]
            same = " and ".join([f"len({me}) == {size}", *map(self._is, places, value)])
        elif few(value):
            parts = (self._is(f"{me}[{k!r}]", v) for k, v in value.items() if k not in live)
            same = " and ".join([f"[*{me}] == {self.name(keys)}", *parts])
            if live:
                return same
        else:
            same = f"len({me}) == {size} and all(map(same, {me}, {self.name(keys)}))"
            if isinstance(value, dict):
                same += f" and all(map(same, {me}.values(), {self.name(list(value.values()))}))"
        return f"({same} or frozen({me}) == {self.name(frozen(value))})"

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
