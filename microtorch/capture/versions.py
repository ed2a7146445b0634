"""How often programs have changed a tensor, counted when somebody looks, not at every call."""

from typing import Any

import numpy as np

from ..graph.node import clock, next_seq


class Runs:
    """How often a program ran, in `counter`, and when last."""

    __slots__ = ("counter", "when")

    def __init__(self) -> None:
        self.counter = np.zeros(1, np.int64)
        # Later than any change.
        self.when: int = 1

    @property
    def count(self) -> int:
        """How often the program ran."""
        return int(self.counter[0])

    def add(self, written: bool) -> None:
        """Count a run, and note the time if it has changed tensors."""
        self.counter[0] += 1
        if written:
            self.when = now = next_seq()
            if now < clock.latest_change:
                clock.latest_change = now


class Changes:
    """In the place of `Tensor._changes` (how many, when, the one before), for a tensor that
    programs write: their runs are added up when somebody looks."""

    __slots__ = ("count", "runs", "when")

    def __init__(self, earlier: Any) -> None:
        self.count: int = earlier[0] if earlier else 0
        self.when: int = earlier[1] if earlier else 0
        # For each program: changes a run, and its runs before.
        self.runs: dict[Runs, tuple[int, int]] = {}

    def __getitem__(self, k: int) -> Any:
        if k == 0:
            return self.count + sum(n * (r.count - was) for r, (n, was) in self.runs.items())
        if k == 1:
            return min([self.when, *(r.when for r, (_, was) in self.runs.items() if r.count > was)])
        return None
