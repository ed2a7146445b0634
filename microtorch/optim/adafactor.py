"""Adafactor."""

from typing import Any

import numpy as np

from ..functions.overlap import check_repeated
from ..kernels.cpu import sum_to
from ..kernels.ufuncs import ROW_KERNELS
from ..tensor import Tensor, changed, wrap
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

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step."""
        states = {}
        for p in params:
            check_shapes((p, p._grad))
            check_repeated(p._array)
            states[p] = self.state.get(p) or self._started(p)
        for p, state in states.items():
            self._update_one(p, p._grad, state, group)
            changed(p)
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

    def _update_one(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        a, g = p._array, grad._array
        mul, div, add, sub, larger, known, root = (
            ROW_KERNELS[name][a.dtype]
            for name in ("mul", "div", "add", "sub", "maximum", "fmax", "sqrt")
        )

        def number(value: Any) -> Any:
            return np.multiply(value, 1, dtype=a.dtype)

        def mean(x: Any, shape: tuple[int, ...]) -> Any:
            """Means of x, of a shape that has 1 where they are taken."""
            total = sum_to(x, shape)
            return div(total, number(x.size / max(total.size, 1)))

        def rms(x: Any) -> Any:
            return root(mean(mul(x, x), (1,) * x.ndim).reshape(()))

        least, smallest = group["eps"]
        least = number(float(np.finfo(a.dtype).eps) if least is None else least)
        t = self.steps_made(state["step"]._array)
        fresh = number(t ** group["beta2_decay"])
        rate = mul(known(rms(a), number(smallest)), number(np.minimum(group["lr"], 1 / t**0.5)))
        squares = mul(g, g)

        def averaged(name: str) -> Any:
            """An average in the state, with the means of the squares taken up."""
            kept = state[name]._array
            kept[...] = add(kept, mul(sub(mean(squares, kept.shape), kept), fresh))
            return kept

        if "row_var" in state:
            rows, columns = averaged("row_var"), averaged("col_var")
            of_rows = mean(rows, (*rows.shape[:-2], 1, 1))
            variance = div(mul(rows, columns), larger(of_rows, least))
        else:
            variance = averaged("variance")
        u = div(g, root(larger(variance, mul(least, least))))
        # An element that is no number does not spoil the others.
        rate = div(rate, known(div(rms(u), number(group["d"])), number(1.0)))
        if group["maximize"]:
            rate = -rate
        a[...] = sub(mul(a, number(1 - group["lr"] * group["weight_decay"])), mul(u, rate))
