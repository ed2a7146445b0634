"""L-BFGS."""

from collections.abc import Callable
from typing import Any

from ..autograd.modes import enable_grad, no_grad
from ..functions.cat import cat
from ..functions.creation import zeros_like
from ..tensor import Tensor
from .hooks import hooked
from .line_search import Point, strong_wolfe
from .optimizer import Optimizer


class LBFGS(Optimizer):
    """Newton's method with the curvature of the last `history_size` steps (Nocedal 1980).

    `step(closure)` makes up to max_iter iterations, for which it calls the closure up to max_eval
    times (max_iter * 5 / 4 if None). All parameters are one vector, and one group.

    Raises:
        ValueError: for several groups, or a negative rate.
    """

    _apart = frozenset({"step", "d", "t", "H_diag", "prev_flat_grad", "prev_loss"})

    def __init__(
        self, params: Any, lr: float = 1, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr, "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
                "history_size": history_size, "line_search_fn": line_search_fn,
            },
        )  # fmt: skip
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    def check(self, group: dict[str, Any]) -> None:
        """Refuse a negative rate."""
        if not group["lr"] >= 0:
            raise ValueError(f"Invalid learning rate: {group['lr']}")

    @hooked
    @no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Several iterations; returns the loss before them.

        closure: computes the loss and its gradients, and returns the loss.

        Raises:
            RuntimeError: for a line search that there is not.
        """
        self._stepped = True
        group = self.param_groups[0]
        closure = enable_grad()(closure)
        first = closure()
        loss, evaluations = _number(first), 1
        gradient = self._gradient()
        state = self.state[group["params"][0]]
        state["func_evals"] = state.get("func_evals", 0) + 1
        state.setdefault("n_iter", 0)
        flat = _largest(gradient) <= group["tolerance_grad"]
        for iteration in range(1, group["max_iter"] + 1):
            if flat:
                break
            state["n_iter"] += 1
            d = self._direction(state, gradient, group["history_size"])
            state["d"], state["prev_loss"] = d, loss
            state["prev_flat_grad"] = gradient.clone()
            slope = float(gradient.dot(d))
            # The first direction says nothing of how far to go.
            shorter = min(1.0, 1.0 / float(gradient.abs().sum())) if state["n_iter"] == 1 else 1.0
            state["t"] = t = shorter * float(group["lr"])
            if slope > -group["tolerance_change"]:
                break
            if group["line_search_fn"] is None:
                self._move(d, t)
                # Nobody looks at the loss after the last step.
                calls = int(iteration < group["max_iter"])
                if calls:
                    loss, gradient = _number(closure()), self._gradient()
            else:
                start = Point(0.0, loss, gradient, slope)
                most = min(25, group["max_eval"] - evaluations)
                found, calls = self._searched(closure, start, d, t, group, most)
                loss, gradient, state["t"] = found.loss, found.gradient, found.t
            evaluations += calls
            state["func_evals"] += calls
            flat = _largest(gradient) <= group["tolerance_grad"]
            if (
                evaluations >= group["max_eval"]
                or _largest(d) * state["t"] <= group["tolerance_change"]
                or abs(loss - state["prev_loss"]) < group["tolerance_change"]
            ):
                break
        return first

    @staticmethod
    def _direction(state: dict[str, Any], gradient: Any, history_size: int) -> Any:
        """Where to go: the gradient times the inverse curvature, by the two loops of algorithm 7.4
        in Nocedal & Wright."""
        if state["n_iter"] == 1:
            state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1)
            return -gradient
        changes, steps, ro = state["old_dirs"], state["old_stps"], state["ro"]
        y, s = gradient - state["prev_flat_grad"], state["d"] * state["t"]
        product = y.dot(s)
        if float(product) > 1e-10:
            if len(changes) == history_size:
                for history in (changes, steps, ro):
                    del history[0]
            changes.append(y)
            steps.append(s)
            ro.append(1.0 / product)
            state["H_diag"] = product / y.dot(y)
        state["al"] = al = [None] * history_size
        d = -gradient
        for k in range(len(changes) - 1, -1, -1):
            al[k] = steps[k].dot(d) * ro[k]
            d -= changes[k] * al[k]
        d = d * state["H_diag"]
        for k in range(len(changes)):
            d += steps[k] * (al[k] - changes[k].dot(d) * ro[k])
        return d

    def _searched(
        self, closure: Callable[[], Any], start: Point, d: Any, t: float, group: dict[str, Any],
        most: int,
    ) -> tuple[Point, int]:  # fmt: skip
        """Go where a line search leads, and say where that is and how often it called."""
        if group["line_search_fn"] != "strong_wolfe":
            raise RuntimeError("only 'strong_wolfe' is supported")
        before = [p.clone() for p in group["params"]]

        def put(t: float) -> None:
            for p, old in zip(group["params"], before, strict=True):
                p.copy_(old)
            self._move(d, t)

        def at(t: float) -> Point:
            put(t)
            loss, gradient = _number(closure()), self._gradient()
            return Point(t, loss, gradient, float(gradient.dot(d)))

        found, calls = strong_wolfe(at, start, t, _largest(d), group["tolerance_change"], most)
        put(found.t)
        return found, calls

    def _gradient(self) -> Any:
        """The gradients of all parameters as one vector, of zeros where there is none."""
        params = self.param_groups[0]["params"]
        grads = [zeros_like(p) if p.grad is None else p.grad for p in params]
        return cat([g.reshape(-1) for g in grads])

    def _move(self, d: Tensor, t: float) -> None:
        """Go from where the parameters are."""
        start = 0
        for p in self.param_groups[0]["params"]:
            p.add_(d[start : start + p.numel()].view_as(p), alpha=t)  # type: ignore[index]
            start += p.numel()


def _largest(x: Any) -> float:
    """The largest magnitude of a vector's elements."""
    return float(x.abs().max())


def _number(loss: Any) -> float:
    """The loss that a closure returns."""
    return float(loss.detach() if isinstance(loss, Tensor) else loss)
