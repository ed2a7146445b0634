"""Switches for the recording of operations: context managers that are decorators too."""

import functools
from collections.abc import Callable
from typing import Any, Self

from ..graph.node import mode

# inspect.CO_GENERATOR; importing inspect takes 4 ms.
_CO_GENERATOR = 0x20


def _switch(enabled: bool) -> None:
    """Switch recording; inside `inference_mode` nothing is recorded, whatever is asked for."""
    mode.asked = enabled
    mode.enabled = enabled and not mode.inference


class _Switch:
    """Set the grad mode of this thread inside a `with` block or a decorated function."""

    _enabled = True

    def __init__(self) -> None:
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> Self:
        self._before.append((mode.enabled, mode.asked))
        _switch(self._enabled)
        return self

    def __exit__(self, *_: object) -> None:
        mode.enabled, mode.asked = self._before.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        code = getattr(function, "__code__", None)
        if code is not None and code.co_flags & _CO_GENERATOR:
            return self._around_steps(function)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.clone():
                return function(*args, **kwargs)

        return wrapper

    def _around_steps(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A generator function that switches while it runs, and not between its values."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            made = function(*args, **kwargs)
            step, given = made.send, None
            while True:
                try:
                    with self.clone():
                        value = step(given)
                except StopIteration as stop:
                    return stop.value
                try:
                    given, step = (yield value), made.send
                except GeneratorExit:
                    with self.clone():
                        made.close()
                    raise
                except BaseException as error:
                    given, step = error, made.throw

        return wrapper

    def clone(self) -> "_Switch":
        """A switch of the same kind: a decorated function may call itself."""
        return type(self)()

    def __new__(cls, function: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Allow `@no_grad` beside `@no_grad()`."""
        made = object.__new__(cls)
        if callable(function):
            made.__init__()  # type: ignore[misc]
            return made(function)
        return made


class no_grad(_Switch):
    """Results of operations do not require grad; in-place changes of leaves are allowed."""

    _enabled = False


class enable_grad(_Switch):
    """Operations are recorded, also inside `no_grad`."""

    _enabled = True


class inference_mode(_Switch):
    """As `no_grad`; `inference_mode(False)` switches recording on, as in PyTorch."""

    def __init__(self, mode_: bool = True) -> None:
        super().__init__()
        self._on = mode_
        self._enabled = not mode_
        self._outside: list[bool] = []

    def __enter__(self) -> Self:
        self._outside.append(mode.inference)
        mode.inference = self._on
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        mode.inference = self._outside.pop()

    def clone(self) -> "_Switch":
        """A switch of the same kind."""
        return inference_mode(self._on)


class set_grad_enabled(_Switch):
    """Switch recording on or off, at once; as a context manager, until its end."""

    def __init__(self, mode_: bool) -> None:
        super().__init__()
        self._enabled = bool(mode_)
        self._outside = (mode.enabled, mode.asked)
        _switch(self._enabled)

    def __enter__(self) -> Self:
        self._before.append(self._outside)
        _switch(self._enabled)
        return self

    def clone(self) -> "_Switch":
        """A switch of the same kind."""
        return set_grad_enabled(self._enabled)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with recording switched while it runs only."""
        mode.enabled, mode.asked = self._outside
        return super().__call__(function)


def is_grad_enabled() -> bool:
    """Whether grad mode is on in this thread; inside `inference_mode` that records nothing."""
    return mode.enabled or (mode.inference and mode.asked)


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside `inference_mode`."""
    return mode.inference
