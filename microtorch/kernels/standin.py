"""An object that Python code takes for an ndarray, and C code does not.

So nothing reads its elements unnoticed: ufuncs, NumPy functions and methods come to `attempt`, what
asks for elements to `read`, and anything else fails.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

Host = np.ndarray[Any, Any]
# Methods that give elements to Python.
READS = frozenset("item tolist tobytes tofile dump dumps itemset".split())


@functools.cache
def method(name: str) -> Callable[..., Any]:
    """A method of arrays as a function of that name."""

    def call(x: Any, *args: Any, **options: Any) -> Any:
        return getattr(x, name)(*args, **options)

    call.__name__ = name
    return call


class StandIn(NDArrayOperatorsMixin):
    """What passes for an ndarray; `of` names the attribute that has its shape and strides."""

    __slots__ = ("__weakref__",)
    __hash__ = object.__hash__
    # Whether operations with others of these go to this one.
    first = False
    shape: Any
    dtype: Any
    ndim: Any
    size: Any
    strides: Any
    itemsize: Any
    nbytes: Any
    flags: Any

    def __init_subclass__(cls, of: str) -> None:
        for name in StandIn.__annotations__:
            setattr(cls, name, property(operator.attrgetter(f"{of}.{name}")))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return np.ndarray

    T = property(lambda self: self.transpose())

    def attempt(self, function: Any, args: Any, options: Any) -> Any:
        """Do an operation of NumPy's."""
        raise NotImplementedError

    def read(self, what: str) -> Host:
        """The elements, for what is named."""
        raise NotImplementedError

    def attribute(self, name: str) -> Any:
        """An attribute of ndarrays that is none of those here."""
        raise NotImplementedError

    # ------------------------------------------------------------------- NumPy's protocols
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        out = options.pop("out", None)
        if isinstance(out, tuple) and out[0] is not None and out[0] is not ...:
            options["out"] = out[0] if len(out) == 1 else out
        return self.__array_function__(function, map(type, inputs), inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if not self.first and any(getattr(t, "first", False) for t in types):
            return NotImplemented
        return self.attempt(function, args, options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in READS:
            return getattr(self.read(name), name)
        if not callable(getattr(np.ndarray, name)):
            return self.attribute(name)
        return lambda *args, **options: self.attempt(method(name), (self, *args), options)

    # --------------------------------------------------------------------------- elements
    def __getitem__(self, key: Any) -> Any:
        return self.attempt(operator.getitem, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.attempt(operator.setitem, (self, key, value), {})

    def fill(self, value: Any) -> None:
        """Write a number everywhere."""
        self[...] = value

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]  # type: ignore[no-any-return]

    def __iter__(self) -> Any:
        return (self[k] for k in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.read("bool"))

    def __float__(self) -> float:
        return float(self.read("float"))

    def __int__(self) -> int:
        return int(self.read("int"))

    def __index__(self) -> int:
        return self.read("int").__index__()

    def __contains__(self, value: Any) -> bool:
        return value in self.read("in")
