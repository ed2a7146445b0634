"""Error texts that many functions share, in PyTorch's words."""

from collections.abc import Iterable
from typing import Any


def argument_error(
    function: str, argument: str, position: int, expected: str, value: Any
) -> TypeError:
    """The TypeError for an argument of the wrong type."""
    return TypeError(
        f"{function}(): argument '{argument}' (position {position}) must be {expected}, "
        f"not {kind_of(value)}"
    )


def combination_error(function: str, *values: Any, expected: str = "") -> TypeError:
    """The TypeError for arguments that fit none of a function's signatures."""
    got = ", ".join(kind_of(v) for v in values)
    wanted = f", but expected {expected}" if expected else ""
    return TypeError(
        f"{function}() received an invalid combination of arguments - got ({got}){wanted}"
    )


def kind_of(value: Any) -> str:
    """The type of a value as PyTorch's messages name it."""
    kind = type(value)
    return f"numpy.{kind.__name__}" if kind.__module__ == "numpy" else kind.__name__


def unknown_name(owner: str, name: str, known: Iterable[str]) -> AttributeError:
    """The AttributeError for a name that does not exist, with the closest one that does."""
    text = f"{owner} has no attribute '{name}'"
    if not name.startswith("_"):
        import difflib

        close = difflib.get_close_matches(name, [k for k in known if k[0] != "_"], 1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        text += f".{hint} The README lists what differs from PyTorch."
    return AttributeError(text)


def broadcast_error(a: tuple[int, ...], b: tuple[int, ...]) -> RuntimeError:
    """The RuntimeError for shapes that do not broadcast."""
    for back in range(1, min(len(a), len(b)) + 1):
        if a[-back] != b[-back] and 1 not in (a[-back], b[-back]):
            return RuntimeError(
                f"The size of tensor a ({a[-back]}) must match the size of tensor b ({b[-back]}) "
                f"at non-singleton dimension {max(len(a), len(b)) - back}"
            )
    return RuntimeError(f"shapes {list(a)} and {list(b)} cannot be broadcast")
