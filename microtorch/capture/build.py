"""From a recording to a program: passes, one native function, memory, and its calls."""

import ctypes
import math
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels import entry, jit, threads
from .emit import PARTS, SPEC, Writer
from .fuse import Item, Loop, fuse
from .ir import Array, Call, Op, Product, Recording, Ref, Storage
from .loops import comment
from .lower import lower
from .names import GET, PART, PROGRAM, SET, SETTINGS
from .passes import simplify
from .space import Work, contiguous, span

ALIGNED = 64
HEADER = '"""One recorded call as loops. `table` holds the addresses of all arrays."""\n\n'


def build(recording: Recording) -> "Program":
    """The program that does what was recorded."""
    return Program(recording)


class Program:
    """A recorded call as machine code.

    source: its loops as text. run: `run(arguments) -> results`, with fresh result arrays.
    """

    def __init__(self, recording: Recording) -> None:
        started = time.perf_counter()
        ops, self.results = lower(recording)
        self.arguments = recording.arguments
        ops = [_without_blas(op) for op in simplify(ops, self.results)]
        self.items = fuse(ops)
        slots, sizes = plan(self.items)
        self.writer = writer = Writer(self.items, slots)
        self.source = HEADER + writer.source
        compiled = jit.counts["compiled"]
        address = jit.address("program", writer.key(), complete=writer.complete)
        self.was_cached = jit.counts["compiled"] == compiled
        self._fill(address, slots, sizes)
        self._code = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(address)
        self.calls = [op for op in self.items if isinstance(op, Call)]
        self._kept: list[Any] = []
        self.run = self._entry(address) if entry.available() else self._run
        self.seconds = time.perf_counter() - started

    def explain(self) -> str:
        """A table of loops, products and calls: what each computes, its bytes and operations."""
        lines = [
            "kind     what                                      size         bytes       flops"
        ]
        for item in self.items:
            if isinstance(item, Loop):
                kind, what = "loop", comment(item)
                size = "x".join(map(str, item.dims)) or "1"
                moved = {*item.ins, *item.kept}
                flops = math.prod(item.dims) * sum(map(_operations, item.works))
            else:
                kind, what = type(item).__name__.lower(), item.label
                size = "x".join(map(str, item.outs[0].shape))
                moved = {*item.ins, *item.outs}
                flops = 2 * item.outs[0].size * item.ins[0].shape[-1] if kind == "product" else 0
            touched = sum(_elements(ref) * ref.dtype.itemsize for ref in moved)
            lines.append(f"{kind:8} {what[:40]:40} {size:>11} {touched:13,} {flops:11,}")
        how = "machine code from the cache" if self.was_cached else "compiled"
        lines.append(f"{how}, {self.seconds * 1e3:.0f} ms; {self.arena.nbytes:,} bytes of its own")
        return "\n".join(lines)

    def save(self, path: str) -> None:
        """Write all of the text, with the functions that the loops call."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.writer.complete())

    def _fill(self, address: int, slots: dict[Storage, int], sizes: list[int]) -> None:
        """Memory for temporaries, and the addresses of all that stays where it is."""
        writer = self.writer
        self.table = np.zeros(writer.words + 1, np.int64)
        self.table[[SETTINGS, PART]] = threads.ranges()
        self.table[PROGRAM] = address
        self.table[[GET, SET]] = threads.blas_threads()
        partial = [s.size * s.dtype.itemsize for s in writer.partials]
        starts = np.cumsum([0, *(_round(n) for n in [*sizes, *partial])])
        self.arena = np.empty(int(starts[-1]) + ALIGNED, np.uint8)
        first = _round(self.arena.ctypes.data)
        at = {s: first + int(starts[k]) for s, k in slots.items()}
        for k, storage in enumerate(writer.partials):
            at[storage] = first + int(starts[len(sizes) + k])
        self._bases: dict[Storage, Array] = {}
        used = {ref.storage for item in self.items for ref in (*item.ins, *item.outs)}
        for storage in used:
            if storage in at:
                low = at[storage] - self.arena.ctypes.data
                size = storage.size * storage.dtype.itemsize
                self._bases[storage] = self.arena[low : low + size].view(storage.dtype)
            elif storage.kind == "number":
                self._bases[storage] = np.zeros(1, storage.dtype)
            elif storage.array is not None:
                self._bases[storage] = storage.array
        for storage, word in writer.places.items():
            if storage in at:
                self.table[word] = at[storage]
            elif storage in self._bases:
                self.table[word] = self._bases[storage].ctypes.data
        self.numbers = [(s, self._bases[s]) for s in writer.places if s.kind == "number"]
        for word, op in writer.specs:
            self.table[word : word + SPEC] = self._spec(word, op)

    def _spec(self, word: int, op: Product) -> list[int]:
        """The words of a product."""
        out, (a, b) = op.outs[0], op.ins
        (n, k), m = a.shape[-2:], b.shape[-1]
        size = out.dtype.itemsize
        places = [(self.writer.places[r.storage], r.offset * size) for r in (b, a, out)]
        one = int(np.array([1, 0], out.dtype).view(f"i{size}")[0])
        letters, lengths = [], []
        for ref in (b, a):
            rows, columns = ref.shape[-2:]
            step = ref.strides[-2]
            plain = (ref.strides[-1] == 1 or columns == 1) and (step >= columns or rows == 1)
            letters.append(ord("N" if plain else "T"))
            lengths.append(max(ref.strides[-2], columns) if plain else max(ref.strides[-1], rows))
        (ldb, lda), ldc = lengths, max(out.strides[-2], m)
        return [
            threads.gemm(out.dtype.name), *(w for place in places for w in place),
            -(-n // PARTS), n, a.strides[-2] * size, out.strides[-2] * size,
            *letters, m, k, one, ldb, lda, 0, ldc,
        ]  # fmt: skip

    def _entry(self, address: int) -> Callable[[list[Array]], list[Array]]:
        """The call as a built-in function, where no Python comes between the loops."""
        if self.calls:
            return self._run
        places, unused = self.writer.places, self.writer.words
        arguments = []
        for ref in self.arguments:
            size = ref.dtype.itemsize
            low, high = span(ref)
            ends = ((low - ref.offset) * size, (high - ref.offset + 1) * size)
            strides = tuple(s * size for s in ref.strides)
            word = places.get(ref.storage, unused)
            written = ref.storage in self._written
            arguments.append(
                entry.Argument(
                    word, ref.dtype, ref.shape, strides, ref.offset * size, ends, written
                )
            )
        owners: dict[Storage, tuple[int, ...]] = {}
        for ref in self.results:
            whole = ref.strides == contiguous(ref.shape) and ref.size == ref.storage.size
            whole = whole and ref.storage not in owners
            owners[ref.storage] = ref.shape if whole else (ref.storage.size,)
        made = [(places.get(s, unused), s.dtype, shape) for s, shape in owners.items()]
        ranges = [(b.ctypes.data, b.ctypes.data + b.nbytes) for b in self._written_outside()]
        numbers = [
            (s.source, base.ctypes.data, base.itemsize) for s, base in self.numbers if s.source
        ]
        plain = len(owners) == len(self.results) and all(
            owners[ref.storage] == ref.shape for ref in self.results
        )
        storages = list(owners)

        def bases(arguments: list[Array]) -> list[Array]:
            found = self._results(arguments)
            return [found[s].reshape(owners[s]) for s in storages]

        run = entry.entry(
            self.table.ctypes.data, address, arguments, made, numbers, ranges, bases, self._kept
        )
        if plain:
            return run

        def viewed(arguments: list[Array]) -> list[Array]:
            found = dict(zip(storages, run(arguments)))
            return [_viewed(found[ref.storage], ref) for ref in self.results]

        return viewed

    @property
    def _written(self) -> set[Storage]:
        return {ref.storage for item in self.items for ref in item.outs}

    def _written_outside(self) -> list[Array]:
        return [s.array for s in self._written if s.kind == "captured" and s.array is not None]

    def _run(self, arguments: list[Array]) -> list[Array]:
        """The call from Python, where there is no faster one."""
        found = self._results(arguments)
        return [_viewed(found[ref.storage], ref) for ref in self.results]

    def _results(self, arguments: list[Array]) -> dict[Storage, Array]:
        """Run, and give the memory of the results."""
        bases = dict(self._bases)
        for storage, base in self.numbers:
            assert storage.source is not None
            base[0] = storage.source()
        places, written, outside = self.writer.places, self._written, self._written_outside()
        for ref, array in zip(self.arguments, arguments, strict=True):
            array = _fitting(ref, array, ref.storage in written, outside)
            if ref.storage in places:
                base_address = array.ctypes.data - ref.offset * ref.dtype.itemsize
                self.table[places[ref.storage]] = base_address
            bases[ref.storage] = array
        made: dict[Storage, Array] = {}
        for ref in self.results:
            made.setdefault(ref.storage, np.empty(ref.storage.size, ref.dtype))
            if ref.storage in places:
                self.table[places[ref.storage]] = made[ref.storage].ctypes.data
        bases |= made
        table = self.table.ctypes.data
        for k in range(len(self.calls) + 1):
            self._code(table, k, 0, 0)
            if k < len(self.calls):
                op = self.calls[k]
                views = [[self._view(r, bases) for r in refs] for refs in (op.outs, op.ins)]
                op.function(*views)
        return made

    def _view(self, ref: Ref, bases: dict[Storage, Array]) -> Array:
        base = bases[ref.storage]
        if ref.storage.kind == "argument":
            own = next(r for r in self.arguments if r.storage is ref.storage)
            return _strided(base, ref, ref.offset - own.offset)
        return _viewed(base, ref)


def _fitting(ref: Ref, array: Array, written: bool, outside: list[Array]) -> Array:
    """The argument as the program takes it: laid out as recorded, apart from what is written.

    Raises:
        TypeError, ValueError: if it is of another dtype or shape, or cannot be written.
    """
    if not isinstance(array, np.ndarray) or array.dtype != ref.dtype:
        kind = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"the program was recorded with an array of {ref.dtype}, not {kind}")
    if array.shape != ref.shape:
        raise ValueError(f"the program was recorded with shape {ref.shape}, not {array.shape}")
    steps = zip(ref.shape, array.strides, ref.strides)
    same = all(n == 1 or s == t * ref.dtype.itemsize for n, s, t in steps)
    if same and array.flags.aligned and not any(np.may_share_memory(array, o) for o in outside):
        if array.flags.writeable or not written:
            return array
    if written:
        raise ValueError("the program writes into this argument, which is laid out differently")
    low, high = span(ref)
    memory = np.empty(high - low + 1, ref.dtype)
    own = _strided(memory, ref, ref.offset - low)
    own[...] = array
    return own


def _viewed(base: Array, ref: Ref) -> Array:
    return _strided(base, ref, ref.offset)


def _strided(base: Array, ref: Ref, offset: int) -> Array:
    size = ref.dtype.itemsize
    strides = tuple(s * size for s in ref.strides)
    if base.flags.c_contiguous:
        return np.ndarray(ref.shape, ref.dtype, base, offset * size, strides)
    assert offset == 0
    return np.lib.stride_tricks.as_strided(base, ref.shape, strides)


def _operations(work: Work) -> int:
    """Operators and functions of the formulas, for each element."""
    signs = sum(len(re.findall(r"[-+*/]|\w+\(", formula)) for formula in work.formulas)
    return signs + any(work.folded)


def _elements(ref: Ref) -> int:
    """Different elements that a view reaches."""
    return math.prod(n for n, s in zip(ref.shape, ref.strides) if s)


def _round(n: int) -> int:
    return -(-n // ALIGNED) * ALIGNED


def _without_blas(op: Op) -> Op:
    """A product as a call of NumPy's, where no BLAS is found."""
    if not isinstance(op, Product) or threads.gemm(op.outs[0].dtype.name):
        return op

    def product(outs: list[Array], ins: list[Array]) -> None:
        np.matmul(ins[0], ins[1], out=outs[0])

    return Call(op.outs, op.ins, origin=op.origin, label=op.label, function=product)


def plan(items: list[Item]) -> tuple[dict[Storage, int], list[int]]:
    """A slot of memory for each temporary that is stored, and the bytes of each slot."""
    first: dict[Storage, int] = {}
    last: dict[Storage, int] = {}
    for k, item in enumerate(items):
        written = [r for r in item.outs if not isinstance(item, Loop) or r in item.kept]
        for ref in (*written, *item.ins):
            storage = ref.storage
            if storage.kind == "temporary" and (storage in first or ref in written):
                first.setdefault(storage, k)
                last[storage] = k
    slots: dict[Storage, int] = {}
    sizes: list[int] = []
    free_after: list[int] = []
    for storage in sorted(first, key=lambda s: first[s]):
        size = storage.size * storage.dtype.itemsize
        free = [s for s in range(len(sizes)) if free_after[s] < first[storage]]
        if free:
            slot = min(free, key=lambda s: (sizes[s] < size, abs(sizes[s] - size)))
        else:
            slot = len(sizes)
            sizes.append(0)
            free_after.append(0)
        sizes[slot] = max(sizes[slot], size)
        free_after[slot] = last[storage]
        slots[storage] = slot
    return slots, sizes
