"""What is called during a backward pass: hooks of nodes and leaves, and handles to remove them.

A node or leaf holds its hooks itself, so that hooks may refer to what they belong to.
"""

import itertools
from collections.abc import Callable
from typing import Any, Self
from weakref import ref

from .node import clock

_next_id = itertools.count().__next__
# Weak references to all that are not empty: the engine looks for hooks only if there are any.
live: dict[Any, Any] = {}


class HookDict(dict[int, Callable[..., Any]]):
    """The hooks of one node or leaf, by number."""

    __slots__ = ("__weakref__",)

    def __setitem__(self, number: int, hook: Callable[..., Any]) -> None:
        dict.__setitem__(self, number, hook)
        key = id(self)
        live[key] = ref(self, lambda _: live.pop(key, None))

    def pop(self, number: int, default: Any = None) -> Any:
        """Take a hook away."""
        found = dict.pop(self, number, default)
        if not self:
            live.pop(id(self), None)
        return found


class RemovableHandle:
    """Removes a hook: by `remove()`, or at the end of a `with` block."""

    def __init__(self, hooks_dict: dict[int, Any], *, extra_dict: Any = None) -> None:
        self.id = _next_id()
        self._dicts = [hooks_dict, *([] if extra_dict is None else [extra_dict])]

    def remove(self) -> None:
        """Take the hook away; once more does nothing."""
        clock.epoch += 1
        for hooks in self._dicts:
            hooks.pop(self.id, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def add(hooks: dict[int, Any], hook: Callable[..., Any]) -> RemovableHandle:
    """Enter a hook, and give the handle that removes it."""
    clock.epoch += 1
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle
