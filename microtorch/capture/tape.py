"""What all of the recording needs: which tape is active, the user's line, errors, and views."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from .ir import Ref

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


class CaptureError(RuntimeError):
    """What a compiled function may not do."""


def _file_of(frame: Any) -> str:
    """The file of a frame's code; code without a file belongs to the module that it runs in."""
    name: str = frame.f_code.co_filename
    if name.startswith("<"):
        module = frame.f_globals.get("__name__") or "microtorch"
        return PACKAGE + os.sep if module.partition(".")[0] in ("microtorch", "numpy") else name
    return name


def place(full: bool = False) -> str:
    """The user's line, as "file.py:12": of the innermost frame that is not the package's."""
    if active.ended:
        return active.ended if full else os.path.basename(active.ended)
    frame: Any = sys._getframe(1)
    while frame is not None and _file_of(frame).startswith(OUTSIDE):
        frame = frame.f_back
    if frame is None:
        return ""
    name = frame.f_code.co_filename
    return f"{name if full else os.path.basename(name)}:{frame.f_lineno}"


def refusal(what: str, remedy: str) -> CaptureError:
    """The error for what cannot be recorded."""
    return CaptureError(f'{place(True)}: {what}. {remedy}, or compile with fallback="eager".')


def read_error(what: str) -> CaptureError:
    """The error for a value that Python code asks for."""
    return refusal(
        f"a value is read in Python ({what}) inside a compiled function, which the compiled "
        "program could not do again",
        "Return the tensor and read it after the call, use torch.where for choices",
    )


def broadcast(ref: Ref, shape: tuple[int, ...]) -> Ref:
    """The view repeated to a shape."""
    lead = len(shape) - len(ref.shape)
    own = (0 if n == 1 != m else s for s, n, m in zip(ref.strides, ref.shape, shape[lead:]))
    return Ref(ref.storage, tuple(shape), ((0,) * lead + tuple(own))[: len(shape)], ref.offset)


def permuted(ref: Ref, order: Iterable[int]) -> Ref:
    """The view with its dims in another order."""
    dims = tuple(order)
    shape, strides = (tuple(t[d] for d in dims) for t in (ref.shape, ref.strides))
    return Ref(ref.storage, shape, strides, ref.offset)
