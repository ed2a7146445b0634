"""Passes over the operations: in simpler ones, numbers as one number, nothing unused."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..table import FOLDS, ROWWISE, names_in
from .ir import Call, Fold, Map, Op, Product, Recording, Ref, Rows, Storage
from .space import contiguous, covers, overlap, permuted

# Products of fewer multiplications are loops.
LOOPS = 4000
# Folds of so few elements, or into so few, are written out.
FEW = 8


def lower(recording: Recording) -> tuple[list[Op], list[Ref]]:
    """The operations in simpler ones, and the results, which have memory of their own."""
    ops = [simple for op in recording.ops for simple in _simple(op)]
    results = []
    for ref in recording.results:
        if ref.storage.kind != "result":
            own = temporary(ref, ref.storage.name, kind="result")
            ops.append(_copy(own, ref, label="copy"))
            ref = own
        results.append(ref)
    return ops, results


def temporary(like: Ref, name: str = "", kind: str = "temporary") -> Ref:
    """New memory for a view's elements, without gaps."""
    storage = Storage(like.dtype, like.size, kind, name, device=like.storage.device)
    return Ref(storage, like.shape, contiguous(like.shape))


def _copy(out: Ref, value: Ref, **note: Any) -> Map:
    return Map((out,), (value,), formulas=("x",), names=("x",), **note)


def _simple(op: Op) -> Iterator[Op]:
    if isinstance(op, Call):
        yield op
    elif not any(ref.size for ref in op.outs):
        return
    elif any(
        overlap(o, i) and not (o == i and isinstance(op, Map)) for o in op.outs for i in op.ins
    ):
        # What is read would be overwritten too early.
        own = tuple(temporary(ref, ref.storage.name) for ref in op.outs)
        yield from _simple(replace(op, outs=own))
        yield from (_copy(ref, value, origin=op.origin) for ref, value in zip(op.outs, own))
    elif isinstance(op, Rows):
        for each in _rows(op):
            yield from _simple(each)
    elif isinstance(op, Product):
        yield from _product(op)
    elif isinstance(op, Fold) and not op.ins[0].size:
        kind = FOLDS[op.fold]
        formula = kind.finish.replace("a", kind.initial).replace("n", "0")
        yield Map(op.outs, (), formulas=(formula,), origin=op.origin, label=op.label)
    elif isinstance(op, Fold):
        yield op
    else:
        assert isinstance(op, Map)
        needed = frozenset().union(*map(names_in, op.formulas))
        pairs = [(n, r) for n, r in zip(op.names, op.ins) if n in needed]
        yield replace(op, names=tuple(n for n, _ in pairs), ins=tuple(r for _, r in pairs))


def _rows(op: Rows) -> Iterator[Op]:
    row, out = ROWWISE[op.name], op.outs[0]
    batch, zeros = out.shape[:-1], (0,) * len(out.shape)
    refs = {}
    for name, ref in zip((*row.inputs, *row.params), op.ins):
        strides = tuple(s if n != 1 else 0 for s, n in zip(ref.strides, ref.shape))
        if ref.shape == batch and name in row.params:
            strides = (*ref.strides, 0)
        strides = zeros[len(strides) :] + strides
        refs[name] = ref.over(out.shape, strides)

    def given(formula: str) -> dict[str, Any]:
        names = tuple(n for n in refs if n in names_in(formula))
        return {"names": names, "ins": tuple(refs[n] for n in names), "origin": op.origin}

    for line, kind, formula in row.lines:
        what, label = given(formula), f"{op.name}: {line}"
        if kind == "row":
            made = refs[line] = temporary(out, line)
            yield Map((made,), formulas=(formula,), label=label, **what)
            continue
        made = temporary(out.over(batch, contiguous(batch)), line)
        if kind == "number":
            what["ins"] = tuple(r.over(batch, r.strides[:-1]) for r in what["ins"])
            yield Map((made,), formulas=(formula,), label=label, **what)
        else:
            dims = (len(batch),)
            yield Fold((made,), fold=kind, dims=dims, formula=formula, label=label, **what)
        refs[line] = made.over(out.shape, (*made.strides, 0))
    yield Map((out,), formulas=(row.formula,), label=op.name, **given(row.formula))


def _product(op: Product) -> Iterator[Op]:
    """A fold of x * y if small; else a product."""
    (out,), (a, b) = op.outs, op.ins
    k, thin = a.shape[-1], FEW if 1 in out.shape[-2:] else 2
    note: dict[str, Any] = {"origin": op.origin, "label": op.label}
    small = out.size * k <= LOOPS or k <= thin or out.size <= FEW
    if small or out.dtype.kind != "f":
        shape = (*out.shape, k)
        left = a.over(shape, (*a.strides[:-1], 0, a.strides[-1]))
        right = b.over(shape, (*b.strides[:-2], 0, *b.strides[:-3:-1]))
        dims = (len(shape) - 1,)
        fold = Fold((out,), (left, right), dims=dims, formula="x * y", names=("x", "y"), **note)
        yield from _simple(fold)
        return
    given = out
    if out.shape[-1] > 1 != out.strides[-1]:
        # The columns of the result, or else its rows, are to be contiguous.
        if out.strides[-2] == 1:
            order = [*range(len(out.shape) - 2), -1, -2]
            out, a, b = (permuted(ref, order) for ref in (out, b, a))
        else:
            out = temporary(out, out.storage.name)
    yield Product((out,), (a, b), **note)
    if not overlap(out, given):
        yield _copy(given, out, label="copy")


def numbers(ops: list[Op]) -> list[Op]:
    """Memory full of one number as that number."""
    writers = Counter(ref.storage for op in ops for ref in op.outs)
    ones: dict[Storage, Storage] = {}
    result: list[Op] = []
    for op in ops:
        op = replace(op, ins=tuple(_one(ref, ones) for ref in op.ins))
        out = op.outs[0].storage if len(op.outs) == 1 and covers(op.outs[0]) else None
        if isinstance(op, Map) and out is not None and out.kind == "temporary":
            steps = [s for r in op.ins for n, s in zip(r.shape, r.strides) if n > 1]
            if writers[out] == 1 and not any(steps):
                ones[out] = Storage(out.dtype, 1, "temporary", out.name)
                ins = tuple(r.over((), ()) for r in op.ins)
                op = replace(op, outs=(Ref(ones[out], (), ()),), ins=ins)
        result.append(op)
    return result


def _one(ref: Ref, ones: dict[Storage, Storage]) -> Ref:
    one, array = ones.get(ref.storage), ref.storage.array
    if ref.storage.kind == "constant" and array is not None and array.size > 1:
        if array[0] == array[-1] and (array == array[0]).all():
            one = Storage(ref.dtype, 1, "constant", array=array[:1])
    return ref if one is None else Ref(one, ref.shape, (0,) * len(ref.shape))


def prune(ops: list[Op], results: list[Ref]) -> list[Op]:
    """Without what nobody reads."""
    wanted = {ref.storage for ref in results}
    result: list[Op] = []
    for op in reversed(ops):
        seen = any(r.storage.kind != "temporary" or r.storage in wanted for r in op.outs)
        if seen or (isinstance(op, Call) and op.effect):
            wanted.update(ref.storage for ref in op.ins)
            result.append(op)
    return result[::-1]
