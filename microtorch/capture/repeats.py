"""Loops that are equal but for their memory, as those of a recurrent layer's steps."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

from .fuse import Loop, ins_of, outs_of, place
from .ir import Ref, Storage


def _literal(ref: Ref) -> bool:
    """Whether the view is a number that stands in the text."""
    return ref.storage.kind == "constant" and not place(ref)[2]


def form(loop: Loop, apart: bool) -> tuple[Any, list[Ref]]:
    """What is equal of loops that differ in their memory alone, and where that memory begins.

    The form is None where a number may be a variable. apart: those of loops are their own.
    """
    offsets: dict[Storage, list[int]] = defaultdict(list)
    refs = outs_of(loop) + ins_of(loop)
    arrays = {r.storage for r in refs if not _literal(r)}
    for ref in refs:
        if ref.storage in arrays:
            offsets[ref.storage].append(ref.offset)
    bases = [Ref(s, (2,), (1,), min(found)) for s, found in offsets.items()]
    if any(b.storage.kind == "number" or (b.storage.size == 1 and not apart) for b in bases):
        return None, bases
    numbers = {b.storage: k for k, b in enumerate(bases)}

    def layout(ref: Ref) -> Any:
        if ref.storage not in arrays:
            value = None if ref.storage.array is None else ref.storage.array[ref.offset]
            return ref.dtype, repr(value)
        k = numbers[ref.storage]
        return ref.dtype, k, ref.strides, ref.offset - bases[k].offset, ref in loop.kept

    return tuple(
        tuple(
            (w.dims, w.formulas, w.names, w.fold, w.folded, *map(layout, (*w.outs, *w.ins)))
            for w in stage
        )
        for stage in loop.stages
    ), bases


def moved(loop: Loop, bases: list[Ref], memory: list[Storage]) -> Loop:
    """The loop over other memory, which begins where the bases do."""
    places = {b.storage: (s, b.offset) for b, s in zip(bases, memory)}

    def view(ref: Ref) -> Ref:
        storage, base = places.get(ref.storage, (ref.storage, 0))
        return ref._replace(storage=storage, offset=ref.offset - base)

    stages = [
        [replace(w, outs=tuple(map(view, w.outs)), ins=tuple(map(view, w.ins))) for w in stage]
        for stage in loop.stages
    ]
    return Loop(stages, set(map(view, loop.kept)))
