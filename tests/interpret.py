"""A recording done in NumPy, one operation after the other; and short ways to write recordings."""

import copy

import numpy as np

from microtorch.capture.ir import Call, Fold, Map, Product, Recording, Ref, Rows, Storage
from microtorch.capture.space import contiguous
from microtorch.table import FOLDS, ROWWISE

FUNCTIONS = {
    "exp": np.exp, "log": np.log, "tanh": np.tanh, "sqrt": np.sqrt, "fabs": np.abs,
    "where": np.where, "log1p": np.log1p, "maximum": np.maximum, "minimum": np.minimum,
    "inf": np.inf, "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}  # fmt: skip
REDUCE = {"sum": np.sum, "mean": np.mean, "prod": np.prod, "max": np.max, "min": np.min}


def memory(shape, kind="temporary", name="", dtype="float32", array=None, **more):
    """A contiguous view of new memory."""
    dtype = np.dtype(dtype if array is None else array.dtype)
    if array is not None:
        shape, array = array.shape, array.reshape(-1)
    storage = Storage(dtype, int(np.prod(shape)), kind, name, array, **more)
    return Ref(storage, tuple(shape), contiguous(shape))


def transposed(ref):
    return Ref(ref.storage, ref.shape[::-1], ref.strides[::-1], ref.offset)


def repeated(ref, shape):
    lead = len(shape) - len(ref.shape)
    own = tuple(s if n != 1 else 0 for s, n in zip(ref.strides, ref.shape))
    return Ref(ref.storage, tuple(shape), (0,) * lead + own, ref.offset)


def view(bases, ref):
    size = ref.dtype.itemsize
    return np.ndarray(
        ref.shape, ref.dtype, bases[ref.storage], ref.offset * size, [s * size for s in ref.strides]
    )


def value(formula, names, arrays, dtype):
    with np.errstate(all="ignore"):
        return eval(formula, dict(FUNCTIONS), dict(zip(names, arrays)))


def perform(op, outs, ins):
    if isinstance(op, Call):
        op.function(outs, ins)
    elif isinstance(op, Map):
        made = [value(f, op.names, ins, o.dtype) for f, o in zip(op.formulas, outs)]
        with np.errstate(all="ignore"):
            for out, one in zip(outs, made):
                out[...] = np.asarray(one).astype(out.dtype)
    elif isinstance(op, Fold):
        element = np.broadcast_to(value(op.formula, op.names, ins, None), ins[0].shape)
        wide = np.float64 if outs[0].dtype.kind == "f" else outs[0].dtype
        with np.errstate(all="ignore"):
            outs[0][...] = REDUCE[op.fold](element.astype(wide), axis=op.dims)
    elif isinstance(op, Product):
        wide = np.float64 if outs[0].dtype.kind == "f" else outs[0].dtype
        outs[0][...] = ins[0].astype(wide) @ ins[1].astype(wide)
    else:
        assert isinstance(op, Rows)
        row = ROWWISE[op.name]
        n = outs[0].shape[-1]
        names = [*row.inputs, *row.params]
        known = {
            k: a if a.shape[-1:] == (n,) or not a.ndim else a[..., None] for k, a in zip(names, ins)
        }
        for line, kind, formula in row.lines:
            made = value(formula, known, known.values(), None)
            if kind in FOLDS:
                made = REDUCE[kind](np.broadcast_to(made, outs[0].shape), axis=-1, keepdims=True)
            known[line] = made
        outs[0][...] = value(row.formula, known, known.values(), None)


def interpret(recording, arguments):
    """The results; what is captured or given is changed in place."""
    bases = {}
    for ref, array in zip(recording.arguments, arguments):
        bases[ref.storage] = array.reshape(-1)
    refs = [r for op in recording.ops for r in (*op.outs, *op.ins)]
    for ref in [*refs, *recording.results]:
        storage = ref.storage
        if storage.kind in ("captured", "constant"):
            bases[storage] = storage.array
        elif storage.kind == "number":
            bases[storage] = np.array([storage.source()], storage.dtype)
        elif storage not in bases:
            bases[storage] = np.full(storage.size, 77, storage.dtype)
    for op in recording.ops:
        ins = [view(bases, r).copy() for r in op.ins]
        perform(op, [view(bases, r) for r in op.outs], ins)
    return [view(bases, r).copy() for r in recording.results]


def check(recording, arguments, rtol=2e-5, program=None, times=2, atol=1e-5):
    """The program gives what the interpreter gives, and changes what it changes."""
    from microtorch.capture.build import build

    program = program or build(copied_ops(recording))
    captured = {
        r.storage: r.storage.array
        for op in recording.ops
        for r in (*op.outs, *op.ins)
        if r.storage.kind == "captured"
    }
    before = [a.copy() for a in (*captured.values(), *arguments)]
    for _ in range(times):
        for array, old in zip((*captured.values(), *arguments), before):
            array[...] = old
        expected = interpret(recording, arguments)
        after = [a.copy() for a in (*captured.values(), *arguments)]
        for array, old in zip((*captured.values(), *arguments), before):
            array[...] = old
        got = program.run(list(arguments))
        changed = [*captured.values(), *arguments]
        for one, other in zip([*got, *changed], [*expected, *after], strict=True):
            assert one.shape == other.shape and one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol, atol, err_msg=program.source)
    return program


def copied_ops(recording):
    """The same with other operation objects, so that nothing can be changed in them."""
    ops = [copy.copy(op) for op in recording.ops]
    return Recording(ops, list(recording.arguments), list(recording.results))
