"""Stochastic gradient descent."""

from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .optimizer import Optimizer, Update

_PLAIN = Update("sgd")
_MOMENTUM = Update("sgd_momentum")


class SGD(Optimizer):
    """Gradient descent with momentum, dampening, Nesterov momentum and weight decay.

    buf = g at a parameter's first step, then momentum * buf + (1 - dampening) * g;
    p -= lr * buf. Parameters without a gradient are left alone, their momentum too.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr, "momentum": momentum, "dampening": dampening,
                "weight_decay": weight_decay, "nesterov": nesterov, "maximize": maximize,
                "foreach": foreach, "differentiable": differentiable, "fused": fused,
            },
        )  # fmt: skip

    def check(self, group: dict[str, Any]) -> None:
        """Refuse negative rates, and Nesterov momentum without momentum."""
        if group["lr"] < 0:
            raise ValueError(f"Invalid learning rate: {group['lr']}")
        if group["momentum"] < 0:
            raise ValueError(f"Invalid momentum value: {group['momentum']}")
        if group["weight_decay"] < 0:
            raise ValueError(f"Invalid weight_decay value: {group['weight_decay']}")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step."""
        momentum = group["momentum"]
        sign = -1.0 if group["maximize"] else 1.0
        shared = (group["lr"], sign, group["weight_decay"])
        if not momentum:
            _PLAIN([(p, p._grad) for p in params], shared)
            return
        nesterov = (momentum, 1.0) if group["nesterov"] else (1.0, 0.0)
        fresh, known = [], []
        state_of = self.state.get
        for p in params:
            state = state_of(p)
            buffer = state.get("momentum_buffer") if state else None
            if buffer is None:
                fresh.append((p, p._grad, wrap(np.zeros_like(p._array, order="C"))))
            else:
                known.append((p, p._grad, buffer))
        rate = 1.0 - group["dampening"]
        calls = []
        if fresh:
            calls.append((fresh, (*shared, 0.0, 1.0, *nesterov)))
        if known:
            calls.append((known, (*shared, momentum, rate, *nesterov)))
        _MOMENTUM.each(calls)
        for p, _, buffer in fresh:
            self.state[p]["momentum_buffer"] = buffer
