"""One loop as text."""

import math
from typing import Any

import numpy as np

from ..kernels import text, threads
from ..table import FOLDS, Fold
from .fuse import Loop
from .ir import Ref, Storage
from .lower import substitute
from .names import INDEXES, Names
from .space import Work, contiguous

# Elements of a block of a large loop: its partial sums are added up in order, whatever the number
# of threads.
BLOCK = 16384


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

    def __init__(self, writer: Names, loop: Loop) -> None:
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
        which = writer.segments + len(writer.functions)
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
            writer.partials.append(partial)
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
