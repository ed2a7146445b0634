"""`microtorch.compile`: one program a signature, and what a call does around it."""

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any
from weakref import ref

from .. import dtypes
from ..graph.node import LEAF, clock, mode
from ..tensor import TENSORS, Tensor
from .build import build
from .guards import SIMPLE, Watch
from .hooks import recording
from .kept import EVERY, Kept, finish
from .session import Session
from .tape import CaptureError, active

MOST_SIGNATURES = 8
# Calls that may make lasting things (an optimizer's state) before that is an error.
WARM_UP = 2


def flatten(value: Any, tensors: list[Tensor]) -> Any:
    """The key of an argument; its tensors are appended in order."""
    kind = value.__class__
    if kind in TENSORS or isinstance(value, Tensor):
        tensors.append(value)
        array, node = value._array, value._node
        wanted = None if node is None else id(value) if node is LEAF else True
        return (array.shape, array.strides, array.dtype, wanted)
    if kind is tuple or kind is list:
        return (kind, *[flatten(v, tensors) for v in value])
    if kind is dict:
        return (dict, *[(k, flatten(v, tensors)) for k, v in value.items()])
    return (kind, value) if isinstance(value, SIMPLE) else (kind, id(value))


class Compiled:
    """A function that is recorded at its first call and run as one program afterwards."""

    def __init__(self, function: Callable[..., Any], fallback: str = "error") -> None:
        if fallback not in ("error", "eager"):
            raise ValueError(f"fallback must be 'error' or 'eager', not {fallback!r}")
        self.function = function
        self.fallback = fallback
        self.eager = False
        self.programs: dict[Any, list[Kept]] = {}
        self.latest: Kept | None = None
        self.tries: dict[Any, int] = {}
        self.lock = threading.RLock()
        self.warned = False
        # Objects that stand in keys by their identity.
        self.held: list[Any] = []
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result, from a program if one fits."""
        if self.eager or active.tape is not None:
            return self.function(*args, **kwargs)
        latest = self.latest
        if latest is not None and latest.fits is not None:
            if latest.count == len(args) and not kwargs and latest.fits(*args):
                with self.lock:
                    if latest.holds():
                        return self._run(latest, args, kwargs, args)
        tensors: list[Tensor] = []
        key: Any = (
            mode.enabled,
            mode.inference,
            dtypes.get_default_dtype(),
            flatten(args, tensors),
        )
        if kwargs:
            key = (*key, flatten(kwargs, tensors))
        if len(tensors) > 1:
            same = [id(t._array) for t in tensors]
            if len(set(same)) < len(same):
                key = (*key, *map(same.index, same))
        with self.lock:
            for kept in self.programs.get(key, ()):
                if kept.holds():
                    return self._run(kept, args, kwargs, tensors)
            return self._record(key, args, kwargs, tensors)

    def _run(self, kept: Kept, args: Any, kwargs: Any, tensors: Any) -> Any:
        """One call of a program; where arguments share memory that is written, an eager one."""
        arrays = [tensors[k]._array for k in kept.arguments]
        if kept.apart and kept.aliased(arrays):
            return self.function(*args, **kwargs)
        self.latest = kept
        return kept.run(arrays, tensors)

    def __getattr__(self, name: str) -> Any:
        if name == "function":
            raise AttributeError(name)
        return getattr(self.function, name)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else functools.partial(self, owner)

    # --------------------------------------------------------------------------- programs
    @property
    def source(self) -> str:
        """The text of the program that ran last."""
        return self._last().source  # type: ignore[no-any-return]

    def explain(self) -> str:
        """What the program that ran last consists of."""
        return self._last().explain()  # type: ignore[no-any-return]

    def save(self, path: Any) -> None:
        """Write the text of the program that ran last to a file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.source)

    def _last(self) -> Any:
        if self.latest is None:
            raise RuntimeError("nothing is compiled before the first call")
        return self.latest.program

    # -------------------------------------------------------------------------- recording
    def _record(self, key: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        session = Session()
        watch = Watch(session.give_up)
        session.lenient = self.fallback == "eager"
        numbers = {}
        for position, t in enumerate(tensors):
            if t._node is not LEAF:
                argument = session.capture(t._array, "argument", position)
                if argument.ref.storage.position == position:
                    numbers[position] = argument.ref
        function = self.function
        # What refers to gradients of other programs; what this one adds is no one else's.
        others = [(ref(k), k.referrers()) for k in list(EVERY)]
        watch.note("the function", {"itself": function}, "itself", function)
        with recording(session), watch:
            result = function(*args, **kwargs)
            watch.__exit__()
            try:
                if session.failure is None:
                    kept = Kept(session, watch, tensors)
                    finish(session, kept, result, tensors, numbers)
            except CaptureError as error:
                session.give_up(error)
        if session.failure is not None:
            self._give_up(str(session.failure))
            return result
        problem = self._problem(session, kept)
        if problem is None:
            if not (
                kept.mixed or (kept.apart and kept.aliased([tensors[k]._array for k in numbers]))
            ):
                self._keep(key, kept)
                for table in (session.known, session.casts, session.numbers, session.tensors):
                    table.clear()
                session.made.clear()
                kept.match(args, tensors)
                kept.measure()
                _adjust(others)
        else:
            self.tries[key] = self.tries.get(key, 0) + 1
            if self.tries[key] > WARM_UP:
                if self.fallback == "error":
                    raise CaptureError(problem)
                self._give_up(problem)
        return result

    def _problem(self, session: Session, kept: Kept) -> str | None:
        """Why a recording cannot be used again: it changed what it cannot change again."""
        remedy = 'Return it, or compile with fallback="eager"'
        escaped = kept.escaped
        if escaped:
            return (f"{escaped[0]}: a tensor made inside a compiled function is kept outside of it,"
                    f" where later calls would not replace it. {remedy}.")  # fmt: skip
        changed = kept.watch.changes()
        if changed:
            return (f"{self._where()}: {changed[0]} is changed inside a "
                    "compiled function, which later calls would not do again. Change it outside, "
                    'or compile with fallback="eager".')  # fmt: skip
        if any(float(n.ref.storage.source()) != n.value for n in session.numbers.values()):
            return "a number of an optimizer is changed inside a compiled function"
        return None

    def _name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def _where(self) -> str:
        code = getattr(self.function, "__code__", None)
        return code.co_filename if code else type(self.function).__name__

    def _give_up(self, reason: str) -> None:
        self.eager = True
        warnings.warn(f"microtorch.compile runs eagerly from now on: {reason}", stacklevel=4)

    def _keep(self, key: Any, kept: Kept) -> None:
        kept.program = build(kept.recording)
        if kept.adjoint is not None:
            kept.adjoint.program = build(kept.adjoint.recording)
        kept.epoch = clock.epoch
        kept.tensors = [(t, t._array, node) for t, _, node in kept.tensors]
        self.latest = kept
        known = self.programs.setdefault(key, [])
        known.insert(0, kept)
        every = [(k, p) for k, ps in self.programs.items() for p in ps]
        if len(every) > MOST_SIGNATURES:
            if not self.warned:
                self.warned = True
                warnings.warn(
                    f"{self._name()} has been compiled for more than {MOST_SIGNATURES} "
                    "signatures; the least used program is dropped from now on",
                    stacklevel=4,
                )
            k, least = min((e for e in every if e[1] is not kept), key=lambda e: e[1].uses)
            self.programs[k].remove(least)
            if not self.programs[k]:
                del self.programs[k]


def _adjust(others: Any) -> None:
    """Let programs expect the references that a new program, or the loss of one, has changed."""
    for reference, before in others:
        kept = reference()
        if kept is not None:
            kept.counts = [
                (c + x - a, d + y - b)
                for (a, b), (c, d), (x, y) in zip(
                    before, kept.counts, kept.referrers(), strict=True
                )
            ]


def compile(fn: Any = None, *, fallback: str = "error") -> Any:
    """A function, or module, that records its first call and runs as one program afterwards.

    fallback: 'error' raises where a call cannot be recorded (a value read in Python, say), naming
    the line; 'eager' runs the function as it is from then on, and warns once.
    """
    if fn is None:
        return lambda f: compile(f, fallback=fallback)
    return Compiled(fn, fallback)
