"""The text of a program, in the language of `kernels.jit`: names, the table, segments, products."""

import itertools
import keyword
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from ..kernels import gemm, text, threads, vecmath
from ..table import VOCABULARY, names_in, substitute
from .fuse import OFTEN, Item, Loop, Table, columns, cost, ins_of, outs_of
from .ir import Call, Product, Ref, Storage
from .loops import BLOCK, INDEXES, LoopText, indented, index
from .repeats import form, moved
from .space import Work

_TYPES = {name for name, _ in text.C_TYPE.values()}
_WORDS = (
    "t table me parts at line block which step program barrier product words call apart plus fma "
    "bits F I U D INF range min max"
)
_TAKEN = {*INDEXES, *VOCABULARY, *keyword.kwlist, *dir(__builtins__), *_WORDS.split()}
_TAKEN |= {name + word for name in _TYPES for word in ("", "_at", "_of")}
# Estimated nanoseconds from which the threads that share a program share a loop of it.
SHARED = 3_000
# Programs of more items have a function for each loop.
MOST = 60
# Programs of few items whose loops with functions have many elements are interleaved, so much.
FEW, MANY, INTERLEAVED = 4, 128, 4
# Instructions up to which loops of constant length are written out, half of what LLVM takes. A
# convolutional network is compiled in half the time, and a transformer's step takes a tenth less.
UNROLLED = 150
# What threads wait for each other with; a product, or the part of one thread, by its spec.
_HELPERS = f"""
def barrier(t):
    call(i64_at(t)[{threads.BARRIER}], ())

def product(t, spec, x, y, z, me, parts):
    table = i64_at(t)
    d = i64_at(spec)
    x, y, z = table[d[1]] + d[2] + x, table[d[3]] + d[4] + y, table[d[5]] + d[6] + z
    call(d[0], (x, y, z, spec + 56, me, parts))

"""


class Writer:
    """The text of a program.

    source: its loops. places: the word of each storage's address in the table. tables: `(word,
    values)` of what else stands there. scalars: numbers that are variables, unless loops are
    apart. slots: which temporaries have one memory.
    """

    def __init__(
        self, items: list[Item], slots: dict[Storage, int], shared: bool, apart: bool
    ) -> None:
        floats = [r.dtype.name for item in items for r in outs_of(item) if r.dtype.kind == "f"]
        self.primary = max(sorted(set(floats)), key=floats.count, default="float32")
        self.slots, self.shared, self.apart = slots, shared, apart
        self.places: dict[Storage, int] = {}
        self.words = threads.FIRST
        self.tables: list[tuple[int, list[int]]] = []
        self.names: dict[Storage, str] = {}
        self.taken: set[str] = set(_TAKEN)
        self.formulas: dict[str, set[str]] = defaultdict(set)
        self.scalars: dict[Storage, str] = {}
        self.used: dict[Storage, None] = {}
        self.labels = {
            r.storage: w.op.label
            for item in items if isinstance(item, Loop) for w in item.works for r in w.outs
        }  # fmt: skip
        # Whether most of the work are functions of many elements in a row. Interleaved are all
        # loops of a text, and compiling takes longer.
        self.long = len(items) <= FEW and not any(isinstance(i, Product) for i in items) and any(
            w.dims[-1:] >= (MANY,) and not text.is_cheap(w.formulas)
            for item in items if isinstance(item, Loop) for w in item.works
        )  # fmt: skip
        parts: list[list[Loop | Table | Product]] = [[]]
        for item in items:
            parts += [[]] if isinstance(item, Call) else []
            parts[-1] += [] if isinstance(item, Call) else [item]
        self.segments = len(parts)
        self.often = 1 if len(items) > MOST else OFTEN
        self.forms = Counter(form(item, apart)[0] for item in items if isinstance(item, Loop))
        # The name of the function with the loops of a form, and which memory it takes.
        self.functions: dict[Any, tuple[str, list[int]]] = {}
        # Lines that call such a function, with its name and the place of its row, in bytes.
        self.calls: dict[str, tuple[str, int]] = {}
        # The texts of functions.
        self.texts: list[str] = []
        self.texts += [self._segment(k, part) for k, part in enumerate(parts)]
        self.source = "\n\n".join(self.texts)

    def _segment(self, number: int, items: Iterable[Loop | Table | Product]) -> str:
        """What is done up to the next call: loops for one thread, and loops for all of them."""
        self.used, self.scalars = {}, {}
        body: list[str] = []
        alone: list[str] = []
        # What was done since all waited: memory written, memory used, whether all took part.
        since: list[tuple[set[Any], set[Any], bool]] = []

        def flush(wait: bool) -> None:
            alone[:] = self._scheduled(alone)
            if alone and self.shared:
                alone[:] = ["if me == 0:", *indented(alone)]
            body.extend([*alone, "barrier(t)"] if wait else alone)
            alone.clear()
            if wait:
                since.clear()

        for item in items:
            shared = self.shared and cost(item) >= SHARED
            outs, ins = (
                {self.slots.get(r.storage, r.storage) for r in refs}
                for refs in (outs_of(item), ins_of(item))
            )
            if self.shared and any(
                (shared or all_did) and (wrote & (outs | ins) or used & outs)
                for wrote, used, all_did in since
            ):
                flush(True)
            after: list[str] = []
            if isinstance(item, Loop):
                lines, after = self._loop(item, shared)
            elif isinstance(item, Table):
                lines = self._table(item, shared)
            else:
                lines = self._product(item, shared)
            if shared:
                flush(False)
                body += lines
            else:
                alone += lines
            if after:
                flush(True)
                alone += after
            since.append((outs, outs | ins, shared and not after))
        flush(False)
        once = "  # once" if self.segments > 1 else ""
        lines = [f"def step_{number}(t, me, parts):{once}", "    table = i64_at(t)"]
        return "\n".join(lines + indented(self._pointers() + body)) + "\n"

    def _pointers(self) -> list[str]:
        """Lines that take addresses, and numbers, from the table."""
        lines, first = [], dict[int, str]()
        for storage in sorted(self.used, key=lambda s: self.places[s]):
            name, slot = self.name(storage), self.slots.get(storage, -1)
            c_type, word = text.C_TYPE[storage.dtype.name][0], self.places[storage]
            if storage.kind == "number":
                lines.append(f"{name} = {c_type}_at(table[{word}])[0]")
            elif slot in first:
                lines.append(f"{name} = {first[slot]}")
            else:
                lines.append(f"{name} = {c_type}_at(apart(table[{word}]))")
                if slot >= 0:
                    first[slot] = name
        return lines

    def _reserve(self, values: list[int]) -> int:
        self.tables.append((self.words, values))
        self.words += len(values)
        return self.words - len(values)

    def _loop(self, loop: Loop, shared: bool) -> tuple[list[str], list[str]]:
        """The lines of a loop, and those that one thread does when all have done these.

        If it occurs often, that is a call of a function, with a row of the table that says where
        its memory is.
        """
        key, bases = form(loop, self.apart)
        parted = shared and any(True in w.folded[:1] for w in loop.works)
        if key is None or self.forms[key] < self.often or parted:
            return LoopText(self, loop, shared).lines()
        if key not in self.functions:
            memory = [self._stand_in(b, b.storage.size) for b in bases]
            lines = LoopText(self, moved(loop, bases, memory), shared).lines()[0]
            used = [k for k, s in enumerate(memory) if s in self.names]
            body = [*self._addresses([memory[k] for k in used]), *lines]
            name = self.unique("loop")
            head = f"def {name}(t, at, me, parts):  # once\n    table, at = i64_at(t), i64_at(at)\n"
            self.texts.append(head + "\n".join(indented(body)) + "\n")
            self.functions[key] = name, used
        name, used = self.functions[key]
        row = self._reserve([word for k in used for word in self._address(bases[k])])
        line = f"{name}(t, t + {8 * row}, {'me, parts' if shared else '0, 1'})"
        self.calls[line] = name, 8 * row
        return [line], []

    def _scheduled(self, lines: list[str]) -> list[str]:
        """The lines, with many calls in a row as a loop over a table of functions and rows."""
        made: list[str] = []
        for called, group in itertools.groupby(lines, self.calls.__contains__):
            run = [*group]
            if not called or len(run) < MOST:
                made += run
                continue
            names = list(dict.fromkeys(self.calls[line][0] for line in run))
            rows = [(names.index(name), row) for name, row in map(self.calls.__getitem__, run)]
            at = self._reserve([word for row in rows for word in row])
            made += [f"for line in range({len(run)}):",
                     f"    at = i64_at(t + {8 * at} + 16*line)"]  # fmt: skip
            for k, name in enumerate(names):
                made += [f"    {'elif' if k else 'if'} at[0] == {k}:",
                         f"        {name}(t, t + at[1], 0, 1)"]  # fmt: skip
        return made

    def _stand_in(self, ref: Ref, size: int) -> Storage:
        """Memory whose place is in a row of the table."""
        name = ref.storage.name or self.labels.get(ref.storage, "") or ref.storage.kind
        return Storage(ref.dtype, size, "line", name)

    def _address(self, ref: Ref) -> tuple[int, int]:
        """The word of the table with the address of the storage, and bytes from there."""
        return self.place(ref.storage), ref.offset * ref.dtype.itemsize

    def _addresses(self, memory: Iterable[Storage]) -> list[str]:
        """Lines that take addresses from a row of the table."""
        kinds = [text.C_TYPE[s.dtype.name][0] for s in memory]
        return [f"{self.name(s)} = {c_type}_of(table, at, {2 * k})"
                for k, (s, c_type) in enumerate(zip(memory, kinds))]  # fmt: skip

    def _table(self, table: Table, shared: bool) -> list[str]:
        """An update: for each line of the table a loop over some elements of a parameter."""
        op, arrays = table.works[0], columns(table.works[0])
        values: list[int] = []
        for each in map(columns, table.works):
            for ref in each:
                self.scalars.pop(ref.storage, None)
            for low in range(0, each[0].size, BLOCK):
                values += [w for r in each for w in self._address(r._replace(offset=low))]
                values.append(min(BLOCK, each[0].size - low))
        width = 2 * len(arrays) + 1
        at, count = self._reserve(values), len(values) // width
        stand_in = {r: Ref(self._stand_in(r, 2), (2,), (1,)) for r in arrays}
        ins = tuple(stand_in.get(r, r.over((2,), (0,))) for r in op.ins)
        outs = tuple(stand_in[r] for r in op.outs)
        work = Work((2,), outs, ins, op.formulas, op.names, op, (False,))
        loop = LoopText(self, Loop([[work]], set(outs)), False, f"at[{width - 1}]")
        title, *lines = loop.lines()[0]
        start = next(k for k, line in enumerate(lines) if line.startswith("for"))
        head = [f"{title} of {len(table.works)}", *lines[:start], self.span(count, shared, "line")]
        pointers = [f"at = i64_at(t + {8 * at} + {8 * width}*line)",
                    *self._addresses([r.storage for r in stand_in.values()])]  # fmt: skip
        return [*head, *indented(pointers + lines[start:])]

    def span(self, count: int, shared: bool, name: str) -> str:
        """The head of a loop, over the part of a thread if it is shared."""
        if not shared:
            return f"for {name} in range({count}):"
        return f"for {name} in range({count}*me//parts, {count}*(me + 1)//parts):"

    def _product(self, op: Product, shared: bool) -> list[str]:
        (out,), (a, b) = op.outs, op.ins
        size, (n, k), m = out.dtype.itemsize, a.shape[-2:], b.shape[-1]
        words = [gemm.address(out.dtype.name)]
        for ref in (a, b, out):
            words += self._address(ref)
        words += [n, k, m, *a.strides[-2:], *b.strides[-2:], out.strides[-2]]
        spec = self._reserve(words)
        names = [self.name(r.storage) for r in (out, a, b)]
        lines = [f"# {names[0]} = {names[1]} @ {names[2]}: {n} x {k} by {k} x {m}"]
        for d, length in enumerate(out.shape[:-2]):
            lines += ["    " * d + f"for {INDEXES[d]} in range({length}):"]
        offsets = ", ".join(index((s * size for s in ref.strides[:-2]), 0) for ref in (a, b, out))
        share = "me, parts" if shared else "0, 1"
        call = f"product(t, t + {8 * spec}, {offsets}, {share})"
        return [*lines, "    " * len(out.shape[:-2]) + call]

    # ------------------------------------------------------------------------------- names
    def name(self, storage: Storage) -> str:
        """A unique identifier: the user's, or that of the operation which made it."""
        if storage not in self.names:
            base = storage.name or self.labels.get(storage, "") or storage.kind
            base = re.sub(r"\W+", "_", base).strip("_") or "v"
            self.names[storage] = self.unique("_" + base if base[0].isdigit() else base)
        return self.names[storage]

    def unique(self, base: str) -> str:
        """The name, or the name with a number."""
        name, k = base, 1
        while name in self.taken:
            k += 1
            name = f"{base}_{k}" if base[-1].isdigit() else f"{base}{k}"
        self.taken.add(name)
        return name

    def place(self, storage: Storage) -> int:
        """The word of the table with the storage's address."""
        if storage not in self.places:
            self.places[storage] = self.words
            self.words += 1
        return self.places[storage]

    def pointer(self, storage: Storage) -> str:
        """The name, with which this segment's text reaches the memory."""
        if storage.kind != "line":
            self.place(storage)
            self.used[storage] = None
        return self.name(storage)

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

    # ---------------------------------------------------------------------------- the whole
    def complete(self) -> str:
        """All of the text: the functions that the source calls, the source, and the entry."""
        prologues = "".join(self._prologue(dtype) for dtype in sorted(self.formulas))
        if self.long:
            prologues = f"# interleave {INTERLEAVED}\n{prologues}"
        prologues = f"# unroll {UNROLLED}\n{prologues}"
        return prologues + _HELPERS + self.source + self._entry()

    def _prologue(self, dtype: str) -> str:
        made = text.prologue(dtype, sorted(self.formulas[dtype]))
        if dtype == self.primary:
            return made
        c_type = text.C_TYPE[dtype][0]
        made = vecmath.suffixed(made, f"_{c_type}")
        return re.sub(r"^(from .+)$", rf"\1 as _{c_type}", made, flags=re.MULTILINE)

    def _entry(self) -> str:
        """The function that each thread calls, for one segment."""
        lines = ["", "def program(t, which, me, parts):"]
        for k in range(self.segments):
            lines += [
                f"    {'elif' if k else 'if'} which == {k}:",
                f"        step_{k}(t, me, parts)",
            ]
        return "\n".join([*lines, "    clear_flags()", ""])
