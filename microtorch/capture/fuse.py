"""Maps and folds over one space in one loop, row by row; updates of many parameters in a table."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..kernels import text
from ..table import STEPS
from .ir import Call, Fold, Map, Op, Product, Ref, Storage
from .space import Dims, Work, covers, merged, overlap, span, work_of

# Loops over so few elements are joined even where they share nothing.
SMALL = 1024
# In programs of more than LONG operations, a loop of SHORT works gets no further stages, and one of
# three times as many no further works: what a recurrent layer does at every step gives equal loops
# then.
LONG, SHORT = 100, 12
# What occurs so often has its text once.
OFTEN = 4


@dataclass(eq=False, slots=True)
class Loop:
    """A loop over the first dim, in which stages follow each other, each with loops of its own.

    The works of a stage have one space. `kept` are the views whose elements must be stored.
    """

    stages: list[list[Work]]
    kept: set[Ref] = field(default_factory=set)

    @property
    def works(self) -> list[Work]:
        """The works of all stages."""
        return [work for stage in self.stages for work in stage]

    @property
    def dims(self) -> Dims:
        """The space of the largest stage."""
        return max((stage[0].dims for stage in self.stages), key=math.prod)


@dataclass(eq=False, slots=True)
class Table:
    """An optimizer's update: the same map over the memory of one parameter after another."""

    works: list[Map]


Item = Loop | Table | Product | Call


def outs_of(item: Item | Work | Op) -> list[Ref]:
    """Views that are written."""
    return [r for w in getattr(item, "works", [item]) for r in w.outs]


def ins_of(item: Item | Work | Op) -> list[Ref]:
    """Views that are read."""
    return [r for w in getattr(item, "works", [item]) for r in w.ins]


def fuse(ops: list[Op]) -> list[Item]:
    """The operations as loops, and what is none, in an order that keeps every dependency."""
    items: list[Item] = []
    most = SHORT if is_long(ops) else math.inf
    updates = Counter(op.label for op in ops if isinstance(op, Map) and columns(op))
    for op in ops:
        if isinstance(op, Map) and updates[op.label] >= OFTEN and columns(op):
            gather(items, op)
        elif isinstance(op, (Map, Fold)):
            _place(items, work_of(op), most)
        else:
            assert isinstance(op, (Product, Call))
            items.append(op)
    for item in items:
        if isinstance(item, Loop):
            item.stages = [merged(stage, int(len(item.stages) > 1)) for stage in item.stages]
    return items


def columns(op: Map) -> list[Ref]:
    """The arrays of an optimizer's update, if they are whole."""
    if op.label not in STEPS:
        return []
    arrays = [r for n, r in zip(op.names, op.ins) if n in STEPS[op.label].arrays]
    arrays = list(dict.fromkeys([*arrays, *op.outs]))
    alike = len({(r.shape, steps(r)) for r in arrays}) == 1
    return arrays if alike and all(map(covers, arrays)) else []


def _number(ref: Ref) -> Any:
    """What tells one number from another: constants by their values."""
    array = ref.storage.array
    if ref.storage.kind == "constant" and array is not None and array.size == 1:
        return array[0].item()
    return ref.storage, ref.offset


def steps(ref: Ref) -> tuple[int, ...]:
    """Strides of the dimensions that have more than one element."""
    return tuple(s for n, s in zip(ref.shape, ref.strides, strict=True) if n > 1)


def gather(items: list[Item], op: Map) -> None:
    """Into the last table of the same update, which goes to the end if it may."""

    def what(op: Map) -> Any:
        arrays = columns(op)
        numbers = [_number(r) for r in op.ins if r not in arrays]
        return op.formulas, op.names, numbers, [arrays.index(r) for r in op.outs], arrays[0].dtype

    for k in reversed(range(len(items))):
        table, later = items[k], items[k + 1 :]
        if isinstance(table, Table) and what(table.works[0]) == what(op):
            if not any(any(conflicts(item, work)) for item in later for work in table.works):
                items.append(items.pop(k))
                table.works.append(op)
                return
            break
    items.append(Table([op]))


def _place(items: list[Item], work: Work, most: float) -> None:
    """Into the last loop that it may join, before all that it need not follow."""
    chosen: tuple[Loop, int] | None = None
    storages = {ref.storage for ref in (*work.outs, *work.ins)}
    for item in reversed(items):
        if isinstance(item, Loop):
            related = any(r.storage in storages for r in outs_of(item) + ins_of(item))
            small = chosen is None and most == math.inf and math.prod(work.dims) <= SMALL
            count = len(item.works)
            new = related and count < most
            k = _stage(item, work, new) if small or (related and count < 3 * most) else None
            if k is not None:
                chosen = item, k
                if related:
                    break
        if any(conflicts(item, work)):
            break
    if chosen is None:
        items.append(Loop([[work]]))
    elif chosen[1] < len(chosen[0].stages):
        chosen[0].stages[chosen[1]].append(work)
    else:
        chosen[0].stages.append([work])


def _stage(loop: Loop, work: Work, new: bool) -> int | None:
    """The number of the stage that the work may join, element by element; or of a new one."""
    if loop.stages[0][0].dims[:1] != work.dims[:1]:
        return None
    if not all(_by_rows(old, work) for old in loop.works):
        same = len(loop.stages) == 1 and loop.dims == work.dims
        return 0 if same and by_elements(loop.stages[0], work) else None
    for k in reversed(range(len(loop.stages))):
        stage = loop.stages[k]
        if stage[0].dims == work.dims and by_elements(stage, work):
            return k
        if any(any(conflicts(old, work)) for old in stage):
            break
    return len(loop.stages) if new and work.dims else None


def conflicts(old: Item | Work, new: Work | Op) -> Iterator[tuple[Ref, Ref]]:
    """Views of both that share elements which one of the two writes."""
    for refs, others in ((outs_of(old), (*new.outs, *new.ins)), (ins_of(old), new.outs)):
        storages = {r.storage for r in others}
        for a in refs:
            if a.storage in storages:
                yield from ((a, b) for b in others if overlap(a, b))


def by_elements(stage: list[Work], new: Work) -> bool:
    """Whether the work, done element by element beside the others, sees what it saw after them."""
    return not any(
        a != b or (old.fold and a in old.outs) or (new.fold and b in new.outs)
        for old in stage
        for a, b in conflicts(old, new)
    )


def _by_rows(old: Work, new: Work) -> bool:
    """Whether what one writes and the other uses is in the same row."""
    for a, b in conflicts(old, new):
        low, high = span(*(r.over(r.shape[1:], r.strides[1:]) for r in (a, b)))
        steps = {abs(r.strides[0]) if r.strides else 0 for r in (a, b)}
        if len(steps) > 1 or a.strides[:1] != b.strides[:1] or high - low >= steps.pop():
            return False
    return True


def place(ref: Ref) -> tuple[Storage, int, Dims]:
    """What is equal of views that show the same element in each row."""
    strides = ref.strides
    while strides and not strides[-1]:
        strides = strides[:-1]
    return ref.storage, ref.offset, strides


def is_long(ops: list[Op]) -> bool:
    """Whether so much is done that equal loops are looked for."""
    return len(ops) > LONG


def keep(items: list[Item], apart: bool) -> None:
    """Mark what loops must store: all that is read where no variable holds it.

    A variable is seen in its stage; one for each row in its loop; one that is a single number in
    what follows, up to the next call, unless loops are apart (as threads share them, or some are
    functions).
    """
    readers: dict[Storage, list[tuple[int, int, int, Ref]]] = defaultdict(list)
    parts, part = [], 0
    for k, item in enumerate(items):
        part += isinstance(item, Call)
        parts.append(part)
        arrays = [r for op in item.works for r in columns(op)] if isinstance(item, Table) else []
        stages: list[Any] = item.stages if isinstance(item, Loop) else [[item]]
        for j, stage in enumerate(stages):
            for ref in (r for work in stage for r in ins_of(work)):
                variable = isinstance(item, (Loop, Table)) and ref not in arrays
                readers[ref.storage].append((part if variable else -1, k, j, ref))
    for k, item in enumerate(items):
        for j, stage in enumerate(item.stages if isinstance(item, Loop) else []):
            for work, out in ((w, r) for w in stage for r in w.outs):
                found = [r for r in readers[out.storage] if overlap(out, r[3])]
                if out.storage.size == 1 and not apart:
                    stored = any(r[0] != parts[k] for r in found)
                elif len(place(out)[2]) == 1 and (not work.fold or True not in work.folded[:1]):
                    stored = any(r[1] != k or place(r[3]) != place(out) for r in found)
                else:
                    stored = bool(work.fold) or any(r[1:3] != (k, j) for r in found)
                if stored or out.storage.kind != "temporary":
                    item.kept.add(out)  # type: ignore[union-attr]


def cost(item: Item) -> float:
    """About how many nanoseconds one thread needs."""
    if isinstance(item, Product):
        return item.outs[0].size * item.ins[0].shape[-1] / 100
    if isinstance(item, Table):
        return sum(op.outs[0].size for op in item.works) * 0.3
    if isinstance(item, Loop):
        each = (
            (0.05 if text.is_cheap(w.formulas) else 0.5) * math.prod(w.dims) for w in item.works
        )
        return sum(each)
    return 0.0
