"""What the package does differently in a thread that records; installed while any thread does.

Eager mode pays nothing: the hooks are put in place when a recording begins and taken away when
the last one ends. In other threads they do what was there before.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import numpy as np

from .. import random
from ..functions import loss
from ..kernels import cpu
from ..kernels.ufuncs import ByDtype
from ..optim.optimizer import Optimizer, Update
from ..table import STEPS
from ..tensor import Tensor, changed
from .ir import Map, Ref, Storage
from .record import Recorder, leaves, plain
from .tape import active, place, read_error, refusal, substitute
from .traced import CHECKS, Traced

ARRAY = Tensor.__dict__["_array"]


class Session(Recorder):
    """A recording, with the tensors, gradients and numbers that it met."""

    def __init__(self) -> None:
        super().__init__()
        # Tensors from outside: id -> (tensor, its array, node, changes before).
        self.tensors: dict[int, tuple[Any, Any, Any, Any]] = {}
        # Gradients of tensors from outside: id -> (tensor, at entry, whether that was looked at).
        self.grads: dict[int, tuple[Any, Any, bool]] = {}
        # Tensors made, with the places where.
        self.made: list[tuple[Any, str]] = []
        # Tensors from outside that got other memory: id -> (tensor, its array before).
        self.swapped: dict[int, tuple[Any, Any]] = {}
        self.numbers: dict[Any, Any] = {}
        # What must be as it was for the program to run again.
        self.guards: list[Callable[[], bool]] = []
        self.optimizers: dict[int, Optimizer] = {}
        self.casts: dict[Any, Any] = {}

    def number(self, key: Any, source: Callable[[], float]) -> Any:
        """A hyper-parameter, read again at every call."""
        found = self.numbers.get(key)
        if found is None:
            value = np.array(float(source()))
            storage = Storage(value.dtype, 1, "number", str(key[1]), source=source)
            found = self.numbers[key] = Traced(self, value, Ref(storage, (), ()))
        return found

    def truth(self, number: Any) -> bool:
        """Whether a hyper-parameter is not 0, which a program takes for granted."""
        source, found = number.ref.storage.source, bool(number.value)
        self.guards.append(lambda: bool(source()) == found)
        return found

    def result(self, traced: Any) -> Ref:
        """Memory that a caller gets."""
        self.writable(traced)
        storage = traced.ref.storage
        if storage.kind not in ("temporary", "result") or storage.size != traced.size:
            copied = self.fresh(traced.value.copy())
            self.map([copied], [traced], ("x",), ("x",), "copy")
            traced = copied
        traced.ref.storage.kind = "result"
        return traced.ref  # type: ignore[no-any-return]

    def of_tensor(self, t: Tensor, array: Any) -> Any:
        """What stands for the array of a tensor from outside."""
        if id(t) not in self.tensors:
            self.tensors[id(t)] = (t, array, t._node, t.__dict__.get("_changes"))
        return self.capture(array)


class _ArrayHook:
    """`Tensor._array`."""

    def __get__(self, t: Any, owner: Any = None) -> Any:
        if t is None:
            return self
        value = ARRAY.__get__(t)
        tape: Any = active.tape
        if type(value) is Traced:
            return value if value.tape is tape else value.value
        return value if tape is None else tape.of_tensor(t, value)

    def __set__(self, t: Any, value: Any) -> None:
        tape: Any = active.tape
        if tape is None:
            ARRAY.__set__(t, plain(value))
            return
        try:
            before = ARRAY.__get__(t)
        except AttributeError:
            before = None
        traced = tape.lift(value)
        if type(before) is np.ndarray:
            if value.shape != before.shape or value.dtype != before.dtype:
                words = "a tensor gets memory of another shape or dtype"
                tape.give_up(refusal(words, "Do that outside"))
                if not tape.live:
                    return ARRAY.__set__(t, plain(value))
            if tape.of_tensor(t, before).ref == traced.ref:
                return
            tape.swapped[id(t)] = (t, before)
        ARRAY.__set__(t, traced)
        tape.made.append((ref(t), place(True)))


class _GradHook:
    """`Tensor._grad`."""

    def __get__(self, t: Any, owner: Any = None) -> Any:
        if t is None:
            return None
        tape: Any = active.tape
        if tape is not None:
            self.note(tape, t, True)
        return t.__dict__.get("_grad")

    def __set__(self, t: Any, value: Any) -> None:
        tape: Any = active.tape
        if tape is not None:
            self.note(tape, t, False)
        t.__dict__["_grad"] = value

    def note(self, tape: Any, t: Any, read: bool) -> None:
        """Remember the gradient that a tensor from outside had."""
        if id(t) not in tape.grads and type(ARRAY.__get__(t)) is np.ndarray:
            tape.grads[id(t)] = (t, t.__dict__.get("_grad"), read)
            tape.of_tensor(t, ARRAY.__get__(t))


# --------------------------------------------------------------------------------- NumPy
class _Numpy:
    """NumPy as the package sees it: what makes arrays makes recorded ones."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def _make(self, name: str, args: Any, options: Any) -> Any:
        function, tape = getattr(np, name), active.tape
        if tape is None:
            return function(*args, **options)
        if name == "full" and type(args[1]) is Traced:
            made = tape.constant_of(np.zeros, (args[0], *args[2:]), options)
            made[...] = args[1]
            return made
        made = tape.constant_of(function, args, options)
        if name == "empty":
            tape.undefined.add(made.ref.storage)
        return made

    zeros, empty, ones, full = (
        (lambda name: lambda self, *args, **options: self._make(name, args, options))(name)
        for name in ("zeros", "empty", "ones", "full")
    )

    def asarray(self, x: Any, dtype: Any = None, order: Any = None, **options: Any) -> Any:
        """A recorded array stays one."""
        if type(x) is not Traced:
            return np.asarray(x, dtype, order, **options)
        if (dtype is None or x.dtype == dtype) and (order != "C" or x.flags.c_contiguous):
            return x
        return x.astype(x.dtype if dtype is None else dtype, "C" if order == "C" else "K")

    def array(self, x: Any, dtype: Any = None, **options: Any) -> Any:
        """A copy."""
        if type(x) is not Traced:
            return np.array(x, dtype, **options)
        return x.astype(x.dtype if dtype is None else dtype, options.get("order", "K"))

    def ascontiguousarray(self, x: Any, dtype: Any = None) -> Any:
        """In row-major order."""
        return self.asarray(x if np.ndim(x) else x.reshape(1), dtype, "C")

    class lib:
        """numpy.lib."""

        array_utils = np.lib.array_utils

        class stride_tricks:
            """numpy.lib.stride_tricks."""

            sliding_window_view = np.lib.stride_tricks.sliding_window_view

            @staticmethod
            def as_strided(x: Any, *args: Any, **options: Any) -> Any:
                """A view."""
                seen = np.lib.stride_tricks.as_strided(plain(x), *args, **options)
                return x.tape.view(x, seen) if type(x) is Traced else seen


def _modules() -> list[Any]:
    """Modules of the package that work on arrays by NumPy."""
    apart = ("microtorch.capture", "microtorch.random", "microtorch.checkpoint")
    return [
        m for name, m in list(sys.modules.items())
        if name.startswith("microtorch.") and not name.startswith(apart)
        and m.__dict__.get("np") is np
        and (not name.startswith("microtorch.kernels")
             or name.rpartition(".")[2] in ("cpu", "scans", "windows", "lapack"))
    ]  # fmt: skip


@contextlib.contextmanager
def paused() -> Iterator[Any]:
    """Real arrays for a while."""
    tape, active.tape = active.tape, None
    try:
        yield tape
    finally:
        active.tape = tape


# ---------------------------------------------------------------------- single functions
def _aside(function: Any) -> Any:
    """A function that keeps what it makes, so must make real arrays."""

    @functools.wraps(function)
    def apply(*args: Any) -> Any:
        with paused():
            return function(*args)

    return apply


def _spread(g: Any, shape: Any) -> Any:
    return np.broadcast_to(g.reshape(()) if g.ndim else g, shape)


def _expand(x: Any, shape: Any) -> Any:
    return np.broadcast_to(x, shape)


def _only_traced(function: Any, instead: Any) -> Any:
    @functools.wraps(function)
    def apply(x: Any, *args: Any) -> Any:
        return (instead if type(x) is Traced else function)(x, *args)

    return apply


def _drawing(name: str, method: Any) -> Any:
    """A method that draws random numbers, into its first argument or as its result."""
    fills = name in ("uniform", "normal", "exponential", "randint", "random",
                     "bernoulli_scalar", "dropout_mask")  # fmt: skip

    @functools.wraps(method)
    def apply(self: Any, *args: Any, **options: Any) -> Any:
        if active.tape is None:
            return method(self, *plain(args), **options)
        if name in ("seed", "set_state", "set_state_bytes", "get_state"):
            error = refusal(f"the generator's {name} is called", "Do that outside")
            active.tape.give_up(error)
            return method(self, *args, **options)
        with paused() as tape:
            if fills:
                tape.writable(args[0])
            found = method(self, *plain(args), **options)
            sources = [x for x in leaves(args) if type(x) is Traced]
            target = args[0] if fills else tape.fresh(found) if found is not self else None
            rest = [None if type(a) is Traced else a for a in args]

            def again(outs: Any, ins: Any) -> None:
                given = iter(outs if fills else ins)
                made = method(self, *(next(given) if a is None else a for a in rest), **options)
                if outs and not fills:
                    outs[0][...] = made

            outs = [] if target is None else [target]
            tape.call(name, outs, [] if fills else sources, again)
            tape.ops[-1].effect = True
        return self if target is None else None if fills else target

    return apply


def _unwatched(function: Any) -> Any:
    """Compiling a kernel is not part of what is recorded."""

    @functools.wraps(function)
    def apply(*args: Any) -> Any:
        profile = sys.getprofile()
        sys.setprofile(None)
        try:
            with paused():
                return function(*args)
        finally:
            sys.setprofile(profile)

    return apply


class OneHot:
    """The places of classes, as a mask."""

    def __init__(self, mask: Any) -> None:
        self.mask = mask


def _put_index(g: Any, key: Any, shape: Any) -> Any:
    """`cpu.put_index`, where the key may be a mask of one element a row."""
    if isinstance(key, OneHot):
        spread = np.expand_dims(g, min(1, len(shape) - 1))
        return np.where(key.mask, np.broadcast_to(spread, shape), g.dtype.type(0))
    return PUT_INDEX(g, key, shape)


def _nll_arrays(a: Any, t: Any, weight: Any, ignore_index: int, reduction: str) -> Any:
    """`loss.nll_arrays` by masks, so that it is made of maps and folds; nan for a wrong class."""
    if active.tape is None:
        return NLL_ARRAYS(a, t, weight, ignore_index, reduction)
    dim = 1 if a.ndim > 1 else 0
    count = a.shape[dim]
    classes = np.arange(count).reshape((-1,) + (1,) * (a.ndim - dim - 1))
    mask = np.equal(np.expand_dims(t, dim), classes)
    zero, one = a.dtype.type(0), a.dtype.type(1)
    of_class = one if weight is None else weight.reshape(classes.shape)
    factor = -one if weight is None else -(np.where(mask, of_class, zero).sum(axis=dim))
    ignored = t == ignore_index
    factor = np.where((t < 0) | (t >= count), a.dtype.type(np.nan), factor)
    factor = np.where(ignored, zero, factor)
    each = np.where(ignored, zero, np.where(mask, a, zero).sum(axis=dim) * factor)
    divisor = None
    if reduction == "mean":
        divisor = -(factor.sum())
        each = each.sum() / divisor
    elif reduction == "sum":
        each = each.sum()
    return each, factor, OneHot(mask), divisor


# ---------------------------------------------------------------------------- optimizers
class Options(dict[str, Any]):
    """A parameter group, whose numbers are read again at every call; all else is guarded."""

    def __init__(self, tape: Session, group: dict[str, Any]) -> None:
        super().__init__(group)
        self.tape = tape
        self.group = group

    def __getitem__(self, name: str) -> Any:
        value, group = super().__getitem__(name), self.group
        if name == "params":
            return value
        if type(value) in (int, float):
            return self.tape.number((id(group), name), lambda: group[name])
        if type(value) is tuple and all(type(v) in (int, float) for v in value):
            return tuple(
                self.tape.number((id(group), f"{name}{k}"), lambda k=k: group[name][k])
                for k in range(len(value))
            )
        if not isinstance(value, Tensor):
            self.tape.guards.append(lambda: group[name] == value)
        return value


def _step(method: Any) -> Any:
    @functools.wraps(method)
    def step(self: Any, closure: Any = None) -> Any:
        tape: Any = active.tape
        if tape is None:
            return method(self, closure)
        tape.optimizers[id(self)] = self
        groups, self.param_groups = self.param_groups, [Options(tape, g) for g in self.param_groups]
        try:
            return method(self, closure)
        finally:
            self.param_groups = groups

    return step


def _steps_made(function: Any) -> Any:
    def steps_made(count: Any) -> Any:
        tape: Any = active.tape
        if tape is None:
            return function(count)
        number = plain(count).item()
        if type(count) is not Traced or count.ref.storage.kind == "constant":
            return number
        # Parameters that have made equally many steps go together.
        key = ("steps", number)
        if key not in tape.casts:
            tape.casts[key] = count.astype(np.float64)
        return tape.casts[key]

    return staticmethod(steps_made)


def _update(method: Any) -> Any:
    """An update of parameters as one map each."""

    @functools.wraps(method)
    def update(self: Any, lines: Any, numbers: Any) -> None:
        tape: Any = active.tape
        if tape is None:
            method(self, lines, numbers)
            return
        row = STEPS[self.name]
        for line in lines:
            arrays = [t._array for t in line]
            dtype = arrays[0].dtype
            if any(a.dtype != dtype or a.shape != arrays[0].shape for a in arrays):
                tape.give_up(refusal("a gradient or state of another dtype or shape", "Cast it"))
                return method(self, lines, [float(plain(n)) for n in numbers])
            given = [_as_scalar(tape, n, dtype) for n in numbers]
            texts: dict[str, str] = {}
            for line_text in row.statements:
                target, _, formula = line_text.partition(" = ")
                texts[target] = f"({substitute(formula, texts)})"
            written = [k for k, n in enumerate(row.arrays) if n in texts]
            ins = [tape.lift(x) for x in (*arrays, *given)]
            outs = [arrays[k] for k in written]
            for o in outs:
                tape.writable(o)
            with paused():
                method(self, [tuple(_plain_tensor(a) for a in arrays)], [plain(n) for n in given])
            formulas = tuple(texts[row.arrays[k]][1:-1] for k in written)
            tape.map(outs, ins, formulas, (*row.arrays, *row.numbers), self.name)
            changed(line[0])

    return update


def _as_scalar(tape: Any, number: Any, dtype: Any) -> Any:
    if isinstance(number, Tensor):
        number = number._array.reshape(())
    if type(number) is not Traced:
        return np.asarray(number, dtype)
    key = (number, dtype)
    if key not in tape.casts:
        tape.casts[key] = number.astype(dtype, copy=False)
    return tape.casts[key]


def _plain_tensor(a: Any) -> Tensor:
    made = object.__new__(Tensor)
    ARRAY.__set__(made, a.value)
    made._node = None
    return made


def _reading(name: str, method: Any) -> Any:
    @functools.wraps(method)
    def read(self: Any, *args: Any, **options: Any) -> Any:
        if active.tape is not None:
            active.tape.give_up(read_error(name))
        return method(self, *args, **options)

    return read


# -------------------------------------------------------------------------- installation
PUT_INDEX, NLL_ARRAYS = cpu.put_index, loss.nll_arrays
CHECKS |= {f.__code__ for f in (loss.binary_cross_entropy, loss._refuse)}
_DRAWS = ("manual_seed seed set_state set_state_bytes get_state uniform normal exponential randint "
          "random randperm bernoulli bernoulli_scalar dropout_mask multinomial rand")  # fmt: skip
_HOOKS: list[tuple[Any, str, Any]] = [
    (Tensor, "_array", _ArrayHook()),
    (ByDtype, "__missing__", _unwatched(ByDtype.__missing__)),
    (Tensor, "_grad", _GradHook()),
    *((Tensor, name, _reading(name, Tensor.__dict__[name]))
      for name in ("numpy", "__repr__", "__format__", "data_ptr")),
    *((random.Generator, n, _drawing(n, random.Generator.__dict__[n])) for n in _DRAWS.split()),
    (cpu, "constant", _aside(cpu.constant)), (cpu, "row_of", _aside(cpu.row_of)),
    (cpu, "spread", _only_traced(cpu.spread, _spread)),
    (cpu, "expand", _only_traced(cpu.expand, _expand)),
    (cpu, "put_index", _put_index), (loss, "nll_arrays", _nll_arrays),
    (loss, "_check_classes", _aside(loss._check_classes)),
    (Update, "__call__", _update(Update.__call__)), (Optimizer, "step", _step(Optimizer.step)),
    (Optimizer, "steps_made", _steps_made(Optimizer.steps_made)),
]  # fmt: skip
_lock = threading.Lock()
_before: list[tuple[Any, str, Any]] = []
_count = [0]
_numpy = _Numpy()


def _install() -> None:
    hooks = [*_HOOKS, *((m, "np", _numpy) for m in _modules())]
    for target, name, hook in hooks:
        _before.append((target, name, target.__dict__[name]))
        setattr(target, name, hook)


def _remove() -> None:
    while _before:
        target, name, old = _before.pop()
        setattr(target, name, old)


@contextlib.contextmanager
def recording(tape: Session) -> Iterator[None]:
    """Record what this thread does."""
    with _lock:
        if not _count[0]:
            _install()
        _count[0] += 1
    active.tape = tape
    try:
        yield
    finally:
        active.tape = None
        tape.live = False
        for made, _ in tape.made:
            t = made()
            if t is not None and type(ARRAY.__get__(t)) is Traced:
                ARRAY.__set__(t, ARRAY.__get__(t).value)
        with _lock:
            _count[0] -= 1
            if not _count[0]:
                _remove()


__all__ = ["ARRAY", "Map", "Session", "paused", "recording"]
