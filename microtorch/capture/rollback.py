"""What a refused call puts back: as it was before the call, so that nothing is half done."""

from typing import Any

import numpy as np

from ..tensor import root_of
from .ir import Array, Ref


class Rollback:
    """Copies of memory from before it was first written, and what else a recorded call changes."""

    def __init__(self) -> None:
        self._memory: dict[Ref, tuple[Array, Array]] = {}
        self._states: dict[int, tuple[Any, Any, dict[Any, dict[str, Any]]]] = {}
        self._generators: dict[int, tuple[Any, Any]] = {}

    def memory(self, ref: Ref, array: Array) -> None:
        """Keep the elements of an array from outside, which is about to be written."""
        if ref not in self._memory:
            self._memory[ref] = array, array.copy()

    def optimizer(self, optimizer: Any) -> None:
        """Keep which entries an optimizer's state has."""
        states = {p: dict(state) for p, state in optimizer.state.items()}
        self._states.setdefault(id(optimizer), (optimizer, optimizer.state, states))

    def generator(self, generator: Any) -> None:
        """Keep the state of a generator that is about to draw."""
        if id(generator) not in self._generators:
            self._generators[id(generator)] = generator, generator.state_bytes()

    def forget(self) -> None:
        """Let the copies go, as the call has ended."""
        self._memory.clear()

    def undo(self, tensors: Any, gradients: Any, array_of: Any) -> None:
        """Put all back: the latest first, as a memory may have been kept in parts.

        tensors, gradients: those of the session. array_of: the attribute of a tensor's array.
        """
        for array, copy in reversed(self._memory.values()):
            np.copyto(array, copy)
        for t, array, node, changes in reversed(tensors.values()):
            if array_of.__get__(t) is not array:
                array_of.__set__(t, array)
            if t._node is not node:
                t._node = node
            root_of(t)._changes = changes
        for t, gradient, _ in gradients.values():
            t._grad = gradient
        for optimizer, held, states in self._states.values():
            for p in [p for p in held if p not in states]:
                del held[p]
            for p, state in states.items():
                held[p].clear()
                held[p].update(state)
            optimizer.state = held
        for generator, state in self._generators.values():
            generator.set_state_bytes(state)
