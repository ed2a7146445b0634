"""Passes over the list of operations: values known elsewhere, work done twice, work for nothing."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from ..table import VOCABULARY, names_in
from .ir import Fold, Map, Op, Ref, Storage
from .space import covers

Ops = list[Op]


def simplify(ops: Ops, results: list[Ref]) -> Ops:
    """All passes."""
    return prune(share(forward(ops)), results)


def forward(ops: Ops) -> Ops:
    """Reads of copies, of constants, and of memory full of one number, from where these are."""
    writers = Counter(ref.storage for op in ops for ref in op.outs)
    last_write = {ref.storage: k for k, op in enumerate(ops) for ref in op.outs}
    last_read = {ref.storage: k for k, op in enumerate(ops) for ref in op.ins}
    elsewhere: dict[Storage, Ref] = {}
    result: Ops = []
    for k, op in enumerate(ops):
        op = replace(op, ins=tuple(_resolved(ref, elsewhere) for ref in op.ins))
        out = _value(op, writers)
        if isinstance(op, Map) and out is not None:
            if not any(any(_steps(ref)) for ref in op.ins):
                elsewhere[out.storage], made = _one_number(op)
                result += made
                continue
            source = op.ins[0]
            if op.formulas == op.names and source.dtype == out.dtype:
                until = last_read.get(out.storage, -1)
                kept = not k < last_write.get(source.storage, -1) <= until
                if kept and _steps(source) == _steps(out):
                    last_read[source.storage] = max(until, last_read.get(source.storage, -1))
                    elsewhere[out.storage] = replace(source, offset=source.offset - out.offset)
                    continue
        result.append(op)
    return result


def _value(op: Op, writers: Counter[Storage]) -> Ref | None:
    """The out of a map or fold, if it is all that ever writes into that memory."""
    if not isinstance(op, (Map, Fold)) or len(op.outs) != 1:
        return None
    (out,) = op.outs
    alone = out.storage.kind == "temporary" and writers[out.storage] == 1
    return out if alone and covers(out) else None


def _steps(ref: Ref) -> tuple[int, ...]:
    return tuple(s for n, s in zip(ref.shape, ref.strides) if n > 1)


def _resolved(ref: Ref, elsewhere: dict[Storage, Ref]) -> Ref:
    while ref.storage in elsewhere:
        found = elsewhere[ref.storage]
        if found.shape == ():
            return replace(ref, storage=found.storage, strides=(0,) * len(ref.shape), offset=found.offset)
        ref = replace(ref, storage=found.storage, offset=ref.offset + found.offset)
    array = ref.storage.array
    if ref.storage.kind == "constant" and ref.storage.size > 1 and array is not None and ref.size:
        if array[0] == array[-1] and (array == array[0]).all():
            return Ref(constant(array[0], ref.dtype), ref.shape, (0,) * len(ref.shape))
    return ref


def constant(value: Any, dtype: np.dtype[Any]) -> Storage:
    """A number."""
    return Storage(dtype, 1, "constant", array=np.array([value], dtype))


def _one_number(op: Map) -> tuple[Ref, Ops]:
    """Where the one number is that a map makes, and what makes it there."""
    out, formula = op.outs[0], op.formulas[0]
    values = [r.storage.array[r.offset] for r in op.ins
              if r.storage.kind == "constant" and r.storage.array is not None]  # fmt: skip
    floats = all(r.dtype.kind == "f" for r in (out, *op.ins))
    if floats and len(values) == len(op.ins) and not names_in(formula) & VOCABULARY:
        with np.errstate(all="ignore"):
            value = eval(formula, {}, dict(zip(op.names, values)))
        return Ref(constant(value, out.dtype), (), ()), []
    one = Ref(Storage(out.dtype, 1, "temporary", out.storage.name), (), ())
    ins = tuple(Ref(r.storage, (), (), r.offset) for r in op.ins)
    return one, [replace(op, outs=(one,), ins=ins)]


def share(ops: Ops) -> Ops:
    """Each value computed once."""
    writers = Counter(ref.storage for op in ops for ref in op.outs)
    version: Counter[Storage] = Counter()
    seen: dict[Any, Ref] = {}
    elsewhere: dict[Storage, Ref] = {}
    result: Ops = []
    for op in ops:
        op = replace(op, ins=tuple(_resolved(ref, elsewhere) for ref in op.ins))
        out = _value(op, writers)
        if out is not None:
            what = op.formulas if isinstance(op, Map) else (op.fold, op.dims, op.formula)  # type: ignore[attr-defined]
            versions = tuple(version[r.storage] for r in op.ins)
            key = (what, op.names, op.ins, versions, out.dtype, out.shape, out.strides)  # type: ignore[attr-defined]
            if key in seen:
                elsewhere[out.storage] = replace(seen[key], shape=(1,), strides=(1,), offset=0)
                continue
            seen[key] = out
        version.update(ref.storage for ref in op.outs)
        result.append(op)
    return result


def prune(ops: Ops, results: list[Ref]) -> Ops:
    """Without what nobody reads."""
    wanted = {ref.storage for ref in results}
    result: Ops = []
    for op in reversed(ops):
        if any(r.storage.kind != "temporary" or r.storage in wanted for r in op.outs):
            wanted.update(ref.storage for ref in op.ins)
            result.append(op)
    return result[::-1]
