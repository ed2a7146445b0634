"""What a recording took for granted outside of tensors: Python values and modules.

While a call is recorded, `Watch` sees every Python function that is called. Globals, closure cells
and attributes that the user's code can read are noted with their values: simple ones are compared
by value, others by identity. What modules and tensors are is compared only after the global
counter `clock.epoch` has moved, which assignments to them do.
"""

import builtins
import gc
import os
import sys
import sysconfig
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import random as numpy_random

from .. import value as value_module
from ..graph.node import clock
from ..nn.module import Module
from ..optim.optimizer import Optimizer
from ..tensor import Tensor
from .tape import OUTSIDE, PACKAGE, CaptureError, file_of, place

SIMPLE = (bool, int, float, complex, str, bytes, type(None), np.generic, type(...))
_LIBRARY = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), *OUTSIDE)
_CAPTURE = os.path.dirname(__file__)
_RANDOM = ("random", "_random", "numpy.random", "secrets")
_MISSING = object()
_VALUE = value_module.__file__
_CALLABLE = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, np.ufunc)
_MODULE_CALL = Module.__call__.__code__


def frozen(value: Any, depth: int = 2) -> Any:
    """A value as it is now: simple ones and containers of them by value, others by identity."""
    if isinstance(value, SIMPLE):
        return (type(value), value if value == value else "nan")
    if depth and type(value) in (list, tuple, set, frozenset):
        return (type(value), *(frozen(v, depth - 1) for v in value))
    if depth and isinstance(value, dict):
        return (type(value), *((k, frozen(v, depth - 1)) for k, v in value.items()))
    if isinstance(value, types.FunctionType):
        return (id(value), value.__code__, frozen(value.__defaults__), frozen(value.__kwdefaults__))
    return id(value)


class Place:
    """A name in a dict, or a cell, with what it was."""

    def __init__(self, words: str, owner: Any, name: Any, value: Any) -> None:
        self.words, self.owner, self.name = words, owner, name
        # Held, so that identities stay.
        self.value = value
        self.was = frozen(value)
        self.mutable = type(value) in (list, dict, set)

    def now(self) -> Any:
        """What is there."""
        if isinstance(self.owner, types.CellType):
            return self.owner.cell_contents
        return self.owner.get(self.name, _MISSING)

    def holds(self) -> bool:
        """Whether it is the same."""
        return bool(frozen(self.now()) == self.was)


class Watch:
    """The profile function of a recording."""

    def __init__(self, give_up: Callable[[CaptureError], None]) -> None:
        self.give_up = give_up
        self.places: dict[Any, Place] = {}
        self.modules: dict[int, Module] = {}
        self.codes: set[Any] = set()
        self.given: list[tuple[Any, Any]] = []
        self.state = _numpy_state()
        self._before: Any = None

    def __enter__(self) -> "Watch":
        self._before = sys.getprofile()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.setprofile(self._before)

    def _event(self, frame: Any, event: str, arg: Any) -> None:
        code = frame.f_code
        name = file_of(frame)
        if event == "c_call":
            if not name.startswith(OUTSIDE):
                self._builtin(arg, frame, name)
        elif event == "return":
            if not name.startswith(_LIBRARY) and self.state != _numpy_state():
                self.state = _numpy_state()
                what = "random numbers that are not microtorch's are drawn"
                self._refuse(f"{name}:{frame.f_lineno}", what)
        elif event == "call":
            if not name.startswith(_LIBRARY):
                self._function(frame, code)
            elif name == _VALUE:
                self._refuse(place(True), "a graph of Values (numbers, not tensors) is made")
            elif name.startswith(OUTSIDE[0]):
                self._entry(frame, code)
                if code is _MODULE_CALL:
                    self._object(frame.f_locals["self"], ())

    def _builtin(self, function: Any, frame: Any, name: str) -> None:
        """Refuse what the program could not do again.

        Raises:
            CaptureError: for output, clocks and random numbers that are not microtorch's.
        """
        back = frame.f_back
        if name.endswith("/random.py") and back is not None:
            name = file_of(back)
        if name.startswith(_LIBRARY):
            return
        owner = getattr(function, "__self__", None)
        kind = type(owner).__module__ if owner is not None else ""
        module = getattr(function, "__module__", None) or ""
        if kind.startswith(_RANDOM) or module.startswith(_RANDOM):
            what = "random numbers that are not microtorch's are drawn"
        elif module == "time" or function in (print, input, open):
            what = f"{function.__name__}() is called"
        else:
            return
        self._refuse(place(True), what)

    def _refuse(self, where: str, what: str) -> None:
        self.give_up(CaptureError(
            f"{where}: {what} inside a compiled function, which the compiled program would "
            'not do again. Do that outside, or compile with fallback="eager".'
        ))  # fmt: skip

    def _function(self, frame: Any, code: Any) -> None:
        """Note what a function of the user's can read."""
        values = frame.f_locals
        if code.co_argcount:
            first = values.get(code.co_varnames[0])
            self._object(first, code.co_names)
        if (code, id(frame.f_globals)) in self.codes and not code.co_freevars:
            return
        self.codes.add((code, id(frame.f_globals)))
        store = frame.f_globals
        for name in _names(code):
            if name in store:
                self.note(f"the global {name}", store, name, store[name])
                self._object(store[name], code.co_names)
        function = _function_of(frame, code)
        cells = function.__closure__ or () if function else ()
        for name, cell in zip(code.co_freevars, cells, strict=False):
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            if _of_caller(frame, name, value):
                continue
            self.note(f"the variable {name}", cell, id(cell), value)
            self._object(value, code.co_names)

    def note(self, words: str, owner: Any, name: Any, value: Any) -> None:
        """Note one value, once."""
        if (id(owner), name) not in self.places:
            self.places[id(owner), name] = Place(words, owner, name, value)

    def _object(self, value: Any, names: Any) -> None:
        """Note the attributes of an object that code may read."""
        if isinstance(value, Module):
            self.modules.setdefault(id(value), value)
        elif isinstance(value, (Tensor, Optimizer, np.ndarray, *SIMPLE)) or value is None:
            return
        elif isinstance(value, types.ModuleType):
            if not (getattr(value, "__file__", None) or PACKAGE).startswith((PACKAGE, *_LIBRARY)):
                self._attributes(value.__name__, vars(value), names)
        elif isinstance(value, type):
            self._class(value, names)
        elif hasattr(value, "__dict__") and not isinstance(value, _CALLABLE):
            self._attributes(type(value).__name__, vars(value), names)
            self._class(type(value), names)

    def _class(self, kind: type, names: Any) -> None:
        for base in kind.__mro__:
            if not base.__module__.startswith(("microtorch", "builtins")):
                for name in names:
                    value = base.__dict__.get(name, _MISSING)
                    if value is not _MISSING:
                        words = f"{base.__name__}.{name}"
                        self.note(words, base.__dict__, name, value)

    def _attributes(self, owner: str, store: Any, names: Any) -> None:
        for name in names:
            if name in store:
                self.note(f"{owner}.{name}", store, name, store[name])

    def _entry(self, frame: Any, code: Any) -> None:
        """Note arrays that the user's code hands to the package: their contents are constants."""
        back = frame.f_back
        if back is None or file_of(back).startswith(OUTSIDE):
            return
        values = frame.f_locals
        for name in code.co_varnames[: code.co_argcount + 2]:
            value = values.get(name)
            for v in value if type(value) in (tuple, list) else (value,):
                if type(v) is np.ndarray and not any(v is a for a, _ in self.given):
                    self.given.append((v, v.copy()))

    # ------------------------------------------------------------------------- afterwards
    def changes(self) -> list[str]:
        """What the call itself has changed."""
        return [p.words for p in self.places.values() if not p.holds()]

    def check(self) -> Callable[[], bool]:
        """A fast function that says whether everything is as it was."""
        names: dict[str, Any] = {}
        terms = []
        mutable = []
        for k, p in enumerate(self.places.values()):
            if p.mutable:
                mutable.append(p)
            names[f"o{k}"], names[f"v{k}"] = p.owner, p.value
            at = ".cell_contents" if isinstance(p.owner, types.CellType) else f"[{p.name!r}]"
            terms.append(f"o{k}{at} is v{k}")
            if isinstance(p.value, types.FunctionType):
                names[f"c{k}"], names[f"d{k}"] = p.value.__code__, p.value.__defaults__
                terms.append(f"v{k}.__code__ is c{k} and v{k}.__defaults__ is d{k}")
        same = eval("lambda: " + (" and ".join(terms) or "True"), names)
        every = list(self.places.values())
        given = self.given
        plain = not mutable and not given

        def check() -> bool:
            try:
                if not same() and not all(p.holds() for p in every):
                    return False
            except (KeyError, ValueError):
                return False
            if plain:
                return True
            return all(p.holds() for p in mutable) and all(
                np.array_equal(a, was, equal_nan=a.dtype.kind == "f") for a, was in given
            )

        return check

    def modules_check(self) -> Callable[[], bool]:
        """Whether all modules below those seen have the same attributes; after epochs only."""
        every = {id(m): m for top in self.modules.values() for m in top.modules()}
        # Parameters are compared as tensors.
        was = [(m, _module_state(m)) for m in every.values()]
        return lambda: all(_module_state(m) == state for m, state in was)

    def parameters(self) -> list[Any]:
        """All parameters and buffers of the modules seen."""
        return [t for m in self.modules.values() for t in (*m.parameters(), *m.buffers())]

    def module_lists(self) -> Callable[[], bool]:
        """Whether containers among the attributes of the user's modules are the same."""
        places = [
            Place("", m.__dict__, name, value)
            for m in self.modules.values()
            for name, value in m.__dict__.items()
            if type(value) in (list, dict, set) and not name.startswith("_") and value
        ]
        return (lambda: all(p.holds() for p in places)) if places else (lambda: True)


def _numpy_state() -> Any:
    """The state of NumPy's global generator."""
    name, words, *rest = numpy_random.get_state()  # type: ignore[misc]
    return (name, words.tobytes(), *rest)  # type: ignore[attr-defined]


def _module_state(module: Module) -> Any:
    store = module.__dict__
    own = {k: v for k, v in store.items() if not isinstance(v, (list, dict, set))}
    tables = [frozen(store.get(k, {})) for k in ("_parameters", "_buffers", "_modules")]
    hooks = store.get("_hooks")
    kinds = getattr(hooks, "__dict__", None) or {
        k: getattr(hooks, k, None) for k in getattr(type(hooks), "__slots__", ())
    }
    return frozen(own), tables, frozen(kinds), type(module)


def _names(code: Any) -> set[str]:
    """Names that a function and those nested in it use."""
    found = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= _names(const)
    return found - set(dir(builtins))


def _function_of(frame: Any, code: Any) -> Any:
    """The function object that a frame runs, looked for among what its callers can see."""
    found = (f for f in gc.get_referrers(code) if isinstance(f, types.FunctionType))
    freed = [f for f in found if f.__code__ is code]
    if len(freed) == 1:
        return freed[0]
    values = frame.f_locals
    for f in freed:
        cells = dict(zip(code.co_freevars, f.__closure__ or (), strict=False))
        if all(_contents(c) is values.get(n, _MISSING) for n, c in cells.items()):
            return f
    return None


def _of_caller(frame: Any, name: str, value: Any) -> bool:
    """Whether a variable belongs to a function that is running inside the compiled one."""
    back = frame.f_back
    while back is not None and not back.f_code.co_filename.startswith(_CAPTURE):
        if name in back.f_code.co_cellvars and back.f_locals.get(name, _MISSING) is value:
            return True
        back = back.f_back
    return False


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def epoch() -> int:
    """How often tensors' storages and modules' attributes have been exchanged."""
    return clock.epoch
