"""Pickles of plain data: an object becomes a program for PyTorch's `weights_only` reader.

A pickle is a program for a stack machine. Python's own pickler emits whatever an object's class
asks for, and imports each name that it writes; this one has one rule a type, writes names that
need not exist here, and refuses any other type. Objects that occur twice are written once. For
a state dict the bytes are those of Python's protocol 2.
"""

import pickle as op
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from pickle import PicklingError
from typing import Any, NamedTuple

import numpy as np


class Global(NamedTuple):
    """A name to write: the reader of the pickle decides what it stands for."""

    module: str
    name: str


class Call(NamedTuple):
    """A call to write: the reader makes the object from it."""

    function: Global
    arguments: tuple[Any, ...]


class Persistent(NamedTuple):
    """A reference to write to something that is stored outside the pickle."""

    identity: tuple[Any, ...]


ENCODE = Global("_codecs", "encode")
SET = Global("__builtin__", "set")
BYTEARRAY = Global("__builtin__", "bytearray")
COMPLEX = Global("__builtin__", "complex")
ORDERED_DICT = Global("collections", "OrderedDict")
COUNTER = Global("collections", "Counter")


class Writer:
    """Turns an object into a pickle, byte for byte as Python's protocol 2 does for short data.

    `encode(obj)` gives a Global, a Call or None for an object that is no Python built-in.
    Objects that occur twice are written once. Exact types only: a subclass would lose its class.
    """

    def __init__(self, encode: Callable[[Any], Global | Call | None]) -> None:
        self._encode = encode
        self._out = bytearray()
        self._memo: dict[int, tuple[int, Any]] = {}  # holds the object: ids are used again
        self._remembered = 0

    def dumps(self, obj: Any) -> bytes:
        """The pickle of obj.

        Raises:
            pickle.PicklingError: for an object that is neither plain data nor known to `encode`.
        """
        self._out += op.PROTO + b"\x02"
        self._write(obj)
        self._out += op.STOP
        return bytes(self._out)

    def _write(self, obj: Any) -> None:
        known = self._memo.get(id(obj))
        if known is not None:
            self._index(op.BINGET, op.LONG_BINGET, known[0])
            return
        write = _WRITERS.get(type(obj))
        if write is not None:
            write(self, obj)
            return
        if isinstance(obj, np.generic) and type(obj.item()) in (bool, int, float):
            # PyTorch writes an object of NumPy's, which its own reader refuses by default.
            self._write(obj.item())
            return
        call = _CALLS.get(type(obj))
        found = self._encode(obj) if call is None else call(obj)
        if found is None:
            raise PicklingError(unsupported(obj))
        self._write(found)
        self._stands_for(found, obj)

    def _stands_for(self, written: Global | Call, obj: Any) -> None:
        self._memo[id(obj)] = (self._memo[id(written)][0], obj)

    def _remember(self, obj: Any) -> None:
        self._memo[id(obj)] = (self._remembered, obj)
        self._index(op.BINPUT, op.LONG_BINPUT, self._remembered)
        self._remembered += 1

    def _index(self, short: bytes, long: bytes, index: int) -> None:
        self._out += short + bytes([index]) if index < 256 else long + struct.pack("<I", index)

    def _constant(self, obj: bool | None) -> None:
        self._out += {None: op.NONE, True: op.NEWTRUE, False: op.NEWFALSE}[obj]

    def _int(self, obj: int) -> None:
        if 0 <= obj < 1 << 8:
            self._out += op.BININT1 + bytes([obj])
        elif 0 <= obj < 1 << 16:
            self._out += op.BININT2 + struct.pack("<H", obj)
        elif -1 << 31 <= obj < 1 << 31:
            self._out += op.BININT + struct.pack("<i", obj)
        else:
            size = ((obj if obj >= 0 else ~obj).bit_length() >> 3) + 1
            if size > 255:
                raise PicklingError(f"an int of {size} bytes is too long for a checkpoint")
            self._out += op.LONG1 + bytes([size]) + obj.to_bytes(size, "little", signed=True)

    def _float(self, obj: float) -> None:
        self._out += op.BINFLOAT + struct.pack(">d", obj)

    def _str(self, obj: str) -> None:
        data = obj.encode("utf-8", "surrogatepass")
        self._out += op.BINUNICODE + struct.pack("<I", len(data)) + data
        self._remember(obj)

    def _tuple(self, obj: tuple[Any, ...]) -> None:
        if not obj:
            self._out += op.EMPTY_TUPLE
            return
        if len(obj) > 3:
            self._out += op.MARK
        for item in obj:
            self._write(item)
        self._out += {1: op.TUPLE1, 2: op.TUPLE2, 3: op.TUPLE3}.get(len(obj), op.TUPLE)
        self._remember(obj)

    def _list(self, obj: list[Any]) -> None:
        self._out += op.EMPTY_LIST
        self._remember(obj)
        self._fill(obj, op.APPEND, op.APPENDS)

    def _dict(self, obj: dict[Any, Any]) -> None:
        self._out += op.EMPTY_DICT
        self._remember(obj)
        self._fill(obj.items(), op.SETITEM, op.SETITEMS)

    def _ordered_dict(self, obj: "OrderedDict[Any, Any]") -> None:
        made = Call(ORDERED_DICT, ())
        self._write(made)
        self._stands_for(made, obj)
        self._fill(obj.items(), op.SETITEM, op.SETITEMS)
        # Where Module.state_dict() keeps the versions of its modules.
        metadata = getattr(obj, "_metadata", None)
        if metadata is not None:
            self._write({"_metadata": metadata})
            self._out += op.BUILD

    def _fill(self, items: Any, one: bytes, many: bytes) -> None:
        if len(items) > 1:
            self._out += op.MARK
        for item in items:
            if one is op.APPEND:
                self._write(item)
            else:
                self._write(item[0])
                self._write(item[1])
        if items:
            self._out += one if len(items) == 1 else many

    def _global(self, obj: Global) -> None:
        self._out += op.GLOBAL + f"{obj.module}\n{obj.name}\n".encode()
        self._remember(obj)

    def _call(self, obj: Call) -> None:
        self._write(obj.function)
        self._write(obj.arguments)
        self._out += op.REDUCE
        self._remember(obj)

    def _persistent(self, obj: Persistent) -> None:
        self._write(obj.identity)
        self._out += op.BINPERSID


_WRITERS: dict[type, Callable[[Writer, Any], None]] = {
    type(None): Writer._constant,
    bool: Writer._constant,
    int: Writer._int,
    float: Writer._float,
    str: Writer._str,
    tuple: Writer._tuple,
    list: Writer._list,
    dict: Writer._dict,
    OrderedDict: Writer._ordered_dict,
    Global: Writer._global,
    Call: Writer._call,
    Persistent: Writer._persistent,
}
_CALLS: dict[type, Callable[[Any], Call]] = {
    bytes: lambda obj: Call(ENCODE, (obj.decode("latin1"), "latin1")),
    bytearray: lambda obj: Call(BYTEARRAY, (bytes(obj),)),
    set: lambda obj: Call(SET, (list(obj),)),
    complex: lambda obj: Call(COMPLEX, (obj.real, obj.imag)),
    Counter: lambda obj: Call(COUNTER, (dict(obj),)),
}


def unsupported(obj: Any) -> str:
    """What to say of an object that a checkpoint cannot hold."""
    kind = type(obj)
    return (
        f"cannot save an object of type {kind.__module__}.{kind.__qualname__}: a checkpoint holds "
        "tensors, numbers, strings and plain containers of them. Of a module or an optimizer save "
        "state_dict(); make a tensor of a NumPy array with from_numpy()"
    )
