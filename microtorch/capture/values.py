"""Python values as they are now, to be compared later: by value where they are simple."""

import ctypes
import functools
import operator
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Set
from typing import Any

import numpy as np

from ..graph.node import Node
from ..nn.module import Module
from ..optim.optimizer import Optimizer
from ..random import Generator
from ..tensor import Tensor
from ..value import Value

SIMPLE = (bool, int, float, complex, str, bytes, type(None), np.generic, type(...))
CONTAINERS = (list, tuple, set, frozenset, dict, deque)
# Memory that is compared as bytes.
CTYPES = (ctypes._SimpleCData, ctypes.Structure, ctypes.Union, ctypes.Array)
WRAPPERS = (types.MethodType, staticmethod, classmethod)
# Objects that are no owners of attributes of the user's.
CLOSED = (*SIMPLE, *CONTAINERS, *WRAPPERS, types.FunctionType, types.BuiltinFunctionType,
           property, functools.partial, np.ndarray, np.ufunc, np.dtype, Tensor, Node)  # fmt: skip
# Objects whose attributes cannot be added, or are compared elsewhere.
WHOLE = (*CLOSED, random.Random, types.ModuleType, Module)
# Objects whose methods are recorded.
RECORDED = (Optimizer, Value, Generator)

OF_TENSORS = frozenset(dir(Tensor))
# Methods that code calls without naming them: __add__, __radd__ and the like.
OPERATORS = {"__len__", "__iter__"} | {
    n for n in OF_TENSORS
    if n[:2] == "__" and callable(getattr(Tensor, n))
    and (n in vars(operator) or f"__{n[3:]}" in vars(operator))
}  # fmt: skip


def simple(value: Any) -> Any:
    """What is equal for equal numbers and strings only: -0.0 is not 0.0, and nan is nan."""
    return value.__class__, value if value and value == value else repr(value)


def frozen(value: Any, depth: int = 8, apart: Set[int] = frozenset()) -> Any:
    """A value as it is now: simple ones and containers of them by value, others by identity.

    apart: the ids of dicts that are taken by identity where they are parts of the value.
    """
    if isinstance(value, SIMPLE):
        return simple(value)

    def part(x: Any) -> Any:
        return id(x) if type(x) is dict and id(x) in apart else frozen(x, depth - 1, apart)

    if depth and isinstance(value, dict):
        return (type(value), *[(part(k), part(v)) for k, v in value.items()])
    if depth and isinstance(value, CONTAINERS):
        return (type(value), *map(part, value))
    return id(value)


def walked(roots: Iterable[Any], parts: Callable[[Any], Iterable[Any]]) -> dict[int, Any]:
    """By id, objects and what `parts` gives of them, and of that, the first ones first."""
    seen: dict[int, Any] = {}
    stack = [*roots][::-1]
    while stack:
        x = stack.pop()
        if id(x) not in seen:
            seen[id(x)] = x
            stack += [*parts(x)][::-1]
    return seen


def equal(array: Any, was: Any) -> bool:
    """Whether two arrays are equal, nan to nan."""
    return bool(np.array_equal(array, was, equal_nan=array.dtype.kind == "f"))


def generators() -> tuple[type, ...]:
    """The types of generators that are not microtorch's: NumPy's if anyone has imported them."""
    names = ("Generator", "RandomState") if "numpy.random" in sys.modules else ()
    return (random.Random, *(getattr(np.random, name) for name in names))


def state_of(generator: Any) -> Any:
    """The state of a generator that is not microtorch's."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    newer = hasattr(generator, "bit_generator")
    return _as_bytes(generator.bit_generator.state if newer else generator.get_state(legacy=False))


def _as_bytes(state: Any) -> Any:
    """Nested dicts with the bytes of arrays, which compare as a whole."""
    if isinstance(state, dict):
        return {name: _as_bytes(part) for name, part in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


def hooks_of(module: Module) -> dict[str, dict[int, Any]]:
    """A module's hooks, by kind and number."""
    return vars(module.__dict__.get("_hooks") or types.SimpleNamespace())


def module_state(
    module: Module, without: Set[str] = frozenset(), apart: Set[int] = frozenset()
) -> Any:  # fmt: skip
    """What belongs to a module itself: simple values by value, others by identity."""
    own = {name: value for name, value in vars(module).items() if name not in without}
    return type(module), frozen(own, 3, apart), frozen(hooks_of(module))
