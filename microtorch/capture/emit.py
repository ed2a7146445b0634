"""Loops as text in the language of `kernels.jit`, one function for the whole program."""

import keyword
import math
import re
from collections import defaultdict
from typing import Any

import numpy as np

from ..kernels import text, threads
from ..table import FOLDS, VOCABULARY, Fold, names_in
from .fuse import Item, Loop
from .ir import Call, Product, Ref, Storage
from .lower import substitute
from .space import Work, contiguous

INDEXES = "ijklmnopqrsuv"
# Elements of a block of a large loop: its partial sums are added up in order, whatever the number
# of threads.
BLOCK = 16384
# The first words of the table of addresses: what `share` needs.
SETTINGS, PROGRAM, PART, GET, SET, FIRST = range(6)
_TAKEN = {"t", "table", "low", "high", "block", "which", "step", "program", "share", "product"}
_TAKEN |= {*INDEXES, *VOCABULARY, *keyword.kwlist, "words", "call", "apart", "plus", "fma", "bits"}
_TAKEN |= {"range", "min", "max", "inf", "F", "I", "U", "D", "INF", "self"}

# A large loop, in all threads; a product of BLAS, whose arguments are words of the table.
_HELPERS = {
    "share": """
def share(t, which, blocks):
    table = i64_at(t)
    s = i64_at(table[0])
    if s[0] < 2 or s[2] == 0 or blocks < 2:
        call(table[1], (t, which, 0, blocks))
    else:
        context = words(5)
        c = i64_at(context)
        c[0] = table[1]
        c[1] = t
        c[2] = which
        c[3] = blocks
        c[4] = table[0]
        call(s[2], (table[2], context, s[0], 0))
""",
    "product": """
def product(t, at, a, b, c, low, high):
    table = i64_at(t)
    d = i64_at(t + 8 * at)
    p = t + 8 * at + 88
    first = low * d[7]
    rows = words(1)
    i64_at(rows)[0] = min(high * d[7], d[8]) - first
    x = table[d[1]] + d[2] + a
    y = table[d[3]] + d[4] + b + first * d[9]
    z = table[d[5]] + d[6] + c + first * d[10]
    call(d[0], (p, p + 8, p + 16, rows, p + 24, p + 32, x, p + 40, y, p + 48, p + 56, z, p + 64))
""",
}
# Words of a product: function, then address and offset of the three, rows of a block, rows, bytes
# between rows of two, then BLAS's letters, columns, depth, 1, two leading dims, 0, leading dim.
SPEC = 20
# Blocks of rows of a product of so many multiplications, which threads share.
PARTS, LARGE_PRODUCT = 8, 8_000_000


class Writer:
    """The text of a program, and what its table of addresses holds.

    places: the word of each storage's address. specs: `(word, product)` of each product's
    arguments. segments: how many parts the program has, with calls from Python between them.
    """

    def __init__(self, items: list[Item], slots: dict[Storage, int]) -> None:
        self.slots = slots
        self.places: dict[Storage, int] = {}
        self.specs: list[tuple[int, Product]] = []
        self.words = FIRST
        self.names: dict[Storage, str] = {}
        self.used: set[str] = set(_TAKEN)
        self.formulas: dict[str, set[str]] = defaultdict(set)
        self.helpers: set[str] = set()
        self.functions: list[str] = []
        # `(place of its loop in the items, memory of partial sums)`.
        self.partials: list[tuple[int, Storage]] = []
        self.item = 0
        floats = [r.dtype.name for i in items for r in i.outs if r.dtype.kind == "f"]
        self.primary = max(sorted(set(floats)), key=floats.count, default="float32")
        self.segments: list[list[Item]] = [[]]
        for item in items:
            if isinstance(item, Call):
                self.segments.append([])
            else:
                self.segments[-1].append(item)
        mains = []
        for k, part in enumerate(self.segments):
            mains.append(self._segment(k, part))
            self.item += 1
        self.source = "\n\n".join([*mains, *self.functions])

    # Names.

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

    # Text.

    def _segment(self, number: int, items: list[Item]) -> str:
        body: list[str] = []
        pointers: set[Storage] = set()
        for item in items:
            if isinstance(item, Loop):
                lines, used = LoopWriter(self, item).lines()
                pointers |= used
            else:
                assert isinstance(item, Product)
                lines = self._product(item)
            body += lines
            self.item += 1
        head = [f"def step_{number}(t):", "    table = i64_at(t)"]
        return "\n".join([*head, *self.pointers(pointers), *body]) + "\n"

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

    def _product(self, op: Product) -> list[str]:
        self.helpers.add("product")
        out, (a, b) = op.outs[0], op.ins
        # C = A B in rows is C' = B' A' in columns, as BLAS has them.
        refs = (b, a, out)
        for ref in refs:
            self.place(ref.storage)
        at = self.words
        self.specs.append((at, op))
        self.words += SPEC
        (n, k), m = op.ins[0].shape[-2:], b.shape[-1]
        names = [self.name(r.storage) for r in (out, a, b)]
        note = f"# {names[0]} = {names[1]} @ {names[2]}: {n} x {k} by {k} x {m}"
        if n * k * m >= LARGE_PRODUCT and n >= 4 * PARTS and len(out.shape) == 2:
            self.helpers.add("share")
            which = len(self.segments) + len(self.functions)
            lines = [f"def loop_{which}(t, low, high):", f"    {note}"]
            lines.append(f"    product(t, {at}, 0, 0, 0, low, high)\n")
            self.functions.append("\n".join(lines))
            return [f"    share(t, {which}, {PARTS})  {note}"]
        lines, indent = [f"    {note}"], "    "
        for d, length in enumerate(out.shape[:-2]):
            lines.append(f"{indent}for {INDEXES[d]} in range({length}):")
            indent += "    "
        size = out.dtype.itemsize
        texts = [index((s * size for s in ref.strides[:-2]), 0) for ref in refs]
        lines.append(f"{indent}product(t, {at}, {', '.join(texts)}, 0, {PARTS})")
        return lines

    def vocabulary(self) -> str:
        """The functions that the source calls, and the entry of the program."""
        parts = [self._renamed(dtype) for dtype in sorted(self.formulas)]
        parts += [_HELPERS[name] for name in sorted(self.helpers)]
        return "".join(parts)

    def _renamed(self, dtype: str) -> str:
        made = text.prologue(dtype, sorted(self.formulas[dtype]))
        if dtype == self.primary:
            return made
        c_type = text.C_TYPE[dtype][0]
        own = set(re.findall(r"^(?:def )?(\w+)(?= =|\()", made, re.MULTILINE)) | set("FIUD")
        return re.sub(r"[A-Za-z_]\w*", lambda m: m[0] + f"_{c_type}" * (m[0] in own), made)

    def entry(self) -> str:
        """The function that is called: a segment, or some blocks of a large loop."""
        lines = ["def program(t, which, low, high):"]
        word = "if"
        for k, items in enumerate(self.segments):
            lines.append(f"    {word} which == {k}:")
            run = [f"        step_{k}(t)"]
            if any(isinstance(item, Product) for item in items):
                # One pool of threads at a time: BLAS's stays asleep.
                run.insert(0, f"        before = call(i64_at(t)[{GET}], ()) & 0xFFFFFFFF")
                run.insert(1, f"        call(i64_at(t)[{SET}], (1,))")
                run.append(f"        call(i64_at(t)[{SET}], (before,))")
            lines += run
            word = "elif"
        for k in range(len(self.functions)):
            which = len(self.segments) + k
            lines += [f"    elif which == {which}:", f"        loop_{which}(t, low, high)"]
        lines.append("    feclearexcept(63)")
        return "\n".join(lines) + "\n"


def index(strides: Any, offset: int) -> str:
    """The place of an element, as text."""
    terms = [i if s == 1 else f"{s}*{i}" for i, s in zip(INDEXES, strides) if s]
    if offset or not terms:
        terms.append(str(offset))
    return " + ".join(terms)


def comment(loop: Loop) -> str:
    """What a loop computes, and from which lines of the user's code."""
    labels = dict.fromkeys(w.op.label for w in loop.works if w.op.label)
    origins = sorted({w.op.origin for w in loop.works if w.op.origin})
    where = f" ({', '.join(origins)})" if origins else ""
    return (", ".join(labels) or "elementwise") + where


class LoopWriter:
    """The text of one loop.

    A large loop is a function of its own over blocks of its outermost dim, which threads share.
    """

    def __init__(self, writer: Writer, loop: Loop) -> None:
        self.writer, self.loop, self.dims = writer, loop, loop.dims
        rank = len(self.dims)
        self.values: dict[Ref, str] = {}
        self.used: set[Storage] = set()
        self.used_after: set[Storage] = set()
        # Lines before and after the loop over each dim, by depth; the innermost is the body.
        self.before: list[list[str]] = [[] for _ in range(rank + 1)]
        self.after: list[list[str]] = [[] for _ in range(rank + 1)]
        # Lines at the start and the end of a block, and after all blocks.
        self.start: list[str] = []
        self.end: list[str] = []
        self.combining: list[str] = []
        self.body = self.before[rank]
        formulas = [f for w in loop.works for f in w.formulas]
        least = threads.LEAST_CHEAP if text.is_cheap(formulas) else threads.LEAST
        self.large = bool(rank) and math.prod(self.dims) >= least
        self.rows = max(1, BLOCK // math.prod(self.dims[1:]))
        self.blocks = -(-self.dims[0] // self.rows) if rank else 1

    def lines(self) -> tuple[list[str], set[Storage]]:
        """Lines of the segment, and the storages whose pointers they use."""
        dirty: dict[Ref, None] = {}
        for work in self.loop.works:
            if any(work.folded):
                self.fold(work)
            else:
                self.map(work)
                dirty.update((ref, None) for ref in work.outs if ref in self.loop.kept)
        for ref in dirty:
            self.body.append(f"{self.element(ref)} = {self.values[ref]}")
        title = f"    # {comment(self.loop)}"
        if not self.large:
            return [title, *self.nest(0, 1)], self.used
        writer = self.writer
        which = len(writer.segments) + len(writer.functions)
        writer.helpers.add("share")
        n, rows = self.dims[0], self.rows
        lines = [f"def loop_{which}(t, low, high):", title, "    table = i64_at(t)"]
        lines += writer.pointers(self.used)
        lines += [*_indented(self.before[0], 1), "    for block in range(low, high):"]
        lines += _indented(self.start, 2)
        lines.append(f"        for i in range({rows}*block, min({rows}*block + {rows}, {n})):")
        lines += [*self.nest(1, 3), *_indented(self.end, 2)]
        writer.functions.append("\n".join(lines) + "\n")
        call = f"    share(t, {which}, {self.blocks})  # loop_{which}: {comment(self.loop)}"
        return [call, *_indented(self.combining, 1)], self.used_after

    def nest(self, depth: int, indent: int) -> list[str]:
        """The loops from a depth on."""
        lines = _indented(self.before[depth], indent)
        if depth < len(self.dims):
            lines.append(f"{'    ' * indent}for {INDEXES[depth]} in range({self.dims[depth]}):")
            lines += self.nest(depth + 1, indent + 1)
        return lines + _indented(self.after[depth], indent)

    def element(self, ref: Ref) -> str:
        """An element in memory."""
        self.used.add(ref.storage)
        self.writer.place(ref.storage)
        return f"{self.writer.name(ref.storage)}[{index(ref.strides, ref.offset)}]"

    def local(self, storage: Storage) -> str:
        """A new name for a value of a storage."""
        return self.writer.unique(self.writer.name(storage) + "_i")

    def value(self, ref: Ref) -> str:
        """The local name of an element, which is loaded where it is first needed."""
        if ref not in self.values:
            array = ref.storage.array
            if ref.storage.kind == "constant" and not any(ref.strides) and array is not None:
                return literal(array[ref.offset])
            self.values[ref] = self.local(ref.storage)
            depth = max((d + 1 for d, s in enumerate(ref.strides) if s), default=0)
            self.before[depth].append(f"{self.values[ref]} = {self.element(ref)}")
        return self.values[ref]

    def expressions(self, work: Work) -> list[str]:
        """The formulas over local names, cast where the result has another dtype."""
        kinds = [r.dtype for r in work.ins if r.dtype.kind != "b"]
        out = work.outs[0].dtype
        dtype = kinds[0] if kinds else out if out.kind != "b" or not work.ins else np.dtype(bool)
        values = {name: self.value(ref) for name, ref in zip(work.names, work.ins)}
        made = []
        for formula, ref in zip(work.formulas, work.outs):
            expression = substitute(self.writer.text(formula, dtype.name), values)
            if ref.dtype.kind == "b" and (dtype.kind == "b" or formula in work.names):
                expression = f"({expression}) != 0"
            if ref.dtype != dtype or ref.dtype.kind != "f":
                expression = f"{text.C_TYPE[ref.dtype.name][0]}({expression})"
            made.append(expression)
        return made

    def map(self, work: Work) -> None:
        """Lines of formulas."""
        expressions = self.expressions(work)
        if work.fold:
            name = work.outs[0].dtype.name
            expressions = [self.finished(FOLDS[work.fold], name, f"({expressions[0]})", 1)]
        names = [self.values.get(ref) or self.local(ref.storage) for ref in work.outs]
        self.values.update(zip(work.outs, names))
        self.body.append(f"{', '.join(names)} = {', '.join(expressions)}")

    def fold(self, work: Work) -> None:
        """Lines of a fold: in a local variable if it ends with the loop, else in memory."""
        kind, out, folded, writer = FOLDS[work.fold], work.outs[0], work.folded, self.writer
        dtype = out.dtype.name
        c_type = text.C_TYPE[dtype][0]
        (element,) = self.expressions(work)
        depth = folded.index(True)
        kept = [d for d in range(len(self.dims)) if not folded[d]]
        count = math.prod(n for n, away in zip(self.dims, folded) if away)
        initial = writer.text(text.initial_of(kind.initial, dtype).replace("INF", "inf"), dtype)
        initial = initial if dtype[0] == "f" else f"{c_type}({initial})"
        last = lambda a: self.finished(kind, dtype, a, count)
        start, end, target = self.before[depth], self.after[depth], out
        parted = self.large and depth == 0
        if parted:
            size = math.prod(self.dims[d] for d in kept)
            partial = Storage(out.dtype, size * self.blocks, "temporary", writer.name(out.storage))
            writer.partials.append((writer.item, partial))
            steps = dict(zip(kept, contiguous([self.dims[d] for d in kept])))
            strides = tuple(steps.get(d, 0) for d in range(len(self.dims)))
            target = Ref(partial, self.dims, strides)
            start, end = self.start, self.end
        place = self.element(target)
        if parted:
            place = (
                place.replace("[", f"[{size}*block + ").replace("[1*", "[").replace(" + 0]", "]")
            )
        in_register = all(folded[depth:])
        running = writer.unique(f"{writer.name(out.storage)}_{work.fold}") if in_register else place
        self.body.append(f"{running} = {self.combined(kind, dtype, running, element)}")
        if in_register:
            start.append(f"{running} = {initial}")
            end.append(f"{place} = {running if parted else last(running)}")
        else:
            inner = [d for d in kept if d > depth]
            start += self.over(inner, [f"{place} = {initial}"])
            if kind.finish != "a" and not parted:
                end += self.over(inner, [f"{place} = {last(place)}"])
        if parted:
            total = writer.unique(f"{writer.name(out.storage)}_total")
            value = self.combined(kind, dtype, total, place)
            lines = [f"{total} = {initial}", f"for block in range({self.blocks}):"]
            lines += [f"    {total} = {value}"]
            lines.append(f"{self.element(out)} = {last(total)}")
            self.combining += self.over(kept, lines)
            self.used.discard(out.storage)
            self.used_after |= {out.storage, partial}

    def finished(self, kind: Fold, dtype: str, a: str, count: int) -> str:
        """What the running value of a fold of so many elements ends as."""
        finish = self.writer.text(substitute(kind.finish, {"n": str(count)}), dtype)
        return substitute(finish, {"a": a})

    def combined(self, kind: Fold, dtype: str, a: str, b: str) -> str:
        """The running value with one more element."""
        if kind.combine == "a + b" and dtype[0] == "f":
            return f"plus({a}, {b})"
        made = substitute(self.writer.text(kind.combine, dtype), {"a": a, "b": f"({b})"})
        return made if dtype[0] == "f" else f"{text.C_TYPE[dtype][0]}({made})"

    def over(self, dims: list[int], lines: list[str]) -> list[str]:
        """Lines within loops over some dims."""
        for d in reversed(dims):
            lines = [f"for {INDEXES[d]} in range({self.dims[d]}):", *_indented(lines, 1)]
        return lines


def _indented(lines: list[str], by: int) -> list[str]:
    return ["    " * by + line for line in lines]


def literal(value: Any) -> str:
    """A number of an array, as text."""
    dtype = value.dtype
    c_type = text.C_TYPE[dtype.name][0]
    if dtype.kind != "f":
        return f"{c_type}({int(value)})"
    if not np.isfinite(value):
        made = "1e400 - 1e400" if np.isnan(value) else f"{'-' * bool(value < 0)}1e400"
        return f"{c_type}({made})"
    short = str(value)
    same = dtype.type(float(short)) == value
    return f"{c_type}({short if same else repr(float(value))})"
