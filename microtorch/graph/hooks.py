"""What is called during a backward pass: hooks of nodes and leaves, and handles to remove them."""

import itertools
from collections.abc import Callable
from typing import Any, Self
from weakref import ref

_next_id = itertools.count().__next__


class Hooks:
    """`{node or leaf: {number: hook}}`, weak and by identity, since tensors compare by value."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data: dict[int, tuple[Any, dict[int, Callable[..., Any]]]] = {}

    def get(self, key: Any) -> dict[int, Callable[..., Any]]:
        """The hooks of a key, which may be none."""
        entry = self.data.get(id(key))
        return {} if entry is None else entry[1]

    def of(self, key: Any) -> dict[int, Callable[..., Any]]:
        """The hooks of a key, to be added to."""
        number = id(key)
        entry = self.data.get(number)
        if entry is None:
            gone = ref(key, lambda _: self.data.pop(number, None))
            entry = self.data[number] = (gone, {})
        return entry[1]

    def add(self, key: Any, hook: Callable[..., Any]) -> "RemovableHandle":
        """Enter a hook; with the last hook of a key its entry goes."""
        hooks = self.of(key)
        key_of = ref(key)

        def tidy() -> None:
            if not hooks and self.data.get(id(key_of())) is not None:
                del self.data[id(key_of())]

        handle = RemovableHandle(hooks, removed=tidy)
        hooks[handle.id] = hook
        return handle


class RemovableHandle:
    """Removes a hook: by `remove()`, or at the end of a `with` block."""

    def __init__(
        self,
        hooks_dict: dict[int, Any],
        *,
        extra_dict: Any = None,
        removed: Callable[[], None] | None = None,
    ) -> None:
        self.id = _next_id()
        self._dicts = [hooks_dict, *([] if extra_dict is None else [extra_dict])]
        self._removed = removed

    def remove(self) -> None:
        """Take the hook away; once more does nothing."""
        for hooks in self._dicts:
            hooks.pop(self.id, None)
        if self._removed is not None:
            self._removed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
