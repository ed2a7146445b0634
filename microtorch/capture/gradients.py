"""Gradients that a program makes, in memory that it uses again.

Eager mode gives every new gradient memory of its own. A program gives its gradients the tensors of
its previous call wherever nothing else refers to these or to their arrays, which their reference
counts say; a gradient that anyone still holds is left to them, and a new one takes its place.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..functions.creation import uninitialized
from ..kernels import jit, native
from ..tensor import wrap

# The context: 0 pairs of an object's address and its highest count, 1 how many, 2 True, 3 False,
# 4 Py_IncRef. An object begins with its reference count.
_ALONE = """
def kernel(self, args, nargs, names):
    c = i64_at(self + {bytes})
    pairs = i64_at(c[0])
    answer = c[2]
    for k in range(c[1]):
        if i64(i32_at(pairs[2 * k])[0]) > pairs[2 * k + 1]:
            answer = c[3]
    call(c[4], (answer,))
    return answer
"""
# How many refer to a tensor of the list below: that, the names, `.grad`; and to its array.
_COUNTS = (3, 2)


class Gradients:
    """Tensors for gradients, whose arrays are `arrays`, under `names` in a program's scope.

    alone: whether, surely, no one else refers to any of them, but for one `.grad` each.
    """

    def __init__(self, like: list[tuple[Any, Any, Any]], scope: dict[str, Any]) -> None:
        self.names = [f"grad{k}" for k in range(len(like))]
        self.arrays = [uninitialized(*each) for each in like]
        self.tensors = [wrap(a) for a in self.arrays]
        self._scope = scope
        self._pairs = np.zeros((2, len(like), 2), np.int64)
        self._pairs[:, :, 1] = np.array(_COUNTS)[:, None]
        self._enter()
        # In Python, getrefcount itself is among those who refer.
        self._usual = self._counts()
        self._kept: list[Any] = []
        self.alone = self._builtin() if like and native.available() else lambda: False

    def replace_held(self) -> None:
        """Replace what someone else holds, while it is no `.grad`."""
        counts = zip(self._counts(), self._usual, strict=True)
        held = (any(c > u for c, u in zip(*both, strict=True)) for both in counts)
        self._replace([k for k, one in enumerate(held) if one])

    def renew(self) -> None:
        """Replace all."""
        self._replace(range(len(self.arrays)))

    def _replace(self, places: Any) -> None:
        for k in places:
            self.arrays[k] = np.empty_like(self.arrays[k])
            self.tensors[k] = wrap(self.arrays[k])
        self._enter()

    def _enter(self) -> None:
        self._scope.update(zip(self.names, self.tensors, strict=True))
        self._pairs[0, :, 0] = [*map(id, self.tensors)]
        self._pairs[1, :, 0] = [*map(id, self.arrays)]

    def _counts(self) -> list[tuple[int, int]]:
        tensors, arrays = self.tensors, self.arrays
        return [(sys.getrefcount(tensors[k]), sys.getrefcount(arrays[k]))
                for k in range(len(arrays))]  # fmt: skip

    def _builtin(self) -> Callable[[], bool]:
        """Whether all are alone, as a built-in function, which takes 50 ns for 40 of them."""
        text = _ALONE.replace("{bytes}", str(native.BYTES))
        address = jit.address("kernel", text, "i64(i64,i64,i64,i64)")
        increment = native.address_of("Py_IncRef")
        size = self._pairs[:, :, 0].size
        context = [self._pairs.ctypes.data, size, id(True), id(False), increment]
        alone = native.builtin("alone", address, context, self._pairs, self._kept)
        held = self.tensors[:1] * 2
        found = alone()
        held.clear()
        # Where objects do not begin with their counts, each time is looked in Python.
        return alone if alone() and not found else lambda: False  # type: ignore[no-any-return]
