"""Gradients that a program makes, in memory that it uses again.

Eager mode gives every new gradient memory of its own. A program gives its gradients the tensors of
its previous call wherever nothing else refers to these or to their arrays, which their reference
counts say; a gradient that anyone still holds is left to them, and a new one takes its place.
"""

import sys
from typing import Any

import numpy as np

from ..functions.creation import uninitialized
from ..tensor import Tensor, wrap


class Gradients:
    """Tensors for the gradients of leaves, whose arrays are `arrays`.

    rows: their addresses, for the built-in function, which looks at the counts itself.
    """

    def __init__(self, leaves: list[Tensor], like: list[tuple[Any, Any, str]]) -> None:
        self._leaves = leaves
        self.arrays = [uninitialized(*each) for each in like]
        self.tensors = [wrap(a) for a in self.arrays]
        self.rows = np.zeros((len(like), 3), np.int64)
        # The words of the program's table with their addresses: the table, and which.
        self.table, self.words = np.zeros(1, np.int64), [0] * len(like)
        # In Python, getrefcount itself is among those who refer.
        self._usual = self._counts()

    def hand_out(self) -> None:
        """Let all leaves have their gradients, which nobody else holds."""
        self.take_back()
        counts = zip(self._counts(), self._usual, strict=True)
        held = (any(c > u for c, u in zip(*both, strict=True)) for both in counts)
        self._replace([k for k, one in enumerate(held) if one])
        for leaf, tensor in zip(self._leaves, self.tensors, strict=True):
            leaf._grad = tensor

    def take_back(self) -> None:
        """Let no leaf have a gradient."""
        for leaf in self._leaves:
            leaf._grad = None

    def renew(self) -> None:
        """Replace all."""
        self._replace(range(len(self.arrays)))

    def _replace(self, places: Any) -> None:
        for k in places:
            self.arrays[k] = np.empty_like(self.arrays[k])
            self.tensors[k] = wrap(self.arrays[k])
            row = (id(vars(self._leaves[k])), id(self.tensors[k]), id(self.arrays[k]))
            self.rows[k] = row
            self.table[self.words[k]] = self.arrays[k].ctypes.data

    def _counts(self) -> list[tuple[int, int]]:
        tensors, arrays = self.tensors, self.arrays
        return [(sys.getrefcount(tensors[k]), sys.getrefcount(arrays[k]))
                for k in range(len(arrays))]  # fmt: skip
