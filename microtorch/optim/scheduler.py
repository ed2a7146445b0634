"""LRScheduler: what all schedules of learning rates have in common."""

import warnings
from typing import Any

from ..tensor import Tensor
from .optimizer import Optimizer

EPOCH_DEPRECATION_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where "
    "possible. Please use `scheduler.step()` to step the scheduler. During the deprecation, if "
    "epoch is different from None, the closed form is used instead of the new chainable form, "
    "where available. Please open an issue if you are unable to replicate your use case: "
    "https://github.com/pytorch/pytorch/issues/new/choose."
)
_ORDER = (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. In PyTorch 1.1.0 and later, "
    "you should call them in the opposite order: `optimizer.step()` before `lr_scheduler.step()`.  "
    "Failure to do this will result in PyTorch skipping the first value of the learning rate "
    "schedule. See more details at "
    "https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"
)


def _copy(rate: Any) -> Any:
    return rate.clone() if isinstance(rate, Tensor) else rate


def set_rate(group: dict[str, Any], rate: Any) -> None:
    """Set a group's rate; a tensor is filled, as others hold it, a compiled program say."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate.item() if isinstance(rate, Tensor) else rate)
    else:
        group["lr"] = rate


class LRScheduler:
    """Base class: `get_lr` gives the rates of the groups at step `last_epoch`.

    Raises:
        TypeError: for what is no Optimizer.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        for k, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", _copy(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{k}] when resuming "
                    "scheduler with last_epoch >= 0."
                )
        self.optimizer = optimizer
        self.base_lrs = [_copy(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        if not optimizer._scheduled:
            optimizer._scheduled, optimizer._stepped = True, False
        self._initial_step()

    def _initial_step(self) -> None:
        """Set the rates of the start."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    @property
    def _rates(self) -> list[float]:
        return [_copy(group["lr"]) for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float]:
        """The rates at `last_epoch`; every scheduler overrides this."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The rates that the last step set."""
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Set the rates of the next step, or of a given one."""
        if self._step_count == 1 and not self.optimizer._stepped and _watched(self.optimizer):
            warnings.warn(_ORDER, stacklevel=2)
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, stacklevel=2)
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        """Set the rates of the next step, or of a given one: by the closed form where there is one
        (`_get_closed_form_lr`)."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        closed = None if epoch is None else getattr(self, "_get_closed_form_lr", None)
        self._set(self.get_lr() if closed is None else closed())

    def _set(self, rates: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, lr)
        self._last_lr = self._rates

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, with None for functions."""
        return {k: _without_functions(v) for k, v in vars(self).items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; functions stay as they are."""
        own = vars(self)
        own.update({k: v for k, v in state_dict.items() if not _has_functions(own.get(k))})


def _has_functions(value: Any) -> bool:
    return callable(value) or (isinstance(value, list) and any(map(callable, value)))


def _without_functions(value: Any) -> Any:
    if not _has_functions(value):
        return value
    return [None] * len(value) if isinstance(value, list) else None


def _watched(optimizer: Optimizer) -> bool:
    """Whether the optimizer's steps are known: a `step` of the user's own tells nothing."""
    known = type(optimizer).step.__module__.startswith(__package__)
    return known and "step" not in vars(optimizer)
