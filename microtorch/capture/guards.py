"""What a recording takes for granted in Python: the values that the user's code can reach.

Before a call is recorded, `Guards` walks from the function through the names in its code: globals,
closures, attributes, and the functions and classes found there; library code is not walked. What
was found is compared before each later call, by one expression. What belongs to modules is
compared only after the global counter `clock.epoch` has moved, which assignments to them do.
"""

import functools
import random
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy import random as numpy_random

from ..graph.node import Node
from ..nn.module import Module
from ..tensor import Tensor
from .tape import OUTSIDE

SIMPLE = (bool, int, float, complex, str, bytes, type(None), np.generic, type(...))
_LIBRARY = (*(sysconfig.get_path(n) for n in ("stdlib", "purelib", "platlib")), *OUTSIDE)
_CONTAINERS = (list, tuple, set, frozenset, dict)
_WRAPPERS = (types.MethodType, staticmethod, classmethod)
# Objects that are no owners of attributes of the user's.
_CLOSED = (*SIMPLE, *_CONTAINERS, *_WRAPPERS, types.FunctionType, types.BuiltinFunctionType,
           property, functools.partial, np.ndarray, np.ufunc, np.dtype, Tensor, Node)  # fmt: skip
_GENERATORS = (random.Random, numpy_random.Generator, numpy_random.RandomState)


def frozen(value: Any, depth: int = 2) -> Any:
    """A value as it is now: simple ones and containers of them by value, others by identity."""
    if isinstance(value, SIMPLE):
        return (type(value), value if value == value else "nan")
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return (type(value), *[frozen(v, depth - 1) for v in value])
    if depth and isinstance(value, dict):
        return (type(value), *[(k, frozen(v, depth - 1)) for k, v in value.items()])
    return id(value)


class Guards:
    """The walk from a function and its arguments.

    texts: comparisons, each the text of an expression over the names in `scope`.
    """

    def __init__(self, function: Any, arguments: Any) -> None:
        self.scope: dict[str, Any] = {"frozen": frozen, "equal": _equal}
        self.texts: list[str] = []
        # What was noted, in words and with the text that compares it.
        self.places: dict[Any, tuple[str, str]] = {}
        self.modules: dict[Module, Any] = {}
        self.arrays: list[Any] = []
        # What the user's code calls tensors, by their ids.
        self.labels: dict[int, str] = {}
        self._names: set[str] = set()
        self._seen: dict[int, Any] = {}
        self._random: list[tuple[Callable[[], Any], Any]] = []
        self._walk((random._inst, numpy_random.mtrand._rand, function))  # type: ignore[attr-defined]
        # Tensors that the function reaches by itself: as arguments, they are the same ones again.
        self.tensors = {k for k, v in self._seen.items() if isinstance(v, Tensor)}
        self.tensors |= {id(t) for m in self.modules for t in m.buffers(False)}
        self._walk(arguments)
        self._seen.clear()

    def _walk(self, values: Iterable[Any]) -> None:
        self._visit_all(values)
        known = -1
        while known != (known := len(self._names) + len(self._seen)):
            for value in list(self._seen.values()):
                self._attributes(value)

    def name(self, value: Any) -> str:
        """The name of an object, which is held."""
        name = f"v{id(value)}"
        self.scope[name] = value
        return name

    def add(self, text: str, *values: Any) -> str:
        """Add a comparison of objects."""
        self.texts.append(text.format(*map(self.name, values)))
        return self.texts[-1]

    def note(self, words: str, owner: Any, text: str) -> None:
        """Compare one value, `owner` followed by a text, with what it is now."""
        if (id(owner), text) in self.places:
            return
        try:
            value = eval("owner" + text, {"owner": owner})
        except AttributeError:
            return
        if isinstance(value, Tensor):
            self.labels.setdefault(id(value), re.split(r"[ .]", words)[-1])
        simple = isinstance(value, SIMPLE) or (
            isinstance(value, tuple) and all(isinstance(v, SIMPLE) for v in value)
        )
        same, by_value = f"{{0}}{text} is {{1}}", f"frozen({{0}}{text}) == {{2}}"
        if simple:
            same = f"({same} or {by_value})"
        elif isinstance(value, _CONTAINERS):
            same = by_value
        self.places[id(owner), text] = words, self.add(same, owner, value, frozen(value))
        self._visit(value)

    # ---------------------------------------------------------------------------- the walk
    def _visit_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self._visit(value)

    def _visit(self, value: Any) -> None:
        """Walk through a value, once."""
        if isinstance(value, SIMPLE) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, _WRAPPERS):
            self._visit_all((value.__func__, getattr(value, "__self__", None)))
        elif isinstance(value, property):
            self._visit(value.fget)
        elif isinstance(value, functools.partial):
            self._visit_all((value.func, value.args, value.keywords))
        elif isinstance(value, _CONTAINERS):
            self._visit_all(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, np.ndarray):
            # The package makes constants of its elements.
            self.arrays.append(value)
            self.add("equal({}, {})", value, value.copy())
        elif isinstance(value, Tensor):
            self._visit_all(list(value.__dict__.get("_hooks", {}).values()))
        elif isinstance(value, Module):
            for module in value.modules():
                self.modules.setdefault(module, _module_state(module))
                for name, t in (*module._parameters.items(), *module._buffers.items()):
                    self.labels.setdefault(id(t), name)
                self._visit(type(module))
                self._visit_all(f for k in _hooks_of(module).values() for f in k.values())
        elif isinstance(value, _GENERATORS):
            state = functools.partial(_state, value)
            self._random.append((state, state()))
        self._visit(getattr(value, "__dict__", {}).get("__wrapped__"))

    def _function(self, function: Any) -> None:
        """What a function reads; of library code, only functions of the user's that it wraps."""
        code = function.__code__
        own = not _of_library(code.co_filename, function.__globals__.get("__name__"))
        if own:
            self.add("{0}.__code__ is {1}", function, code)
            self.add("{0}.__defaults__ is {1}", function, function.__defaults__)
            names = _names(code)
            self._names |= names
            for name in names & function.__globals__.keys():
                self.note(f"the global {name}", function.__globals__, f"[{name!r}]")
            self._visit_all((function.__defaults__, function.__kwdefaults__))
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            if own:
                self.note(f"the variable {name}", cell, ".cell_contents")
            else:
                self._visit(value)

    def _attributes(self, value: Any) -> None:
        """Note the attributes of an object that any of the walked code names."""
        if isinstance(value, types.ModuleType):
            if not _of_library(getattr(value, "__file__", None), value.__name__):
                for name in self._names & vars(value).keys():
                    self.note(f"{value.__name__}.{name}", value, f".{name}")
        elif isinstance(value, type):
            for base in value.__mro__:
                if not _of_library(None, base.__module__):
                    for name in self._used_in(base):
                        self.note(f"{base.__name__}.{name}", base, f".__dict__[{name!r}]")
        elif not isinstance(value, _CLOSED):
            if not type(value).__module__.startswith(("microtorch.capture", "numpy")):
                for name in self._names & _names_of(value):
                    found = value.__dict__.get(name) if isinstance(value, Module) else None
                    # Attributes of modules are compared after epochs, but for what they contain.
                    if found is not None and not isinstance(found, _CONTAINERS):
                        self._visit(found)
                    else:
                        self.note(f"{type(value).__name__}.{name}", value, f".{name}")
                self._visit(type(value))

    def _used_in(self, kind: type) -> set[str]:
        special = {n for n, v in vars(kind).items() if n[:2] == "__" and callable(v)}
        entries = {"forward", "backward", "setup_context"}
        return (self._names | special | entries) & vars(kind).keys() - {"__class__"}

    # ------------------------------------------------------------------------- afterwards
    def rare(self) -> bool:
        """Whether all modules are as they were; asked after epochs only."""
        return all(_module_state(m) == state for m, state in self.modules.items())

    def drawn(self) -> bool:
        """Whether random numbers that are not microtorch's have been drawn."""
        return any(state() != before for state, before in self._random)

    def changes(self) -> list[str]:
        """What the recorded call itself has changed."""
        found = [words for words, text in self.places.values() if not self._holds(text)]
        changed = (m for m, state in self.modules.items() if _module_state(m) != state)
        return found + [f"an attribute of {type(m).__name__}" for m in changed]

    def _holds(self, text: str) -> bool:
        try:
            return bool(eval(text, self.scope))
        except (LookupError, AttributeError, ValueError):
            return False


def _equal(array: Any, was: Any) -> bool:
    return bool(np.array_equal(array, was, equal_nan=array.dtype.kind == "f"))


def _state(generator: Any) -> str:
    """The state of a generator that is not microtorch's."""
    if isinstance(generator, random.Random):
        return repr(generator.getstate())
    legacy = isinstance(generator, numpy_random.RandomState)
    state = generator.get_state(legacy=False) if legacy else generator.bit_generator.state
    with np.printoptions(threshold=sys.maxsize):
        return repr(state)


def _of_library(file: str | None, module: Any) -> bool:
    """Whether code is not the user's, by its file or, where it has none, its module."""
    if file is not None and file.startswith("<"):
        return str(module).partition(".")[0] in ("microtorch", "numpy")
    if file is None and module != "__main__":
        file = getattr(sys.modules.get(module), "__file__", None)
        return file is None or file.startswith(_LIBRARY)
    return file is not None and file.startswith(_LIBRARY)


def of_library(frame: Any) -> bool:
    """Whether a frame runs code that is not the user's."""
    return _of_library(frame.f_code.co_filename, frame.f_globals.get("__name__"))


def _names(code: Any) -> set[str]:
    """Names that a function and those nested in it use."""
    nested = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, nested))


def _names_of(value: Any) -> set[str]:
    """Names of the attributes of an object itself."""
    slots = (vars(base).get("__slots__", ()) for base in type(value).__mro__)
    names = {n for own in slots for n in ((own,) if isinstance(own, str) else own)}
    return names | getattr(value, "__dict__", {}).keys()


def _hooks_of(module: Module) -> dict[str, dict[int, Any]]:
    return vars(module.__dict__.get("_hooks") or types.SimpleNamespace())


def _module_state(module: Module) -> Any:
    """What belongs to a module itself: simple values by value, others by identity."""
    return type(module), frozen(vars(module), 3), frozen(_hooks_of(module))
