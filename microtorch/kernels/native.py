"""Kernels as built-in functions: a call on small contiguous arrays without NumPy's machinery.

A ufunc call takes 0.28 us and a gufunc call 0.54 us, nearly all of it preparation. The function
that `function(...)` gives looks at the operands itself and, where they are contiguous arrays of the
kernel's dtype and of one shape or a single element, makes the result and runs the loop: 0.12 us.
So it does for matrices of contiguous rows, row by row (parts of the columns of a matrix, as the
gates of a recurrent layer are), and for a vector beside them. Everything else, and everything
large, goes to the ufunc, so the results are the same.

This reads CPython's and NumPy's objects in memory. `available` compares every place that is read
with a probe first; where one differs (another interpreter), kernels stay plain ufuncs.
"""

import ctypes
import functools
import sysconfig
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

from . import jit

# More elements than this go to the ufunc, which lets other threads run meanwhile.
MOST = 1 << 16
# So do more rows that do not lie together, which NumPy goes through faster.
ROWS = 128

# The context, a bytes object, as words: 0 number of inputs, 1 ndarray, 2 dtype, 3 item size,
# 4 PyObject_Vectorcall, 5 what is called instead, 6 PyArray_NewFromDescr, 7 dtype of the results,
# 8 loop, 9 its data, 10 item size of the results, 11 Py_IncRef, 12 whether all elements are folded,
# whatever the rank, to an array of one, 13 number of results, 14 None.
# An array object: 8 type, 16 data, 24 rank, 32 shape, 40 strides, 56 dtype, 64 flags.
_MAP = f"""
def kernel(self, args, nargs, names):
    c = i64_at(self + {{bytes}})
    count = c[0]
    given = i64_at(args)
    operands = words(16)
    a = i64_at(operands)
    steps = words(16)
    s = i64_at(steps)
    # Distances of rows, and the bytes from the first element to the last.
    jumps = i64_at(words(16))
    spans = i64_at(words(16))
    shape = 0
    rank = i64(-1)
    size = i64(1)
    gaps = False
    good = (names == 0) & (((nargs == count) & (c[13] == 1)) | (nargs == count + c[13]))
    good = good & (nargs < 16)
    if good:
        for k in range(nargs):
            x = i64_at(given[k])
            if x[1] != c[1]:
                good = False
                break
            flags = i32_at(given[k] + 64)[0]
            nd = i64(i32_at(given[k] + 24)[0])
            lengths = i64_at(x[4])
            strides = i64_at(x[5])
            item = where(k < count, c[3], c[10])
            n = i64(1)
            still = i64(0)
            for d in range(nd):
                n = n * lengths[d]
                still = still | strides[d]
            # Without gaps, or one element repeated, or rows without gaps.
            whole = (flags & 1) != 0
            rows = False
            jumps[k] = 0
            spans[k] = n * item
            if nd == 2:
                rows = (strides[1] == item) & (strides[0] >= 0) & (not whole)
                jumps[k] = strides[0]
                if rows:
                    gaps = True
                    spans[k] = (lengths[0] - 1) * strides[0] + lengths[1] * item
            good = good & (x[7] == where(k < count, c[2], c[7]))
            good = good & ((flags & 0x100) != 0) & (whole | rows | (still == 0))
            a[k] = x[2]
            s[k] = where(whole | rows, item, 0)
            if k >= count:
                # The result is given: of the shape found, and an operand or apart from all.
                good = good & (whole | rows) & (n == size) & (nd == rank) & ((flags & 0x400) != 0)
                if good:
                    for d in range(nd):
                        good = good & (lengths[d] == i64_at(shape)[d])
                    for j in range(count):
                        apart = (a[j] + spans[j] <= a[k]) | (a[k] + spans[k] <= a[j])
                        same = (a[j] == a[k]) & ((s[j] != 0) | (size == 1)) & (jumps[j] == jumps[k])
                        good = good & (apart | same)
            elif nd > rank:
                good = good & (size == 1)
                for j in range(k):
                    s[j] = 0
                rank, shape, size = nd, x[4], n
            elif n == 1:
                s[k] = where(size == 1, c[3], 0)
            elif nd < rank:
                # A vector that stands for every row.
                good = good & whole & (nd == 1) & (rank == 2)
                good = good & (lengths[0] == i64_at(shape)[rank - 1])
                gaps = True
            elif size == 1:
                for j in range(k):
                    s[j] = 0
                shape, size = x[4], n
            else:
                for d in range(nd):
                    good = good & (lengths[d] == i64_at(shape)[d])
        good = good & (size <= {MOST})
        if good & gaps:
            good = i64_at(shape)[0] <= {ROWS}
    if not good:
        return call(c[4], (c[5], args, nargs, names))
    if nargs == count:
        call(c[11], (c[7],))
        out = call(c[6], (c[1], c[7], rank, shape, 0, 0, 0, 0))
        if out == 0:
            return 0
        a[count] = i64_at(out)[2]
        s[count] = c[10]
        if rank == 2:
            jumps[count] = i64_at(shape)[1] * c[10]
    else:
        out = given[count]
        if c[13] > 1:
            out = c[14]
        call(c[11], (out,))
    length = words(1)
    i64_at(length)[0] = size
    if gaps:
        i64_at(length)[0] = i64_at(shape)[1]
        for row in range(i64_at(shape)[0]):
            call(c[8], (operands, length, steps, c[9]))
            for k in range(count + c[13]):
                a[k] += where(s[k] != 0, jumps[k], 0)
    else:
        call(c[8], (operands, length, steps, c[9]))
    return out
"""

_FOLD = f"""
def kernel(self, args, nargs, names):
    c = i64_at(self + {{bytes}})
    count = c[0]
    given = i64_at(args)
    operands = words(8)
    a = i64_at(operands)
    steps = words(16)
    s = i64_at(steps)
    size = i64(-1)
    good = (names == 0) & (nargs == count) & (nargs < 7)
    if good:
        for k in range(nargs):
            x = i64_at(given[k])
            if x[1] != c[1]:
                good = False
                break
            nd = i32_at(given[k] + 24)[0]
            good = good & (x[7] == c[2]) & ((i32_at(given[k] + 64)[0] & 0x101) == 0x101)
            good = good & ((nd == 1) | (c[12] != 0))
            n = i64(1)
            for d in range(nd):
                n = n * i64_at(x[4])[d]
            good = good & ((size < 0) | (n == size))
            size = n
            a[k] = x[2]
            s[k] = 0
            s[count + 1 + k] = c[3]
        good = good & (size <= {MOST})
    if not good:
        return call(c[4], (c[5], args, nargs, names))
    call(c[11], (c[7],))
    lengths = words(2)
    i64_at(lengths)[0] = 1
    out = call(c[6], (c[1], c[7], c[12], lengths, 0, 0, 0, 0))
    if out == 0:
        return 0
    a[count] = i64_at(out)[2]
    s[count] = 0
    i64_at(lengths)[1] = size
    call(c[8], (operands, lengths, steps, c[9]))
    return out
"""


# The context: 0 arrays a line, 1 ndarray, 2 dtype, 3 loop, 4 True, 5 False, 6 Py_IncRef. The first
# argument holds the numbers as bytes; the others are the arrays, line after line.
_STEP = f"""
def kernel(self, args, nargs, names):
    c = i64_at(self + {{bytes}})
    given = i64_at(args)
    lines = (nargs - 1) // c[0]
    table = words(512)
    t = i64_at(table)
    used = i64(0)
    total = i64(0)
    good = (names == 0) & (lines * (c[0] + 1) <= 512)
    if good:
        for line in range(lines):
            size = i64(-1)
            for k in range(c[0]):
                place = given[1 + line * c[0] + k]
                x = i64_at(place)
                if x[1] != c[1]:
                    good = False
                    break
                flags = i32_at(place + 64)[0]
                # Without gaps and aligned; all but the gradient, which is second, are written.
                good = good & (x[7] == c[2]) & ((flags & 0x101) == 0x101)
                good = good & ((k == 1) | ((flags & 0x400) != 0))
                n = i64(1)
                for d in range(i32_at(place + 24)[0]):
                    n = n * i64_at(x[4])[d]
                good = good & ((size < 0) | (n == size))
                size = n
                t[used] = place + 16
                used += 1
            t[used] = size
            used += 1
            total += size
            if not good:
                break
    good = good & (total <= {MOST})
    if good:
        call(c[3], (table, lines, given[0] + {{bytes}}, 0))
    result = where(good, c[4], c[5])
    call(c[6], (result,))
    return result
"""


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


METH_FASTCALL_KEYWORDS = 0x82
BYTES = bytes.__basicsize__ - 1
_forever = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", ctypes.pythonapi))


@functools.cache
def available() -> bool:
    """Whether objects lie in memory as the texts above take it."""
    if sysconfig.get_config_var("Py_GIL_DISABLED") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    probe = np.zeros((3, 5), np.float32)[:, ::2]
    word = lambda place: ctypes.c_int64.from_address(place).value
    at = id(probe)
    seen = (
        word(at + 8), word(at + 16), word(at + 24) & 0xFFFFFFFF, word(at + 56),
        *(word(word(at + 32) + 8 * k) for k in range(2)),
        *(word(word(at + 40) + 8 * k) for k in range(2)),
    )  # fmt: skip
    flags = [word(id(a) + 64) & 0x501 for a in (probe, np.zeros(3), np.broadcast_to(1.0, 3))]
    token = b"microtorch"
    return (
        seen == (id(np.ndarray), probe.ctypes.data, 2, id(probe.dtype), 3, 3, 20, 8)
        and flags == [0x500, 0x501, 0x100]
        and ctypes.string_at(id(token) + BYTES, len(token)) == token
    )


def address_of(name: str) -> int:
    """The address of a function of CPython's C API."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


@functools.cache
def api() -> tuple[int, int, int]:
    """PyObject_Vectorcall, PyArray_NewFromDescr (fixed by NumPy's ABI), Py_IncRef."""
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    table = ctypes.cast(
        pointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p)
    )
    return address_of("PyObject_Vectorcall"), table[94] or 0, address_of("Py_IncRef")


class _Context(bytes):
    """What a built-in function is given as `self`, and what must live as long."""

    keep: Any


def builtin(name: str, address: int, context: list[int], keep: Any = None) -> Callable[..., Any]:
    """A built-in function: machine code that is given its context as `self`; it holds `keep`."""
    words = _Context(np.array(context, np.int64).tobytes())
    words.keep = keep
    definition = _MethodDef(name.encode(), address, METH_FASTCALL_KEYWORDS, None)
    # Never freed: a function reads its definition when it dies, which may be at the very end.
    _forever(definition)
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
        ("PyCFunction_NewEx", ctypes.pythonapi)
    )
    return make(ctypes.addressof(definition), words, None)  # type: ignore[no-any-return]


def function(
    ufunc: Any,
    loop: int,
    data: int,
    types: list[np.dtype[Any]],
    fold: bool = False,
    total: bool = False,
) -> Callable[..., Any]:
    """The kernel of a ufunc, whose result is always an array, as a built-in function.

    types: dtypes of the inputs, which are one, and of the results, which are one. total: a fold
    takes all elements of operands of one shape, and gives an array of shape (1,). A kernel of
    several results gives None where it was given the arrays for them.
    """
    inputs, outputs = ufunc.nin, ufunc.nout

    def instead(*operands: Any, **options: Any) -> Any:
        if total:
            return ufunc(*[x.ravel() for x in operands], out=...).reshape(1)
        if len(operands) == inputs:
            options.setdefault("out", ...)
        found = ufunc(*operands, **options)
        return found if outputs == 1 or len(operands) == inputs else None

    if not available():
        return instead
    text = (_FOLD if fold else _MAP).format(bytes=BYTES)
    address = jit.address("kernel", text, "i64(i64,i64,i64,i64)")
    vectorcall, new_array, incref = api()
    context = [
        inputs, id(np.ndarray), id(types[0]), types[0].itemsize, vectorcall, id(instead),
        new_array, id(types[-1]), loop, data, types[-1].itemsize, incref, total, outputs, id(None),
    ]  # fmt: skip
    return builtin(ufunc.__name__, address, context, (instead, types))


def step(loop: int, arrays: int, dtype: np.dtype[Any]) -> Callable[..., bool]:
    """An optimizer's update: `step(numbers, *lines)` of lines of as many arrays.

    It gives False, and has changed nothing, for what is large or no plain array of the dtype.
    """
    if not available():
        return lambda numbers, *lines: False
    address = jit.address("kernel", _STEP.format(bytes=BYTES), "i64(i64,i64,i64,i64)")
    context = [
        arrays, id(np.ndarray), id(dtype), loop, id(True), id(False), address_of("Py_IncRef"),
    ]  # fmt: skip
    return builtin("step", address, context, dtype)
