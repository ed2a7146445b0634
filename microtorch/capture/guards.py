"""What a recording takes for granted in Python: the values that the user's code can reach.

Before a call is recorded, `Guards` walks from the function through the names in its code: globals,
closures, attributes, and the functions and classes found there; of library code, only whether what
the user's code names there is still the same. What was found is compared before each later call, by
one expression. What belongs to modules is compared only after the global counter `clock.epoch` has
moved, which assignments to them do.
"""

import builtins
import functools
import io
import operator
import os
import queue
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

import numpy as np

from ..kernels import objects
from ..nn.module import Module
from ..optim.optimizer import Optimizer
from ..tensor import Tensor
from ..value import Value
from .comparisons import Comparisons, few, last, parts_rows
from .tape import HOOKED, CaptureError, recorders
from .usercode import (
    CALLED,
    CLOCKS,
    MAKERS,
    MAKES,
    REFUSED,
    UNREPEATABLE,
    classes_to,
    end_of,
    imported_as,
    is_library,
    line_of,
    methods_of_libraries,
    names_of,
    names_of_code,
    only_made_by_name,
    parts_of,
    subclassed,
)
from .values import (
    CLOSED,
    CONTAINERS,
    OF_TENSORS,
    OPERATORS,
    RECORDED,
    SIMPLE,
    WHOLE,
    WRAPPERS,
    generators,
    hooks_of,
    module_state,
    state_of,
)  # fmt: skip

_ABSENT = object()


class Guards(Comparisons):
    """The walk from a function and its arguments, with what it found to compare."""

    def __init__(self, function: Any, arguments: Any, live: Set[Any] = frozenset()) -> None:
        super().__init__(live)
        # Whether the user's code calls `type`, for which no number can stand for another, or what
        # keeps results by numbers.
        self.asks_types = False
        # The containers and tensors among the arguments, by their ids.
        self._held: dict[int, Any] = {}
        self.arrays: list[Any] = []
        # What the user's code calls tensors, by their ids.
        self.labels: dict[int, str] = {}
        # Why this cannot be recorded at all.
        self.refusal: CaptureError | None = None
        # The code that was walked; how it names what was found, by ids; and what is wrong, with the
        # name of that.
        self._codes: list[types.CodeType] = []
        self._named: dict[int, str] = {}
        self._problem = "", ""
        self._names: set[str] = set()
        self._by_text: set[str] = set()
        self._seen: dict[int, Any] = {}
        # Classes of which only objects were found, by their ids; whether code may make such.
        self._unmade: set[int] = set()
        self._makes = False
        self._random: list[tuple[Any, Callable[[], Any], Any]] = []
        # The module whose hooks are called outside, as its forward alone is compiled.
        self._outer = getattr(function, "__self__", None) if (
            getattr(function, "__name__", "") == "forward") else None  # fmt: skip
        self._generators = generators()
        self._walk((random._inst, Tensor, function))  # type: ignore[attr-defined]
        # Tensors that the function reaches by itself: as arguments, they are the same ones again.
        self.tensors = {k for k, v in self._seen.items() if isinstance(v, Tensor)}
        self.tensors |= {id(t) for m in self.modules for t in m.buffers(False)}
        self._arguments(arguments)
        self._walk(())
        if "random" in self._names or "numpy.random" in sys.modules:
            # To import it takes 12 ms.
            state = np.random.mtrand._rand
            self._generators = generators()
            self._visit(state)
        # A call that imports what is refused is recorded again, but for what Numba imports when
        # a kernel is compiled.
        unless = "" if "numba" in sys.modules else " or 'numba' in {0}"
        for name in {module for module, *_ in REFUSED} - sys.modules.keys():
            text = self.text(f"{name!r} not in {{0}}{unless}", sys.modules)
            self.places[id(sys.modules), name] = f"that the module {name} is imported", text
        for value in list(self._seen.values()):
            self._finish(value)
        for t in (v for v in (*self._held.values(), *self._seen.values()) if isinstance(v, Tensor)):
            # The package's own names on tensors begin with "_".
            names = {n for n in self._names - vars(t).keys() if n[0] != "_" and n not in OF_TENSORS}
            self.lacks("a tensor's attribute", vars(t), *names, later=bool(self._by_text & names))
        problem, name = self._problem
        if problem:
            self.refusal = CaptureError(
                f"{self.where(name)}: {problem} inside a compiled function, which later calls "
                'would not do again. Do that outside, or compile with fallback="eager".'
            )
        self.settle_modules()
        self._seen.clear()

    def _walk(self, values: Iterable[Any]) -> None:
        self._visit_all(values)
        known = -1
        while known != (known := len(self._names) + len(self._by_text) + len(self._seen)):
            for value in list(self._seen.values()):
                self._attributes(value)

    def _arguments(self, value: Any) -> None:
        """Walk from the arguments: their containers, new at each call, are part of the key."""
        if not isinstance(value, CONTAINERS):
            if isinstance(value, Tensor) and id(value) not in self.tensors:
                self._held[id(value)] = value
                for name in self._names & value.__dict__.keys():
                    if name[0] != "_":
                        self._refuse(f"the attribute {name} of an argument is read", name)
            return self._visit(value)
        if id(value) in self._held:
            return None
        self._held[id(value)] = value
        if not isinstance(value, (tuple, frozenset)):
            words = f"a {type(value).__name__} among the arguments"
            self.places[id(value), ""] = words, self.contents(value)
        for part in (*parts_of(value), getattr(value, "__dict__", None)):
            self._arguments(part)
        if type(value) not in CONTAINERS:
            self._kind(value)
        return None

    def _refuse(self, problem: str, name: str) -> None:
        if not self._problem[0]:
            self._problem = problem, name

    def where(self, *names: str) -> str:
        """Where the user's code changes what has one of these names, or reads it, or begins."""
        for name in filter(None, names):
            for written in (True, False):
                codes = (c for c in self._codes if c.co_name != "__init__")
                if line := next(filter(None, (line_of(c, name, written) for c in codes)), ""):
                    return line
        first = self._codes[:1]
        return f"{first[0].co_filename}:{first[0].co_firstlineno}" if first else ""

    def end(self) -> str:
        """Where the function returns."""
        return end_of(self._codes[0]) if self._codes else ""

    def note(self, words: str, owner: Any, text: str) -> None:
        """Compare one value, `owner` followed by a text, with what it is now."""
        if (id(owner), text) in self.places:
            return
        try:
            value = eval("owner" + text, {"owner": owner})
        except AttributeError:
            # A slot that nothing is in.
            empty = self.add(f"not hasattr({{}}, {text[1:]!r})", owner)
            self.places[id(owner), text] = words, empty
            return
        if isinstance(value, Tensor):
            self.labels.setdefault(id(value), last(words))
        same = f"{{0}}{text} is {{1}}"
        by_value = type(value) is not dict or id(value) not in self._apart
        if by_value and isinstance(value, (*SIMPLE, *CONTAINERS)):
            same = f"({same} or frozen({{0}}{text}) == {{2}})"
        same = self.text(same, owner, value, self.frozen(value))
        rows = self.rows_of(owner, text, value)
        self.places[id(owner), text] = words, same
        if not self.is_live(words, owner, text, value, rows):
            self.compare(same, rows)
        self._visit(value, words)

    # ---------------------------------------------------------------------------- the walk
    def _visit_all(self, values: Iterable[Any], words: str = "") -> None:
        for value in values:
            self._visit(value, words)

    def _kind(self, value: Any) -> None:
        """Walk through an object's class, of which code may make no other objects."""
        kind = type(value)
        if id(kind) not in self._seen and only_made_by_name(kind):
            self._seen[id(kind)] = kind
            self._unmade.add(id(kind))
        elif id(kind) not in self._unmade:
            self._visit(kind)

    def _visit(self, value: Any, words: str = "") -> None:
        """Walk through a value, once; `words` say where a container was found."""
        self._unmade.discard(id(value))
        self._makes = self._makes or value is type
        if isinstance(value, SIMPLE) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if words:
            self._named[id(value)] = last(words)
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, WRAPPERS):
            self._makes = self._makes or isinstance(value, classmethod)
            self._visit_all((value.__func__, getattr(value, "__self__", None)))
        elif isinstance(value, property):
            self._visit(value.fget)
        elif isinstance(value, functools.partial):
            self._visit_all((value.func, value.args, value.keywords))
        elif isinstance(value, CONTAINERS):
            # Containers in it are compared by themselves.
            if not isinstance(value, (tuple, frozenset)):
                words = words or f"a {type(value).__name__}"
                items: Any = value.items() if few(value) and isinstance(value, dict) else ()
                live = {k for k, v in items
                        if self.is_live(f"{words} {k}", value, f"[{k!r}]", v, None)}  # fmt: skip
                found = self.compare(self.contents(value, live), parts_rows(value))
                self.places.setdefault((id(value), ""), (words, found))
            self._visit_all(parts_of(value), words)
        elif isinstance(value, np.ndarray):
            # The package makes constants of its elements.
            self.arrays.append(value)
            self.add("equal({}, {})", value, value.copy())
            self._visit_all(value.ravel().tolist() if value.dtype.hasobject else ())
            # The mask of a masked array.
            self._visit_all(getattr(value, "__dict__", {}).values())
        elif isinstance(value, Tensor):
            self._visit_all([type(value), *value.__dict__.get("_hooks", {}).values()])
        elif isinstance(value, Module):
            for module in value.modules():
                self.modules[module] = set(), None
                for name, t in (*module._parameters.items(), *module._buffers.items()):
                    self.labels.setdefault(id(t), name)
                self._kind(module)
                if module is not self._outer:
                    self._visit_all(f for k in hooks_of(module).values() for f in k.values())
        elif isinstance(value, Optimizer):
            self.members(value)
        elif isinstance(value, weakref.ReferenceType):
            self._visit(value(), words)
        elif isinstance(value, self._generators) and not isinstance(value, random.SystemRandom):
            state = functools.partial(state_of, value)
            self._random.append((value, state, state()))
        elif isinstance(value, (operator.attrgetter, operator.methodcaller)):
            names = [a for a in value.__reduce__()[1] if isinstance(a, str)]
            self._names.update(n for name in names for n in name.split("."))
            self._makes = self._makes or bool(MAKES & self._names)
        elif (inside := self.contents_of(value)) is not None:
            self._visit_all(inside, words)
        elif type(value).__module__.startswith("multiprocessing"):
            self._refuse(f"a {type(value).__name__} of other processes is used", last(words))
        elif isinstance(value, (queue.Queue, queue.SimpleQueue, random.SystemRandom)) or (
            isinstance(value, Iterator) and is_library(None, type(value).__module__)
        ):
            kind = "a file" if isinstance(value, io.IOBase) else f"a {type(value).__name__}"
            self._refuse(f"{kind} is used ({words})" if words else f"{kind} is used", last(words))
        self.asks_types = self.asks_types or isinstance(value, functools._lru_cache_wrapper)
        self._visit(getattr(value, "__dict__", {}).get("__wrapped__"))

    def _function(self, function: Any) -> None:
        """What a function reads; of library code, only functions of the user's that it wraps."""
        code = function.__code__
        own = not is_library(code.co_filename, function.__globals__.get("__name__"))
        if own:
            self._codes.append(code)
            for n in ("__code__", "__defaults__", "__kwdefaults__"):
                found = getattr(function, n)
                self.add(f"{{0}}.{n} is {{1}}", function, found,
                         rows=self.rows_of(function, "." + n, found))  # fmt: skip
            names = names_of_code(code)
            self._names |= names.attributes
            self._makes = self._makes or bool(MAKES & (names.attributes | names.variables))
            self.asks_types = self.asks_types or "type" in names.variables
            self._by_text |= names.texts
            self._imported(names.modules, function.__globals__)
            for name in names.variables:
                if name == "*":
                    self.all_of(function.__globals__)
                elif name in function.__globals__:
                    self.note(f"the global {name}", function.__globals__, f"[{name!r}]")
                else:
                    self.lacks(f"the global {name}", function.__globals__, name)
                    if hasattr(builtins, name):
                        self._of_library("builtins", builtins, vars(builtins), name)
            defaults, keywords = function.__defaults__ or (), function.__kwdefaults__ or {}
            last = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
            for name, value in (*zip(last, defaults, strict=True), *keywords.items()):
                self._visit(value, f"the default of {name}")
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

    def _imported(self, names: Iterable[str], variables: dict[str, Any]) -> None:
        """Walk through modules that are imported in a function."""
        for name in names:
            name = str(variables.get(name)) if name == "__name__" else name
            found = imported_as(name, str(variables.get("__package__") or ""))
            if not found:
                self.lacks(f"that the module {name} is imported", sys.modules, name)
            for full in found:
                for part in (full.partition(".")[0], full):
                    self._of_library("sys.modules", sys, sys.modules, part)

    def _attributes(self, value: Any) -> None:
        """Note the attributes of an object that any of the walked code names."""
        if isinstance(value, types.ModuleType):
            if is_library(getattr(value, "__file__", None), value.__name__):
                for name in self._names.intersection(vars(value)):
                    self._of_library(value.__name__, value, vars(value), name)
            else:
                for name in self._used(value, vars(value)):
                    self.note(f"{value.__name__}.{name}", value, f".{name}")
                self._visit(vars(value).get("__getattr__"))
        elif isinstance(value, type):
            for base in value.__mro__:
                if not is_library(None, base.__module__):
                    unmade = id(value) in self._unmade and not self._makes
                    for name in self._used_in(base) - (MAKERS if unmade else set()):
                        self.note(f"{base.__name__}.{name}", base, f".__dict__[{name!r}]")
            for name in self._names | (OPERATORS if value is Tensor else CALLED):
                self._method(value, name)
            if not is_library(None, type(value).__module__):
                self._visit(type(value))
        elif isinstance(value, (types.FunctionType, Tensor)):
            for name in self._names & value.__dict__.keys():
                if name[0] != "_":
                    self.note(f"the attribute {name}", value, f".{name}")
        elif isinstance(value, Value):
            # Its numbers are recorded.
            for name in self._names & (names_of(value) - {"data", "grad"}):
                if name[0] != "_":
                    self.note(f"a Value's {name}", value, f".{name}")
        elif not isinstance(value, CLOSED) or subclassed(value):
            if not type(value).__module__.startswith(("microtorch.capture", "numpy")):
                for name in self._used(value, names_of(value)):
                    found = value.__dict__.get(name) if isinstance(value, Module) else None
                    # Attributes of modules are compared after epochs, but for what they contain.
                    if found is not None and not isinstance(found, CONTAINERS):
                        self._visit(found, name)
                    else:
                        self.note(f"{type(value).__name__}.{name}", value, f".{name}")
                self._kind(value)

    def _method(self, kind: type, name: str) -> None:
        """Note where a class has a method: what is added before it would hide it."""
        for base in classes_to(kind, name):
            if is_library(None, base.__module__):
                self._of_library(base.__name__, base, objects.dict_of(base), name)

    def _of_library(self, words: str, owner: Any, held: dict[str, Any], name: str) -> None:
        """Note what a library has under a name, or that it has nothing, and walk on from there."""
        value = (HOOKED if recorders[0] else {}).get((id(owner), name), held.get(name, _ABSENT))
        if (id(held), name) in self.places:
            return
        same = f"{name!r} not in {{0}}" if value is _ABSENT else f"{{0}}.get({name!r}) is {{1}}"
        # Hooks are in the place of some while another thread records.
        text = f"(recorders[0] or {same})" if (id(owner), name) in HOOKED else same
        rows = [objects.item(held, name, *(value,) * (value is not _ABSENT))]
        if isinstance(owner, type):
            self.kinds.setdefault(owner, []).extend(rows)
            rows = []
        found = self.add(text, held, value, rows=rows)
        self.places[id(held), name] = f"{words}.{name}", found
        inner = value.func if isinstance(value, functools.partial) else value
        module = getattr(inner, "__module__", type(inner).__module__)
        if isinstance(value, (types.ModuleType, type)) or not is_library(None, module):
            self._visit(value, name)

    def _used(self, value: Any, names: Iterable[str]) -> set[str]:
        """Those of an object's names that any of the walked code may name."""
        library = type(value).__module__.startswith("microtorch")
        if "*" in self._by_text and not (library or isinstance(value, types.ModuleType)):
            return {n for n in names if n[0] != "_"} | self._names.intersection(names)
        return self._names.intersection(names)

    def _finish(self, value: Any) -> None:
        """Note what objects lack, as all names are known now, and look for what is refused."""
        kind = type(value)
        own = value.__name__ if isinstance(value, types.ModuleType) else getattr(
            value, "__module__", None)  # fmt: skip
        if isinstance(value, types.BuiltinFunctionType | types.FunctionType):
            if value.__name__ in UNREPEATABLE.get(str(own), "").split():
                name = self._named.get(id(value), value.__name__)
                self._refuse(f"{value.__name__}() is called", name)
        elif isinstance(value, types.ModuleType | type):
            # Calls of clocks by way of their module are noticed as they happen.
            for name in self._names & set(UNREPEATABLE.get(str(own), "").split()) - set(CLOCKS):
                self._refuse(f"{own}'s {name} is used", name)
            if value is os and self._names & {"environ", "environb", "getenv"}:
                self._visit(os.environ)
        if isinstance(value, type):
            if not is_library(None, value.__module__):
                self.add("{}.__mro__ is {}", value, value.__mro__, rows=objects.bases(value))
            for base in value.__mro__:
                if not is_library(None, base.__module__) and (id(base), "") not in self.places:
                    size = len(base.__dict__)
                    rows = [objects.size(objects.dict_of(base), size)]
                    text = self.add("len({0}.__dict__) == {1}", base, size, rows=rows)
                    self.places[id(base), ""] = f"the class {base.__name__}", text
        elif isinstance(value, types.FunctionType):
            self.lacks(
                "a function's attribute", vars(value), *self._by_text - {"*"} - vars(value).keys()
            )
        elif not isinstance(value, (*WHOLE, *self._generators)) or subclassed(value):
            held = getattr(value, "__dict__", None)
            if not isinstance(held, dict) or kind.__module__.startswith("microtorch.capture"):
                return
            if not isinstance(value, RECORDED):
                # A library's methods may change what no code of the user's names.
                text = self.text("frozen({}, 2) == {}", held, self.frozen(held, 2))
                self.places[id(value), ".__dict__"] = f"an attribute of {kind.__name__}", text
                if self._names & methods_of_libraries(kind):
                    self.compare(text, None)
            if not is_library(None, kind.__module__):
                self.add("{}.__class__ is {}", value, kind, rows=[objects.type_row(value)])
            if kind.__module__.startswith("microtorch"):
                # A method may be replaced.
                self.add("len({}) == {}", held, len(held), rows=[objects.size(held, len(held))])
            elif not kind.__module__.startswith("numpy"):
                self.lacks(f"an attribute of {kind.__name__}", held, *self._names - held.keys())
                if "*" in self._by_text:
                    self.add("len({}) == {}", held, len(held), rows=[objects.size(held, len(held))])

    def _used_in(self, kind: type) -> set[str]:
        special = {n for n, v in vars(kind).items() if n[:2] == "__" and callable(v)}
        entries = {"forward", "backward", "setup_context"}
        return (self._names | special | entries) & vars(kind).keys() - {"__class__"}

    # ------------------------------------------------------------------------- afterwards
    def drawn(self) -> str:
        """Where random numbers have been drawn that are not microtorch's, if any have."""
        drawn = [g for g, state, before in self._random if state() != before]
        return self.where(self._named.get(id(drawn[0]), "random"), "random") if drawn else ""

    def changes(self) -> list[tuple[str, str]]:
        """What the recorded call itself has changed that later calls would not: where, in words."""
        labels, found = self.labels | self._named, []
        with self.live.before():
            for (owner, *_), (words, text) in self.places.items():
                if not self.holds(text):
                    found.append((self.where(last(words), labels.get(owner, "")), words))
            for module, (live, before) in self.modules.items():
                if (now := module_state(module, live, self._apart)) != before:
                    names = [key[1] for key, _ in {*now[1][1:]} ^ {*before[1][1:]}]
                    at = self.where(*names, labels.get(id(module), ""))
                    found.append((at, f"an attribute of {type(module).__name__}"))
        return found
