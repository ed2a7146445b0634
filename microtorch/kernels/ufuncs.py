"""Rows and folds as real NumPy ufuncs around our own machine code.

A compiled loop becomes a ufunc through NumPy's public C API, so broadcasting, strides and `out=`
come for free. Every table of kernels is a dict from dtype to kernel that compiles what is asked
for first. A loop over many elements is shared among threads by one generic wrapper; reductions
split at fixed places, whatever the number of threads.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

from ..table import FOLDS, ROWS, ROWWISE, STEPS, Fold, Row, Rowwise
from . import jit, link, native, steps, text, threads

__all__ = [
    "FOLD_KERNELS", "IN_PLACE", "ROWWISE_KERNELS", "ROW_KERNELS", "Array", "backward", "fold",
    "forward", "kernels_of", "rowwise", "step",
]  # fmt: skip

Array = np.ndarray[Any, Any]
Ufunc = Callable[..., Any]

_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_api = ctypes.cast(
    _capsule_pointer(_multiarray_umath._UFUNC_API, None), ctypes.POINTER(ctypes.c_void_p)
)
_plain = [ctypes.c_void_p] * 3 + [ctypes.c_int] * 4 + [ctypes.c_char_p] * 2 + [ctypes.c_int]
# Places in NumPy's C-API table, fixed by its ABI.
_from_loop = ctypes.PYFUNCTYPE(ctypes.py_object, *_plain)(_api[1] or 0)
_from_core_loop = ctypes.PYFUNCTYPE(ctypes.py_object, *_plain, ctypes.c_char_p)(_api[31] or 0)
# What each ufunc computes, for `capture`: ("map", formulas, names), ("fold", fold, formula, names)
# or ("rows", name).
MEANINGS: dict[Any, tuple[Any, ...]] = {}


def make_ufunc(
    name: str, loop: int, data: int, types: list[np.dtype[Any]], outputs: int, meaning: Any,
    signature: str = "",
) -> Ufunc:  # fmt: skip
    """A ufunc with one loop: `types` are the dtypes of its inputs, then of its outputs."""
    loops = (ctypes.c_void_p * 1)(loop)
    datas = (ctypes.c_void_p * 1)(data)
    codes = (ctypes.c_char * len(types)).from_buffer_copy(bytes(t.num for t in types))
    label, doc, core = name.encode(), b"", signature.encode()
    link.keep((loops, datas, codes, label, doc, core))
    arguments = (
        ctypes.addressof(loops), ctypes.addressof(datas), ctypes.addressof(codes), 1,
        len(types) - outputs, outputs, -1, label, doc, 0,
    )  # fmt: skip
    made = _from_core_loop(*arguments, core) if signature else _from_loop(*arguments)
    MEANINGS[made] = meaning
    return made  # type: ignore[no-any-return]


def made(
    name: str, loop: int, data: int, types: list[np.dtype[Any]], meaning: Any,
    core: str = "", total: bool = False, outputs: int = 1,
) -> Ufunc:  # fmt: skip
    """A kernel: a ufunc behind a built-in function, faster for small arrays."""
    ufunc = make_ufunc(name, loop, data, types, outputs, meaning, core)
    return native.function(ufunc, loop, data, types, bool(core), total)


class ByDtype(dict[Any, Any]):
    """dtype -> kernel, made at the first use."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[np.dtype[Any]], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, dtype: np.dtype[Any]) -> Any:
        if dtype.name not in text.C_TYPE:
            raise NotImplementedError(f"no kernel is made for arrays of dtype {dtype}")
        # One at a time: Python's parser fails in several threads at once.
        with _making[0]:
            kernel = self[dtype] = self._make(dtype)
        return kernel


# The lock that is held while a kernel is made; a forked child has one of its own.
_making = [threading.RLock()]


def _in_child() -> None:
    _making[0] = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


BOOL = np.dtype(bool)


def forward(row: Row, in_place: bool = False) -> ByDtype:
    """Kernels of z = formula: `kernel(*operands)`, or `kernel(x, ..., x)` if in place."""

    def make(dtype: np.dtype[Any]) -> Ufunc:
        loop = jit.address("loop", text.forward(row, dtype.name, in_place))
        cheap = text.is_cheap([row.formula])
        types = [dtype] * len(row.operands) + [BOOL if row.types == "bool" else dtype]
        meaning = ("map", (text.formula_of(row, dtype.name),), row.operands)
        return made(row.name, *threads.share(loop, len(types), cheap), types, meaning)

    return ByDtype(make)


def backward(row: Row, needed: tuple[bool, ...], in_place: bool = False) -> ByDtype:
    """Kernels of all needed input gradients in one pass: `kernel(g, *saved)`, or
    `kernel(g, *saved, g)` if in place."""
    operands = ("g", *text.backward_operands(row, needed))
    outputs = sum(needed)
    name = row.name + "_backward"
    wanted = zip(row.derivatives or (), needed, strict=True)
    meaning = ("map", tuple(text.chain(d) for d, on in wanted if on), operands)

    def make(dtype: np.dtype[Any]) -> Ufunc:
        loop = jit.address("loop", text.backward(row, needed, dtype.name, in_place))
        cheap = text.is_cheap(row.derivatives or ())
        count = len(operands) + outputs
        shared, types = threads.share(loop, count, cheap), [dtype] * count
        return made(name, *shared, types, meaning, outputs=outputs)

    return ByDtype(make)


def fold(kind: Fold, row: Row | None = None, total: bool = False) -> ByDtype:
    """Kernels of a reduction of x, or of a row's formula: `kernel(*operands, axis=-1)`.

    total: `kernel(*operands)` of operands of one shape and any rank, a result of shape (1,).
    """
    count = len(row.operands) if row else 1
    name = f"{kind.name}_{row.name}" if row else kind.name
    signature = ",".join(["(n)"] * count) + "->()"

    def make(dtype: np.dtype[Any]) -> Ufunc:
        whole = dtype.kind in "iub" and kind.name in ("sum", "prod")
        out = np.dtype(np.int64) if whole else dtype
        loop = jit.address("loop", text.fold(kind, row, dtype.name, out.name))
        meaning = ("fold", kind.name, row.formula if row else "x", row.operands if row else ("x",))
        return made(name, loop, 0, [dtype] * count + [out], meaning, signature, total)

    return ByDtype(make)


def rowwise(row: Rowwise) -> ByDtype:
    """Kernels of an op on rows: `kernel(*inputs, *params, axis=-1)`."""
    count = len(row.inputs) + len(row.params)
    signature = ",".join(["(n)"] * len(row.inputs) + ["()"] * len(row.params)) + "->(n)"

    def make(dtype: np.dtype[Any]) -> Ufunc:
        loop = jit.address("loop", text.rowwise(row, dtype.name))
        shared = threads.share(loop, count + 1, False, rows=True)
        return make_ufunc(
            row.name, *shared, [dtype] * (count + 1), 1, ("rows", row.name), signature
        )

    return ByDtype(make)


def step(name: str) -> ByDtype:
    """Two kernels of an optimizer update a dtype.

    The first takes addresses, `(table, lines, numbers, 0)`; the second `(numbers, *arrays)`, the
    numbers as bytes and arrays of few elements, and gives False for others.
    """
    arrays = len(STEPS[name].arrays)

    def make(dtype: np.dtype[Any]) -> Any:
        source, signature = steps.step(STEPS[name], dtype.name), "void(i64,i64,i64,i64)"
        loop = jit.address("loop", source, signature)
        return jit.function("loop", source, signature), native.step(loop, arrays, dtype)

    return ByDtype(make)


ROW_KERNELS = {name: forward(row) for name, row in ROWS.items()}
IN_PLACE = {name: forward(row, True) for name, row in ROWS.items() if row.types != "bool"}
FOLD_KERNELS = {name: fold(kind) for name, kind in FOLDS.items()}
ROWWISE_KERNELS = {name: rowwise(row) for name, row in ROWWISE.items()}


def kernels_of(row: Row) -> ByDtype:
    """The forward kernels of a row of the table, or of one's own."""
    return ROW_KERNELS[row.name] if ROWS.get(row.name) is row else forward(row)
