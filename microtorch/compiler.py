"""`torch.compiler`: what portable code asks of a compiler.

`microtorch.compile` runs a function as it is while it records it, so these functions do inside of
it what they do outside. `disable` is not among them: a part of a function cannot be left out of
its program.
"""

from collections.abc import Callable
from typing import Any

from .capture.program import compile as compile
from .errors import unknown_names


def is_compiling() -> bool:
    """False: a function that is compiled goes the way that it goes without."""
    return False


is_dynamo_compiling = is_exporting = is_compiling


def reset() -> None:
    """Accepted: a program is made anew wherever what it took for granted has changed."""


def cudagraph_mark_step_begin() -> None:
    """Accepted: what a call returns keeps its value at later calls."""


def allow_in_graph(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself: all operations are recorded."""
    return fn


def assume_constant_result(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, which is recorded like any other."""
    return fn


__getattr__ = unknown_names(__name__)
