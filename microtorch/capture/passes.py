"""Passes over the list of operations: values known elsewhere, work done twice, work for nothing."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from ..table import VOCABULARY, names_in
from .ir import Fold, Map, Op, Ref, Storage
from .space import covers

Ops = list[Op]


def forward(ops: Ops) -> Ops:
    """Reads of copies, of constants, and of memory full of one number, from where these are."""
    writers = Counter(ref.storage for op in ops for ref in op.outs)
    last_write = {ref.storage: k for k, op in enumerate(ops) for ref in op.outs}
    last_read = {ref.storage: k for k, op in enumerate(ops) for ref in op.ins}
    elsewhere: dict[Storage, Ref] = {}
    result: Ops = []
    for k, op in enumerate(ops):
        op = replace(op, ins=tuple(_resolved(ref, elsewhere) for ref in op.ins))
        if isinstance(op, Map) and len(op.outs) == 1:
            out = op.outs[0]
            own = out.storage.kind == "temporary" and writers[out.storage] == 1 and covers(out)
            if own and all(not any(_steps(ref)) for ref in op.ins):
                one, made = _one_number(op)
                elsewhere[out.storage] = one
                result += made
                continue
            if own and op.formulas == op.names and op.ins[0].dtype == out.dtype:
                (source,) = op.ins
                until = last_read.get(out.storage, -1)
                kept = not k < last_write.get(source.storage, -1) <= until
                if kept and _steps(source) == _steps(out):
                    last_read[source.storage] = max(until, last_read.get(source.storage, -1))
                    elsewhere[out.storage] = replace(source, offset=source.offset - out.offset)
                    continue
        result.append(op)
    return result


def _steps(ref: Ref) -> tuple[int, ...]:
    return tuple(s for n, s in zip(ref.shape, ref.strides) if n > 1)


def _resolved(ref: Ref, elsewhere: dict[Storage, Ref]) -> Ref:
    while ref.storage in elsewhere:
        found = elsewhere[ref.storage]
        if found.shape == ():
            return Ref(found.storage, ref.shape, (0,) * len(ref.shape), found.offset)
        ref = Ref(found.storage, ref.shape, ref.strides, ref.offset + found.offset)
    if ref.storage.kind == "constant" and ref.storage.size > 1 and ref.size:
        array = ref.storage.array
        assert array is not None
        if array[0] == array[-1] and (array == array[0]).all():
            one = constant(array[0], ref.dtype)
            return Ref(one, ref.shape, (0,) * len(ref.shape))
    return ref


def constant(value: Any, dtype: np.dtype[Any]) -> Storage:
    """A number."""
    return Storage(dtype, 1, "constant", array=np.array([value], dtype))


def _one_number(op: Map) -> tuple[Ref, Ops]:
    """Where the one number is that a map makes, and what makes it there."""
    out = op.outs[0]
    values = [_number(ref) for ref in op.ins]
    formula = op.formulas[0]
    if out.dtype.kind == "f" and None not in values and not names_in(formula) & VOCABULARY:
        known = dict(zip(op.names, values))
        with np.errstate(all="ignore"):
            return Ref(constant(eval(formula, {}, known), out.dtype), (), ()), []
    one = Ref(Storage(out.dtype, 1, "temporary", out.storage.name), (), ())
    ins = tuple(Ref(r.storage, (), (), r.offset) for r in op.ins)
    return one, [replace(op, outs=(one,), ins=ins)]


def _number(ref: Ref) -> Any:
    if ref.storage.kind != "constant" or ref.storage.array is None or ref.dtype.kind != "f":
        return None
    return ref.storage.array[ref.offset]


def share(ops: Ops) -> Ops:
    """Each value computed once."""
    writers = Counter(ref.storage for op in ops for ref in op.outs)
    version: Counter[Storage] = Counter()
    seen: dict[Any, Ref] = {}
    elsewhere: dict[Storage, Ref] = {}
    result: Ops = []
    for op in ops:
        op = replace(op, ins=tuple(_resolved(ref, elsewhere) for ref in op.ins))
        key: Any = None
        out = op.outs[0] if op.outs else None
        if isinstance(op, (Map, Fold)) and out is not None and len(op.outs) == 1:
            own = out.storage.kind == "temporary" and writers[out.storage] == 1 and covers(out)
            if own:
                key = (*_what(op), op.ins, tuple(version[r.storage] for r in op.ins))
                key += (out.dtype, out.shape, out.strides)
        if key in seen and out is not None:
            elsewhere[out.storage] = replace(seen[key], shape=(1,), strides=(1,), offset=0)
            continue
        if key is not None and out is not None:
            seen[key] = out
        version.update(ref.storage for ref in op.outs)
        result.append(op)
    return result


def _what(op: Map | Fold) -> tuple[Any, ...]:
    if isinstance(op, Map):
        return (op.formulas, op.names)
    return (op.fold, op.dims, op.formula, op.names)


def prune(ops: Ops, results: list[Ref]) -> Ops:
    """Without what nobody reads."""
    wanted = {ref.storage for ref in results}
    result: Ops = []
    for op in reversed(ops):
        if any(r.storage.kind != "temporary" or r.storage in wanted for r in op.outs):
            wanted.update(ref.storage for ref in op.ins)
            result.append(op)
    return result[::-1]


def simplify(ops: Ops, results: list[Ref]) -> Ops:
    """All passes."""
    return prune(share(forward(ops)), results)
