"""Geometry of views: which overlap, and one space of iteration for several of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from .ir import Op, Ref

Dims = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Work:
    """Formulas over a space, perhaps folded: what a loop is made of.

    All Refs have the shape `dims`; where a dim is folded away, the outs have stride 0 in it.
    """

    dims: Dims
    outs: list[Ref]
    ins: list[Ref]
    formulas: tuple[str, ...]
    names: tuple[str, ...]
    op: Op
    fold: str = ""
    folded: tuple[bool, ...] = field(default=())

    def refs(self) -> list[Ref]:
        """All views that it reads or writes."""
        return [*self.outs, *self.ins]


def span(ref: Ref) -> tuple[int, int]:
    """First and last element that a view reaches."""
    ends = [(n - 1) * s for n, s in zip(ref.shape, ref.strides)]
    return ref.offset + sum(e for e in ends if e < 0), ref.offset + sum(e for e in ends if e > 0)


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
    """Whether a view reaches every element of its storage."""
    return ref.size == ref.storage.size and is_dense(ref)


def is_dense(ref: Ref) -> bool:
    """Whether a view has neither gaps nor repeated elements, in any order of its dims."""
    step = 1
    for s, n in sorted((s, n) for n, s in zip(ref.shape, ref.strides) if n > 1):
        if s != step:
            return False
        step *= n
    return True


def contiguous(shape: Sequence[int]) -> Dims:
    """Strides in C order."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def common(a: Dims, b: Dims) -> Dims | None:
    """The coarsest dims that both can be split into, of equal sizes; None where there are none."""
    result: list[int] = []
    left, right = [n for n in a if n != 1], [n for n in b if n != 1]
    while left and right:
        n = min(left[-1], right[-1])
        if left[-1] % n or right[-1] % n:
            return None
        result.append(n)
        for dims in (left, right):
            dims[-1] //= n
            if dims[-1] == 1:
                dims.pop()
    return None if left or right else tuple(reversed(result))


def split(work: Work, dims: Dims) -> Work:
    """The same over finer dims."""
    if dims == work.dims:
        return work
    parts: list[tuple[int, int]] = []  # for each new dim: the old one, and the step within it
    old, step = len(work.dims) - 1, 1
    for n in reversed(dims):
        parts.append((old, step))
        step *= n
        if step == work.dims[old]:
            old, step = old - 1, 1
    parts.reverse()

    def finer(ref: Ref) -> Ref:
        return Ref(ref.storage, dims, tuple(ref.strides[k] * s for k, s in parts), ref.offset)

    return replace(
        work, dims=dims, outs=[finer(r) for r in work.outs], ins=[finer(r) for r in work.ins],
        folded=tuple(work.folded[k] for k, _ in parts),
    )  # fmt: skip


def taken(work: Work, order: Iterable[int]) -> Work:
    """The same with its dims in another order; dims of size 1 may be left out."""
    kept = list(order)
    pick = lambda values: tuple(values[k] for k in kept)
    view = lambda r: Ref(r.storage, pick(r.shape), pick(r.strides), r.offset)
    return replace(
        work, dims=pick(work.dims), outs=[view(r) for r in work.outs],
        ins=[view(r) for r in work.ins], folded=pick(work.folded),
    )  # fmt: skip


def normal(work: Work) -> Work:
    """Without dims of size 1, the dim of the smallest steps innermost, merged where possible."""
    refs = work.refs()
    weight = {k: -sum(abs(r.strides[k]) for r in refs) for k, n in enumerate(work.dims) if n != 1}
    return merged([taken(work, sorted(weight, key=lambda k: weight[k]))])[0]


def merged(works: list[Work]) -> list[Work]:
    """Works over one space with adjacent dims joined wherever all views allow it."""
    dims = works[0].dims
    for k in reversed(range(len(dims) - 1)):
        n = dims[k + 1]
        if all(
            w.folded[k] == w.folded[k + 1]
            and all(r.strides[k] == n * r.strides[k + 1] for r in w.refs())
            for w in works
        ):
            works = [_joined(w, k) for w in works]
            dims = works[0].dims
    return works


def _joined(work: Work, k: int) -> Work:
    n = work.dims[k] * work.dims[k + 1]
    dims = (*work.dims[:k], n, *work.dims[k + 2 :])
    view = lambda r: Ref(r.storage, dims, (*r.strides[:k], *r.strides[k + 1 :]), r.offset)
    return replace(
        work, dims=dims, outs=[view(r) for r in work.outs], ins=[view(r) for r in work.ins],
        folded=(*work.folded[:k], *work.folded[k + 1 :]),
    )  # fmt: skip
