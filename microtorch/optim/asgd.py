"""ASGD: averaged stochastic gradient descent."""

from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .optimizer import Optimizer, State, Update

_UPDATE = Update("asgd")


class ASGD(Optimizer):
    """Gradient descent, with the average of its steps in `state[p]["ax"]` (Polyak & Juditsky 1992).

    p = p (1 - lambd eta) - eta g; ax += mu (p - ax); then, for the next step,
    eta = lr / (1 + lambd lr t)^alpha and mu = 1 / max(1, t - t0).
    """

    _apart = frozenset({"step", "eta", "mu"})

    def __init__(
        self, params: Any, lr: float = 1e-2, lambd: float = 1e-4, alpha: float = 0.75,
        t0: float = 1e6, weight_decay: float = 0, foreach: bool | None = None,
        maximize: bool = False, differentiable: bool = False, capturable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay,
                "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
                "capturable": capturable,
            },
        )  # fmt: skip

    def check(self, group: dict[str, Any]) -> None:
        """Refuse rates out of range."""
        if not group["lr"] >= 0:
            raise ValueError(f"Invalid learning rate: {group['lr']}")
        if not group["weight_decay"] >= 0:
            raise ValueError(f"Invalid weight_decay value: {group['weight_decay']}")

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step; parameters of equal history go in one call."""
        sign, decay = -1.0 if group["maximize"] else 1.0, group["weight_decay"]
        lr, lambd = group["lr"], group["lambd"]
        lines: dict[Any, list[Any]] = {}
        states, counts = {}, {}
        for p in params:
            states[p] = state = self.state.get(p) or State()
            if not state:
                for name, start in (("step", 0), ("eta", lr), ("mu", 1)):
                    state[name] = wrap(np.full((), start, np.float32))
                state["ax"] = wrap(np.zeros_like(p._array, order="C"))
            counts[p] = self.steps_made(state["step"]._array)
            same = self.number(state["eta"]._array), self.number(state["mu"]._array)
            lines.setdefault(same, []).append((p, p._grad, state["ax"]))
        calls = []
        for (eta, mu), same_lines in lines.items():
            calls.append((same_lines, (eta, sign, decay, 1 - lambd * eta, mu)))
        _UPDATE.each(calls)
        for p, state in states.items():
            t = counts[p]
            state["eta"]._array[...] = lr / (1 + lambd * lr * t) ** group["alpha"]
            state["mu"]._array[...] = 1 / np.maximum(1, t - group["t0"])
        self.keep(states)
