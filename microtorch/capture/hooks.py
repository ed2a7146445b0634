"""What the package does differently in a thread that records.

The hooks are in place while any thread records (`recording.py`); in other threads they do what was
there before.
"""

import functools
import inspect
import itertools
import random as python_random
import sys
from typing import Any

import numpy as np

from .. import dtypes, random
from ..autograd.backward import _OnArrays as OnArrays
from ..device import CPU
from ..functions import creation, criteria, division, loss
from ..functions.random import normal as random_normal
from ..graph import engine
from ..kernels import cpu
from ..kernels.operations import replaced
from ..kernels.ufuncs import ByDtype
from ..optim.optimizer import Optimizer, Update
from ..tensor import Tensor, device_of
from . import adjoint
from .live import Live, plain_number
from .live import hooks as live_hooks
from .record import MAKES, paused, plain, recorded
from .scalars import HOOKS as SCALAR_HOOKS
from .session import ARRAY, ArrayHook, GradHook
from .tape import CaptureError, active, read_error, refusal
from .traced import CHECKS, Traced
from .updates import counting, reading, stepping, updating
from .usercode import REFUSED, of_library, of_python


# --------------------------------------------------------------------------------- NumPy
def _below() -> Any:
    """NumPy as the package sees it otherwise: where a GPU is used, one that knows its arrays."""
    gpu = sys.modules.get("microtorch.gpu.install")
    return np if gpu is None else gpu.numpy()


class _Numpy:
    """NumPy as the package sees it: what makes arrays makes recorded ones."""

    lib: Any

    def __getattr__(self, name: str) -> Any:
        found = getattr(_below(), name)
        return functools.partial(_made, found) if name in _MAKERS else found


class _Strided:
    """The same of `numpy.lib.stride_tricks`, and of numpy.lib."""

    array_utils = np.lib.array_utils
    sliding_window_view = staticmethod(np.lib.stride_tricks.sliding_window_view)

    @staticmethod
    def as_strided(*args: Any, **options: Any) -> Any:
        """A view."""
        return _made(_below().lib.stride_tricks.as_strided, *args, **options)


def _made(function: Any, *args: Any, **options: Any) -> Any:
    tape = active.tape
    like = plain(options.pop("like", None))
    if device_of(like) is not CPU:
        options["like"] = like
    if tape is None:
        return function(*plain(args), **options)
    if function.__name__ == "empty":
        made = tape.constant(function(*args, **options))
        tape.undefined.add(made.ref.storage)
        return made
    if function.__name__ == "full" and recorded(args):
        made = tape.constant(np.zeros(args[0], *args[2:], **options))
        made[...] = args[1]
        return made
    if function.__name__ in MAKES or recorded(args[:1]):
        return tape.attempt(function, args, options)
    return function(*plain(args), **options)


_MAKERS = MAKES | {"empty", "arange", "asarray", "array", "ascontiguousarray"}
NUMPY = _Numpy()
NUMPY.lib = _Strided
_Strided.stride_tricks = _Strided  # type: ignore[attr-defined]


def modules() -> list[Any]:
    """Modules of the package that work on arrays by NumPy."""
    apart = ("microtorch.capture", "microtorch.random", "microtorch.checkpoint", "microtorch.gpu")
    return [
        m for name, m in list(sys.modules.items())
        if name.startswith("microtorch.") and not name.startswith(apart)
        and m.__dict__.get("np") in (np, _below())
        and (not name.startswith("microtorch.kernels")
             or name.rpartition(".")[2] in ("cpu", "scans", "windows", "lapack"))
    ]  # fmt: skip


# ---------------------------------------------------------------------- single functions
def _instead(of: Any) -> Any:
    """A decorator: a function for a thread that records; `of` is what others go on with."""

    def make(hook: Any) -> Any:
        @functools.wraps(of)
        def apply(*args: Any, **options: Any) -> Any:
            return (of if active.tape is None else hook)(*args, **options)

        return apply

    return make


def _aside(function: Any) -> Any:
    """A function that keeps what it makes, so must make real arrays."""

    def real(*args: Any) -> Any:
        with paused():
            return function(*args)

    return _instead(function)(real)


def _constant(value: Any, dtype: Any) -> Any:
    """`cpu.constant`; a live number is one of the program."""
    if type(value) is Live and (live := value.array(dtype)) is not None:
        return live
    with paused():
        return CONSTANT(plain_number(value), dtype)


def _array_of(data: Any, dtype: Any) -> Any:
    """The array of a live number, or of numbers as they are."""
    if type(data) is Live:
        # NumPy's numbers keep their dtype.
        number = data.value
        own = number.dtype if isinstance(number, np.generic) else dtypes.of_number(number).numpy
        if (live := data.array(dtype.numpy if dtype else own)) is not None:
            return active.tape.copied(live)
    return ARRAY_OF(replaced(data, plain_number), dtype)


def _called(function: Any) -> Any:
    """A function on arrays that is called again as a whole."""

    def whole(*args: Any, **options: Any) -> Any:
        if not recorded((args, options)):
            return function(*args, **options)
        return active.tape.attempt(function, args, options)

    return _instead(function)(whole)


def _drawing(name: str) -> Any:
    """A method that draws random numbers, into its first argument or as its result."""
    method = random.Generator.__dict__[name]
    fills = name in ("uniform", "normal", "exponential", "randint", "random",
                     "bernoulli_scalar", "slopes", "dropout_mask")  # fmt: skip

    def draw(self: Any, *args: Any, **options: Any) -> Any:
        tape = active.tape
        if name in ("seed", "manual_seed", "set_state", "set_state_bytes", "get_state"):
            tape.give_up(refusal(f"the generator's {name} is called", "Do that outside"))
            return method(self, *args, **options)
        tape.rollback.generator(self)
        target = args[0] if fills else None
        found = tape.attempt(method, (self, *args), options, target=target, effect=True)
        return None if fills else found

    return _instead(method)(draw)


# Library code that calls what is refused where the user's code calls it.
_BETWEEN = ("logging", "random", "subprocess", __name__)


def _refusing(what: str, function: Any, spared: Any = of_library) -> Any:
    """What the program could not do again, unless code that is spared calls it."""

    def refuse(*args: Any, **options: Any) -> Any:
        frame: Any = sys._getframe(2)
        if frame.f_globals["__name__"] == "microtorch.gpu.compiler":
            # A simulated GPU.
            return function(*args, **options)
        while frame and of_library(frame) and frame.f_globals["__name__"] in _BETWEEN:
            frame = frame.f_back
        if spared is None or not spared(frame):
            while frame and of_library(frame):
                frame = frame.f_back
            at = f"{frame.f_code.co_filename}:{frame.f_lineno}: " if frame else ""
            words = (f"{at}{what} inside a compiled function. Do that outside, or compile with "
                     'fallback="eager".')  # fmt: skip
            active.tape.give_up(CaptureError(words))
        return function(*args, **options)

    return _instead(function)(refuse)


def _seeding(self: Any, a: Any = None, version: int = 2) -> None:
    """`random.Random.seed`: from the clock, a program could not do it again."""
    (_RANDOM_SEED if a is None else _SEED)(self, a, version)


def _reading(name: str) -> Any:
    method = Tensor.__dict__[name]

    def read(self: Any, *args: Any, **options: Any) -> Any:
        active.tape.give_up(read_error(name))
        return method(self, *args, **options)

    return _instead(method)(read)


def _hooking(name: str) -> Any:
    """A method that adds a hook; later calls add none to tensors that they do not make."""
    method = Tensor.__dict__[name]

    def add(self: Any, hook: Any) -> Any:
        if type(ARRAY.__get__(self)) is np.ndarray:
            words = "a hook is added to a tensor from outside inside a compiled function"
            active.tape.give_up(refusal(words, "Add it before the call"))
        return method(self, hook)

    return _instead(method)(add)


def _lifting(function: Any) -> Any:
    """A function whose first array is recorded if any other is."""

    def lifted(x: Any, *more: Any) -> Any:
        return function(active.tape.lift(x) if recorded(more) else x, *more)

    return _instead(function)(lifted)


def _set_attribute(self: Any, name: str, value: Any) -> None:
    """`x.name = value`, which later calls would not do to other arguments."""
    own = name[0] == "_" or hasattr(Tensor, name)
    if not own and type(ARRAY.__get__(self, None)) is np.ndarray:
        words = f"the attribute {name} is set on a tensor from outside"
        active.tape.give_up(refusal(words, "Set it outside"))
    _SET_ATTRIBUTE(self, name, value)


def _set_item(self: Any, key: Any, value: Any) -> None:
    """`x[mask] = number`, without the count of the places: as `masked_fill_`."""
    mask = getattr(key, "_array", None)
    of_kind = isinstance(value, (bool, int, float)) or (
        isinstance(value, Tensor) and not value._array.ndim and value.dtype == self.dtype
    )
    if type(mask) is Traced and of_kind and mask.dtype == bool and (
        mask.shape == self._array.shape[: mask.ndim]
    ):  # fmt: skip
        ones = (1,) * (self._array.ndim - mask.ndim)
        self.masked_fill_(key.reshape(*mask.shape, *ones), value)
    else:
        _SET_ITEM(self, key, value)


def _only_traced(function: Any, hook: Any) -> Any:
    return _instead(function)(
        lambda x, *args: (hook if type(x) is Traced else function)(x, *args)
    )  # fmt: skip


def _moving(x: Any, *how: Any) -> Any:
    """`cpu.move`, which a program could not do again."""
    if type(x) is Traced:
        words = "a tensor is moved to another device inside a compiled function"
        active.tape.give_up(refusal(words, "Move it before the call"))
    return MOVE(plain(x), *how)


def _spread(g: Any, shape: Any) -> Any:
    return np.broadcast_to(g.reshape(()) if g.ndim else g, shape)


def _perhaps(x: Any) -> bool:
    """What a program must be ready for."""
    return True


def _check_inside(places: Any, *more: Any) -> None:
    """A check of indices, which the program makes again."""
    CHECK_INSIDE(plain(places), *more)
    if type(places) is Traced:
        active.tape.attempt(CHECK_INSIDE, (places, *more), {}, effect=True)


def _backward(
    roots: Any, arithmetic: Any, keep: Any, create_graph: Any = False, targets: Any = None,
    sink: Any = None,
) -> Any:  # fmt: skip
    """A backward pass of the user's: only through what the call itself has made."""
    tape = active.tape
    nodes = engine._towards(roots, targets) if targets is not None else engine.topological(roots)[0]
    hooked = (n for n in targets or () if getattr(getattr(n, "op", None), "hooks", None))
    if any(map(tape.outside_graph, (*nodes, *hooked))):
        words = "backward goes through a graph that was made outside of a compiled function"
        tape.give_up(refusal(words, "Pass detached tensors, or call backward after the call"))
    return adjoint.RUN(roots, arithmetic, keep, create_graph, targets, sink)


class OneHot(tuple[Any, ...]):
    """The places of classes: an index for eager mode, where the first call's graph may be used."""

    # The same for the program.
    mask: Any


def _put_index(g: Any, key: Any, shape: Any) -> Any:
    """`cpu.put_index`, where the key may be a mask of one element a row."""
    if isinstance(key, OneHot):
        spread = np.expand_dims(g, min(1, len(shape) - 1))
        return np.where(key.mask, np.broadcast_to(spread, shape), g.dtype.type(0))
    whole = any(isinstance(k, np.ndarray) for k in key)
    return (_called(put_index) if whole else PUT_INDEX)(g, key, shape)


def put_index(g: Any, key: Any, shape: Any) -> Any:
    """`cpu.put_index` with the check of its indices, as `x[key]` may be left out as unused."""
    if device_of(g) is CPU:
        np.broadcast_to(np.False_, shape)[key]
    return PUT_INDEX(g, key, shape)


def _nll_arrays(a: Any, t: Any, weight: Any, ignore_index: int, reduction: str) -> Any:
    """`loss.nll_arrays` by masks, so that it is made of maps and folds."""
    dim = 1 if a.ndim > 1 else 0
    count = a.shape[dim]
    classes = np.arange(count, like=plain(t)).reshape((-1,) + (1,) * (a.ndim - dim - 1))
    mask = np.equal(np.expand_dims(t, dim), classes)
    zero, one = a.dtype.type(0), a.dtype.type(1)
    of_class = one if weight is None else weight.reshape(classes.shape)
    factor = -one if weight is None else -(np.where(mask, of_class, zero).sum(axis=dim))
    ignored = t == ignore_index
    wrong = ((t < 0) | (t >= count)) & (t != ignore_index)
    if t.size:
        worst = np.where(wrong, t, np.float64(-np.inf)).max()
        active.tape.check(worst, "n > -inf", IndexError, "Target {:.0f} is out of bounds.")
    factor = np.where(ignored, zero, factor)
    each = np.where(ignored, zero, np.where(mask, a, zero).sum(axis=dim) * factor)
    divisor = None
    if reduction == "mean":
        divisor = -(factor.sum())
        each = each.sum() / divisor
    elif reduction == "sum":
        each = each.sum()
    with paused():
        places = np.where(plain(ignored), 0, plain(t))
        key = OneHot(loss.class_key(places, a.ndim))
    key.mask = mask
    return each, factor, key, divisor


# -------------------------------------------------------------------------- installation
CHECK_INSIDE, PUT_INDEX, REFUSE = cpu.check_inside, cpu.put_index, loss._refuse
CONSTANT, ARRAY_OF = cpu.constant, creation._array_of
CHECKS |= {
    inspect.unwrap(function).__code__: (kind, words)
    for function, kind, words in (
        (loss.binary_cross_entropy, RuntimeError,
         "all elements of input and target should be between 0 and 1"),
        (division._divided, RuntimeError, "ZeroDivisionError"),
        (criteria.gaussian_nll_loss, ValueError, "var has negative entry/entries"),
        (random_normal, RuntimeError, "normal expects all elements of std >= 0.0"),
    )
}  # fmt: skip
MOVE = cpu.move
# Methods that are refused, whoever wrote them.
READING = "numpy", "__repr__", "__format__", "data_ptr"
_WHOLE = """conv conv_input conv_weight windows windows_back window_max window_sum window_spread
recurrence products_of_others cofactors inv svd qr eigh cholesky solve pinv put_along"""
_DRAWS = """manual_seed seed set_state set_state_bytes get_state uniform normal exponential randint
random randperm bernoulli bernoulli_scalar slopes dropout_mask multinomial rand"""
_SEED = python_random.Random.seed
_RANDOM_SEED = _refusing("a generator is made without a seed", _SEED, of_python)
_SET_ATTRIBUTE, _SET_ITEM = Tensor.__setattr__, Tensor.__dict__["__setitem__"]
HOOKS: list[tuple[Any, str, Any]] = [
    (Tensor, "_array", ArrayHook()), (Tensor, "_grad", GradHook()),
    (ByDtype, "__missing__", _aside(ByDtype.__missing__)),
    *((Tensor, n, _reading(n)) for n in READING),
    *((random.Generator, n, _drawing(n)) for n in _DRAWS.split()),
    (python_random.Random, "seed", _instead(_SEED)(_seeding)),
    (Tensor, "__setattr__", _instead(_SET_ATTRIBUTE)(_set_attribute)),
    (Tensor, "__setitem__", _instead(_SET_ITEM)(_set_item)),
    (Tensor, "_version", property(_refusing("_version is read", Tensor.__dict__["_version"].fget))),
    *SCALAR_HOOKS,
    (cpu, "constant", _instead(CONSTANT)(_constant)), (cpu, "full", _aside(cpu.full)),
    (creation, "_array_of", _instead(ARRAY_OF)(_array_of)),
    (cpu, "move", _instead(MOVE)(_moving)),
    (cpu, "spread", _only_traced(cpu.spread, _spread)),
    (cpu, "expand", _only_traced(cpu.expand, np.broadcast_to)),
    *((cpu, n, _called(getattr(cpu, n))) for n in _WHOLE.split()),
    *((cpu, n, _only_traced(getattr(cpu, n), _perhaps)) for n in ("any_true", "any_zero")),
    (cpu, "add_into", _lifting(cpu.add_into)), (cpu, "clear_index", _lifting(cpu.clear_index)),
    (OnArrays, "add_into", staticmethod(_lifting(cpu.add_into))),
    (cpu, "check_inside", _instead(CHECK_INSIDE)(_check_inside)),
    (cpu, "put_index", _instead(PUT_INDEX)(_put_index)),
    (loss, "nll_arrays", _instead(loss.nll_arrays)(_nll_arrays)),
    (loss, "_check_classes", _aside(loss._check_classes)),
    (loss, "_refuse", _instead(REFUSE)(lambda a, b: REFUSE(plain(a), plain(b)))),
    *((Tensor, n, _hooking(n)) for n in ("register_hook", "register_post_accumulate_grad_hook")),
    (engine, "run", _instead(adjoint.RUN)(_backward)),
    (Tensor, "retain_grad", _refusing("retain_grad() is called", Tensor.__dict__["retain_grad"])),
    (Update, "__call__", _instead(Update.__call__)(updating)),
    (Optimizer, "step", _instead(Optimizer.step)(stepping)),
    (Optimizer, "steps_made", staticmethod(_instead(Optimizer.steps_made)(counting))),
    (Optimizer, "number", staticmethod(_instead(Optimizer.number)(reading))),
]  # fmt: skip


@functools.cache
def _refused(module: str, kind: str, names: str, what: str, spared: Any) -> list[Any]:
    """The hooks of a line of `REFUSED`."""
    owner = getattr(sys.modules[module], kind) if kind else sys.modules[module]
    return [
        (owner, name, _refusing(what.format(name), function, spared))
        for name, function in list(vars(owner).items()) if name in names.split()
    ]  # fmt: skip


def further() -> list[Any]:
    """Hooks outside of the package: of all that is refused and imported, and of `math`."""
    refused = (_refused(*line) for line in REFUSED if line[0] in sys.modules)
    return [*itertools.chain.from_iterable(refused), *live_hooks()]
