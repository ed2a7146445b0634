"""Pickles of plain data, read without calling or importing what they name.

The instructions are those of PyTorch's `weights_only` reader. A name is looked up in a table;
only a `Function` of that table is called; only lists, dicts and OrderedDicts that the pickle made
are changed. Reading recurses nowhere and takes memory in proportion to the data: Python's own
unpickler allocates what a memo index asks for, and would set attributes of any object.
"""

import pickle as op
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

# Hashing a tuple recurses in C without a limit, and visits a part as often as it occurs: a
# million nested ones end the process, and sixty that each hold the last one twice never end.
KEY_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Function:
    """What a pickle may call; it gets whatever arguments the file gives, and checks them."""

    call: Callable[..., Any]


def refuse(what: str) -> UnpicklingError:
    """The error for a pickle that asks for more than plain data."""
    return UnpicklingError(
        f"Weights only load failed. {what} microtorch loads tensors, numbers, strings and plain "
        "containers of them, whatever weights_only says, and never calls what a file names: save "
        "a state_dict() instead of the whole object."
    )


def _encode(text: str, encoding: str) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise ValueError("bytes are written as a string, in latin1")
    return text.encode("latin1")


def _bytes_type(make: Callable[[bytes], Any]) -> Callable[..., Any]:
    def call(data: bytes = b"") -> Any:
        if type(data) is not bytes:  # an int would ask for that many zeros
            raise TypeError(f"expected bytes, not {type(data).__name__}")
        return make(data)

    return call


def _set(items: list[Any]) -> set[Any]:
    if type(items) is not list:
        raise TypeError(f"expected a list, not {type(items).__name__}")
    return {_key(item) for item in items}


def _complex(real: float, imag: float) -> complex:
    if type(real) is not float or type(imag) is not float:
        raise TypeError("expected two floats")
    return complex(real, imag)


def _counter(counts: dict[Any, Any]) -> "Counter[Any]":
    if type(counts) is not dict:
        raise TypeError(f"expected a dict, not {type(counts).__name__}")
    return Counter(counts)


PLAIN: dict[str, Any] = {
    "_codecs.encode": Function(_encode),
    "builtins.bytes": Function(_bytes_type(bytes)),
    "builtins.bytearray": Function(_bytes_type(bytearray)),
    "builtins.set": Function(_set),
    "builtins.complex": Function(_complex),
    "collections.OrderedDict": Function(lambda: OrderedDict()),
    "collections.Counter": Function(_counter),
}


def _key(key: Any) -> Any:
    """The key itself, if hashing it is harmless."""
    count, pending = 0, [key]
    while pending:
        item = pending.pop()
        if isinstance(item, tuple):
            count += 1 + len(item)
            if count > KEY_SIZE:
                raise ValueError(f"a key has more than {KEY_SIZE} parts")
            pending.extend(item)
    return key


class Reader:
    """Runs one pickle.

    `known` gives the names that it may use besides `PLAIN`: a Function, or an immutable value;
    `persistent(identity)` gives what is stored outside.
    """

    def __init__(
        self, data: bytes, known: Mapping[str, Any], persistent: Callable[[Any], Any]
    ) -> None:
        self._data = data
        self._at = 0
        self._copied = 0
        self._known = known
        self._persistent = persistent
        self._memo: dict[int, Any] = {}
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each open mark

    def load(self) -> Any:
        """The object.

        Raises:
            pickle.UnpicklingError: for a damaged pickle, and for one that asks for more than data.
        """
        try:
            while True:
                code = self._take(1)
                if code == op.STOP:
                    return self._stack.pop()
                run = _READERS.get(code)
                if run is None:
                    raise refuse(f"Unsupported operand {code[0]}.")
                run(self)
        except (
            ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error
        ) as error:  # fmt: skip
            place = f"near byte {self._at} of data.pkl: {type(error).__name__}: {error}"
            raise UnpicklingError(f"Weights only load failed. Damaged data {place}") from error

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise IndexError("pickle data was truncated")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _line(self) -> str:
        end = self._data.index(b"\n", self._at)
        line = self._take(end - self._at).decode()
        self._at = end + 1
        return line

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _to_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._outer.pop()
        return items

    def _mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _global(self) -> None:
        module, name = self._line(), self._line()
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        found = PLAIN.get(full) or self._known.get(full)
        if found is None:
            raise refuse(f"Unsupported global: GLOBAL {full} was not an allowed global by default.")
        self._stack.append(found)

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(function) is not Function or type(arguments) is not tuple:
            raise refuse(f"Trying to call reduce for a {type(function).__name__}.")
        # A pickle may refer to one long string as often as it likes, and each call may copy it.
        self._copied += sum(len(a) for a in arguments if isinstance(a, (str, bytes, list, dict)))
        if self._copied > 2 * len(self._data):
            raise refuse("The pickle copies its parts over and over.")
        self._stack.append(function.call(*arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if type(target) is not OrderedDict or type(state) is not dict:
            raise refuse(f"Can only build OrderedDict, but got {type(target).__name__}.")
        if "_metadata" in state:
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]

    def _persistent_id(self) -> None:
        self._stack.append(self._persistent(self._stack.pop()))

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise refuse(f"Can only extend lists, but got {type(self._stack[-1]).__name__}.")
        self._stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) not in (dict, OrderedDict):
            raise refuse(f"Can only set items of dicts, but got {type(target).__name__}.")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _tuple(self, size: int) -> None:
        if len(self._stack) < size:
            raise IndexError("the stack is too short for a tuple")
        self._stack[-size:] = [tuple(self._stack[-size:])]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]


_READERS: dict[bytes, Callable[[Reader], Any]] = {
    op.PROTO: lambda r: r._take(1),
    op.MARK: Reader._mark,
    op.NONE: lambda r: r._push(None),
    op.NEWTRUE: lambda r: r._push(True),
    op.NEWFALSE: lambda r: r._push(False),
    op.BININT1: lambda r: r._push(r._number("<B")),
    op.BININT2: lambda r: r._push(r._number("<H")),
    op.BININT: lambda r: r._push(r._number("<i")),
    op.LONG1: lambda r: r._push(int.from_bytes(r._take(r._number("<B")), "little", signed=True)),
    op.BINFLOAT: lambda r: r._push(r._number(">d")),
    op.BINUNICODE: lambda r: r._push(r._take(r._number("<I")).decode("utf-8", "surrogatepass")),
    op.EMPTY_TUPLE: lambda r: r._push(()),
    op.TUPLE1: lambda r: r._tuple(1),
    op.TUPLE2: lambda r: r._tuple(2),
    op.TUPLE3: lambda r: r._tuple(3),
    op.TUPLE: lambda r: r._push(tuple(r._to_mark())),
    op.EMPTY_LIST: lambda r: r._push([]),
    op.APPEND: lambda r: r._extend(r._pop(1)),
    op.APPENDS: lambda r: r._extend(r._to_mark()),
    op.EMPTY_DICT: lambda r: r._push({}),
    op.SETITEM: lambda r: r._set_items(r._pop(2)),
    op.SETITEMS: lambda r: r._set_items(r._to_mark()),
    op.GLOBAL: Reader._global,
    op.REDUCE: Reader._reduce,
    op.BUILD: Reader._build,
    op.BINPERSID: Reader._persistent_id,
    op.BINPUT: lambda r: r._remember(r._number("<B")),
    op.LONG_BINPUT: lambda r: r._remember(r._number("<I")),
    op.BINGET: lambda r: r._push(r._memo[r._number("<B")]),
    op.LONG_BINGET: lambda r: r._push(r._memo[r._number("<I")]),
}
