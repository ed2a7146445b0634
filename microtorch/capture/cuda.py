"""Programs on the GPU: loops as kernels, captured once, started by one launch.

What a recording does with numbers on the CPU (an optimizer's rate, a count of steps) is a program
on the CPU, whose results are sent where the kernels read them. Everything else stays at the same
addresses, so the driver's graph of all launches can be run again.
"""

import contextlib
import functools
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from ..gpu import blas, launch, text
from ..gpu.array import Array, empty, upload
from ..gpu.compiler import memory
from ..gpu.driver import start
from ..gpu.memory import current, later, pool
from ..table import FOLDS, substitute
from .build import Program as HostProgram
from .build import explained, plan
from .fuse import (
    OFTEN,
    Item,
    Loop,
    Table,
    by_elements,
    columns,
    conflicts,
    gather,
    ins_of,
    keep,
    outs_of,
)
from .ir import Call, Fold, Map, Op, Product, Recording, Ref, Storage
from .loops import comment, literal
from .passes import lower, prune
from .space import Work, merged, work_of

# Arrays that a kernel is given at most: a driver may take 4 KB of words, and compiling takes longer
# than in proportion. Parameters of one shape are several kernels of one text.
MOST = 64
# Streams to capture in.
_spare: list[Any] = []
HEADER = "# One recorded call as kernels.\n"


class Program:
    """A recorded call as kernels, with the attributes of `build.Program`."""

    native = False

    def __init__(self, recording: Recording) -> None:
        started = time.perf_counter()
        driver = start()
        # Graphs and the memory of what is only there while they run; the stream that the memory
        # came from; the stream that ran this last.
        self._segments: list[Any] = []
        self._held: list[tuple[int, int]] = []
        self._own = self._last = current.stream
        self.results, self.arguments = recording.results, recording.arguments
        # The part on the CPU, and what the kernels need of it.
        there = [op for op in recording.ops if _of_host(op)]
        ops = [op for op in recording.ops if not _of_host(op)]
        needed = {r.storage for op in ops for r in op.ins if r.storage.device == "cpu"}
        self.needed = [s for s in needed if s.kind != "constant"]
        refs = [s.whole for s in self.needed]
        own = [r for r in self.results if r.storage.device == "cpu"]
        taken = [r for r in self.arguments if r.storage.device == "cpu"]
        self.host = (
            HostProgram(Recording(there, taken, refs + own)) if there or refs or own else None
        )
        ops, self.results = lower(
            Recording(ops, [], [r for r in recording.results if r.storage.device != "cpu"])
        )
        self._order = [r.storage.device for r in recording.results]
        self.items = fuse(prune(ops, self.results))
        keep(self.items, True)
        self.written = {ref.storage for item in self.items for ref in outs_of(item)}
        self.written |= self.host.written if self.host else set()
        self._place()
        # The text of each item, and what launches it.
        self._steps = [self._prepared(item) for item in self.items]
        texts = (f"# {comment(i)}\n{t}" for i, (t, _) in zip(self.items, self._steps))
        self.source = HEADER + "\n".join(texts)
        self.seconds = time.perf_counter() - started
        self.name = driver.name
        self.was_cached = False

    # -------------------------------------------------------------------------- memory
    def _place(self) -> None:
        """Memory for everything that the kernels read and write."""
        slots, sizes = plan(self.items)
        blocks = [empty((n,), np.uint8) for n in sizes]
        self.memory: dict[Storage, Array] = {}
        given = {r.storage for r in self.arguments}
        storages = {r.storage for item in self.items for r in (*outs_of(item), *ins_of(item))}
        for s in (*storages, *given, *(r.storage for r in self.results), *self.needed):
            if s in self.memory:
                continue
            if s in slots:
                block = blocks[slots[s]]
                self.memory[s] = Array(memory((s.size,), s.dtype, block.address), block.block)
            elif s.device != "cpu" and s.array is not None:
                self.memory[s] = s.array  # type: ignore[assignment]
            elif s.kind == "constant":
                self.memory[s] = upload(s.array)
            else:
                self.memory[s] = empty((s.size,), s.dtype)
        self._sent: dict[Storage, bytes] = {}

    def view(self, ref: Ref) -> Array:
        """A view of the program's memory."""
        base, size = self.memory[ref.storage], ref.dtype.itemsize
        strides = tuple(s * size for s in ref.strides)
        ghost = memory(ref.shape, ref.dtype, base.address + ref.offset * size, strides)
        return Array(ghost, base.block)

    # -------------------------------------------------------------------------- kernels
    def _prepared(self, item: Item) -> tuple[str, Callable[[], Any]]:
        """The text of an item, and what launches it."""
        if isinstance(item, Loop) and not _apart(item):
            kernel = Kernel(self, item)
            return kernel.source, kernel.run
        if isinstance(item, Table):
            return self._updates(item)
        op: Any = item.works[0].op if isinstance(item, Loop) else item
        outs, ins = ([self.view(r) for r in refs] for refs in (op.outs, op.ins))
        if isinstance(op, Call):
            return "", functools.partial(op.function, outs, ins)  # type: ignore[arg-type]
        [out] = outs
        if isinstance(op, Product):
            return "", lambda: launch.copy(out, launch.product(*ins))
        how = op.dims, out.dtype, op.formula, op.names
        return "", lambda: launch.copy(out, launch.fold(op.fold, ins, *how))

    def _updates(self, item: Table) -> tuple[str, Callable[[], Any]]:
        """The text of an update of many parameters, and what launches it."""
        op, arrays = item.works[0], columns(item.works[0])
        names = {ref: name for name, ref in zip(op.names, op.ins, strict=True) if ref in arrays}
        numbers = [(n, r) for n, r in zip(op.names, op.ins, strict=True) if r not in arrays]
        kinds = tuple((n, r.dtype.name) for n, r in numbers)
        names |= {ref: f"out{k}" for k, ref in enumerate(arrays) if ref not in names}
        stores = tuple((names[ref], f"new_{names[ref]}") for ref in op.outs)
        lines = [f"{new} = {f}" for (_, new), f in zip(stores, op.formulas, strict=True)]
        of_arrays = tuple(names[ref] for ref in arrays)
        source = text.update(of_arrays, kinds, tuple(lines), stores, arrays[0].dtype.name)
        words, grid = launch.table([[*map(self.view, columns(each))] for each in item.works])
        table, given = upload(np.array(words, np.int64)), [self.view(r).address for _, r in numbers]

        def run() -> None:
            launch.run(source, 0, [table.address, *given], grid=grid)

        return source, run

    def _capture(self) -> None:
        """Run everything once, then note all launches, from call to call.

        Both in a stream of their own: the first compiles, and leaves the stream all the memory
        that the second needs, which stays the graphs' own.
        """
        driver, before = start(), current.stream
        stream = current.stream = _spare.pop() if _spare else int(driver.cuStreamCreate(1))
        later.follow(before, stream)
        try:
            with pool.apart(stream, self._held):
                for _, run in self._steps:
                    run()
                segments: list[Any] = []
                pairs = zip(self.items, self._steps)
                for called, part in itertools.groupby(pairs, lambda p: isinstance(p[0], Call)):
                    runs = [run for _, (_, run) in part]
                    segments += runs if called else [driver.captured(stream, runs)]
                self._segments = segments
        finally:
            later.follow(stream, before)
            current.stream = before
            _spare.append(stream)

    # ---------------------------------------------------------------------------- calls
    def run(self, arguments: list[Any]) -> list[Any]:
        """One call: fresh arrays."""
        driver = start()
        later.follow(self._last, current.stream)
        self._last = current.stream
        pairs = list(zip(self.arguments, arguments, strict=True))
        found: list[Any] = []
        if self.host is not None:
            found = self.host.run(tuple(a for r, a in pairs if r.storage.device == "cpu"))
            for storage, value in zip(self.needed, found, strict=False):
                content = value.tobytes()
                if self._sent.get(storage) != content:
                    driver.copy_in(self.memory[storage].address, value, current.stream, False)
                    self._sent[storage] = content
                    later.after([current.stream], functools.partial(id, value))
        given = [(self.view(r), a, r.storage in self.written) for r, a in pairs
                 if r.storage.device != "cpu"]  # fmt: skip
        for own, array, _ in given:
            launch.copy(own, array)
        if not self._segments:
            self._capture()
        else:
            for segment in self._segments:
                if callable(segment):
                    segment()
                else:
                    driver.cuGraphLaunch(segment, current.stream)
        for own, array, written in given:
            if written:
                launch.copy(array, own)
        made = iter([launch.copied(self.view(r)) for r in self.results])
        host = iter(found[len(self.needed) :])
        return [next(host if place == "cpu" else made) for place in self._order]

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # A GPU that is lost takes nothing back.
            later.follow(self._last, self._own)
            pool.give(self._own, self._held)
            graphs = [s for s in self._segments if not callable(s)]
            later.after([self._last], lambda: [*map(start().cuGraphExecDestroy, graphs)])

    def explain(self) -> str:
        """A table of kernels: what each computes, its bytes and operations."""
        products = "cuBLAS" if blas.library() else "microtorch's kernel"
        how = f"{self.name}: one launch a call; products by {products}"
        return "\n".join([*explained(self.items), how])


def _of_host(op: Op) -> bool:
    return all(r.storage.device == "cpu" for r in (*op.outs, *op.ins))


def fuse(ops: list[Op]) -> list[Any]:
    """Maps over one space, and folds of all of it, in one kernel; else one an operation."""
    items: list[Any] = []
    # Of each loop: what it is given, and what it makes.
    held: dict[int, tuple[set[Storage], set[Storage]]] = {}

    def given(work: Work, loop: Loop) -> set[Storage]:
        outer, made = held[id(loop)]
        lasting = {r.storage for r in work.outs if r.storage.kind != "temporary"}
        return outer | lasting | ({r.storage for r in work.ins} - made)

    updates = Counter(op.label for op in ops if isinstance(op, Map) and columns(op))
    for op in ops:
        if isinstance(op, Map) and updates[op.label] >= OFTEN and columns(op):
            gather(items, op)
            continue
        if not isinstance(op, (Map, Fold)) or not op.outs[0].size:
            items.append(op)
            continue
        work, chosen = work_of(op), None
        if all(work.folded) or not any(work.folded):
            for item in reversed(items):
                if isinstance(item, Loop) and not _apart(item) and item.dims == work.dims and (
                    by_elements(item.stages[0], work) and _dtype(item.stages[0][0]) == _dtype(work)
                    and len(given(work, item)) <= MOST
                ):  # fmt: skip
                    chosen = item
                    break
                if any(conflicts(item, work)):
                    break
        if chosen is None:
            chosen = Loop([[]])
            items.append(chosen)
            held[id(chosen)] = set(), set()
        outer, made = held[id(chosen)]
        outer |= given(work, chosen)
        made |= {r.storage for r in work.outs}
        chosen.stages[0].append(work)
    for item in items:
        if isinstance(item, Loop):
            item.stages = [merged(item.stages[0])]
    return items


def _apart(item: Loop) -> bool:
    """Whether a loop is a fold over some dims, which is launched as in eager mode."""
    work = item.stages[0][0]
    return any(work.folded) and not all(work.folded)


def _dtype(work: Work) -> np.dtype[Any]:
    """What formulas are computed in."""
    kinds = [r.dtype for r in work.ins if r.dtype.kind != "b"]
    return kinds[0] if kinds else work.outs[0].dtype


class Kernel:
    """A loop as one kernel, and a second one for each of its folds."""

    def __init__(self, program: Program, loop: Loop) -> None:
        works, driver = loop.stages[0], start()
        ins: dict[str, Array] = {}
        outs: dict[str, Array] = {}
        lines: list[tuple[str, str, str]] = []
        values: dict[Any, str] = {}

        def value(ref: Ref) -> str:
            constant = ref.storage.kind == "constant" and ref.storage.size == 1
            if constant and type(ref.storage.array) is np.ndarray:
                return literal(ref.storage.array[0])
            name = values.setdefault(_element(ref), f"v{len(values)}")
            if name not in made:
                ins[name] = program.view(ref)
            return name

        made: set[str] = set()
        # What is folded, by fold and where it goes.
        self.folds: dict[str, tuple[str, Array]] = {}
        for k, work in enumerate(works):
            given = {n: value(r) for n, r in zip(work.names, work.ins, strict=True)}
            for m, (formula, ref) in enumerate(zip(work.formulas, work.outs, strict=True)):
                name, formula = f"r{k}_{m}", substitute(formula, given)
                made.add(name)
                if any(work.folded):
                    target = Ref(ref.storage, (), (), ref.offset)
                    self.folds[name] = work.fold, program.view(target)
                else:
                    values[_element(ref)] = name
                    if work.fold:
                        # Of one element each.
                        finish = FOLDS[work.fold].finish
                        formula = substitute(finish, {"a": f"({formula})", "n": "1"})
                    if ref in loop.kept:
                        outs[name] = program.view(ref)
                lines.append((name, ref.dtype.name, formula))
        folds = tuple((name, fold) for name, (fold, _) in self.folds.items())
        self.n = math.prod(works[0].dims)
        self.source, self.words = launch.elementwise(
            works[0].dims, ins, outs, lines, _dtype(works[0]), folds=folds
        )
        self.blocks = min(driver.grid(self.n), 1024) if folds else driver.grid(self.n)
        self.parts = [empty((self.blocks,), out.dtype) for _, out in self.folds.values()]
        self.words += [part.address for part in self.parts]

    def run(self) -> None:
        """Launch it."""
        launch.run(self.source, self.n, self.words, grid=(self.blocks, 1))
        for (fold, out), part in zip(self.folds.values(), self.parts, strict=True):
            found = launch.fold(fold.replace("mean", "sum"), [part], (0,), out.dtype)
            formula = substitute(FOLDS[fold].finish, {"a": "x", "n": str(float(self.n))})
            launch.map_([out], [found], (formula,), ("x",))


def _element(ref: Ref) -> Any:
    return ref.storage, ref.offset, ref.strides
