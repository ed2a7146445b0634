"""Adam and AdamW."""

from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .optimizer import Optimizer, State, Update

_PLAIN = Update("adam")
_AMSGRAD = Update("adam_amsgrad")


class Adam(Optimizer):
    """Adam (Kingma & Ba 2014, arXiv:1412.6980), with AMSGrad where asked for.

    m += (g - m)(1 - beta1); v = beta2 v + (1 - beta2) g^2;
    p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps).
    """

    _decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                "amsgrad": amsgrad, "maximize": maximize, "foreach": foreach,
                "capturable": capturable, "differentiable": differentiable, "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay or self._decoupled,
            },
        )  # fmt: skip

    def check(self, group: dict[str, Any]) -> None:
        """Refuse rates out of range."""
        if not group["lr"] >= 0:
            raise ValueError(f"Invalid learning rate: {group['lr']}")
        if not group["eps"] >= 0:
            raise ValueError(f"Invalid epsilon value: {group['eps']}")
        for k, beta in enumerate(group["betas"]):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {k}: {beta}")
        if not group["weight_decay"] >= 0:
            raise ValueError(f"Invalid weight_decay value: {group['weight_decay']}")

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step; parameters that have made equally many go in one call."""
        names = ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * bool(group["amsgrad"])
        lines: dict[Any, list[Any]] = {}
        states = {}
        for p in params:
            states[p] = state = self.state.get(p) or State()
            if not state:
                state["step"] = wrap(np.zeros((), np.float32))
                for name in names:
                    state[name] = wrap(np.zeros_like(p._array, order="C"))
            t = self.steps_made(state["step"]._array)
            lines.setdefault(t, []).append((p, p._grad, *(state[n] for n in names)))
        beta1, beta2 = group["betas"]
        lr, decay = group["lr"], group["weight_decay"]
        decoupled = group["decoupled_weight_decay"]
        update = _AMSGRAD if group["amsgrad"] else _PLAIN
        calls = []
        for t, same in lines.items():
            numbers = (
                lr / (1 - beta1**t),
                -1.0 if group["maximize"] else 1.0,
                0.0 if decoupled else decay,
                1 - beta1,
                beta2,
                1 - beta2,
                (1 - beta2**t) ** 0.5,
                group["eps"],
                1 - lr * decay if decoupled else 1.0,
            )
            calls.append((same, numbers))
        update.each(calls)
        self.keep(states)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101)."""

    _decoupled = True

    def __init__(self, params: Any, *args: Any, weight_decay: float = 1e-2, **kwargs: Any) -> None:
        super().__init__(params, *args, weight_decay=weight_decay, **kwargs)  # type: ignore[misc]
