"""Where a function appears: as `microtorch.name`, as `Tensor.name`, and as `Tensor.name_`.

A function says so where it is defined, by one decorator; `methods.attach` reads the tables.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import kind_of

F = TypeVar("F", bound=Callable[..., Any])

# `microtorch.name`, `Tensor.name`, and the functions whose in-place form `Tensor.name_` exists.
PUBLIC: dict[str, Callable[..., Any]] = {}
METHODS: dict[str, Callable[..., Any]] = {}
IN_PLACE: dict[str, Callable[..., Any]] = {}


def public(*aliases: str, in_place: bool = False) -> Callable[[F], F]:
    """A function of `microtorch` and a method of Tensor, under its name and these."""
    return _enter(aliases, (PUBLIC, METHODS, IN_PLACE) if in_place else (PUBLIC, METHODS))


def need_bool(name: str, keepdim: Any, place: int = 0) -> None:
    """Refuse a keepdim that is no bool.

    Raises:
        TypeError: naming the function, and the argument's place if it was given by place.
    """
    if keepdim.__class__ is not bool:
        where = f" (position {place})" if place else ""
        raise TypeError(f"{name}(): argument 'keepdim'{where} must be bool, not {kind_of(keepdim)}")


def numpy_names(f: F) -> F:
    """Let a function take `axis` for dim and `keepdims` for keepdim, as PyTorch does; keepdim
    must be a bool."""
    code = f.__code__  # type: ignore[attr-defined]
    positional = code.co_varnames[: code.co_argcount]
    place = positional.index("keepdim") if "keepdim" in positional else len(positional)

    @functools.wraps(f)
    def apply(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            for theirs, ours in (("axis", "dim"), ("keepdims", "keepdim")):
                if theirs in kwargs:
                    kwargs[ours] = kwargs.pop(theirs)
            need_bool(f.__name__, kwargs.get("keepdim", False))
        if len(args) > place:
            need_bool(f.__name__, args[place], place)
        return f(*args, **kwargs)

    return apply  # type: ignore[return-value]


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
