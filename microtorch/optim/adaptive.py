"""Relatives of Adam: Adamax, NAdam, RAdam and Adadelta."""

from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .optimizer import Optimizer, State, Update

_ADAMAX = Update("adamax")
_NADAM = Update("nadam")
_RADAM = Update("radam")
_ADADELTA = Update("adadelta")


class _Adaptive(Optimizer):
    """What all have in common: the checks of rates, and arrays of zeros as a state."""

    _kept: tuple[str, str]

    def check(self, group: dict[str, Any]) -> None:
        """Refuse rates out of range."""
        if not group["lr"] >= 0:
            raise ValueError(f"Invalid learning rate: {group['lr']}")
        if not 0 <= group.get("rho", 0) <= 1:
            raise ValueError(f"Invalid rho value: {group['rho']}")
        if not group["eps"] >= 0:
            raise ValueError(f"Invalid epsilon value: {group['eps']}")
        for k, beta in enumerate(group.get("betas", ())):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {k}: {beta}")
        for name in ("weight_decay", "momentum_decay"):
            if not group.get(name, 0) >= 0:
                raise ValueError(f"Invalid {name} value: {group[name]}")

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        """A parameter's state, made where there is none yet."""
        state: dict[str, Any] = self.state.get(p) or State()
        if not state:
            state["step"] = wrap(np.zeros((), np.float32))
            for name in self._kept:
                state[name] = wrap(np.zeros_like(p._array, order="C"))
        return state

    def _line(self, p: Tensor, state: dict[str, Any]) -> tuple[Any, ...]:
        return (p, p._grad, *(state[name] for name in self._kept))

    def _by_steps(self, states: dict[Tensor, dict[str, Any]]) -> dict[float, list[Any]]:
        """The lines of parameters that have made equally many steps, by that number."""
        lines: dict[float, list[Any]] = {}
        for p, state in states.items():
            lines.setdefault(self.steps_made(state["step"]._array), []).append(self._line(p, state))
        return lines


class Adamax(_Adaptive):
    """Adamax (Kingma & Ba 2014, arXiv:1412.6980).

    m += (g - m)(1 - beta1); u = max(beta2 u, |g| + eps); p -= lr / (1 - beta1^t) * m / u.
    """

    _kept = ("exp_avg", "exp_inf")

    def __init__(
        self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, foreach: bool | None = None, *,
        maximize: bool = False, differentiable: bool = False, capturable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
                "capturable": capturable,
            },
        )  # fmt: skip

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step; parameters that have made equally many go in one call."""
        states = {p: self._state_of(p) for p in params}
        beta1, beta2 = group["betas"]
        sign, lr = -1.0 if group["maximize"] else 1.0, group["lr"]
        rest = (sign, group["weight_decay"], 1 - beta1, beta2, group["eps"])
        _ADAMAX.each(
            [(same, (lr / (1 - beta1**t), *rest)) for t, same in self._by_steps(states).items()]
        )
        self.keep(states)


class NAdam(_Adaptive):
    """Adam with Nesterov's momentum (Dozat 2016), whose weight grows by `momentum_decay`."""

    _kept = ("exp_avg", "exp_avg_sq")
    _apart = frozenset({"step", "mu_product"})

    def __init__(
        self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False, *, foreach: bool | None = None,
        maximize: bool = False, capturable: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
                "foreach": foreach, "capturable": capturable, "differentiable": differentiable,
            },
        )  # fmt: skip

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        state = super()._state_of(p)
        if "mu_product" not in state:
            state["mu_product"] = wrap(np.ones((), np.float32))
        return state

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step; parameters of equal history go in one call."""
        states = {p: self._state_of(p) for p in params}
        beta1, beta2 = group["betas"]
        lr, decay = group["lr"], group["weight_decay"]
        decoupled = group["decoupled_weight_decay"]
        lines: dict[tuple[float, float], list[Any]] = {}
        products = {}
        for p, state in states.items():
            t = self.steps_made(state["step"]._array)
            before, weight = state["mu_product"]._array, self._weight(group, t)
            products[p] = np.multiply(before, weight, dtype=np.float32)
            same = t, self.number(products[p])
            lines.setdefault(same, []).append(self._line(p, state))
        calls = []
        for (t, product), group_lines in lines.items():
            mu, after = self._weight(group, t), self._weight(group, t + 1)
            numbers = (
                lr * (1 - mu) / (1 - product),
                lr * after / (1 - product * after),
                -1.0 if group["maximize"] else 1.0,
                0.0 if decoupled else decay,
                1 - beta1,
                beta2,
                1 - beta2,
                1 - beta2**t,
                group["eps"],
                1 - lr * decay if decoupled else 1.0,
            )
            calls.append((group_lines, numbers))
        _NADAM.each(calls)
        for p, state in states.items():
            state["mu_product"]._array[...] = products[p]
        self.keep(states)

    @staticmethod
    def _weight(group: dict[str, Any], t: float) -> float:
        """The weight of the momentum at step t."""
        return group["betas"][0] * (1.0 - 0.5 * 0.96 ** (t * group["momentum_decay"]))  # type: ignore[no-any-return]


class RAdam(_Adaptive):
    """Adam whose adaptive rate is rectified (Liu et al. 2019, arXiv:1908.03265).

    rho is the length of the average that v is after t steps, worst = 2 / (1 - beta2) - 1 that of a
    long run. While rho is at most 5, p -= lr / (1 - beta1^t) * m; then that is multiplied by
    sqrt((rho - 4)(rho - 2) worst / ((worst - 4)(worst - 2) rho)) and by Adam's
    sqrt(1 - beta2^t) / (sqrt(v) + eps).
    """

    _kept = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, decoupled_weight_decay: bool = False, *,
        foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
        differentiable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                "maximize": maximize, "foreach": foreach, "capturable": capturable,
                "decoupled_weight_decay": decoupled_weight_decay,
                "differentiable": differentiable,
            },
        )  # fmt: skip

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step; parameters that have made equally many go in one call."""
        states = {p: self._state_of(p) for p in params}
        beta1, beta2 = group["betas"]
        lr, decay = group["lr"], group["weight_decay"]
        decoupled = group["decoupled_weight_decay"]
        worst = 2 / (1 - beta2) - 1
        calls = []
        for t, same in self._by_steps(states).items():
            bias = 1 - beta2**t
            rho = worst - 2 * t * beta2**t / bias
            numbers = (
                lr / (1 - beta1**t),
                -1.0 if group["maximize"] else 1.0,
                0.0 if decoupled else decay,
                1 - beta1,
                beta2,
                1 - beta2,
                rho - 5,
                (rho - 4) * (rho - 2) * worst * bias,
                (worst - 4) * (worst - 2) * rho,
                group["eps"],
                1 - lr * decay if decoupled else 1.0,
            )
            calls.append((same, numbers))
        _RADAM.each(calls)
        self.keep(states)


class Adadelta(_Adaptive):
    """Adadelta (Zeiler 2012, arXiv:1212.5701).

    v = rho v + (1 - rho) g^2; e = sqrt(a + eps) / sqrt(v + eps) g; a = rho a + (1 - rho) e^2;
    p -= lr e.
    """

    _kept = ("square_avg", "acc_delta")

    def __init__(
        self, params: Any, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
        weight_decay: float = 0, foreach: bool | None = None, *, capturable: bool = False,
        maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay,
                "maximize": maximize, "capturable": capturable, "foreach": foreach,
                "differentiable": differentiable,
            },
        )  # fmt: skip

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step."""
        states = {p: self._state_of(p) for p in params}
        rho, sign = group["rho"], -1.0 if group["maximize"] else 1.0
        numbers = (group["lr"], sign, group["weight_decay"], rho, 1 - rho, group["eps"])
        _ADADELTA([self._line(p, state) for p, state in states.items()], numbers)
        self.keep(states)
