"""The call of a program as a built-in function: a list of arrays in, a list of fresh arrays out.

It looks at the arrays itself, writes their addresses into the program's table, reads the numbers,
makes the results and runs the program: 0.2 us in all. Whatever it does not expect goes to a Python
function, `instead`, that does the same. As in `native`, whose checks it adds to, objects are read
where CPython and NumPy keep them.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import jit, native

ALIGNED_FLAG, WRITEABLE_FLAG = 0x100, 0x400

# The context as words: 0 table, 1 program, 2 number of arguments, 3 their descriptions,
# 4 number of results, 5 their descriptions, 6 number of numbers, 7 their descriptions,
# 8 number of written ranges, 9 the ranges, 10 what is called instead, 11 types list, ndarray,
# float, then functions: 14 PyObject_Vectorcall, 15 PyArray_NewFromDescr, 16 Py_IncRef,
# 17 Py_DecRef, 18 PyList_New, 19 PyObject_CallNoArgs, 20 PyNumber_Float.
# An argument: 0 word of the table, 1 dtype, 2 rank, 3 flags, 4 bytes before its first element,
# 5 and 6 bytes from its address to the ends, 7 the shape, then the strides.
# A result: 0 word, 1 dtype, 2 rank, 3 the shape. A number: the callable, where it is kept, bytes.
_ENTRY = """
def fits(c, items):
    d = c[3]
    for k in range(c[2]):
        q = i64_at(d)
        x = i64_at(items[k])
        if x[1] != c[12]:
            return False
        rank = q[2]
        if x[7] != q[1] or i64(i32_at(items[k] + 24)[0]) != rank:
            return False
        if i64(i32_at(items[k] + 64)[0]) & q[3] != q[3]:
            return False
        for j in range(rank):
            n = i64_at(x[4])[j]
            if n != q[7 + j] or (n != 1 and i64_at(x[5])[j] != q[7 + rank + j]):
                return False
        ranges = i64_at(c[9])
        for j in range(c[8]):
            if x[2] + q[5] < ranges[2 * j + 1] and ranges[2 * j] < x[2] + q[6]:
                return False
        d = d + 8 * (7 + 2 * rank)
    return True

def kernel(self, args, nargs, names):
    c = i64_at(self + {bytes})
    given = i64_at(args)
    good = names == 0 and nargs == 1
    if good:
        listed = i64_at(given[0])
        good = listed[1] == c[11] and listed[2] == c[2]
    if good:
        good = fits(c, i64_at(listed[3]))
    if not good:
        return call(c[14], (c[10], args, nargs, names))
    for k in range(c[6]):
        q = i64_at(c[7] + 24 * k)
        x = call(c[19], (q[0],))
        if x != 0 and i64_at(x)[1] != c[13]:
            given_back = x
            x = call(c[20], (x,))
            call(c[17], (given_back,))
        if x == 0:
            return 0
        if q[2] == 4:
            f32_at(q[1])[0] = f32(f64_at(x + 16)[0])
        else:
            f64_at(q[1])[0] = f64_at(x + 16)[0]
        call(c[17], (x,))
    out = call(c[18], (c[4],))
    if out == 0:
        return 0
    made = i64_at(i64_at(out)[3])
    table = i64_at(c[0])
    d = c[5]
    for k in range(c[4]):
        q = i64_at(d)
        call(c[16], (q[1],))
        x = call(c[15], (c[12], q[1], q[2], d + 24, 0, 0, 0, 0))
        if x == 0:
            call(c[17], (out,))
            return 0
        made[k] = x
        table[q[0]] = i64_at(x)[2]
        d = d + 8 * (3 + q[2])
    items = i64_at(listed[3])
    d = c[3]
    for k in range(c[2]):
        q = i64_at(d)
        table[q[0]] = i64_at(items[k])[2] - q[4]
        d = d + 8 * (7 + 2 * q[2])
    call(c[1], (c[0], 0))
    return out
"""


@functools.cache
def available() -> bool:
    """Whether lists and floats too lie in memory as the text takes it."""
    probe = [1.5, None]
    word = lambda place: ctypes.c_int64.from_address(place).value
    return (
        native.available()
        and word(id(probe) + 16) == 2
        and word(word(id(probe) + 24) + 8) == id(None)
        and ctypes.c_double.from_address(id(probe[0]) + 16).value == 1.5
    )


def argument(
    word: int, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], offset: int,
    span: tuple[int, int], written: bool,
) -> list[int]:  # fmt: skip
    """The description of an array that is given: the word of its address, and its layout."""
    size, (low, high) = dtype.itemsize, span
    flags = ALIGNED_FLAG | WRITEABLE_FLAG * written
    ends = [(low - offset) * size, (high - offset + 1) * size]
    lengths = [*shape, *(s * size for s in strides)]
    return [word, id(dtype), len(shape), flags, offset * size, *ends, *lengths]


def entry(
    table: int,
    program: int,
    arguments: list[list[int]],
    results: list[tuple[int, np.dtype[Any], tuple[int, ...]]],
    numbers: list[tuple[Callable[[], float] | None, int, int]],
    ranges: list[tuple[int, int]],
    instead: Callable[..., Any],
    kept: list[Any],
) -> Callable[[list[Any]], list[Any]]:
    """The built-in function.

    ranges: memory that is written and no argument may overlap. kept: gets what must live as long
    as the function.
    """
    given = [word for each in arguments for word in each]
    made = [w for word, dtype, shape in results for w in (word, id(dtype), len(shape), *shape)]
    read = [w for source, place, size in numbers for w in (id(source), place, size)]
    lists = [given, made, read, [end for both in ranges for end in both]]
    words = [np.array(values or [0], np.int64) for values in lists]
    at = [w.ctypes.data for w in words]
    vectorcall, new_array, incref = native.api()
    functions = ("Py_DecRef", "PyList_New", "PyObject_CallNoArgs", "PyNumber_Float")
    context = [
        table, program, len(arguments), at[0], len(results), at[1], len(numbers), at[2],
        len(ranges), at[3], id(instead), id(list), id(np.ndarray), id(float), vectorcall, new_array,
        incref, *map(native.address_of, functions),
    ]  # fmt: skip
    address = jit.address(
        "kernel", _ENTRY.replace("{bytes}", str(native.BYTES)), "i64(i64,i64,i64,i64)"
    )
    return native.builtin("run", address, context, (words, results, numbers, instead), kept)
