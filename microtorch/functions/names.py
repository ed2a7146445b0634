"""Where a function appears: as `microtorch.name`, as `Tensor.name`, and as `Tensor.name_`.

A function says so where it is defined, by one decorator; `methods.attach` reads the tables.
"""

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# `microtorch.name`, `Tensor.name`, and the functions whose in-place form `Tensor.name_` exists.
PUBLIC: dict[str, Callable[..., Any]] = {}
METHODS: dict[str, Callable[..., Any]] = {}
IN_PLACE: dict[str, Callable[..., Any]] = {}


def public(*aliases: str, in_place: bool = False) -> Callable[[F], F]:
    """A function of `microtorch` and a method of Tensor, under its name and these."""
    return _enter(aliases, (PUBLIC, METHODS, IN_PLACE) if in_place else (PUBLIC, METHODS))


def function(*aliases: str) -> Callable[[F], F]:
    """A function of `microtorch` alone."""
    return _enter(aliases, (PUBLIC,))


def function_as(name: str) -> Callable[[F], F]:
    """A function of `microtorch` under this name, beside a method that takes other arguments."""

    def enter(f: F) -> F:
        f.__name__ = f.__qualname__ = name
        PUBLIC[name] = f
        return f

    return enter


def method(*names: str, in_place: bool = False) -> Callable[[F], F]:
    """A method of Tensor alone, under these names or its own."""

    def enter(f: F) -> F:
        for name in names or (f.__name__,):
            METHODS[name] = f
            if in_place:
                IN_PLACE[name] = f
        return f

    return enter


def _enter(aliases: tuple[str, ...], tables: tuple[dict[str, Any], ...]) -> Callable[[F], F]:
    def enter(f: F) -> F:
        for name in (f.__name__, *aliases):
            for table in tables:
                table[name] = f
        return f

    return enter
