"""Hooks of optimizers: called around a step, and where their state is taken or loaded."""

import functools
from collections.abc import Callable
from typing import Any

from ..graph.hooks import RemovableHandle
from ..graph.node import clock

Hook = Callable[..., Any]


class Hooked:
    """The part of Optimizer that registers hooks."""

    # By kind and number; None as long as there has been no hook.
    _hooks: dict[str, dict[int, Hook]] | None = None

    def _add_hook(self, kind: str, hook: Hook, prepend: bool = False) -> RemovableHandle:
        clock.epoch += 1
        if self._hooks is None:
            self._hooks = {}
        hooks = self._hooks.setdefault(kind, {})
        handle = RemovableHandle(hooks)
        earlier = dict(hooks) if prepend else {}
        for number in earlier:
            del hooks[number]
        hooks[handle.id] = hook
        hooks.update(earlier)
        return handle

    def _hooks_of(self, kind: str) -> list[Hook]:
        return list(self._hooks.get(kind, {}).values()) if self._hooks else []

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Call `hook(optimizer, args, kwargs)` before each step; it may give other (args, kwargs).

        args begins with the optimizer.
        """
        return self._add_hook("step_pre", hook)

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:
        """Call `hook(optimizer, args, kwargs)` after each step."""
        return self._add_hook("step", hook)

    def register_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call `hook(optimizer)` before the state is taken."""
        return self._add_hook("state_pre", hook, prepend)

    def register_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call `hook(optimizer, state_dict)` when the state is taken; it may give another one."""
        return self._add_hook("state", hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(optimizer, state_dict)` before a state is loaded; it may give another one."""
        return self._add_hook("load_pre", hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(optimizer)` when a state has been loaded."""
        return self._add_hook("load", hook, prepend)


def hooked(step: Hook) -> Hook:
    """A method that makes a step, with the hooks around it."""

    @functools.wraps(step)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._hooks is None:
            return step(self, *args, **kwargs)
        args = (self, *args)
        for hook in self._hooks_of("step_pre"):
            found = hook(self, args, kwargs)
            if found is not None:
                if not isinstance(found, tuple) or len(found) != 2:
                    raise RuntimeError(
                        f"{step} must return None or a tuple of (new_args, new_kwargs), but got "
                        f"{found}."
                    )
                args, kwargs = found
        result = step(*args, **kwargs)
        for hook in self._hooks_of("step"):
            hook(self, args, kwargs)
        return result

    return call
