"""From a recording to a program: passes, one native function, memory, and its calls."""

import ctypes
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kernels import entry, jit, threads
from .emit import Writer
from .fuse import Item, Loop, cost, fuse, ins_of, is_long, keep, outs_of
from .ir import Array, Call, Product, Recording, Ref, Storage
from .loops import comment
from .passes import lower, numbers, prune
from .space import contiguous, span
from .tape import warn
from .turn import Turn

ALIGNED = 64
# Kinds of memory that is elsewhere at every call.
GIVEN = ("argument", "result")
# Estimated nanoseconds from which a program is shared among threads.
SHARED = 25_000
HEADER = "# One recorded call as loops. `table` holds the addresses of all arrays.\n"


def build(recording: Recording) -> "Program":
    """The program that does what was recorded."""
    return Program(recording)


# Lines of text from which on it is said how long it takes to compile them.
LONG = 1_000


class Program:
    """A recorded call as machine code.

    source: its loops as text. run: `run(arguments) -> results`, of a tuple of arrays a list of
    fresh ones.
    """

    def __init__(self, recording: Recording) -> None:
        started = time.perf_counter()
        ops, self.results = lower(recording)
        self.arguments = recording.arguments
        ops = prune(numbers(ops), self.results)
        self.items = fuse(ops)
        shared = threads.start() and max(map(cost, self.items), default=0) >= SHARED
        apart = shared or is_long(ops)
        keep(self.items, apart)
        slots, sizes = plan(self.items)
        self.writer = writer = Writer(self.items, slots, shared, apart)
        self.calls = [op for op in self.items if isinstance(op, Call)]
        for ref in (r for op in self.calls for r in (*op.outs, *op.ins)):
            writer.place(ref.storage)
        self.source = HEADER + writer.source
        compiled, text = jit.counts["compiled"], without_comments(writer.complete())
        lines = self.source.count("\n")
        if lines > LONG and not jit.known("program", text):
            warn(
                f"a compiled function has become {lines:,} lines of text, as layers and loops of "
                f"Python are written out. To compile them takes about {lines // 300} s, once a "
                "machine."
            )
        address = jit.address("program", text)
        self.was_cached = jit.counts["compiled"] == compiled
        words, run = threads.program(address, shared)
        self._fill(words, slots, sizes)
        self.written = {ref.storage for item in self.items for ref in outs_of(item)}
        self.outside = [
            s.array for s in self.written if s.kind == "captured" and s.array is not None
        ]
        self._code = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(run)
        # The storages of the results in the order in which they are made, with their shapes.
        self.owners = {r.storage: r.shape if _whole(r) else (r.storage.size,) for r in self.results}
        self.plain = len(self.owners) == len(self.results) and all(map(_whole, self.results))
        # Whether `run` is a built-in function.
        self.native = False
        # What is called between the parts of the text, and after one of these has failed. Others
        # may run meanwhile.
        self.failed: list[Callable[[], None]] = []
        self.between = [self._between(op) for op in self.calls]
        self.turn = Turn()
        self.words: dict[str, Any] = {
            "table": self.table.ctypes.data, "program": run, "segments": len(self.calls) + 1,
            "between": [*map(id, self.between)],
        }  # fmt: skip
        self.run: Callable[[tuple[Array, ...]], list[Array]] = self._first
        self.seconds = time.perf_counter() - started

    def explain(self) -> str:
        """A table of loops, products and calls: what each computes, its bytes and operations."""
        how = "machine code from the cache" if self.was_cached else "compiled"
        how += f", {self.seconds * 1e3:.0f} ms; {self.arena.nbytes:,} bytes of its own"
        return "\n".join([*explained(self.items), how])

    def save(self, path: str) -> None:
        """Write all of the text, with the functions that the loops call."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.writer.complete())

    def _fill(self, words: list[int], slots: dict[Storage, int], sizes: list[int]) -> None:
        """Memory for temporaries, and the addresses of all that stays where it is."""
        writer = self.writer
        more = [s for s in writer.places if s.kind == "temporary" and s not in slots]
        slots = slots | {s: len(sizes) + k for k, s in enumerate(more)}
        sizes = sizes + [s.size * s.dtype.itemsize for s in more]
        starts = np.cumsum([0, *(-(-n // ALIGNED) * ALIGNED for n in sizes)])
        self.arena = np.empty(int(starts[-1]) + ALIGNED, np.uint8)
        first = -(-self.arena.ctypes.data // ALIGNED) * ALIGNED
        at = {s: first + int(starts[k]) for s, k in slots.items()}
        self.numbers = [(s, np.zeros(1, s.dtype)) for s in writer.places if s.kind == "number"]
        at |= {s: base.ctypes.data for s, base in self.numbers}

        def address(storage: Storage) -> int:
            return at.get(storage) or (0 if storage.array is None else storage.array.ctypes.data)

        self.table = np.zeros(writer.words + 1, np.int64)
        self.table[: len(words)] = words
        for storage, word in writer.places.items():
            self.table[word] = address(storage)
        for word, values in writer.tables:
            self.table[word : word + len(values)] = values

    def _first(self, arguments: tuple[Array, ...]) -> list[Array]:
        """The call from Python, until there is a built-in function."""
        if not entry.wanted():
            return self._run(arguments)
        self.native, self.run = True, self._native()
        return self.run(arguments)

    def _native(self) -> Callable[[tuple[Array, ...]], list[Array]]:
        """The call as a built-in function."""

        def again(arguments: tuple[Array, ...]) -> list[Array]:
            for storage, _ in self.numbers:
                float(storage.source())  # type: ignore[misc]
            self.turn.check()
            return builtin(self._fitting(arguments))  # type: ignore[no-any-return]

        reached = [(r, (entry.ARRAY, k, 0, 0, 0)) for k, r in enumerate(self.arguments)]
        numbers = [(s.source, base) for s, base in self.numbers]
        words = self.entry_words(reached, numbers)
        builtin = entry.entry({**words, "count": len(reached), "instead": again}, self)
        return builtin if self.plain else lambda arguments: self.parts(builtin(arguments))

    def entry_words(
        self, reached: Sequence[tuple[Ref | None, tuple[int, ...]]], numbers: list[tuple[Any, Any]],
        apart: list[Array] | None = None, checked: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """Words of the built-in function's context.

        reached: the arguments, and how they are reached. numbers: with the arrays that get them,
        if any.
        apart: memory that no argument may overlap; with it, numbers are compared with their truth.
        checked: bytes of the result if it is one number that may not be nan.
        """
        compared, apart = apart is not None, self.outside if apart is None else apart
        places, unused, given = self.writer.places, self.writer.words, list[int]()
        for r, how in reached:
            given += [*how, 0] if r is None else entry.argument(
                how, places.get(r.storage, unused), r.dtype, r.shape, r.strides, r.offset, span(r),
                r.storage in self.written,
            )  # fmt: skip
        made = [
            w
            for s, shape in self.owners.items()
            for w in (places.get(s, unused), id(s.dtype), len(shape), checked, *shape)
        ]
        read = []
        for n, base in numbers:
            place = (0, 0) if base is None else (base.ctypes.data, base.itemsize)
            truth = 0 if n.truth is None or not compared else 2 - n.truth
            read += [id(n.owner), id(n.key), n.place, *place, truth]
        ranges = [end for b in apart for end in (b.ctypes.data, b.ctypes.data + b.nbytes)]
        turn = self.turn.words() if self.calls else {"busy": [0]}
        return {
            **self.words, **turn, "arguments": len(reached), "rows": given, "results": made,
            "results_count": len(self.owners), "numbers": read, "numbers_count": len(numbers),
            "ranges": ranges, "ranges_count": len(apart), "held": [0] * (len(reached) + 1),
        }  # fmt: skip

    def parts(self, found: list[Array]) -> list[Array]:
        """The results, from the memory that the built-in function has made."""
        memory = dict(zip(self.owners, found))
        return [_part(memory[ref.storage], ref, ref.offset) for ref in self.results]

    def _run(self, arguments: tuple[Array, ...]) -> list[Array]:
        """The call from Python, where there is no faster one."""
        for storage, base in self.numbers:
            base[0] = storage.source()  # type: ignore[misc]
        places, given = self.writer.places, self._fitting(arguments)
        made = {r.storage: np.empty(r.storage.size, r.dtype) for r in self.results}
        with self.turn:
            for ref, array in zip(self.arguments, given):
                if ref.storage in places:
                    start = array.ctypes.data - ref.offset * array.itemsize
                    self.table[places[ref.storage]] = start
            for storage in made.keys() & places.keys():
                self.table[places[storage]] = made[storage].ctypes.data
            for k, between in enumerate([None, *self.between]):
                if between is not None:
                    between()
                self._code(self.table.ctypes.data, k)
        return [_part(made[ref.storage], ref, ref.offset) for ref in self.results]

    def _between(self, op: Call) -> Callable[[], None]:
        """A function that does an operation, with views that are made anew where memory moves."""
        table, failed, outs, ins = self.table, self.failed, list[Array](), list[Array]()
        moving = []
        for views, refs in ((outs, op.outs), (ins, op.ins)):
            for k, ref in enumerate(refs):
                word = self.writer.places[ref.storage]
                if ref.storage.kind in GIVEN:
                    views.append(np.empty(0))
                    moving.append((views, k, ref, word))
                else:
                    views.append(_view(ref, int(table[word])))
        starts = [0] * len(moving)

        def run() -> None:
            for j, (views, k, ref, word) in enumerate(moving):
                if (start := table.item(word)) != starts[j]:
                    views[k], starts[j] = _view(ref, start), start
            try:
                op.function(outs, ins)
            except BaseException:
                for undo in failed:
                    undo()
                raise

        return run

    def _fitting(self, arguments: tuple[Array, ...]) -> tuple[Array, ...]:
        """The arguments laid out as recorded, apart from what is written.

        Raises:
            TypeError, ValueError: if one is of another dtype or shape, or cannot be written.
        """
        if len(arguments) != len(self.arguments):
            raise ValueError(f"the program was recorded with {len(self.arguments)} arguments")
        return tuple([self._fitted(r, a) for r, a in zip(self.arguments, arguments)])

    def _fitted(self, ref: Ref, array: Any) -> Array:
        kind, shape = getattr(array, "dtype", type(array)), getattr(array, "shape", ())
        if kind != ref.dtype or shape != ref.shape:
            error = ValueError if kind == ref.dtype else TypeError
            raise error(f"recorded with {ref.dtype} of shape {ref.shape}, not {kind} of {shape}")
        written = ref.storage in self.written
        steps = zip(ref.shape, array.strides, ref.strides)
        same = array.flags.aligned and all(n == 1 or s == t * array.itemsize for n, s, t in steps)
        apart = not any(np.may_share_memory(array, o) for o in self.outside)
        if not (same and apart and array.flags.writeable >= written):
            if written:
                raise ValueError("the program writes into an argument that is laid out differently")
            low, high = span(ref)
            own = _part(np.empty(high - low + 1, ref.dtype), ref, ref.offset - low)
            own[...] = array
            array = own
        # Of the very type and dtype that the built-in function compares.
        return np.asarray(array).view(ref.dtype)


def _view(ref: Ref, start: int) -> Array:
    """A view of the memory at an address."""
    (low, high), size = span(ref), ref.dtype.itemsize
    memory = (ctypes.c_char * ((high - low + 1) * size)).from_address(start + low * size)
    return _part(memory, ref, ref.offset - low)


def _part(base: Any, ref: Ref, offset: int) -> Array:
    """A view of memory, from an element on."""
    size = ref.dtype.itemsize
    return np.ndarray(ref.shape, ref.dtype, base, offset * size, [s * size for s in ref.strides])


def explained(items: list[Item]) -> list[str]:
    """The lines of a table: what each item computes, its size, bytes and operations."""
    lines = [f"{'kind':8} {'what':40} {'size':>11} {'bytes':>13} {'flops':>11}"]
    for item in items:
        outs, ins, flops = outs_of(item), ins_of(item), 0
        dims = item.dims if isinstance(item, Loop) else outs[0].shape if outs else ()
        moved = {*ins, *(item.kept if isinstance(item, Loop) else outs)}
        touched = sum(r.dtype.itemsize * math.prod(n for n, s in zip(r.shape, r.strides) if s)
                      for r in moved)  # fmt: skip
        if isinstance(item, Product):
            flops = 2 * outs[0].size * ins[0].shape[-1]
        for work in getattr(item, "works", ()):
            signs = sum(len(re.findall(r"[-+*/]|\w+\(", f)) for f in work.formulas)
            flops += max(r.size for r in (*work.outs, *work.ins)) * signs
        kind, size = type(item).__name__.lower(), "x".join(map(str, dims)) or "1"
        lines.append(f"{kind:8} {comment(item)[:40]:40} {size:>11} {touched:13,} {flops:11,}")
    return lines


def without_comments(text: str) -> str:
    """The text that is compiled. Comments name lines of the user's file: without them, machine
    code from the cache fits where these have moved."""
    settings = "|".join(jit.OPTIONS)
    return re.sub(rf"^ *# (?!(?:{settings}) \d+$).*\n", "", text, flags=re.MULTILINE)


def _whole(ref: Ref) -> bool:
    return ref.strides == contiguous(ref.shape) and ref.size == ref.storage.size


def plan(items: list[Item]) -> tuple[dict[Storage, int], list[int]]:
    """A slot of memory for each temporary that is stored, and the bytes of each slot."""
    last: dict[Storage, int] = {}
    for k, item in enumerate(items):
        written = [r for r in outs_of(item) if not isinstance(item, Loop) or r in item.kept]
        stored = (r.storage for r in (*written, *ins_of(item)) if r in written or r.storage in last)
        last.update({s: k for s in stored if s.kind == "temporary"})
    slots: dict[Storage, int] = {}
    holds: list[Storage] = []
    for k, item in enumerate(items):
        for new in (r.storage for r in outs_of(item) if r.storage in last.keys() - slots.keys()):
            # One that is no longer read, of the same dtype and size.
            free = (j for j, s in enumerate(holds)
                    if last[s] < k and (s.dtype, s.size) == (new.dtype, new.size))  # fmt: skip
            slots[new] = next(free, len(holds))
            holds[slots[new] :] = [new, *holds[slots[new] + 1 :]]
    return slots, [s.size * s.dtype.itemsize for s in holds]
