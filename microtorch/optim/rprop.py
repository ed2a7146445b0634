"""Rprop."""

from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .optimizer import Optimizer, State, Update

_UPDATE = Update("rprop")


class Rprop(Optimizer):
    """Resilient propagation (Riedmiller & Braun 1993, as Rprop- of Igel & Huesken 2000).

    Every element has a step size of its own, which starts at lr. It grows by etas[1] where the
    gradient has the same sign as before, and shrinks by etas[0] where it has not; there the
    element then stays for one step. p -= sign(g) * size.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50), *, capturable: bool = False,
        foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach,
                "maximize": maximize, "differentiable": differentiable, "capturable": capturable,
            },
        )  # fmt: skip

    def check(self, group: dict[str, Any]) -> None:
        """Refuse rates out of range."""
        if not group["lr"] >= 0:
            raise ValueError(f"Invalid learning rate: {group['lr']}")
        down, up = group["etas"]
        if not 0 < down < 1 < up:
            raise ValueError(f"Invalid eta values: {down}, {up}")

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step."""
        lines, states = [], {}
        for p in params:
            states[p] = state = self.state.get(p) or State()
            if not state:
                a = p._array
                state["step"] = wrap(np.zeros((), np.float32))
                state["prev"] = wrap(np.zeros_like(a, order="C"))
                state["step_size"] = wrap(np.full(a.shape, group["lr"], a.dtype, like=a))
            lines.append((p, p._grad, state["prev"], state["step_size"]))
        sign = -1.0 if group["maximize"] else 1.0
        _UPDATE(lines, (sign, *group["etas"], *group["step_sizes"]))
        self.keep(states)
