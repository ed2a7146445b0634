"""Adagrad."""

from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .optimizer import Optimizer, Update

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
                self._start(p, group)

    def _start(self, p: Tensor, group: dict[str, Any]) -> None:
        start = np.full(p._array.shape, group["initial_accumulator_value"], p._array.dtype)
        state = self.state[p]
        state["step"], state["sum"] = wrap(np.zeros((), np.float32)), wrap(start)

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
        for p in params:
            if not self.state[p]:
                self._start(p, group)
            count = self.state[p]["step"]._array
            count += 1
            lines.setdefault(self.steps_made(count), []).append((p, p._grad, self.state[p]["sum"]))
        sign, decay = -1.0 if group["maximize"] else 1.0, group["weight_decay"]
        for t, same in lines.items():
            rate = group["lr"] / (1 + (t - 1) * group["lr_decay"])
            _UPDATE(same, (rate, sign, decay, group["eps"]))
