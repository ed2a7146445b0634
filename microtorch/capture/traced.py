"""The array that stands for an ndarray while a call is recorded.

A `Traced` holds the real value and says which memory it is. For Python code it passes as an
ndarray (`isinstance` included); C code does not take it for one, so nothing reads its elements
unnoticed: ufuncs, NumPy functions and methods come to the tape, and anything else fails.
"""

import sys
from typing import Any

from ..kernels.standin import StandIn
from ..tensor import device_of
from .ir import Array, Ref
from .tape import read_error, refusal

# Files that compare addresses, and read nothing there.
ADDRESSES = ("history.py", "overlap.py", "tensor.py", "strided.py", "copying.py", "creation.py")
# Functions of the package that look at one value only to refuse it, if it is nan or True, with an
# error and its message.
CHECKS: dict[Any, tuple[Any, str]] = {}


class _Address:
    """What `.ctypes` gives: an address to compare."""

    def __init__(self, traced: Any) -> None:
        self._traced = traced

    @property
    def data(self) -> int:
        """The address of the first element."""
        asking = sys._getframe(1)
        if not asking.f_code.co_filename.endswith(ADDRESSES):
            words = "native code asks for the address of a recorded array"
            if asking.f_globals["__name__"].startswith("microtorch.checkpoint"):
                words = "torch.save() is called"
            self._traced.tape.give_up(refusal(words, "Call it outside"))
        return self._traced.value.ctypes.data  # type: ignore[no-any-return]


class Traced(StandIn, of="value"):
    """An array of a recording."""

    __slots__ = ("ref", "tape", "value")
    __array_priority__ = 2000.0
    # Arrays of the GPU leave an operation to it.
    first = True

    def __init__(self, tape: Any, value: Array, ref: Ref) -> None:
        self.tape = tape
        self.value = value
        self.ref = ref

    ctypes = property(lambda self: _Address(self))
    device = property(lambda self: device_of(self.value))

    @property
    def base(self) -> Any:
        """None for memory of its own."""
        return None if self.value.base is None else NotImplemented

    def attempt(self, function: Any, args: Any, options: Any) -> Any:
        """Do an operation and record it."""
        return self.tape.attempt(function, args, options)

    def attribute(self, name: str) -> Any:
        """What cannot be recorded."""
        words = f"'.{name}' of an array cannot be recorded"
        self.tape.give_up(refusal(words, "Use the methods of tensors"))
        return getattr(self.value, name)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.read("np.asarray")

    # ------------------------------------------------------------------------ reading
    def read(self, what: str) -> Array:
        """Allow a constant to be read, or a value that each later call checks again.

        Raises:
            CaptureError: for anything that differs from call to call.
        """
        code = sys._getframe(2).f_code
        if code in CHECKS:
            self.tape.check(self, "n" if self.dtype == bool else "n != n", *CHECKS[code])
        elif self.tape.live and self.ref.storage.kind != "constant":
            self.tape.give_up(read_error(what))
        return self.value

    def __bool__(self) -> bool:
        if self.ref.storage.kind == "number":
            return self.tape.truth(self)  # type: ignore[no-any-return]
        return bool(self.read("bool"))

    def __repr__(self) -> str:
        return f"Traced({self.read('repr')!r})"
