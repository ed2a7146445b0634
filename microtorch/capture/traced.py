"""The array that stands for an ndarray while a call is recorded.

A `Traced` holds the real value and says which memory it is. For Python code it passes as an
ndarray (`isinstance` included); C code does not take it for one, so nothing reads its elements
unnoticed: ufuncs, NumPy functions and methods come to the tape, and anything else fails.
"""

import operator
import sys
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..tensor import device_of
from .ir import Array, Ref
from .tape import method, read_error, refusal

# Methods that give numbers or bytes to Python.
READS = frozenset("item tolist tobytes tofile dump dumps itemset searchsorted".split())
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
        if not sys._getframe(1).f_code.co_filename.endswith(ADDRESSES):
            words = "native code asks for the address of a recorded array"
            self._traced.tape.give_up(refusal(words, "Call it outside"))
        return self._traced.value.ctypes.data  # type: ignore[no-any-return]


class Traced(NDArrayOperatorsMixin):
    """An array of a recording."""

    __slots__ = ("__weakref__", "ref", "tape", "value")
    __hash__ = object.__hash__
    __array_priority__ = 2000.0
    # Arrays of the GPU leave an operation to it.
    records = True

    def __init__(self, tape: Any, value: Array, ref: Ref) -> None:
        self.tape = tape
        self.value = value
        self.ref = ref

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return np.ndarray

    shape, dtype, ndim, size, strides, itemsize, nbytes, flags = (
        property(operator.attrgetter(f"value.{name}"))
        for name in "shape dtype ndim size strides itemsize nbytes flags".split()
    )
    ctypes = property(lambda self: _Address(self))
    device = property(lambda self: device_of(self.value))
    T = property(lambda self: self.transpose())

    @property
    def base(self) -> Any:
        """None for memory of its own."""
        return None if self.value.base is None else NotImplemented

    # ------------------------------------------------------------------- NumPy's protocols
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        if isinstance(out := options.get("out"), tuple) and out[0] is not ...:
            options["out"] = out[0] if len(out) == 1 else out
        else:
            options.pop("out", None)
        return self.tape.attempt(function, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return self.tape.attempt(function, args, options)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.read("np.asarray").value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in READS:
            return getattr(self.read(name).value, name)
        found = getattr(np.ndarray, name)
        if not callable(found):
            words = f"'.{name}' of an array cannot be recorded"
            self.tape.give_up(refusal(words, "Use the methods of tensors"))
            return getattr(self.value, name)
        return lambda *args, **options: self.tape.attempt(method(name), (self, *args), options)

    # --------------------------------------------------------------------------- elements
    def __getitem__(self, key: Any) -> Any:
        return self.tape.attempt(operator.getitem, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tape.attempt(operator.setitem, (self, key, value), {})

    def fill(self, value: Any) -> None:
        """Write a number everywhere."""
        self[...] = value

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        return (self[k] for k in range(len(self.value)))

    # ------------------------------------------------------------------------ reading
    def read(self, what: str) -> "Traced":
        """Allow a constant to be read, or a value that each later call checks again.

        Raises:
            CaptureError: for anything that differs from call to call.
        """
        code = sys._getframe(2).f_code
        if code in CHECKS:
            self.tape.check(self, "n" if self.dtype == bool else "n != n", *CHECKS[code])
        elif self.tape.live and self.ref.storage.kind != "constant":
            self.tape.give_up(read_error(what))
        return self

    def __bool__(self) -> bool:
        if self.ref.storage.kind == "number":
            return self.tape.truth(self)  # type: ignore[no-any-return]
        return bool(self.read("bool").value)

    def __float__(self) -> float:
        return float(self.read("float").value)

    def __int__(self) -> int:
        return int(self.read("int").value)

    def __index__(self) -> int:
        return self.read("int").value.__index__()

    def __contains__(self, value: Any) -> bool:
        return value in self.read("in").value

    def __repr__(self) -> str:
        return f"Traced({self.read('repr').value!r})"
