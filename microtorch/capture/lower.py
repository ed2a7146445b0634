"""Operations in simpler ones: what is left are maps, folds, products for BLAS, and calls."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product as points
from typing import Any

import numpy as np

from ..table import FOLDS, ROWWISE, names_in
from .ir import Call, Fold, Map, Op, Product, Recording, Ref, Rows, Storage
from .space import contiguous, overlap

# Products of fewer multiplications are loops; larger ones are BLAS's.
LOOPS = 4000
# Folds of so few elements, or into so few, are written out.
FEW = 8
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


def lower(recording: Recording) -> tuple[list[Op], list[Ref]]:
    """The operations in simpler ones, and the results, which have memory of their own."""
    ops = [simple for op in recording.ops for simple in _simple(op)]
    results = []
    for ref in recording.results:
        if ref.storage.kind != "result":
            own = temporary(ref, ref.storage.name, kind="result")
            ops.append(Map((own,), (ref,), formulas=("x",), names=("x",), label="copy"))
            ref = own
        results.append(ref)
    return ops, results


def temporary(like: Ref, name: str = "", kind: str = "temporary") -> Ref:
    """New memory for a view's elements, without gaps."""
    storage = Storage(like.dtype, like.size, kind, name)
    return Ref(storage, like.shape, contiguous(like.shape))


def _simple(op: Op) -> Iterator[Op]:
    if isinstance(op, Call):
        yield op
    elif not any(ref.size for ref in op.outs):
        return
    elif any(overlap(o, i) and o != i for o in op.outs for i in op.ins) or (
        not isinstance(op, Map) and any(overlap(o, i) for o in op.outs for i in op.ins)
    ):
        # What is read would be overwritten too early.
        own = tuple(temporary(ref, ref.storage.name) for ref in op.outs)
        yield from _simple(replace(op, outs=own))
        for ref, value in zip(op.outs, own):
            yield Map((ref,), (value,), formulas=("x",), names=("x",), origin=op.origin)
    elif isinstance(op, Rows):
        for each in _rows(op):
            yield from _simple(each)
    elif isinstance(op, Product):
        yield from _product(op)
    elif isinstance(op, Fold):
        yield from _fold(op)
    else:
        assert isinstance(op, Map)
        needed = frozenset().union(*map(names_in, op.formulas))
        pairs = [(n, r) for n, r in zip(op.names, op.ins) if n in needed]
        yield replace(op, names=tuple(n for n, _ in pairs), ins=tuple(r for _, r in pairs))


def _rows(op: Rows) -> Iterator[Op]:
    row, out = ROWWISE[op.name], op.outs[0]
    batch = out.shape[:-1]
    refs = {}
    for name, ref in zip((*row.inputs, *row.params), op.ins):
        if ref.shape == batch and name in row.params:
            ref = Ref(ref.storage, out.shape, (*ref.strides, 0), ref.offset)
        elif ref.shape != out.shape:
            lead = (0,) * (len(out.shape) - len(ref.shape))
            own = (s if n != 1 else 0 for s, n in zip(ref.strides, ref.shape))
            ref = Ref(ref.storage, out.shape, (*lead, *own), ref.offset)
        refs[name] = ref
    for line, kind, formula in row.lines:
        names = tuple(n for n in refs if n in names_in(formula))
        ins = tuple(refs[n] for n in names)
        note: dict[str, Any] = {"origin": op.origin, "label": f"{op.name}: {line}"}
        if kind == "row":
            made = temporary(out, line)
            yield Map((made,), ins, formulas=(formula,), names=names, **note)
            refs[line] = made
            continue
        one = Ref(Storage(out.dtype, 1, "temporary"), batch, contiguous(batch))
        made = temporary(one, line)
        if kind == "number":
            ins = tuple(Ref(r.storage, batch, r.strides[:-1], r.offset) for r in ins)
            yield Map((made,), ins, formulas=(formula,), names=names, **note)
        else:
            dims = (len(batch),)
            yield Fold((made,), ins, fold=kind, dims=dims, formula=formula, names=names, **note)
        refs[line] = Ref(made.storage, out.shape, (*made.strides, 0))
    names = tuple(n for n in refs if n in names_in(row.formula))
    ins = tuple(refs[n] for n in names)
    yield Map((out,), ins, formulas=(row.formula,), names=names, origin=op.origin, label=op.name)


def _product(op: Product) -> Iterator[Op]:
    """A fold of x * y if small; else a product whose matrices BLAS can read."""
    (out,), (a, b) = op.outs, op.ins
    k, thin = a.shape[-1], FEW if 1 in out.shape[-2:] else 2
    note: dict[str, Any] = {"origin": op.origin, "label": op.label}
    small = out.size * k <= LOOPS or k <= thin or out.size <= FEW
    if small or out.dtype.kind != "f":
        shape = (*out.shape, k)
        left = Ref(a.storage, shape, (*a.strides[:-1], 0, a.strides[-1]), a.offset)
        right = Ref(b.storage, shape, (*b.strides[:-2], 0, *b.strides[:-3:-1]), b.offset)
        dims = (len(shape) - 1,)
        fold = Fold((out,), (left, right), dims=dims, formula="x * y", names=("x", "y"), **note)
        yield from _simple(fold)
        return
    ins = []
    for ref in (a, b):
        if not readable(ref):
            dense = temporary(ref, ref.storage.name)
            yield Map((dense,), (ref,), formulas=("x",), names=("x",), label="copy")
            ref = dense
        ins.append(ref)
    given = out
    if not readable(out):
        out = temporary(out, out.storage.name)
    if out.strides[-1] != 1 and out.shape[-1] != 1:
        yield Product((_turned(out),), (_turned(ins[1]), _turned(ins[0])), **note)
    else:
        yield Product((out,), tuple(ins), **note)
    if out is not given:
        yield Map((given,), (out,), formulas=("x",), names=("x",), label="copy")


def _turned(ref: Ref) -> Ref:
    """The transposed matrices."""
    shape, strides = ref.shape, ref.strides
    return Ref(
        ref.storage, (*shape[:-2], *shape[:-3:-1]), (*strides[:-2], *strides[:-3:-1]), ref.offset
    )


def readable(ref: Ref) -> bool:
    """Whether the last two dims are a matrix that BLAS can read, perhaps transposed."""
    (n, m), (s, t) = ref.shape[-2:], ref.strides[-2:]
    plain = (t == 1 or m == 1) and (s >= m or n == 1)
    return plain or ((s == 1 or n == 1) and (t >= n or m == 1))


def _fold(op: Fold) -> Iterator[Op]:
    """A fold, written out where few elements are folded, or few results made."""
    (out,), shape = op.outs, op.ins[0].shape
    note: dict[str, Any] = {"origin": op.origin, "label": op.label}
    folded = int(np.prod([shape[d] for d in op.dims], dtype=np.int64))
    kept = [d for d in range(len(shape)) if d not in op.dims]
    kind = FOLDS[op.fold]
    if not folded:
        formula = kind.finish.replace("a", kind.initial).replace("n", "0")
        yield Map((out,), (), formulas=(formula,), **note)
        return
    real = out.dtype.kind == "f"
    if folded <= FEW and real:
        yield _written_out(op, kept, folded)
    elif 1 < out.size <= FEW and real:
        for point in points(*(range(shape[d]) for d in kept)):
            ins = tuple(_at(ref, kept, point, op.dims) for ref in op.ins)
            place = sum(i * s for i, s in zip(point, out.strides))
            one = Ref(out.storage, (), (), out.offset + place)
            dims = tuple(range(len(op.dims)))
            yield Fold(
                (one,), ins, fold=op.fold, dims=dims, formula=op.formula, names=op.names, **note
            )
    else:
        yield op


def _at(ref: Ref, dims: list[int], point: tuple[int, ...], rest: tuple[int, ...]) -> Ref:
    """The view at a point of some dims, over the rest."""
    rest = tuple(sorted(rest))
    offset = ref.offset + sum(i * ref.strides[d] for d, i in zip(dims, point))
    return Ref(
        ref.storage, tuple(ref.shape[d] for d in rest), tuple(ref.strides[d] for d in rest), offset
    )


def _written_out(op: Fold, kept: list[int], folded: int) -> Map:
    """A fold of few elements as one formula."""
    kind = FOLDS[op.fold]
    known: dict[Ref, str] = {}
    total = ""
    for point in points(*(range(op.ins[0].shape[d]) for d in op.dims)):
        renamed = {}
        for name, ref in zip(op.names, op.ins):
            part = _at(ref, list(op.dims), point, tuple(kept))
            renamed[name] = known.setdefault(part, f"x{len(known)}")
        term = substitute(op.formula, renamed)
        if op.formula not in ("x", "x * y") or op.fold == "prod":
            term = f"({term})"
        total = substitute(kind.combine, {"a": total, "b": term}) if total else term
    if kind.finish != "a":
        total = substitute(kind.finish, {"a": f"({total})", "n": str(folded)})
    return Map(
        op.outs, tuple(known), formulas=(total,), names=tuple(known.values()), origin=op.origin,
        label=op.label,
    )  # fmt: skip


def substitute(formula: str, values: dict[str, str]) -> str:
    """The formula with other texts for some of its names."""
    return _NAME.sub(lambda match: values.get(match[0], match[0]), formula)
