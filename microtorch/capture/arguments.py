"""The arguments of a call: the key by which its program is found, and what they are in words."""

from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any

from .. import dtypes
from ..autograd.anomaly import is_anomaly_enabled
from ..device import default
from ..graph.node import LEAF, mode
from ..tensor import TENSORS, Tensor
from .guards import Guards
from .live import KINDS
from .numbers import Leaf
from .tape import warn
from .values import CONTAINERS, SIMPLE, frozen, simple

# So many values of a number, each with a program of its own, are warned of.
MANY_VALUES = 3


class Given:
    """The arguments of a call.

    numbers: the live ones among them, by position or name. plain: whether all are tensors. held:
    what the key names by identity.
    """

    def __init__(self, args: Any, kwargs: Any, live: set[Any]) -> None:
        self.args, self.kwargs = args, kwargs
        self.tensors: list[Tensor] = []
        self.held: list[Any] = []
        self.numbers = {at: x for at, x in self._numbers() if at in live}
        parts = [
            (at if at.__class__ is str else None,
             flatten(x.__class__ if at in self.numbers else x, self.tensors, self.held))
            for at, x in self._all()
        ]  # fmt: skip
        same = [id(t._array) for t in self.tensors]
        self.key = (modes(), *parts, *map(same.index, same))
        self.plain = not kwargs and len(self.tensors) == len(args)

    def _all(self) -> Iterable[tuple[Any, Any]]:
        return (*enumerate(self.args), *self.kwargs.items())

    def _numbers(self) -> Iterator[tuple[Any, Any]]:
        return ((at, x) for at, x in self._all() if x.__class__ in KINDS)

    def call(self, function: Any, numbers: dict[Any, Any]) -> Any:
        """What a function gives of the arguments, its live numbers as they are now."""
        now = {at: numbers[at] if at in self.numbers else x for at, x in self._all()}
        named = {at: now.pop(at) for at in self.kwargs}
        return function(*now.values(), **named)

    def __str__(self) -> str:
        return ", ".join(
            (f"{at}=" if at in self.kwargs else "")
            + (type(x).__name__ if at in self.numbers else describe(x))
            for at, x in self._all()
        )


class Signatures:
    """What tells the calls of a function apart, and which numbers do not.

    now: the live numbers of a call, by position or name. live: the places of all live numbers.
    pinned: of those that were live, but had to be read.
    """

    def __init__(self) -> None:
        self.now: dict[Any, Any] = {}
        self.live: set[Any] = set()
        self.pinned: set[Any] = set()
        # The values that numbers among the arguments had.
        self._values: dict[Any, set[Any]] = {}

    def of(self, args: Any, kwargs: Any) -> Given:
        """The arguments of a call."""
        return Given(args, kwargs, self.live)

    def notice(self, given: Given, programs: Iterable[Any], function: Any) -> None:
        """Let numbers be live that are not what they were when a program was recorded.

        Warns of arguments that had to be read and still differ.
        """
        moved = set().union(*(kept.guards.moved() for kept in programs))
        for at, x in given._numbers():
            values = self._values.setdefault(at, set())
            values.add(simple(x))
            moved |= {at} if len(values) > 1 else set()
            if len(values) == MANY_VALUES and at in self.pinned and isinstance(x, float):
                name = _names(function).get(at, at)
                warn(
                    f"{getattr(function, '__name__', 'a function')} has been compiled for "
                    f"{MANY_VALUES} values of the number {name}, each for itself, as it reads it. "
                    f"Pass a tensor, torch.tensor({name}), or only compute with it"
                )
        self.expect(moved)

    def expect(self, places: set[Any]) -> None:
        """Let numbers be live in the next recording, unless they had to be read before."""
        self.live = (self.live | places) - self.pinned

    def pin(self, places: set[Any]) -> None:
        """Compare numbers from now on."""
        self.pinned |= places
        self.live = self.live - places

    def tell(self, given: Given, guards: Guards, function: Any) -> None:
        """Tell guards what the arguments are called, and which numbers of them are live."""
        names = _names(function)
        guards.labels |= {id(x): names[k] for k, x in enumerate(given.args) if k in names}
        for at, x in given.numbers.items():
            text = f"{guards.name(self.now)}[{at!r}]"
            guards.live.add(names.get(at, str(at)), Leaf(at, text, x, self.now, at))


def modes() -> tuple[Any, ...]:
    """What else a program depends on."""
    made_on, anomaly = default[0].type, is_anomaly_enabled()
    return mode.enabled, mode.inference, dtypes.get_default_dtype(), made_on, anomaly


def _names(function: Any) -> dict[Any, str]:
    """The names of a function's arguments, by position."""
    code = getattr(function, "__code__", None)
    return dict(enumerate(code.co_varnames if code else ()))


def flatten(value: Any, tensors: list[Tensor], held: list[Any]) -> Any:
    """The key of an argument; its tensors, and what the key names by identity, are appended."""
    kind = value.__class__
    if kind in TENSORS or isinstance(value, Tensor):
        tensors.append(value)
        array, node = value._array, value._node
        wanted = None if node is None else id(value) if node is LEAF else True
        return (array.shape, array.strides, array.dtype, type(array), wanted)
    if isinstance(value, SIMPLE):
        return simple(value)
    if isinstance(value, CONTAINERS):
        more = getattr(value, "__dict__", None)
        own = (flatten(more, tensors, held),) if more else ()
        if isinstance(value, dict):
            pairs = [(k, flatten(v, tensors, held)) for k, v in value.items()]
            return (kind, getattr(value, "default_factory", None), *own, *pairs)
        return (kind, *own, *[flatten(v, tensors, held) for v in value])
    held.append(value)
    if kind is slice or kind is range:
        return (kind, frozen((value.start, value.stop, value.step)))
    if kind is MethodType:
        # Looked up anew at each call.
        return (kind, id(value.__func__), id(value.__self__))
    return (kind, id(value))


def describe(value: Any) -> str:
    """An argument in a few words."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).rpartition(".")[2]
        return f"{kind}{list(value.shape)}" + "@cuda" * (value.device.type != "cpu")
    if isinstance(value, (tuple, list)):
        left, right = "[]" if isinstance(value, list) else "()"
        return f"{left}{', '.join(map(describe, value))}{right}"
    text = repr(value) if isinstance(value, SIMPLE) else type(value).__name__
    return text if len(text) <= 20 else f"{text[:17]}..."
