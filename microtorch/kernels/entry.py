"""The call of a program as a built-in function.

It looks at the arrays itself, writes their addresses into the program's table, reads the numbers,
makes the results and runs the program. Told by `fast`, it does all of a warm call: compares what
the program takes for granted, finds the tensors' arrays and the gradients, counts the run and makes
the tensor that is returned. From the comparisons to the end of the run no Python code runs, so
threads need no lock; a program of several parts, with Python functions between them, has one.
Whatever the function does not expect goes to a Python function. As in `native`, whose checks it
adds to, objects are read where CPython and NumPy keep them.
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from . import jit, native

ALIGNED_FLAG, WRITEABLE_FLAG = 0x100, 0x400

# How an argument is reached: the array itself, a tensor, a tensor from outside, an item of a dict
# that is a tensor. And what is only compared: arguments of one array, and tensors by identity.
ARRAY, TENSOR, OUTSIDE, GRADIENT, TWIN, SAME = range(6)

# The context as words.
_WORDS = """table program count arguments rows results_count results single numbers_count numbers
ranges_count ranges ends apart instead tuple_type array_type float_type none leaf true called
compared_count compared rest clock own follow gradients_count gradients grad stamps_count stamps
changes counter written tick tensor_type node finish array_at node_at vectorcall new_array
incref decref new_list call_none to_float clear get_item set_item get_attribute set_attribute
new_tensor new_tuple new_int segments between acquire release fetch restore matches
error held busy"""
# An argument: 0 how it is reached, 1 from what, 2 by which name, 3 type, 4 what its node must be
# (0 whatever, 1 neither None nor a leaf's), 5 word of the table, 6 dtype, 7 rank, 8 flags, 9 bytes
# before its first element, 10 and 11 bytes from its address to the ends, 12 the shape, the strides.
# A result: 0 word, 1 dtype, 2 rank, 3 bytes if it may not be nan, 4 the shape. A number: 0 dict,
# 1 key, 2 place in a tuple or -1, 3 where it is kept, 4 bytes, 5 whether it is 0 (1 no, 2 yes).
# A comparison: 0 kind (see `objects`), 1 object or address, 2 key, 3 what is there. A gradient:
# 0 dict of the leaf, 1 tensor, 2 array. A stamp, for a gradient that is changed: dict of the leaf.
_ENTRY = """
def compared(c):
    for k in range(c[COMPARED_COUNT]):
        q = i64_at(c[COMPARED] + 32 * k)
        x = q[1]
        if q[0] == 0:
            x = i64_at(x)[0]
        elif q[0] < 3:
            x = call(c[GET_ITEM], (x, q[2]))
            # What is not there is the class's None.
            if q[0] == 2 and x == 0:
                x = c[NONE]
        elif q[0] == 3:
            part = i64(0)
            if q[2] < i64_at(x)[2]:
                part = i64_at(i64_at(x)[3])[q[2]]
            x = part
        elif q[0] == 5:
            x = i64(u32_at(x)[0])
        else:
            x = call(c[GET_ATTRIBUTE], (x, q[2]))
            if x == 0:
                call(c[CLEAR], ())
            else:
                call(c[DECREF], (x,))
        if x != q[3]:
            return False
    return True

def fits(c, items):
    table = i64_at(c[TABLE])
    ends = i64_at(c[ENDS])
    ranges = i64_at(c[RANGES])
    d = c[ROWS]
    arrays = 0
    for k in range(c[ARGUMENTS]):
        q = i64_at(d)
        kind = q[0]
        at = q[1]
        if kind == 3:
            at = call(c[GET_ITEM], (at, q[2]))
        elif kind != 2:
            at = items[at]
        if kind == 5:
            if at != q[2]:
                return False
            d += 48
            continue
        if kind != 0:
            if at == 0 or (q[3] != 0 and i64_at(at)[1] != q[3]):
                return False
            node = i64_at(at + c[NODE_AT])[0]
            if q[4] == 1:
                if node == c[NONE] or node == c[LEAF]:
                    return False
            elif q[4] != 0 and node != q[4]:
                return False
            at = i64_at(at + c[ARRAY_AT])[0]
        if kind == 1:
            # Arguments of one array have another program.
            for j in range(q[1]):
                if i64_at(items[j] + c[ARRAY_AT])[0] == at:
                    return False
        if kind == 4:
            if at != i64_at(items[q[2]] + c[ARRAY_AT])[0]:
                return False
            d += 48
            continue
        x = i64_at(at)
        if at == 0 or x[1] != c[ARRAY_TYPE]:
            return False
        rank = q[7]
        if x[7] != q[6] or i64(i32_at(at + 24)[0]) != rank:
            return False
        if i64(i32_at(at + 64)[0]) & q[8] != q[8]:
            return False
        for j in range(rank):
            n = i64_at(x[4])[j]
            if n != q[12 + j] or (n != 1 and i64_at(x[5])[j] != q[12 + rank + j]):
                return False
        low = x[2] + q[10]
        high = x[2] + q[11]
        for j in range(c[RANGES_COUNT]):
            if low < ranges[2 * j + 1] and ranges[2 * j] < high:
                return False
        if c[APART]:
            for j in range(arrays):
                if low < ends[2 * j + 1] and ends[2 * j] < high:
                    return False
            ends[2 * arrays] = low
            ends[2 * arrays + 1] = high
        i64_at(c[HELD])[arrays] = at
        arrays += 1
        i64_at(c[HELD])[arrays] = 0
        table[q[5]] = x[2] - q[9]
        d += 96 + 16 * rank
    return True

def numbered(c):
    for k in range(c[NUMBERS_COUNT]):
        q = i64_at(c[NUMBERS] + 48 * k)
        x = call(c[GET_ITEM], (q[0], q[1]))
        if x != 0 and q[2] >= 0:
            held = x
            x = i64(0)
            if i64_at(held)[1] == c[TUPLE_TYPE] and q[2] < i64_at(held)[2]:
                x = i64_at(held)[3 + q[2]]
        if x == 0:
            return False
        call(c[INCREF], (x,))
        if i64_at(x)[1] != c[FLOAT_TYPE]:
            other = x
            x = call(c[TO_FLOAT], (other,))
            call(c[DECREF], (other,))
            if x == 0:
                call(c[CLEAR], ())
                return False
        value = f64_at(x + 16)[0]
        call(c[DECREF], (x,))
        if q[5] != 0 and (value != 0) != (q[5] == 1):
            return False
        if q[4] == 4:
            f32_at(q[3])[0] = f32(value)
        elif q[4] == 8:
            f64_at(q[3])[0] = value
    return True

def alone(c):
    # 0 if anyone else holds a gradient, 2 if all are where they belong.
    found = i64(2)
    for k in range(c[GRADIENTS_COUNT]):
        q = i64_at(c[GRADIENTS] + 24 * k)
        count = i64(2)
        if call(c[GET_ITEM], (q[0], c[GRAD])) != q[1]:
            count = 1
            found = i64(1)
        if i64(i32_at(q[1])[0]) > count or i64(i32_at(q[2])[0]) > 2:
            return i64(0)
    return found

def asked(c, function):
    # What a Python function gives; 0 for an error, -1 for what is none (an interrupt).
    x = call(c[CALL_NONE], (function,))
    if x != 0:
        call(c[DECREF], (x,))
    elif call(c[MATCHES], (c[ERROR],)) & 0xFFFFFFFF != 0:
        call(c[CLEAR], ())
    else:
        x = i64(-1)
    return x

def before(c):
    # TRUE, or else, or -1.
    x = c[TRUE]
    if c[REST]:
        x = asked(c, c[REST])
    if x == c[TRUE] and c[FOLLOW] and i64_at(c[CLOCK])[0] != i64_at(c[OWN])[0]:
        x = asked(c, c[FOLLOW])
    return x

def counted(c, placed):
    i64_at(c[COUNTER])[0] += 1
    if c[WRITTEN]:
        now = call(c[CALL_NONE], (c[TICK],))
        if now == 0:
            return False
        call(c[INCREF], (now,))
        for place in (c[CLOCK], c[OWN]):
            old = i64_at(place)[0]
            i64_at(place)[0] = now
            call(c[DECREF], (old,))
    for k in range(where(placed, 0, c[GRADIENTS_COUNT])):
        q = i64_at(c[GRADIENTS] + 24 * k)
        if call(c[SET_ITEM], (q[0], c[GRAD], q[1])) & 0xFFFFFFFF != 0:
            return False
    if c[STAMPS_COUNT]:
        stamp = call(c[NEW_TUPLE], (3,))
        if stamp == 0:
            return False
        call(c[INCREF], (i64_at(c[OWN])[0],))
        call(c[INCREF], (c[NONE],))
        i64_at(stamp)[3] = call(c[NEW_INT], (i64_at(c[COUNTER])[0],))
        i64_at(stamp)[4] = i64_at(c[OWN])[0]
        i64_at(stamp)[5] = c[NONE]
        for k in range(c[STAMPS_COUNT]):
            x = call(c[GET_ITEM], (i64_at(c[STAMPS])[k], c[GRAD]))
            if x != 0 and call(c[SET_ATTRIBUTE], (x, c[CHANGES], stamp)) & 0xFFFFFFFF != 0:
                return False
        call(c[DECREF], (stamp,))
    return True

def wrapped(c, out):
    size = i64_at(c[RESULTS])[3]
    data = i64_at(out)[2]
    if size == 4 and f32_at(data)[0] != f32_at(data)[0]:
        return i64(0)
    if size == 8 and f64_at(data)[0] != f64_at(data)[0]:
        return i64(0)
    t = call(c[NEW_TENSOR], (c[TENSOR_TYPE], 0, 0))
    if t != 0:
        call(c[INCREF], (out,))
        i64_at(t + c[ARRAY_AT])[0] = out
        call(c[INCREF], (c[NODE],))
        i64_at(t + c[NODE_AT])[0] = c[NODE]
    return t

def finished(c, items, out):
    given = call(c[NEW_TUPLE], (c[COUNT],))
    if given == 0:
        return i64(0)
    for k in range(c[COUNT]):
        call(c[INCREF], (items[k],))
        i64_at(given)[3 + k] = items[k]
    both = words(2)
    i64_at(both)[0] = given
    i64_at(both)[1] = out
    t = call(c[VECTORCALL], (c[FINISH], both, 2, 0))
    call(c[DECREF], (given,))
    return t

def others(c):
    # The other parts, and what Python does before each; it may let go of the arguments' arrays.
    held = i64_at(c[HELD])
    count = i64(0)
    while count < c[ARGUMENTS] and held[count] != 0:
        call(c[INCREF], (held[count],))
        count += 1
    good = True
    for k in range(1, c[SEGMENTS]):
        if good:
            x = call(c[CALL_NONE], (i64_at(c[BETWEEN])[k - 1],))
            if x == 0:
                good = False
            else:
                call(c[DECREF], (x,))
                call(c[PROGRAM], (c[TABLE], k))
    error = words(3)
    call(c[FETCH], (error, error + 8, error + 16))
    for k in range(count):
        call(c[DECREF], (held[k],))
    call(c[RESTORE], (i64_at(error)[0], i64_at(error)[1], i64_at(error)[2]))
    return good

def answer(c, args, nargs, names):
    # What is returned to Python, or 1 where the program does not fit.
    items = i64_at(args)
    good = names == 0
    if c[CALLED]:
        if good and nargs == c[COUNT]:
            x = before(c)
            if x == -1:
                return 0
            good = x == c[TRUE]
        else:
            good = False
    elif good and nargs == 1:
        given = i64_at(items[0])
        good = given[1] == c[TUPLE_TYPE] and given[2] == c[COUNT]
        items = i64_at(items[0] + 24)
    else:
        good = False
    out = i64(0)
    # A list, or an array if it is the only one.
    single = c[SINGLE] != 0
    d = c[RESULTS]
    if good:
        if not single:
            out = call(c[NEW_LIST], (c[RESULTS_COUNT],))
        for k in range(c[RESULTS_COUNT]):
            if not single and out == 0:
                return 0
            q = i64_at(d)
            call(c[INCREF], (q[1],))
            x = call(c[NEW_ARRAY], (c[ARRAY_TYPE], q[1], q[2], d + 32, 0, 0, 0, 0))
            if single:
                out = x
            elif x != 0:
                i64_at(i64_at(out)[3])[k] = x
            if x == 0:
                if not single:
                    call(c[DECREF], (out,))
                return 0
            d += 32 + 8 * q[2]
        good = numbered(c) and compared(c) and fits(c, items)
    gradients = i64(0)
    if good:
        gradients = alone(c)
        good = gradients != 0
    if not good:
        if out != 0:
            call(c[DECREF], (out,))
        return 1
    d = c[RESULTS]
    table = i64_at(c[TABLE])
    for k in range(c[RESULTS_COUNT]):
        x = out
        if not single:
            x = i64_at(i64_at(out)[3])[k]
        table[i64_at(d)[0]] = i64_at(x)[2]
        d += 32 + 8 * i64_at(d)[2]
    call(c[PROGRAM], (c[TABLE], 0))
    if c[SEGMENTS] > 1 and not others(c):
        call(c[DECREF], (out,))
        return 0
    if c[CALLED] == 0:
        return out
    t = i64(0)
    if counted(c, gradients == 2):
        if single:
            t = wrapped(c, out)
        if t == 0:
            t = finished(c, items, out)
    call(c[DECREF], (out,))
    return t

def kernel(self, args, nargs, names):
    # Python code that runs meanwhile may drop the function.
    c = i64_at(self + BYTES)
    call(c[INCREF], (self,))
    found = i64(0)
    x = i64(1)
    if c[ACQUIRE]:
        x = call(c[CALL_NONE], (c[ACQUIRE],))
    if x != 0:
        found = i64(1)
        if i64_at(c[BUSY])[0] == 0:
            i64_at(c[BUSY])[0] = c[ACQUIRE] != 0
            found = answer(c, args, nargs, names)
            i64_at(c[BUSY])[0] = 0
    if c[ACQUIRE] and x != 0:
        call(c[DECREF], (x,))
        # Nothing may be called while an exception is set.
        error = words(3)
        call(c[FETCH], (error, error + 8, error + 16))
        call(c[DECREF], (call(c[CALL_NONE], (c[RELEASE],)),))
        call(c[RESTORE], (i64_at(error)[0], i64_at(error)[1], i64_at(error)[2]))
    if found == 1:
        found = call(c[VECTORCALL], (c[INSTEAD], args, nargs, names))
    call(c[DECREF], (self,))
    return found
"""
# The numbers of the context's words, before the text.
_TEXT = (
    f"BYTES = {native.BYTES}\n"
    + "".join(f"{name.upper()} = {k}\n" for k, name in enumerate(_WORDS.split()))
    + _ENTRY
)

_SIGNATURE = "i64(i64,i64,i64,i64)"
# How many calls are made from Python before, while there is no code.
AFTER = 1_000
_asked = 0


@functools.cache
def available() -> bool:
    """Whether lists, tuples, floats, dicts and reference counts too lie as the text takes it."""
    probe = list[Any]((1.5, None))
    several, made = (1.5, None), {1: 1, 2: 2}
    word = lambda place: ctypes.c_int64.from_address(place).value
    return (
        native.available()
        and word(id(probe) + 16) == word(id(several) + 16) == word(id(made) + 16) == 2
        and word(word(id(probe) + 24) + 8) == word(id(several) + 32) == id(None)
        and ctypes.c_double.from_address(id(probe[0]) + 16).value == 1.5
        and word(id(probe)) & 0xFFFFFFFF == sys.getrefcount(probe) - 1
    )


@functools.cache
def _compiled() -> bool:
    return jit.known("kernel", _TEXT, _SIGNATURE)


def wanted() -> bool:
    """Whether a call is to be a built-in function: its code is there, or many have been asked for.

    Compiling it takes 1 s, once a machine, which few calls are not worth.
    """
    global _asked
    _asked += 1
    return available() and (_compiled() or _asked > AFTER)


def argument(
    reached: tuple[int, ...], word: int, dtype: np.dtype[Any], shape: tuple[int, ...],
    strides: tuple[int, ...], offset: int, span: tuple[int, int], written: bool,
) -> list[int]:  # fmt: skip
    """The row of an array that is given: how it is reached, the word of its address, its layout."""
    size, (low, high) = dtype.itemsize, span
    flags = ALIGNED_FLAG | WRITEABLE_FLAG * written
    ends = [(low - offset) * size, (high - offset + 1) * size]
    lengths = [*shape, *(s * size for s in strides)]
    return [*reached, word, id(dtype), len(shape), flags, offset * size, *ends, *lengths]


def entry(words: dict[str, Any], keep: Any) -> Callable[..., Any]:
    """The built-in function with these words of its context.

    Lists become the addresses of their numbers, objects (but numbers) their own.
    """
    vectorcall, new_array, incref = native.api()
    functions = {
        "decref": "Py_DecRef", "new_list": "PyList_New", "call_none": "PyObject_CallNoArgs",
        "to_float": "PyNumber_Float", "clear": "PyErr_Clear", "get_item": "PyDict_GetItemWithError",
        "set_item": "PyDict_SetItem", "get_attribute": "PyObject_GetAttr",
        "set_attribute": "PyObject_SetAttr", "new_tensor": "PyType_GenericNew",
        "new_tuple": "PyTuple_New", "new_int": "PyLong_FromLong", "fetch": "PyErr_Fetch",
        "restore": "PyErr_Restore", "matches": "PyErr_ExceptionMatches",
    }  # fmt: skip
    known = {
        "tuple_type": tuple, "array_type": np.ndarray, "float_type": float, "none": None,
        "true": True, "error": Exception, "vectorcall": vectorcall, "new_array": new_array,
        "incref": incref,
        **{name: native.address_of(function) for name, function in functions.items()}, **words,
    }  # fmt: skip
    kept: list[Any] = [keep, words]

    def as_word(value: Any) -> int:
        if isinstance(value, list):
            value = np.array(value or [0], np.int64)
            kept.append(value)
        if isinstance(value, np.ndarray):
            return value.ctypes.data
        return value if type(value) is int else id(value)

    context = [as_word(known[name]) if name in known else 0 for name in _WORDS.split()]
    address = jit.address("kernel", _TEXT, _SIGNATURE)
    return native.builtin("run", address, context, kept)
