"""`torch.utils.checkpoint`: the calls, so that code that uses them runs.

Nothing is computed twice: the graph keeps what it needs, as without them. Results and gradients
are the same; memory is not saved.
"""

from collections.abc import Callable, Iterable
from typing import Any

from ..errors import unknown_names

_OPTIONS = ("preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop")


def checkpoint(
    function: Callable[..., Any], *args: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """What the function gives for these arguments; the options of PyTorch change nothing."""
    return function(*args, **{k: v for k, v in kwargs.items() if k not in _OPTIONS})


def checkpoint_sequential(
    functions: Iterable[Callable[..., Any]], segments: int, input: Any,
    use_reentrant: bool | None = None, **kwargs: Any,
) -> Any:  # fmt: skip
    """The functions one after the other."""
    for function in functions:
        input = function(input)
    return input


__getattr__ = unknown_names(__name__)
