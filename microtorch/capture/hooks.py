"""What the package does differently in a thread that records; installed while any thread does.

Eager mode pays nothing: the hooks are put in place when a recording begins and taken away when
the last one ends. In other threads they do what was there before.
"""

import builtins
import contextlib
import functools
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import random
from ..functions import loss
from ..kernels import cpu
from ..kernels.ufuncs import ByDtype
from ..optim.optimizer import Optimizer, Update
from ..tensor import Tensor
from ..value import Value
from .guards import of_library
from .replay import leaves, plain
from .session import ARRAY, ArrayHook, GradHook, Session, paused
from .tape import active, read_error, refusal
from .traced import CHECKS, Traced
from .updates import counting, stepping, updating


# --------------------------------------------------------------------------------- NumPy
class _Numpy:
    """NumPy as the package sees it: what makes arrays makes recorded ones."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def _make(self, name: str, args: Any, options: Any) -> Any:
        function = getattr(np, name)
        tape: Any = active.tape
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

    def zeros(self, *args: Any, **options: Any) -> Any:
        """Memory that may be written."""
        return self._make("zeros", args, options)

    def empty(self, *args: Any, **options: Any) -> Any:
        """The same, undefined."""
        return self._make("empty", args, options)

    def ones(self, *args: Any, **options: Any) -> Any:
        """The same, with ones."""
        return self._make("ones", args, options)

    def full(self, *args: Any, **options: Any) -> Any:
        """The same, with a number."""
        return self._make("full", args, options)

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
            tape.call(name, outs, [] if fills else sources, again, True)
        return self if target is None else None if fills else target

    return apply


def _refusing(what: str, function: Any) -> Any:
    """What the program could not do again, where the user's code calls it."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if active.tape is not None and not of_library(sys._getframe(1)):
            active.tape.give_up(refusal(what, "Do that outside"))
        return function(*args, **options)

    return call


def _called(function: Any) -> Any:
    """A function on arrays that is called again as a whole."""

    @functools.wraps(function)
    def apply(*args: Any, **options: Any) -> Any:
        tape: Any = active.tape
        if tape is None or not any(type(x) is Traced for x in leaves((args, options))):
            return function(*args, **options)
        with paused():
            return tape.anything(function, args, options)

    return apply


def _first_outside(function: Any) -> Any:
    """A check of indices, which the program makes again."""

    @functools.wraps(function)
    def apply(places: Any, length: int) -> Any:
        found = function(plain(places), length)
        if type(places) is Traced and active.tape is not None and found is None:

            def again(outs: Any, ins: Any) -> None:
                bad = function(ins[0], length)
                if bad is not None:
                    raise IndexError(f"index {bad} is out of range, [0, {length})")

            active.tape.call("check", [], [places], again, True)
        return found

    return apply


def _perhaps(x: Any) -> bool:
    """What a program must be ready for."""
    return True


class OneHot:
    """The places of classes, as a mask."""

    def __init__(self, mask: Any) -> None:
        self.mask = mask


def _put_index(g: Any, key: Any, shape: Any) -> Any:
    """`cpu.put_index`, where the key may be a mask of one element a row."""
    if isinstance(key, OneHot):
        spread = np.expand_dims(g, min(1, len(shape) - 1))
        return np.where(key.mask, np.broadcast_to(spread, shape), g.dtype.type(0))
    whole = any(isinstance(k, np.ndarray) for k in key)
    return (_PUT_INDEX if whole else _PUT_INDEX.__wrapped__)(g, key, shape)


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


def _reading(name: str, method: Any) -> Any:
    @functools.wraps(method)
    def read(self: Any, *args: Any, **options: Any) -> Any:
        if active.tape is not None:
            active.tape.give_up(read_error(name))
        return method(self, *args, **options)

    return read


# -------------------------------------------------------------------------- installation
NLL_ARRAYS = loss.nll_arrays
_PUT_INDEX = _called(cpu.put_index)
CHECKS |= {f.__code__ for f in (loss.binary_cross_entropy, loss._refuse)}
_WHOLE = """conv conv_input conv_weight windows windows_back window_max window_sum window_spread
recurrence products_of_others cofactors inv svd qr eigh cholesky solve pinv put_along"""
_DRAWS = """manual_seed seed set_state set_state_bytes get_state uniform normal exponential randint
random randperm bernoulli bernoulli_scalar dropout_mask multinomial rand"""
_HOOKS: list[tuple[Any, str, Any]] = [
    (Tensor, "_array", ArrayHook()),
    (ByDtype, "__missing__", _aside(ByDtype.__missing__)),
    *((owner, name, _refusing(name, getattr(owner, name))) for owner, names in (
        (builtins, "print input open"),
        (time, "time time_ns monotonic perf_counter perf_counter_ns process_time sleep"),
      ) for name in names.split()),
    (Value, "__init__", _refusing("a graph of Values is made", Value.__init__)),
    (Tensor, "_grad", GradHook()),
    *((Tensor, name, _reading(name, Tensor.__dict__[name]))
      for name in ("numpy", "__repr__", "__format__", "data_ptr")),
    *((random.Generator, n, _drawing(n, random.Generator.__dict__[n])) for n in _DRAWS.split()),
    (cpu, "constant", _aside(cpu.constant)), (cpu, "full", _aside(cpu.full)),
    (cpu, "spread", _only_traced(cpu.spread, _spread)),
    (cpu, "expand", _only_traced(cpu.expand, _expand)),
    *((cpu, name, _called(getattr(cpu, name))) for name in _WHOLE.split()),
    (cpu, "any_true", _only_traced(cpu.any_true, _perhaps)),
    (cpu, "any_zero", _only_traced(cpu.any_zero, _perhaps)),
    (cpu, "first_outside", _first_outside(cpu.first_outside)),
    (cpu, "put_index", _put_index), (loss, "nll_arrays", _nll_arrays),
    (loss, "_check_classes", _aside(loss._check_classes)),
    (Update, "__call__", updating(Update.__call__)), (Optimizer, "step", stepping(Optimizer.step)),
    (Optimizer, "steps_made", counting(Optimizer.steps_made)),
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
