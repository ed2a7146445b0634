"""Adagrad."""

from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .optimizer import Optimizer, State, Update

_UPDATE = Update("adagrad")


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011): v += g^2; p -= lr / (1 + (t - 1) lr_decay) g / sqrt(v).

    v starts at `initial_accumulator_value`; eps is added to its root.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value, "foreach": foreach,
                "maximize": maximize, "differentiable": differentiable, "fused": fused,
            },
        )  # fmt: skip
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = self._started(p, group)

    def _started(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        start = np.full(
            p._array.shape, group["initial_accumulator_value"], p._array.dtype, like=p._array
        )
        found = State()
        found["step"], found["sum"] = wrap(np.zeros((), np.float32)), wrap(start)
        return found

    def check(self, group: dict[str, Any]) -> None:
        """Refuse rates out of range."""
        for name, words in (("lr", "learning rate"), ("lr_decay", "lr_decay value"),
                            ("weight_decay", "weight_decay value"),
                            ("initial_accumulator_value", "initial_accumulator_value value"),
                            ("eps", "epsilon value")):  # fmt: skip
            if not group[name] >= 0:
                raise ValueError(f"Invalid {words}: {group[name]}")

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step; parameters that have made equally many go in one call."""
        lines: dict[Any, list[Any]] = {}
        states = {}
        for p in params:
            states[p] = state = self.state.get(p) or self._started(p, group)
            t = self.steps_made(state["step"]._array)
            lines.setdefault(t, []).append((p, p._grad, state["sum"]))
        sign, decay = -1.0 if group["maximize"] else 1.0, group["weight_decay"]
        calls = []
        for t, same in lines.items():
            rate = group["lr"] / (1 + (t - 1) * group["lr_decay"])
            calls.append((same, (rate, sign, decay, group["eps"])))
        _UPDATE.each(calls)
        self.keep(states)
