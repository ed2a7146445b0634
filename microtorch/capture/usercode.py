"""The user's code: which code is the user's, and what the names in it stand for."""

import dis
import functools
import os
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .tape import OUTSIDE
from .values import CONTAINERS

_INSTALLED = tuple(sysconfig.get_path(n) + os.sep for n in ("purelib", "platlib"))
_LIBRARY = (sysconfig.get_path("stdlib"), *_INSTALLED, *OUTSIDE)

# What gives something else at each call, or does something outside: names in modules.
UNREPEATABLE = {
    "time": "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time "
    "process_time_ns thread_time thread_time_ns localtime gmtime ctime sleep",
    "datetime": "now utcnow today", "sys": "stdin stdout stderr", "os": "urandom",
    "posix": "urandom", "uuid": "uuid1 uuid4", "random": "SystemRandom",
    "secrets": "token_bytes token_hex token_urlsafe randbits randbelow choice SystemRandom",
}  # fmt: skip
CLOCKS = UNREPEATABLE["time"].split()


def is_library(file: str | None, module: Any) -> bool:
    """Whether code is not the user's, by its file or, where it has none, its module."""
    if file is not None and file.startswith("<") and not file.startswith("<frozen"):
        return str(module).partition(".")[0] in ("microtorch", "numpy")
    if file is None and module != "__main__":
        file = getattr(sys.modules.get(module), "__file__", None)
        return file is None or file.startswith(_LIBRARY)
    return file is not None and file.startswith(_LIBRARY)


def of_library(frame: Any) -> bool:
    """Whether a frame runs code that is not the user's."""
    return is_library(frame.f_code.co_filename, frame.f_globals.get("__name__"))


def of_python(frame: Any) -> bool:
    """Whether a frame runs code of Python itself, or of the package."""
    file = frame.f_code.co_filename
    return of_library(frame) and (file.startswith(OUTSIDE) or not file.startswith(_INSTALLED))


# Modules that open files for those who call them.
_OPENERS = ("microtorch.checkpoint", "numpy.lib", "pathlib", "gzip", "bz2", "lzma", "zipfile")


def _opens_for_itself(frame: Any) -> bool:
    """Whether a frame runs code that is not the user's, nor called by it to open a file."""
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith(_OPENERS):
        frame = frame.f_back
    return of_library(frame)


# Functions that a program could not call again: the module, the class, names, what they do, and
# which code may call them. The modules need not be imported, which would take 25 ms.
REFUSED: tuple[tuple[str, str, str, str, Callable[[Any], bool] | None], ...] = (
    ("builtins", "", "print input", "{}() is called", of_library),
    ("builtins", "", "open", "a file is opened", _opens_for_itself),
    ("io", "", "open", "a file is opened", _opens_for_itself),
    ("numpy", "", "loadtxt genfromtxt fromfile", "{}() is called", of_library),
    ("time", "", UNREPEATABLE["time"], "{}() is called", of_library),
    ("os", "", "urandom", "{}() is called", of_library),
    ("os", "", "fork forkpty", "a process is started", None),
    ("subprocess", "Popen", "__init__", "a process is started", of_library),
    ("threading", "Thread", "start", "a thread is used", None),
    ("concurrent.futures.thread", "ThreadPoolExecutor", "submit", "a thread is used", None),
    ("logging", "Logger", "_log", "{}() is called", of_library),
    ("numpy.random.bit_generator", "", "randbits", "a generator is made without a seed", of_python),
)


# Methods that code calls without naming them.
CALLED = {"forward", "__call__"}
# Methods that make objects of a class, and names by which code makes some of a class that it does
# not name.
MAKERS = {"__init__", "__new__"}
MAKES = {"type", "__class__", "__init__", "__new__"}


class Names(NamedTuple):
    """The names in the code of a function and of those nested in it."""

    # Among them "*" if it may be any.
    variables: frozenset[str]
    attributes: frozenset[str]
    modules: frozenset[str]
    # Strings that `getattr` and the like may be called with; "*" if it may be any.
    texts: frozenset[str]


_KINDS = {
    "LOAD_GLOBAL": 0, "LOAD_NAME": 0, "STORE_GLOBAL": 0, "DELETE_GLOBAL": 0,
    "LOAD_ATTR": 1, "LOAD_METHOD": 1, "LOAD_SUPER_ATTR": 1, "STORE_ATTR": 1, "DELETE_ATTR": 1,
    "IMPORT_FROM": 1, "IMPORT_NAME": 2,
}  # fmt: skip


def line_of(code: types.CodeType, name: str, written: bool) -> str:
    """Where code first writes a name, or reads it, as "file.py:12"; "" if it does not."""
    for step in dis.get_instructions(code):
        writes = step.opname.startswith(("STORE", "DELETE"))
        if step.argval == name and writes == written and not step.opname.endswith("CONST"):
            line = step.positions.lineno if step.positions else None
            return f"{code.co_filename}:{line}"
    nested = (line_of(c, name, written) for c in code.co_consts if isinstance(c, types.CodeType))
    return next(filter(None, nested), "")


def end_of(code: types.CodeType) -> str:
    """The line where code returns, if that is one, or where it begins."""
    steps = [s for s in dis.get_instructions(code) if s.opname.startswith("RETURN_")]
    lines = {s.positions.lineno for s in steps if s.positions}
    line = lines.pop() if len(lines) == 1 else code.co_firstlineno
    return f"{code.co_filename}:{line}"


def imported_as(name: str, package: str) -> list[str]:
    """The modules that an import of a name in a package may stand for, of those that there are."""
    parents = [".".join(package.split(".")[:n]) for n in range(package.count(".") + 2)]
    known = (name, *(f"{p}.{name}".strip(".") for p in parents))
    return [n for n in known if n in sys.modules]


# What gives modules by their names.
_MODULES = {"modules", "import_module", "__import__"}
_BY_TEXT = {"getattr", "hasattr", "setattr", "delattr", "vars", "__dict__", "globals"}


@functools.lru_cache(1000)
def names_of_code(code: types.CodeType) -> Names:
    """What the names in code stand for."""
    found: tuple[set[str], ...] = (set(), set(), set(), set())
    steps = list(dis.get_instructions(code))
    for step in steps:
        if step.opname in _KINDS:
            found[_KINDS[step.opname]].add(step.argval)
    if _BY_TEXT & (found[0] | found[1]):
        found[3].update(filter(str.isidentifier, _texts(code.co_consts)))
        found[1].update(found[3])
        if "globals" in found[0]:
            found[0].update(found[3])
    if _any_name(steps):
        found[3].add("*")
    if _any_variable(steps):
        found[0].add("*")
        found[3].add("*")
    if _MODULES & (found[0] | found[1]):
        found[2].update(_texts(code.co_consts), {"__name__"} & found[0])
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            for own, nested in zip(found, names_of_code(c), strict=True):
                own |= nested
    return Names(*map(frozenset, found))


def _any_name(steps: list[dis.Instruction]) -> bool:
    """Whether code reaches attributes by other names than constants."""
    for at, step in enumerate(steps):
        if step.argval in ("vars", "__dict__") and step.opname in _KINDS:
            return True
        if step.argval in ("getattr", "hasattr") and step.opname in _KINDS:
            calls = (k for k in range(at, len(steps)) if steps[k].opname in ("CALL", "PRECALL"))
            end = next(calls, at + 2)
            # getattr(x, "name"), or getattr(x, "name", default)
            steps_before = steps[end - 2 : end] if steps[end - 1].opname[:4] == "LOAD" else []
            if not any(s.opname == "LOAD_CONST" and isinstance(s.argval, str)
                       for s in steps_before):  # fmt: skip
                return True
    return False


def _any_variable(steps: list[dis.Instruction]) -> bool:
    """Whether code reaches globals by other names than constants."""
    for at, step in enumerate(steps):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            if step.argval in ("eval", "exec"):
                return True
            if step.argval == "globals":
                end = next((k for k in range(at, len(steps)) if steps[k].opname == "CALL"), at)
                names = [each.opname for each in steps[end + 1 : end + 3]]
                if names[:1] != ["LOAD_CONST"] or not names[-1].startswith(("BINARY", "STORE")):
                    return True
    return False


def _texts(constants: Any) -> Iterator[str]:
    for c in constants:
        if isinstance(c, str):
            yield c
        elif isinstance(c, (tuple, frozenset)):
            yield from _texts(c)


def names_of(value: Any) -> set[str]:
    """Names of the attributes of an object itself."""
    slots = (vars(base).get("__slots__", ()) for base in type(value).__mro__)
    names = {n for own in slots for n in ((own,) if isinstance(own, str) else own)}
    return names | getattr(value, "__dict__", {}).keys()


def parts_of(value: Any) -> list[Any]:
    """What a container contains: of a dict, the keys and the values."""
    return [*value, *value.values()] if isinstance(value, dict) else list(value)


# The flag of classes that nobody can change.
_IMMUTABLE = 1 << 8


def classes_to(kind: type, name: str) -> list[type]:
    """The classes that a name is looked for in, up to the one that has it; none if none has."""
    line = [base for base in kind.__mro__ if not base.__flags__ & _IMMUTABLE]
    found = next((k for k, base in enumerate(line) if name in vars(base)), -1)
    return line[: found + 1]


def methods_of_libraries(kind: type) -> set[str]:
    """The names of methods that a class has of others than the user and this package."""
    known = ("builtins", "abc", "typing", "enum", "numpy", "microtorch")
    return {
        name for base in kind.__mro__ for name, found in vars(base).items()
        if is_library(None, base.__module__) and not base.__module__.startswith(known)
        and callable(found) and name[:2] != "__"
    }  # fmt: skip


def subclassed(value: Any) -> bool:
    """Whether a container is of a class of the user's."""
    return isinstance(value, CONTAINERS) and not is_library(None, type(value).__module__)


def only_made_by_name(kind: type) -> bool:
    """Whether library code makes no objects of a class of the user's by itself."""
    known = ("builtins.object", "abc.ABC", "typing.Generic", "typing.Protocol")
    return not hasattr(kind, "__dataclass_fields__") and all(
        f"{base.__module__}.{base.__qualname__}" in known
        or base.__module__.startswith("microtorch.nn")
        or not is_library(None, base.__module__)
        for base in kind.__mro__
    )
