"""Recordings, run by NumPy one operation after another: slow, and right by its simplicity."""

import math
from typing import Any

import numpy as np

from microtorch.capture.ir import Array, Call, Fold, Map, Product, Recording, Ref, Rows, Storage
from microtorch.kernels.text import typed
from microtorch.table import FOLDS, ROWWISE

WORDS: dict[str, Any] = {
    name: getattr(np, name)
    for name in "exp expm1 log log1p log2 log10 sin cos tan sinh cosh tanh sqrt floor fabs "
    "copysign where maximum minimum rint trunc".split()
}
WORDS |= {
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "pow": np.power,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "softplus": lambda x: np.logaddexp(0, x),
    "erf": np.vectorize(math.erf, otypes=[float]), "erfc": np.vectorize(math.erfc, otypes=[float]),
}  # fmt: skip
REDUCE: dict[str, Any] = {
    "sum": np.sum,
    "mean": np.mean,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
}


def formula(text: str, values: dict[str, Any], dtype: np.dtype[Any]) -> Any:
    """A formula of the table on arrays of one dtype."""
    number = np.int64 if dtype.kind in "iub" else dtype.type
    inf = np.iinfo(np.int64).max if dtype.kind in "iub" else number(np.inf)
    values = {n: v.astype(np.uint8) if v.dtype == bool and n != "c" else v
              for n, v in values.items()}  # fmt: skip
    words = {**WORDS, "F": number, "INF": inf, **values}
    return eval(typed(text), {"__builtins__": {}}, words)


def _rows(name: str, ins: list[Array], out: Array) -> None:
    row = ROWWISE[name]
    values = dict(zip(row.inputs, ins[: len(row.inputs)], strict=True))
    values |= {n: x[..., None] for n, x in zip(row.params, ins[len(row.inputs) :], strict=True)}
    dtype = out.dtype
    for line, kind, text in row.lines:
        found = formula(text if kind != "number" else text or kind, values, dtype)
        if kind in FOLDS:
            found = REDUCE[kind](np.broadcast_to(found, out.shape), axis=-1, keepdims=True)
        values[line] = np.asarray(found, dtype)
    out[...] = formula(row.formula, values, dtype)


class Interpreter:
    """A program that interprets its recording."""

    # There is no built-in call.
    native = False

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.source = "\n".join(describe(recording))

    def explain(self) -> str:
        """The operations, a line each."""
        return self.source

    def run(self, arguments: list[Array]) -> list[Array]:
        """One call."""
        memory: dict[Storage, Array] = {}
        for ref, array in zip(self.recording.arguments, arguments, strict=True):
            memory[ref.storage] = array

        def seen(ref: Ref) -> Array:
            storage = ref.storage
            if storage.kind == "argument":
                array = memory[storage]
                base = next(r for r in self.recording.arguments if r.storage is storage)
                first = ref.offset - base.offset
                return np.ndarray(
                    ref.shape, array.dtype, _bytes(array), first * array.itemsize,
                    tuple(s * array.itemsize for s in ref.strides),
                )  # fmt: skip
            if storage not in memory:
                if storage.array is not None:
                    memory[storage] = storage.array
                elif storage.source is not None:
                    memory[storage] = np.array([storage.source()], storage.dtype)
                else:
                    memory[storage] = np.zeros(storage.size, storage.dtype)
            flat = memory[storage]
            return np.lib.stride_tricks.as_strided(
                flat[ref.offset :], ref.shape, tuple(s * flat.itemsize for s in ref.strides)
            )

        for op in self.recording.ops:
            for ref in (*op.ins, *op.outs):
                if ref.storage.kind == "number":
                    seen(ref)
        with np.errstate(all="ignore"):
            for op in self.recording.ops:
                outs, ins = [seen(r) for r in op.outs], [seen(r) for r in op.ins]
                if isinstance(op, Map):
                    values = dict(zip(op.names, ins, strict=True))
                    dtype = outs[0].dtype if op.names[:1] in ((), ("c",)) else ins[0].dtype
                    found = [formula(f, values, dtype) for f in op.formulas]
                    for out, value in zip(outs, found, strict=True):
                        out[...] = value
                elif isinstance(op, Fold):
                    values = dict(zip(op.names, ins, strict=True))
                    full = formula(op.formula, values, ins[0].dtype)
                    outs[0][...] = REDUCE[op.fold](full, axis=op.dims)
                elif isinstance(op, Product):
                    outs[0][...] = np.matmul(*ins)
                elif isinstance(op, Rows) and outs[0].size:
                    _rows(op.name, ins, outs[0])
                elif isinstance(op, Call):
                    op.function(outs, ins)
        return [seen(r).copy() for r in self.recording.results]


def _bytes(array: Array) -> Any:
    """Memory of an array as one vector that starts at its first element."""
    low, high = np.lib.array_utils.byte_bounds(array)
    count = (high - low) // array.itemsize if array.size else 0
    return np.lib.stride_tricks.as_strided(array.reshape(-1)[:0] if not count else array,
                                           (count,), (array.itemsize,))  # fmt: skip


def describe(recording: Recording) -> list[str]:
    """The operations, a line each."""
    names: dict[Storage, str] = {}

    def show(ref: Ref) -> str:
        s = ref.storage
        name = names.setdefault(s, f"{s.name or s.kind[0]}{len(names)}")
        return f"{name}{list(ref.shape)}"

    lines = []
    for op in recording.ops:
        kind = type(op).__name__
        outs, ins = (", ".join(map(show, refs)) for refs in (op.outs, op.ins))
        detail = (
            "; ".join(op.formulas) if isinstance(op, Map)
            else f"{op.fold} of {op.formula} over {op.dims}" if isinstance(op, Fold)
            else op.name if isinstance(op, Rows) else op.label
        )  # fmt: skip
        lines.append(f"{kind:8}{outs} <- {ins} : {detail}  # {op.origin}")
    return lines
