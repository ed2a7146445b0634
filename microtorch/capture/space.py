"""Geometry of views: which overlap, and the space that a loop goes through."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .ir import Fold, Map, Op, Ref

Dims = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Work:
    """Formulas over a space, perhaps folded: what a loop is made of.

    All Refs have the shape `dims`; where a dim is `folded` away, the outs have stride 0 in it.
    """

    dims: Dims
    outs: tuple[Ref, ...]
    ins: tuple[Ref, ...]
    formulas: tuple[str, ...]
    names: tuple[str, ...]
    op: Op
    folded: tuple[bool, ...]
    fold: str = ""


def work_of(op: Map | Fold) -> Work:
    """An operation as work: without dims of size 1, the dim of the smallest steps innermost."""
    if isinstance(op, Map):
        dims = op.outs[0].shape
        work = Work(dims, op.outs, op.ins, op.formulas, op.names, op, (False,) * len(dims))
    else:
        dims, out, folded = op.ins[0].shape, op.outs[0], set(op.dims)
        left = iter(out.strides)
        strides = tuple(0 if d in folded else next(left) for d in range(len(dims)))
        outs = (out.over(dims, strides),)
        away = tuple(d in folded for d in range(len(dims)))
        work = Work(dims, outs, op.ins, (op.formula,), op.names, op, away, op.fold)
    refs = (*work.outs, *work.ins)
    weight = {k: sum(abs(r.strides[k]) for r in refs) for k, n in enumerate(dims) if n != 1}
    return _over(work, [(k, dims[k]) for k in sorted(weight, key=lambda k: -weight[k])])


def _over(work: Work, parts: Sequence[tuple[int, int]]) -> Work:
    """The same over other dims, given as (old dim, length)."""
    dims = tuple(n for _, n in parts)

    def view(ref: Ref) -> Ref:
        return ref.over(dims, [ref.strides[k] for k, _ in parts])

    outs, ins = (tuple(map(view, refs)) for refs in (work.outs, work.ins))
    folded = tuple(work.folded[k] for k, _ in parts)
    return replace(work, dims=dims, outs=outs, ins=ins, folded=folded)


def merged(works: list[Work], first: int = 0) -> list[Work]:
    """Works over one space with adjacent dims, from `first` on, joined where all views allow it."""
    for k in reversed(range(first, len(works[0].dims) - 1)):
        dims = works[0].dims
        if all(
            w.folded[k] == w.folded[k + 1]
            and all(r.strides[k] == dims[k + 1] * r.strides[k + 1] for r in (*w.outs, *w.ins))
            for w in works
        ):
            parts = list(enumerate(dims))
            parts[k : k + 2] = [(k + 1, dims[k] * dims[k + 1])]
            works = [_over(w, parts) for w in works]
    return works


def broadcast(ref: Ref, shape: Sequence[int]) -> Ref:
    """The view repeated to a shape."""
    lead = len(shape) - len(ref.shape)
    own = [0 if n == 1 != m else s for s, n, m in zip(ref.strides, ref.shape, shape[lead:])]
    return ref.over(shape, ([0] * lead + own)[: len(shape)])


def permuted(ref: Ref, order: Sequence[int]) -> Ref:
    """The view with its dims in another order."""
    return ref.over([ref.shape[d] for d in order], [ref.strides[d] for d in order])


def span(*refs: Ref) -> tuple[int, int]:
    """First and last element that views reach."""
    ends = [(r.offset, [(n - 1) * s for n, s in zip(r.shape, r.strides)]) for r in refs]
    low = min(offset + sum(e for e in steps if e < 0) for offset, steps in ends)
    return low, max(offset + sum(e for e in steps if e > 0) for offset, steps in ends)


def overlap(a: Ref, b: Ref) -> bool:
    """Whether two views may share an element."""
    if a.storage is not b.storage or not a.size or not b.size:
        return False
    (a_low, a_high), (b_low, b_high) = span(a), span(b)
    if a_high < b_low or b_high < a_low:
        return False
    steps = [s for r in (a, b) for n, s in zip(r.shape, r.strides) if n > 1]
    return (a.offset - b.offset) % (math.gcd(*steps) or 1) == 0


def covers(ref: Ref) -> bool:
    """Whether a view reaches every element of its storage, each once."""
    step = 1
    for s, n in sorted((s, n) for n, s in zip(ref.shape, ref.strides) if n > 1):
        if s != step:
            return False
        step *= n
    return ref.size == ref.storage.size


def contiguous(shape: Sequence[int]) -> Dims:
    """Strides in C order."""
    return tuple(math.prod(max(n, 1) for n in shape[k + 1 :]) for k in range(len(shape)))
