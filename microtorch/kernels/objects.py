"""Where CPython's objects keep what: comparisons of Python values that machine code can make.

A comparison is a row of four numbers for `entry`: what kind, an object or address, a key, and what
is there now.
"""

import ast
import ctypes
import functools
import gc
import re
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

# What is compared: the word at an address; an item of a dict (0: there is none), or whether that is
# None or not there; an item of a list; an attribute; the half of a word at an address.
WORD, ITEM, NONE, PART, ATTRIBUTE, HALF = range(6)
# The key of a word that is the table of a dict.
DIRECT = 1


def slot(kind: type, member: Any) -> int:
    """The bytes from an object to one of its `__slots__`."""
    probe: Any = object.__new__(kind)
    marker = object()
    member.__set__(probe, marker)
    return next(iter(_offsets(probe, marker)))


def _offsets(owner: Any, value: Any) -> list[int]:
    places = range(16, type(owner).__basicsize__, 8)
    return [k for k in places if ctypes.c_int64.from_address(id(owner) + k).value == id(value)]


def dict_row(owner: Any) -> list[int] | None:
    """The comparison that an object has the dict that it has now."""
    held, offset = id(vars(owner)), type(owner).__dictoffset__
    # Python 3.11 keeps it before the object.
    for place in (offset,) if offset > 0 else (-24, -32):
        if ctypes.c_int64.from_address(id(owner) + place).value == held:
            return [WORD, id(owner) + place, 0, held]
    return None


def type_row(owner: Any) -> list[int]:
    """The comparison that an object is of the class that it is of now, which is held."""
    return [WORD, id(owner) + 8, 0, id(type(owner))]


# Names of items, which must live as long as rows with their addresses.
_keys: set[str] = set()


def _with_default(x: int = 0, *, y: int = 0) -> Callable[[], int]:
    return lambda: x + y


_OFFSETS = {
    text: (type(owner), _offsets(owner, getattr(owner, text[1:])))
    for text, owner in (
        (".__code__", _with_default), (".__defaults__", _with_default),
        (".__kwdefaults__", _with_default),
        (".cell_contents", (_with_default().__closure__ or ())[0]),
    )
}  # fmt: skip


def dict_of(kind: type) -> dict[str, Any]:
    """The dict that a class's `__dict__` is a view of."""
    return gc.get_referents(kind.__dict__)[0]  # type: ignore[no-any-return]


@functools.cache
def _version_at() -> int:
    """The bytes from a class to its version; 0 where CPython does not keep one where it did."""

    class Probe:
        kept = 0

    def halves() -> dict[int, int]:
        # Looking something up gives a class that was changed its next version.
        assert Probe.kept >= 0
        return {k: ctypes.c_uint32.from_address(id(Probe) + k).value for k in places}

    places = set(range(24, 480, 4))
    for count in range(1, 4):
        before = halves()
        Probe.kept = count
        there = {k for k in places if ctypes.c_uint32.from_address(id(Probe) + k).value == 0}
        places = {k for k, now in halves().items() if k in there and now > before[k] > 0}
    return places.pop() if len(places) == 1 else 0


def version(kind: type) -> list[int] | None:
    """The comparison that neither a class nor one of its bases has been changed.

    None where CPython counts no more, or does not count.
    """
    hasattr(kind, "__init__")
    place = _version_at() and id(kind) + _version_at()
    found = ctypes.c_uint32.from_address(place).value if place else 0
    return [HALF, place, 0, found] if found else None


def bases(kind: type) -> list[list[int]] | None:
    """The comparison of all classes that a class inherits from."""
    places = _offsets(kind, kind.__mro__)
    return [[WORD, id(kind) + places[0], 0, id(kind.__mro__)]] if len(places) == 1 else None


def size(container: Any, count: int) -> list[int]:
    """The comparison of the length of a list or dict."""
    return [WORD, id(container) + 16, 0, count]


def parts(values: list[Any]) -> list[list[int]]:
    """Comparisons of what a list contains."""
    return [[PART, id(values), k, id(value)] for k, value in enumerate(values)]


def item(owner: dict[str, Any], name: str, *value: Any) -> list[int]:
    """The comparison of an item of a dict; without a value, that there is none."""
    key = sys.intern(name)
    _keys.add(key)
    return [ITEM, id(owner), id(key), id(value[0]) if value else 0]


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def moved(rows: Iterable[tuple[int, ...]]) -> bool:
    """Whether a dict has another table than when `direct` looked at it."""
    return any(_word(at) != table for _, at, _, table in rows)


# In a dict: its table, and its values where these are apart. In a table: the binary logarithm of
# its index's bytes, whether its keys are strings alone, the entries, where the index begins.
_TABLE, _VALUES, _INDEX_BYTES, _STRINGS, _ENTRIES, _INDEX = 32, 40, 9, 10, 24, 32


def direct(row: list[int]) -> list[list[int]]:
    """An item's comparison as three of words, which hold only while the dict keeps its table."""
    kind, owner, key, value = row
    if kind != ITEM or not value or not _known_tables() or _word(owner + _VALUES):
        return [row]
    table = _word(owner + _TABLE)
    first = table + _INDEX + (1 << ctypes.c_uint8.from_address(table + _INDEX_BYTES).value)
    # A hash comes before keys that are no strings.
    size = 16 if ctypes.c_uint8.from_address(table + _STRINGS).value else 24
    for k in range(1, _word(table + _ENTRIES) + 1):
        at = first + k * size - 16
        if _word(at) == key and _word(at + 8) == value:
            return [
                [WORD, owner + _TABLE, DIRECT, table],
                [WORD, at, 0, key],
                [WORD, at + 8, 0, value],
            ]
    return [row]


@functools.cache
def _known_tables() -> bool:
    """Whether dicts lie as `direct` takes it."""
    names = {sys.intern(f"name{k}"): object() for k in range(20)}
    probes: list[dict[Any, Any]] = [{"a": 1}, names, {**names, 1: 2}]
    for probe in probes:
        table = _word(id(probe) + _TABLE)
        if _word(id(probe) + _VALUES) or _word(table + _ENTRIES) != len(probe):
            return False
        first = table + _INDEX + (1 << ctypes.c_uint8.from_address(table + _INDEX_BYTES).value)
        strings = all(isinstance(key, str) for key in probe)
        if bool(ctypes.c_uint8.from_address(table + _STRINGS).value) is not strings:
            return False
        size = 16 if strings else 24
        places = [_word(first + (k + 1) * size - 16) for k in range(len(probe))]
        if places != [*map(id, probe)]:
            return False
    return True


def rows(owner: Any, text: str, value: Any) -> list[list[int]] | None:
    """Comparisons that hold only if the value of an object followed by a text is still this one.

    What is named in them is held by the owner, or by the value. None where Python has to look.
    """
    name = re.fullmatch(r"(\.__dict__)?\[('[^']*')\]|\.(\w+)", text)
    if not name:
        return None
    if text in _OFFSETS:
        kind, offsets = _OFFSETS[text]
        if type(owner) is not kind or len(offsets) != 1:
            return None
        place, empty = id(owner) + offsets[0], value is None and kind is types.FunctionType
        row = [WORD, place, 0, 0 if empty else id(value)]
        return [row] if ctypes.c_int64.from_address(place).value == row[3] else None
    found, attribute = owner, name[3]
    before: list[list[int]] = []
    if name[1]:
        found = dict_of(owner)
    elif attribute:
        mine = type(owner)
        usual: tuple[Any, ...] = object.__getattribute__, types.ModuleType.__getattribute__
        if mine.__getattribute__ not in usual or any(
            attribute in vars(base) for base in mine.__mro__
        ):
            return None
        found = getattr(owner, "__dict__", None)
        held = dict_row(owner) if type(found) is dict else None
        if held is None:
            return None
        before = [held]
    key = attribute or ast.literal_eval(name[2])
    if type(found) is not dict or found.get(key, rows) is not value:
        return None
    return [*before, item(found, key, value)]
