"""Adafactor."""

from typing import Any

import numpy as np

from ..autograd.modes import no_grad
from ..tensor import Tensor, wrap
from .optimizer import Optimizer, State, check_shapes


class Adafactor(Optimizer):
    """Adafactor (Shazeer & Stern 2018, arXiv:1804.04235), without its momentum.

    The average v of g^2 is kept as means over rows and over columns for what has two
    dimensions or more: v = rows columns / max(mean of rows, eps1). v += (g^2 - v) t^beta2_decay;
    u = g / sqrt(max(v, eps1^2));
    p -= max(eps2, rms(p)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / d).
    """

    _apart = frozenset({"step", "row_var", "col_var"})

    def __init__(
        self, params: Any, lr: float = 1e-2, beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0,
        *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d,
                "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
            },
        )  # fmt: skip

    def check(self, group: dict[str, Any]) -> None:
        """Refuse rates out of range."""
        least, smallest = group["eps"]
        for words, value, right in (
            ("Learning rate should be >= 0", group["lr"], group["lr"] >= 0),
            ("beta2_decay should be <= 0", group["beta2_decay"], group["beta2_decay"] <= 0),
            ("epsilon1 should be >= 0", least, least is None or least >= 0),
            ("epsilon2 should be >= 0", smallest, smallest >= 0),
            ("Clipping threshold d should be >= 1", group["d"], group["d"] >= 1),
            ("weight_decay should be >= 0", group["weight_decay"], group["weight_decay"] >= 0),
        ):
            if not right:
                raise ValueError(f"{words} but is: {value}")

    @no_grad()
    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step."""
        states = {}
        for p in params:
            check_shapes((p, p._grad))
            states[p] = self.state.get(p) or self._started(p)
        for p, state in states.items():
            self._update_one(p, p._grad, state, group)
        self.keep(states)

    @staticmethod
    def _started(p: Tensor) -> dict[str, Any]:
        """The state before the first step."""
        state, shape = State(step=wrap(np.zeros((), np.float32))), p._array.shape
        if len(shape) > 1:
            kept = {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}
        else:
            kept = {"variance": shape}
        for name, of in kept.items():
            state[name] = wrap(np.zeros(of, p._array.dtype, like=p._array))
        return state

    def _update_one(self, p: Any, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        least, smallest = group["eps"]
        least = _number(float(np.finfo(p._array.dtype).eps) if least is None else least, p)
        t = self.steps_made(state["step"]._array)
        fresh = _number(t ** group["beta2_decay"], p)
        rate = _number(np.minimum(group["lr"], 1 / t**0.5), p)
        root = p.numel() ** 0.5
        rate = (p.norm() / root).clamp_min(_number(smallest, p)) * rate
        p.mul_(_number(1 - group["lr"] * group["weight_decay"], p))
        if group["maximize"]:
            g = -g
        squares = g.square()
        if "row_var" in state:
            rows, columns = state["row_var"], state["col_var"]
            rows.lerp_(squares.mean(-1, keepdim=True), fresh)
            columns.lerp_(squares.mean(-2, keepdim=True), fresh)
            variance = rows * columns / rows.mean(-2, keepdim=True).clamp_min(least)
        else:
            variance = state["variance"].lerp_(squares, fresh)
        u = g * variance.clamp_min(least * least).rsqrt()
        p.sub_(u * (rate / (u.norm() / _number(root * group["d"], p)).clamp_min(1.0)))


def _number(value: Any, like: Tensor) -> Any:
    """A number as a factor of a tensor's elements; while a call is recorded it may be an array."""
    return wrap(value).to(like.dtype) if isinstance(value, np.ndarray) else float(value)
