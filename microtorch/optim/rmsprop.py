"""RMSprop."""

from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .optimizer import Optimizer, State, Update

_UPDATES = {
    (centered, momentum): Update("rmsprop" + "_centered" * centered + "_momentum" * momentum)
    for centered in (False, True)
    for momentum in (False, True)
}


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5), centered and with momentum where asked for.

    v = alpha v + (1 - alpha) g^2; buf = momentum buf + g / (sqrt(v) + eps); p -= lr buf.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered,
                "weight_decay": weight_decay, "capturable": capturable, "foreach": foreach,
                "maximize": maximize, "differentiable": differentiable,
            },
        )  # fmt: skip

    def check(self, group: dict[str, Any]) -> None:
        """Refuse rates out of range."""
        for name, words in (("lr", "learning rate"), ("eps", "epsilon value"),
                            ("momentum", "momentum value"), ("weight_decay", "weight_decay value"),
                            ("alpha", "alpha value")):  # fmt: skip
            if not group[name] >= 0:
                raise ValueError(f"Invalid {words}: {group[name]}")

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step."""
        centered, momentum = bool(group["centered"]), bool(group["momentum"])
        names = ["square_avg"] + ["grad_avg"] * centered + ["momentum_buffer"] * momentum
        lines = []
        states: dict[Any, dict[str, Any]] = {}
        for p in params:
            states[p] = state = State(self.state.get(p) or {})
            if not state:
                state["step"] = wrap(np.zeros((), np.float32))
            for name in names:
                if name not in state:
                    state[name] = wrap(np.zeros_like(p._array, order="C"))
            lines.append((p, p._grad, *(state[n] for n in names)))
        alpha = group["alpha"]
        _UPDATES[centered, momentum](
            lines,
            (
                group["lr"], -1.0 if group["maximize"] else 1.0,
                group["weight_decay"], alpha, 1 - alpha, group["eps"],
                group["momentum"],
            ),
        )  # fmt: skip
        self.keep(states)
