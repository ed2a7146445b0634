"""The names, the words of the table and the formulas of a program's text."""

import keyword
import re
from collections import defaultdict

from ..kernels import text
from ..table import VOCABULARY, names_in
from .ir import Storage
from .lower import substitute

INDEXES = "ijklmnopqrsuv"
# The first words of the table of addresses: what `share` needs.
SETTINGS, PROGRAM, PART, GET, SET, FIRST = range(6)
_TAKEN = {"t", "table", "low", "high", "block", "which", "step", "program", "share", "product"}
_TAKEN |= {*INDEXES, *VOCABULARY, *keyword.kwlist, "words", "call", "apart", "plus", "fma", "bits"}
_TAKEN |= {"range", "min", "max", "inf", "F", "I", "U", "D", "INF", "self"}


class Names:
    """What the text of a program calls things.

    places: the word of each storage's address. slots: what of temporaries is in one memory.
    formulas: those used with each dtype. helpers, functions: what is called beside the segments,
    of which a program has as many as calls from Python part it into. partials: memory of sums.
    """

    def __init__(self, slots: dict[Storage, int], primary: str, segments: int) -> None:
        self.slots = slots
        self.primary = primary
        self.places: dict[Storage, int] = {}
        self.words = FIRST
        self.names: dict[Storage, str] = {}
        self.used: set[str] = set(_TAKEN)
        self.formulas: dict[str, set[str]] = defaultdict(set)
        self.helpers: set[str] = set()
        self.functions: list[str] = []
        self.segments = segments
        self.partials: list[Storage] = []

    def name(self, storage: Storage) -> str:
        """A unique identifier, from the user's where there is one."""
        if storage not in self.names:
            base = re.sub(r"\W+", "_", storage.name).strip("_") or "v"
            self.names[storage] = self.unique("_" + base if base[0].isdigit() else base)
        return self.names[storage]

    def unique(self, base: str) -> str:
        """The name, or the name with a number."""
        name, k = base, 1
        while name in self.used:
            k += 1
            name = f"{base}_{k}" if base[-1].isdigit() else f"{base}{k}"
        self.used.add(name)
        return name

    def place(self, storage: Storage) -> int:
        """The word of the table with the storage's address."""
        if storage not in self.places:
            self.places[storage] = self.words
            self.words += 1
        return self.places[storage]

    def text(self, formula: str, dtype: str) -> str:
        """The formula in a dtype: its numbers cast, its functions those of the dtype."""
        self.formulas[dtype].add(formula)
        c_type = text.C_TYPE[dtype][0]
        formula = re.sub(r"\bF\(", f"{c_type}(", text.typed(formula))
        if dtype == self.primary:
            return formula
        changed = (names_in(formula) & VOCABULARY) - text.INSTRUCTIONS | {"maximum", "minimum"}
        if dtype[0] != "f":
            changed |= {"fabs", "floor", "rint", "trunc"}
        return substitute(formula, {n: f"{n}_{c_type}" for n in changed | {"INF"}})

    def pointers(self, used: set[Storage]) -> list[str]:
        """Lines that take addresses from the table; memory used twice is one pointer."""
        shared: dict[int, str] = {}
        lines = []
        for storage in sorted(used, key=self.place):
            source = f"apart(table[{self.place(storage)}])"
            slot = self.slots.get(storage)
            if slot is not None:
                if slot not in shared:
                    shared[slot] = f"memory_{slot}"
                    if sum(self.slots.get(s) == slot for s in used) > 1:
                        lines.append(f"    {shared[slot]} = {source}")
                if sum(self.slots.get(s) == slot for s in used) > 1:
                    source = shared[slot]
            c_type = text.C_TYPE[storage.dtype.name][0]
            lines.append(f"    {self.name(storage)} = {c_type}_at({source})")
        return lines
