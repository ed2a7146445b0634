"""How often programs have changed a tensor, counted when somebody looks, not at every call."""

from typing import Any


class Runs:
    """How often a program ran, and when last."""

    __slots__ = ("count", "when")

    def __init__(self) -> None:
        self.count: int = 0
        self.when: int = 0


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
            return min(self.when, *(r.when for r, (_, was) in self.runs.items() if r.count > was))
        return None
