"""`microtorch.compile`: one program a signature, and what a call does around it."""

import functools
import types
from collections.abc import Callable
from typing import Any, Self

from ..graph.node import LEAF, clock, mode
from ..nn.module import Module
from ..tensor import Tensor
from .arguments import Given, Signatures, modes
from .fast import MISS
from .guards import Guards
from .kept import Kept
from .numbers import plain_result
from .record import paused
from .recording import recording
from .scalars import NumberRead
from .session import Session
from .tape import OUTSIDE, CaptureError, active, place, refusal, warn
from .turn import Turn
from .values import simple

MOST_SIGNATURES = 8
# A program that was dropped before it ran so often was recorded in vain.
ENOUGH_RUNS = 8
# Most calls that are made without a look for a program that fits, where none did.
LONGEST_PAUSE = 16
# With each program that was recorded in vain twice as many calls go by until the next is recorded.
MOST_DOUBLINGS = 13
# Calls in a row that may make lasting things (an optimizer's state) before that is an error.
WARM_UP = 2


def _of_live(guards: Guards, error: Exception) -> bool:
    """Whether a call may have failed only as something stood in the places of numbers."""
    return bool(guards.live.leaves) and isinstance(error, (TypeError, AttributeError, CaptureError))


def _missed(*_: Any) -> Any:
    return MISS


class KeptScalars:
    """One recorded call of a function of Values that can run again."""

    usable = True
    escaped = ()
    title: str
    fast = None
    plain: bool
    instead: Callable[..., Any]
    turn: Turn
    held: list[Any]

    def __init__(
        self, session: Session, guards: Guards, result: Any, tensors: list[Tensor]
    ) -> None:
        self.guards = guards
        self.uses = 0
        self.program = session.scalars.program(result)

    def ready(self) -> None:
        """Make `call`."""
        holds = eval(f"lambda: {' and '.join(self.guards.texts) or True}", self.guards.scope)
        writes_modules = self.guards.writes_modules()

        def call(tensors: Any) -> Any:
            if tensors or not (holds() and self.guards.rare()):
                return MISS
            self.uses += 1
            found = self.program.run()
            self.guards.live.write()
            clock.epoch += writes_modules
            return found

        self.call = call


class Compiled(functools.partial[Any]):
    """A function that is recorded at its first call and run as one program afterwards.

    As a partial it is called by C alone: it stands for the built-in call of the program that ran
    last, or for `_search`.
    """

    function: Callable[..., Any]

    def __new__(cls, function: Callable[..., Any], fallback: str = "error") -> Self:
        """A partial of the function, until `__init__` gives it `_search`."""
        return super().__new__(cls, function)

    def __init__(self, function: Callable[..., Any], fallback: str = "error") -> None:
        if fallback not in ("error", "eager"):
            raise ValueError(f"fallback must be 'error' or 'eager', not {fallback!r}")
        self.function = function
        self.fallback = fallback
        self.eager = False
        self.programs: dict[Any, list[Kept]] = {}
        # The program that ran last, and what a call is now; None for `_search`.
        self.latest: Kept | None = None
        self.called: Callable[..., Any] | None = function
        self.tries: dict[Any, int] = {}
        # Programs that were recorded in vain, and calls that none fitted since the last recording.
        self.wasted = self.missed = 0
        # Calls without a run since, the runs before them, and calls that no program is sought for.
        self.in_row = self.runs = self.pause = 0
        self.signatures = Signatures()
        self.turn = Turn()
        self.warned = False
        functools.update_wrapper(self, function, updated=())
        self._call(None)

    def _call(self, called: Callable[..., Any] | None) -> None:
        if called is not self.called:
            self.called = called
            self.__setstate__((called or self._search, (), {}, self.__dict__))

    # Of a partial, but of the function.
    @property
    def func(self) -> Any:  # type: ignore[override]
        """The function."""
        return self.function

    args = property(lambda self: ())  # type: ignore[assignment]
    keywords = property(lambda self: {})  # type: ignore[assignment]
    __repr__ = object.__repr__

    def _search(self, /, *args: Any, **kwargs: Any) -> Any:
        """A call with arguments of any kind, recorded if no program fits."""
        if self.eager or active.tape is not None:
            return self.function(*args, **kwargs)
        if self.pause > 0:
            self.pause, self.missed = self.pause - 1, self.missed + 1
            return self.function(*args, **kwargs)
        given = self.signatures.of(args, kwargs)
        with self.turn.lock:
            if self.turn.busy[0]:
                # Called by what a program of the function calls.
                return self.function(*args, **kwargs)
            self.signatures.now.update(given.numbers)
            for kept in self.programs.get(given.key, ()):
                fast, found = kept.fast, MISS
                renewed = fast and kept.epoch != clock.epoch and kept.rare()
                if fast and kept.plain and renewed:
                    # It may come here again, but not to this place.
                    self._use(kept)
                    return fast(*given.tensors)
                if fast and not kept.plain:
                    found = fast(*given.tensors)
                if found is MISS:
                    found = kept.call(given.tensors)
                if found is not MISS:
                    self._use(kept)
                    return found
            self.missed += 1
            if self.missed >= 2 ** min(self.wasted, MOST_DOUBLINGS):
                self.missed = 0
                return self._record(args, kwargs)
            # To look for a program takes time, too.
            runs = self.latest.uses if self.latest else 0
            self.in_row = self.in_row + 1 if runs == self.runs else 0
            self.runs, self.pause = runs, min(self.in_row, LONGEST_PAUSE)
        return self.function(*args, **kwargs)

    def _use(self, kept: Kept) -> None:
        self.latest = kept
        self._call(kept.fast if kept.plain else None)

    def __getattr__(self, name: str) -> Any:
        if name == "function":
            raise AttributeError(name)
        return getattr(self.function, name)

    def __reduce__(self) -> Any:
        return Compiled, (self.function, self.fallback)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else types.MethodType(self, owner)

    # --------------------------------------------------------------------------- programs
    @property
    def source(self) -> str:
        """The text of the program that ran last."""
        return self._last().source  # type: ignore[no-any-return]

    def explain(self) -> str:
        """What the program that ran last consists of, and a line for each of the others."""
        latest = self._last().explain()
        every = [p for programs in self.programs.values() for p in programs]
        if self.latest not in every or len(every) == 1:
            return latest  # type: ignore[no-any-return]
        lines = [f"{p.title}: {p.uses} runs, {p.program.explain().splitlines()[-1]}"
                 for p in every if p is not self.latest]  # fmt: skip
        return "\n".join([f"{self.latest.title}: the program that ran last", latest, *lines])

    def save(self, path: Any) -> None:
        """Write the text of the program that ran last to a file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.source)

    def _last(self) -> Any:
        if self.latest is None:
            raise RuntimeError("nothing is compiled before the first call")
        return self.latest.program

    # -------------------------------------------------------------------------- recording
    def _record(self, args: Any, kwargs: Any) -> Any:
        every = (kept for programs in self.programs.values() for kept in programs)
        known = self.signatures
        known.notice(known.of(args, kwargs), every, self.function)
        given = known.of(args, kwargs)
        known.now.update(given.numbers)
        guards = Guards(self.function, (args, kwargs), frozenset(known.live))
        if known.live and guards.asks_types:
            known.pin(known.live)
            return self._record(args, kwargs)
        session = Session(guards, self.fallback == "eager")
        session.arguments = args, kwargs
        known.tell(given, guards, self.function)
        for position, t in enumerate(given.tensors):
            if t._node is not LEAF:
                storage = session.capture(t._array, "argument", position).ref.storage
                storage.name = guards.labels.get(id(t), "")
        kept: Any = None
        try:
            result, kept = self._recorded(session, given)
            if kept is None:
                self._give_up(str(session.failure))
                return result
            problem = self._problem(session, kept, given.key[0])
            if problem is None:
                self.tries.pop(given.key, None)
                if kept.usable:
                    known.pin(guards.settle())
                    given = known.of(args, kwargs)
                    kept.held, kept.plain = given.held, given.plain
                    without = "" if mode.enabled else " without gradients"
                    kept.title = f"{self._name()}({given}){without}"
                    self._keep(given.key, kept)
                    self._use(kept)
                return result
            # Numbers that the function changes are computed by the next recording.
            known.expect(guards.moved())
            self.tries[given.key] = self.tries.get(given.key, 0) + 1
            if self.tries[given.key] > WARM_UP:
                if self.fallback == "error":
                    raise CaptureError(problem)
                self._give_up(problem)
            return result
        except Exception as error:
            gave_up = session.failure is not None
            if _of_live(guards, error) and kept is None and not (gave_up and session.lenient):
                session.undo()
                guards.restore()
                known.pin({leaf.place for leaf in guards.live.leaves})
                return self._record(args, kwargs)
            if session.lenient if gave_up else not isinstance(error, CaptureError):
                # The user's own.
                if gave_up:
                    self._give_up(str(session.failure))
                raise
            session.undo()
            if not session.lenient:
                raise
            guards.restore()
            self._give_up(str(error))
        finally:
            session.rollback.forget()
        return self.function(*args, **kwargs)

    def _recorded(self, session: Session, given: Given) -> tuple[Any, Any]:
        """The call's result, and what can run again; None if it went on eagerly."""
        guards, scalars = session.guards, session.scalars
        kept: Any = None
        with recording(session):
            try:
                with guards.live.standing(guards.scope):
                    result = plain_result(given.call(self.function, self.signatures.now))
            except NumberRead as error:
                session.give_up(error)
            except Exception as error:
                done = scalars.used and not session.ops and not _of_live(guards, error)
                if done and not isinstance(error, CaptureError):
                    # What has been done to Values so far.
                    program = scalars.program(None)
                    scalars.restore()
                    with paused():
                        program.run()
                raise
            active.ended = self._where()
            if scalars.used and session.ops:
                raise refusal("Values and tensors are mixed", "Compile the two apart")
            try:
                if session.live and (failure := scalars.failure or session.failure):
                    # The function has caught it.
                    raise failure
                if session.live and (at := guards.drawn()):
                    raise CaptureError(
                        f"{at}: random numbers that are not microtorch's are drawn "
                        "inside a compiled function. Draw them outside, or use torch.rand where "
                        'tensors are wanted, or compile with fallback="eager".'
                    )
                if session.live:
                    kind: Any = KeptScalars if scalars.used else Kept
                    kept = kind(session, guards, result, given.tensors)
            except CaptureError as error:
                session.give_up(error)
        if scalars.used:
            # Nothing has been done to Values so far.
            if kept is None:
                guards.restore()
            result = kept.program.run() if kept else self.function(*given.args, **given.kwargs)
        return result, kept

    def _problem(self, session: Session, kept: Any, before: Any) -> str | None:
        """Why a recording cannot be used again: it changed what it cannot change again."""
        if kept.escaped:
            return (f"{kept.escaped[0]}: a tensor made inside a compiled function is kept outside "
                    "of it, where later calls would not replace it. Write into the old one with "
                    'copy_, or return it, or compile with fallback="eager".')  # fmt: skip
        guards = kept.guards
        changed = guards.changes()
        for number in session.numbers.values():
            source = number.ref.storage.source
            if simple(float(source())) != simple(float(number.value)):
                changed.append((guards.where(source.key), f"an optimizer's {source.key}"))
        if modes() != before:
            changed.append((self._where(), "the grad mode, or the default dtype or device,"))
        for at, words in changed[:1]:
            return (f"{at or self._where()}: {words} is changed inside a compiled function, which "
                    "later calls would not do again. Change it outside, or compile with "
                    'fallback="eager".')  # fmt: skip
        return None

    def _name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def _where(self) -> str:
        function: Any = self.function
        while isinstance(function, functools.partial):
            function = function.func
        function = getattr(function, "__func__", function)
        code = getattr(function, "__code__", None) or type(function).__call__.__code__
        # Of a module of the package, the line that calls it.
        of_package = code.co_filename.startswith(OUTSIDE)
        return place(True) if of_package else f"{code.co_filename}:{code.co_firstlineno}"

    def _give_up(self, reason: str) -> None:
        self.eager = True
        self._call(self.function)
        warn(f"microtorch.compile runs eagerly from now on: {reason}")

    def _keep(self, key: Any, kept: Kept) -> None:
        kept.instead, kept.turn = self._search if kept.plain else _missed, self.turn
        kept.ready()
        known = self.programs.setdefault(key, [])
        known.insert(0, kept)
        every = [(k, p) for k, ps in self.programs.items() for p in ps]
        if len(every) > MOST_SIGNATURES:
            if not self.warned:
                self.warned = True
                changed = known[1].guards.changes()[:1] if len(known) > 1 else ()
                because = "".join(f", as {words} differs ({at})" for at, words in changed)
                warn(
                    f"{self._name()} has been compiled for more than {MOST_SIGNATURES} "
                    f"signatures, the last of which is {kept.title}{because}; from now on the "
                    "least used program is dropped, and calls run eagerly while recording does "
                    "not pay"
                )
            k, least = min((e for e in every if e[1] is not kept), key=lambda e: e[1].uses)
            self.wasted += least.uses < ENOUGH_RUNS
            self.programs[k].remove(least)
            if not self.programs[k]:
                del self.programs[k]


class CompiledModule(Module):
    """A module whose calls are compiled; everything else is the module's own."""

    def __init__(self, module: Module, fallback: str) -> None:
        super().__init__()
        self._orig_mod = module
        self.__dict__["_compiled"] = Compiled(module, fallback)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        return self._compiled(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("source", "explain", "save", "latest", "programs"):
            return getattr(self.__dict__["_compiled"], name)
        return getattr(self.__dict__["_orig_mod"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        module = self.__dict__.get("_orig_mod")
        if module is None or name in ("training", "_hooks"):
            super().__setattr__(name, value)
        else:
            setattr(module, name, value)

    def __len__(self) -> int:
        return len(self._orig_mod)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        return self._orig_mod[key]  # type: ignore[index]

    def __reduce__(self) -> Any:
        return CompiledModule, (self._orig_mod, self._compiled.fallback)


def compile(
    fn: Any = None, *, fullgraph: bool = False, dynamic: bool | None = None,
    backend: Any = "inductor", mode: str | None = None, options: Any = None,
    disable: bool = False, fallback: str = "error",
) -> Any:  # fmt: skip
    """A function, or module, that records its first call and runs as one program afterwards.

    PyTorch's other options choose among compilers, and change nothing; disable gives fn itself.

    fallback: 'error' raises where a call cannot be recorded (a value read in Python, say), naming
    the line; 'eager' runs the function as it is from then on, and warns once.
    """
    if fn is None:
        return lambda f: compile(f, disable=disable, fallback=fallback)
    if isinstance(fn, Compiled):
        fn = fn.function
    if disable:
        return fn
    return CompiledModule(fn, fallback) if isinstance(fn, Module) else Compiled(fn, fallback)
