"""What all of the recording needs: which tape is active, the user's line, and errors."""

import contextlib
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..tensor import Tensor

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUTSIDE = (PACKAGE + os.sep, os.path.dirname(os.path.abspath(np.__file__)) + os.sep,
           contextlib.__file__, "<frozen")  # fmt: skip


class Active(threading.local):
    """The tape of this thread, if it records, and once the user's code has ended, where it is."""

    tape: Any = None
    ended: str = ""


active = Active()
# How many threads record.
recorders = [0]
# What stands in other places while any does: by the id of a class or module and a name.
HOOKED: dict[tuple[int, str], Any] = {}


class CaptureError(RuntimeError):
    """What a compiled function may not do."""


def _file_of(frame: Any) -> str:
    """The file of a frame's code; code without a file belongs to the module that it runs in."""
    name: str = frame.f_code.co_filename
    if name.startswith("<"):
        module = frame.f_globals.get("__name__") or "microtorch"
        return PACKAGE + os.sep if module.partition(".")[0] in ("microtorch", "numpy") else name
    return name


def callers() -> Iterator[Any]:
    """The frames of the package that the user's code has called, and the user's frame, the last."""
    frame: Any = sys._getframe(1)
    while frame is not None and _file_of(frame).startswith(OUTSIDE):
        yield frame
        frame = frame.f_back
    yield frame


def place(full: bool = False) -> str:
    """The user's line, as "file.py:12": of the innermost frame that is not the package's."""
    if active.ended:
        return active.ended if full else os.path.basename(active.ended)
    # A list of all frames would refer to this one: a circle, which holds all their arrays.
    (frame,) = deque(callers(), 1)
    if frame is None:
        return ""
    name = frame.f_code.co_filename
    return f"{name if full else os.path.basename(name)}:{frame.f_lineno}"


def warn(message: str) -> None:
    """A warning that points at the user's line."""
    warnings.warn(message, stacklevel=len([*callers()]))


def refusal(what: str, remedy: str, at: str = "") -> CaptureError:
    """The error for what cannot be recorded, at the user's line if no other is known."""
    return CaptureError(f'{at or place(True)}: {what}. {remedy}, or compile with fallback="eager".')


# Methods whose results decide what Python code does next.
_CHOICES = ("bool", "in", "contains", "equal", "allclose", "is_nonzero")


_OUTSIDE = "Call it outside, as the shape of its result depends on values"
_REMEDIES = {"one_hot": "Pass num_classes", "repeat_interleave": _OUTSIDE, "bincount": _OUTSIDE}


def read_error(what: str) -> CaptureError:
    """The error for a value that Python code asks for, by the name of what the user has called."""
    names = [frame and frame.f_code.co_name for frame in callers()]
    called = names[-2] if len(names) > 1 else what
    name = (called if hasattr(Tensor, called) or called in _REMEDIES else what).strip("_")
    remedy = _REMEDIES.get(name, "Return the tensor and read it after the call")
    if name in _CHOICES:
        remedy = "Use torch.where for the choice, or choose after the call"
    return refusal(
        f"a value is read in Python ({name}) inside a compiled function, which the compiled "
        "program could not do again",
        remedy,
    )
