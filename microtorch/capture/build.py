"""From a recording to a program: passes, one native function, memory, and its calls."""

import ctypes
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels import jit, threads
from .emit import PART, PROGRAM, SETTINGS, Writer
from .fuse import Item, Loop, fuse
from .ir import Array, Call, Op, Product, Recording, Ref, Storage
from .lower import lower
from .passes import simplify

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
        self._text = writer.vocabulary() + writer.source + "\n" + writer.entry()
        address = jit.address("program", self._text)
        self.was_cached = jit.counts["compiled"] == compiled
        self._fill(address, slots, sizes)
        self._code = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(address)
        self.calls = [op for op in self.items if isinstance(op, Call)]
        self.run: Callable[[list[Array]], list[Array]] = self._run
        self.seconds = time.perf_counter() - started

    def _fill(self, address: int, slots: dict[Storage, int], sizes: list[int]) -> None:
        """Memory for temporaries, and the addresses of all that stays where it is."""
        writer = self.writer
        self.table = np.zeros(writer.words, np.int64)
        self.table[[SETTINGS, PART]] = threads.ranges()
        self.table[PROGRAM] = address
        partial = [s.size * s.dtype.itemsize for _, s in writer.partials]
        starts = np.cumsum([0, *(_round(n) for n in [*sizes, *partial])])
        self.arena = np.empty(int(starts[-1]) + ALIGNED, np.uint8)
        first = _round(self.arena.ctypes.data)
        at = {s: first + int(starts[k]) for s, k in slots.items()}
        for k, (_, storage) in enumerate(writer.partials):
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
            self.table[word : word + 17] = self._spec(word, op)

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
            *letters, m, n, k, one, ldb, lda, 0, ldc,
        ]  # fmt: skip

    def _run(self, arguments: list[Array]) -> list[Array]:
        """The call from Python, where there is no faster one."""
        bases = dict(self._bases)
        for storage, base in self.numbers:
            assert storage.source is not None
            base[0] = storage.source()
        places = self.writer.places
        for ref, array in zip(self.arguments, arguments, strict=True):
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
        return [_viewed(made[ref.storage], ref) for ref in self.results]

    def _view(self, ref: Ref, bases: dict[Storage, Array]) -> Array:
        base = bases[ref.storage]
        if ref.storage.kind == "argument":
            own = next(r for r in self.arguments if r.storage is ref.storage)
            return _strided(base, ref, ref.offset - own.offset)
        return _viewed(base, ref)


def _viewed(base: Array, ref: Ref) -> Array:
    return _strided(base, ref, ref.offset)


def _strided(base: Array, ref: Ref, offset: int) -> Array:
    size = ref.dtype.itemsize
    strides = tuple(s * size for s in ref.strides)
    if base.flags.c_contiguous:
        return np.ndarray(ref.shape, ref.dtype, base, offset * size, strides)
    assert offset == 0
    return np.lib.stride_tricks.as_strided(base, ref.shape, strides)


def _round(n: int) -> int:
    return -(-n // ALIGNED) * ALIGNED


def _without_blas(op: Op) -> Op:
    """A product as a call of NumPy's, where no BLAS is found."""
    if not isinstance(op, Product) or threads.gemm(op.outs[0].dtype.name):
        return op

    def product(outs: list[Array], ins: list[Array]) -> None:
        np.matmul(*ins, out=outs[0])

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
