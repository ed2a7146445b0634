"""Maps and folds over one space in one loop."""

import math
from dataclasses import dataclass, field

from .ir import Fold, Map, Op, Ref
from .space import Dims, Work, common, merged, normal, overlap, split

# Loops over so few elements are joined even where they share nothing.
SMALL = 1024


@dataclass(eq=False, slots=True)
class Loop:
    """Works over one space; `kept` are the views whose elements must be stored."""

    works: list[Work]
    kept: set[Ref] = field(default_factory=set)

    @property
    def dims(self) -> Dims:
        """The space."""
        return self.works[0].dims

    @property
    def outs(self) -> list[Ref]:
        """Views that are written."""
        return [ref for work in self.works for ref in work.outs]

    @property
    def ins(self) -> list[Ref]:
        """Views that are read."""
        return [ref for work in self.works for ref in work.ins]


Item = Loop | Op


def work_of(op: Map | Fold) -> Work:
    """An operation as a loop's work."""
    if isinstance(op, Map):
        dims = op.outs[0].shape
        made = Work(dims, list(op.outs), list(op.ins), op.formulas, op.names, op)
        made.folded = (False,) * len(dims)
        return normal(made)
    dims, out = op.ins[0].shape, op.outs[0]
    left = iter(out.strides)
    strides = tuple(0 if d in op.dims else next(left) for d in range(len(dims)))
    whole = Ref(out.storage, dims, strides, out.offset)
    made = Work(dims, [whole], list(op.ins), (op.formula,), op.names, op, op.fold)
    made.folded = tuple(d in op.dims for d in range(len(dims)))
    return normal(made)


def fuse(ops: list[Op]) -> list[Item]:
    """The operations as loops, and what is none, in an order that keeps every dependency."""
    items: list[Item] = []
    for op in ops:
        if isinstance(op, (Map, Fold)):
            _place(items, work_of(op))
        else:
            items.append(op)
    for item in items:
        if isinstance(item, Loop):
            item.works = merged(item.works)
    _keep(items)
    return items


def _place(items: list[Item], work: Work) -> None:
    """Into the last loop that it may join, before all that it need not follow."""
    chosen: tuple[Loop, Dims] | None = None
    storages = {ref.storage for ref in work.refs()}
    for item in reversed(items):
        if isinstance(item, Loop):
            dims = common(item.dims, work.dims)
            if dims is not None and _may_join(item, work, dims):
                if any(ref.storage in storages for ref in item.outs + item.ins):
                    chosen = item, dims
                    break
                if chosen is None and math.prod(dims) <= SMALL:
                    chosen = item, dims
        if _conflict(item, work):
            break
    if chosen is None:
        items.append(Loop([work]))
        return
    loop, dims = chosen
    loop.works = [split(w, dims) for w in (*loop.works, work)]


def _conflict(item: Item, work: Work) -> bool:
    return any(overlap(a, b) for a in item.outs for b in work.refs()) or any(
        overlap(a, b) for a in item.ins for b in work.outs
    )


def _may_join(loop: Loop, work: Work, dims: Dims) -> bool:
    """Whether the work, done element by element beside the others, sees what it saw after them."""
    new = split(work, dims)
    for old in (split(w, dims) for w in loop.works):
        for a in old.refs():
            for b in new.refs():
                written = a in old.outs or b in new.outs
                if not written or not overlap(a, b):
                    continue
                if a != b or (old.fold and a in old.outs) or (new.fold and b in new.outs):
                    return False
    return True


def _keep(items: list[Item]) -> None:
    """Mark what must be stored: all but temporaries that are read in their own loop only."""
    for k, item in enumerate(items):
        if not isinstance(item, Loop):
            continue
        elsewhere = [r for j, other in enumerate(items) if j != k for r in other.ins]
        for work in item.works:
            for out in work.outs:
                if work.fold or out.storage.kind != "temporary":
                    item.kept.add(out)
                elif any(overlap(out, ref) for ref in elsewhere):
                    item.kept.add(out)
