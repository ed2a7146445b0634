"""One loop as text."""

import ast
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..kernels import text
from ..table import FOLDS, Fold, substitute
from .fuse import Item, Loop, place
from .ir import Ref, Storage
from .space import Work, contiguous, overlap

INDEXES = "ijklmnopqrsuv"
# Elements of a block of a shared loop: partial sums are added up in order, whatever the number of
# threads.
BLOCK = 4096


def index(strides: Iterable[int], offset: int) -> str:
    """The place of an element, as text."""
    terms = [i if s == 1 else f"{s}*{i}" for i, s in zip(INDEXES, strides) if s]
    return " + ".join(terms + [str(offset)] * (offset != 0 or not terms))


def indented(lines: Iterable[str]) -> list[str]:
    """The lines, one level further in."""
    return ["    " + line for line in lines]


def comment(item: Item) -> str:
    """What a loop computes, and from which lines of the user's code."""
    ops: list[Any] = [getattr(work, "op", work) for work in getattr(item, "works", [item])]
    labels = dict.fromkeys(op.label for op in ops if op.label)
    origins = sorted({op.origin for op in ops if op.origin})
    where = f" ({', '.join(origins)})" if origins else ""
    return (", ".join(labels) or "elementwise") + where


class LoopText:
    """The text of one loop; where it is shared, threads take blocks of its first dim in turn.

    values: the variables that hold elements, by place. heads, tails: of the present stage, the
    lines before and after its loop over each dim; the last of the heads are its body.
    """

    def __init__(self, writer: Any, loop: Loop, shared: bool, count: str = "") -> None:
        self.writer, self.loop = writer, loop
        self.shared = shared
        (self.n,) = loop.dims[:1] or (1,)
        self.count = count or str(self.n)
        self.rows = max(1, BLOCK * self.n // math.prod(loop.dims))
        self.blocks = -(-self.n // self.rows)
        self.values: dict[tuple[Any, ...], tuple[str, Ref]] = {}
        self.before: list[str] = []
        self.start: list[str] = [] if self.shared else self.before
        self.end: list[str] = []
        self.after: list[str] = []
        self.heads: list[list[str]] = []
        self.tails: list[list[str]] = []

    def lines(self) -> tuple[list[str], list[str]]:
        """The lines, and those that one thread does when all have done these."""
        inside = [line for stage in self.loop.stages for line in self.stage(stage)]
        title = f"# {comment(self.loop)}"
        if self.shared:
            span = f"{self.rows}*block, min({self.rows}*block + {self.rows}, {self.n})"
            block = [*self.start, f"for i in range({span}):", *indented(inside), *self.end]
            head = self.writer.span(self.blocks, True, "block")
            return [title, *self.before, head, *indented(block)], self.after
        if inside:
            inside = [f"for i in range({self.count}):", *indented(inside)]
        return [title, *self.before, *inside, *self.end, *self.after], []

    def stage(self, works: list[Work]) -> list[str]:
        """The lines of a stage inside of the loop over the first dim."""
        dims = works[0].dims
        self.dims = dims
        self.heads = [self.before, *([] for _ in dims)]
        self.tails = [self.end, *([] for _ in dims)]
        body = self.heads[-1]
        first = len(body)
        stores = []
        for work in works:
            if any(work.folded):
                self.fold(work)
                continue
            expressions = self.expressions(work)
            if work.fold:
                expressions = [self.finished(FOLDS[work.fold], work.outs[0], expressions[0], 1)]
            for ref, formula, expression in zip(work.outs, work.formulas, expressions):
                # A number that is only converted needs no variable.
                converted = formula in work.names and not dims and not work.fold
                plain = expression.isidentifier() or converted
                name = expression if plain else self.local(ref)
                if name != expression:
                    body.append(f"{name} = {expression}")
                stores.append((ref, name))
            for ref, name in stores[-len(work.outs) :]:
                self.forget(ref)
                self.values[place(ref)] = name, ref
                if not dims and ref.storage.size == 1 and not self.writer.apart:
                    self.writer.scalars[ref.storage] = name
        body[first:] = common_terms(body[first:], self.writer)
        last = {ref: name for ref, name in stores if ref in self.loop.kept}
        body += [f"{self.element(ref)} = {name}" for ref, name in last.items()]
        for key in [key for key in self.values if len(key[2]) > 1]:
            del self.values[key]
        return self.nest(1) if dims else []

    def nest(self, depth: int) -> list[str]:
        """The loops from a depth on."""
        lines = list(self.heads[depth])
        if depth < len(self.dims):
            lines.append(f"for {INDEXES[depth]} in range({self.dims[depth]}):")
            lines += indented(self.nest(depth + 1))
        return lines + self.tails[depth]

    def element(self, ref: Ref, offset: str = "") -> str:
        """An element in memory."""
        return f"{self.writer.pointer(ref.storage)}[{offset}{index(ref.strides, ref.offset)}]"

    def local(self, ref: Ref) -> str:
        """A new name for an element."""
        return self.writer.unique(self.writer.name(ref.storage) + "_i" * bool(self.dims))

    def forget(self, written: Ref) -> None:
        """Variables that no longer hold what is in memory."""
        for key in [k for k, (_, ref) in self.values.items() if overlap(ref, written)]:
            del self.values[key]

    def value(self, ref: Ref) -> str:
        """The variable with an element, which is loaded where it is first needed."""
        storage, key = ref.storage, place(ref)
        if storage in self.writer.scalars:
            return self.writer.scalars[storage]
        if storage.kind == "number":
            return self.writer.pointer(storage)
        if storage.kind == "constant" and not key[2] and storage.array is not None:
            return literal(storage.array[ref.offset])
        if key not in self.values:
            name = self.local(ref)
            self.values[key] = name, ref
            self.heads[len(key[2])].append(f"{name} = {self.element(ref)}")
        return self.values[key][0]

    def expressions(self, work: Work) -> list[str]:
        """The formulas over local names, cast where the result has another dtype."""
        kinds = [r.dtype for r in work.ins if r.dtype.kind != "b"]
        out = work.outs[0].dtype
        dtype = kinds[0] if kinds else out if out.kind != "b" or not work.ins else np.dtype(bool)
        values = {name: self.value(ref) for name, ref in zip(work.names, work.ins)}
        made = []
        for formula, ref in zip(work.formulas, work.outs):
            if not work.dims and dtype == np.float64:
                # For one number the C library's function.
                formula = re.sub(r"\bpow\((\w+), ([\w.]+)\)", r"\1 ** \2", formula)
            expression = substitute(self.writer.text(formula, dtype.name), values)
            if ref.dtype.kind == "b" and (dtype.kind == "b" or formula in work.names):
                expression = f"({expression}) != 0"
            if ref.dtype != dtype or ref.dtype.kind != "f":
                expression = f"{text.C_TYPE[ref.dtype.name][0]}({expression})"
            made.append(expression)
        return made

    def fold(self, work: Work) -> None:
        """Lines of a fold: in a local variable if it ends with the loop, else in memory."""
        kind, out, folded, writer = FOLDS[work.fold], work.outs[0], work.folded, self.writer
        name, depth = writer.name(out.storage), folded.index(True)
        (element,) = self.expressions(work)
        kept = [d for d, away in enumerate(folded) if not away]
        inner = [d for d in kept if d > depth]
        count = math.prod(n for n, away in zip(self.dims, folded) if away)
        initial = text.initial_of(kind.initial, out.dtype.name).replace("INF", "inf")
        initial = writer.text(initial, out.dtype.name)
        if out.dtype.kind != "f":
            initial = f"{text.C_TYPE[out.dtype.name][0]}({initial})"
        start, end = self.heads[depth] if depth else self.start, self.tails[depth]
        target, block = out, ""
        parted = self.shared and depth == 0
        if parted:
            size = math.prod(self.dims[d] for d in kept)
            steps = dict(zip(kept, contiguous([self.dims[d] for d in kept])))
            partial = Storage(out.dtype, size * self.blocks, "temporary", name)
            target = Ref(partial, self.dims, tuple(steps.get(d, 0) for d in range(len(folded))))
            block = f"{size}*block + "
        if not inner:
            running = writer.unique(f"{name}_{work.fold}")
            start.append(f"{running} = {initial}")
            self.heads[-1].append(f"{running} = {self.combined(kind, out, running, element)}")
            if parted:
                end.append(f"{self.element(target, block)} = {running}")
            else:
                result = running if kind.finish == "a" else self.local(out)
                if result != running:
                    end.append(f"{result} = {self.finished(kind, out, running, count)}")
                self.forget(out)
                if out in self.loop.kept:
                    end.append(f"{self.element(out)} = {result}")
                if depth == 1:
                    self.values[place(out)] = result, out
                elif depth == 0 and out.storage.size == 1 and not writer.apart:
                    writer.scalars[out.storage] = result
        else:
            cell = self.element(target, block)
            start += self.over(inner, [f"{cell} = {initial}"])
            self.heads[-1].append(f"{cell} = {self.combined(kind, out, cell, element)}")
            if kind.finish != "a" and not parted:
                end += self.over(inner, [f"{cell} = {self.finished(kind, out, cell, count)}"])
        if parted:
            total = writer.unique(f"{name}_total")
            more = self.combined(kind, out, total, self.element(target, block))
            lines = [
                f"{total} = {initial}",
                f"for block in range({self.blocks}):",
                f"    {total} = {more}",
            ]
            lines.append(f"{self.element(out)} = {self.finished(kind, out, total, count)}")
            self.after += self.over(kept, lines)

    def finished(self, kind: Fold, out: Ref, a: str, count: int) -> str:
        """What the running value of a fold of so many elements ends as."""
        finish = self.writer.text(substitute(kind.finish, {"n": str(count)}), out.dtype.name)
        return substitute(finish, {"a": a if a.isidentifier() else f"({a})"})

    def combined(self, kind: Fold, out: Ref, a: str, b: str) -> str:
        """The running value with one more element."""
        if kind.combine == "a + b" and out.dtype.kind == "f":
            return f"plus({a}, {b})"
        made = substitute(self.writer.text(kind.combine, out.dtype.name), {"a": a, "b": f"({b})"})
        return made if out.dtype.kind == "f" else f"{text.C_TYPE[out.dtype.name][0]}({made})"

    def over(self, dims: list[int], lines: list[str]) -> list[str]:
        """Lines within loops over some dims."""
        for d in reversed(dims):
            lines = [f"for {INDEXES[d]} in range({self.dims[d]}):", *indented(lines)]
        return lines


class _Terms(ast.NodeTransformer):
    """Terms that occur more than once, each put into a variable before it is first used.

    terms: the number of each node that may be put into a variable, the same for equal ones.
    uses: how often each occurs; what occurs in a term counts once.
    """

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.numbers: dict[Any, int] = {}
        self.terms: dict[ast.AST, int] = {}
        self.uses: Counter[int] = Counter()
        self.names: dict[int, str] = {}
        self.lines: list[str] = []

    def enter(self, node: ast.AST) -> tuple[int, bool, list[int]]:
        """The number of a node, whether a name is in it, and the terms that it uses."""
        if isinstance(node, ast.Subscript):
            return self.numbers.setdefault(ast.dump(node), len(self.numbers)), True, []
        shape: list[Any] = [type(node)]
        named: list[bool] = []
        used: list[int] = []
        for _, value in ast.iter_fields(node):
            for part in value if isinstance(value, list) else (value,):
                if getattr(part, "_fields", ()):
                    number, has_name, inside = self.enter(part)
                    shape.append(number)
                    named.append(has_name)
                    used += inside
                else:
                    shape += type(part), None if isinstance(part, ast.AST) else part
        new = tuple(shape) not in self.numbers
        number = self.numbers.setdefault(tuple(shape), len(self.numbers))
        # The first part of a call is the function.
        if isinstance(node, (ast.BinOp, ast.Call)) and any(named[isinstance(node, ast.Call) :]):
            self.terms[node] = number
            self.uses.update(used if new else ())
            used = [number]
        return number, isinstance(node, ast.Name) or any(named), used

    def visit(self, node: ast.AST) -> Any:
        """The node, or the variable with its value."""
        term = self.terms.get(node)
        if isinstance(node, ast.Subscript):
            return node
        if term is None or self.uses[term] < 2:
            return self.generic_visit(node)
        if term not in self.names:
            value = ast.unparse(self.generic_visit(node))
            self.names[term] = self.writer.unique("term")
            self.lines.append(f"{self.names[term]} = {value}")
        return ast.Name(self.names[term])


def common_terms(lines: list[str], writer: Any) -> list[str]:
    """The assignments, with terms that occur more than once computed once."""
    terms = _Terms(writer)
    # What is only loaded has none.
    trees = [ast.parse("" if line.endswith("]") else line) for line in lines]
    for tree in trees:
        terms.uses.update(terms.enter(tree)[2])
    for line, tree in zip(lines, trees):
        terms.lines.append(ast.unparse(terms.visit(tree)) or line)
    return terms.lines


def literal(value: Any) -> str:
    """A number of an array, as text."""
    c_type = text.C_TYPE[value.dtype.name][0]
    if value.dtype.kind != "f":
        return f"{c_type}({int(value)})"
    short = str(value)
    if not np.isfinite(value):
        short = {"inf": "1e400", "-inf": "-1e400"}.get(short, "1e400 - 1e400")
    elif value.dtype.type(float(short)) != value:
        short = repr(float(value))
    return f"{c_type}({short})"
