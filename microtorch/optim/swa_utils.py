"""`torch.optim.swa_utils`: averages of a model's weights over training.

Stochastic weight averaging is Izmailov et al. 2018, arXiv:1803.05407.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..autograd.modes import no_grad
from ..functions.creation import tensor
from ..nn.module import Module
from ..nn.normalization import _BatchNorm
from ..tensor import Tensor
from .optimizer import Optimizer
from .scheduler import LRScheduler

__all__ = [
    "AveragedModel", "SWALR", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn",
    "get_swa_multi_avg_fn", "update_bn",
]  # fmt: skip

Average = Callable[[Tensor, Tensor, Any], Tensor]
Averages = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(
            f"Invalid decay value {decay} provided. Please provide a value in [0,1] range."
        )


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """The exponential moving average: decay * average + (1 - decay) * current.

    Raises:
        ValueError: for a decay outside of [0, 1].
    """
    _check_decay(decay)

    @no_grad()
    def ema_update(ema_param: Any, current_param: Any, num_averaged: Any) -> Any:
        return decay * ema_param + (1 - decay) * current_param

    return ema_update


def get_swa_avg_fn() -> Average:
    """The mean of all: average + (current - average) / (num_averaged + 1)."""

    @no_grad()
    def swa_update(averaged_param: Any, current_param: Any, num_averaged: Any) -> Any:
        return averaged_param + (current_param - averaged_param) / (num_averaged + 1)

    return swa_update


def _for_each(average: Average) -> Averages:
    """The average of each tensor of a list, written into the first list."""

    @no_grad()
    def update(averages: Sequence[Any], current: Sequence[Any], num_averaged: Any) -> None:
        for mean, new in zip(averages, current, strict=True):
            mean.copy_(average(mean, new.to(mean.device), num_averaged))

    return update


def get_ema_multi_avg_fn(decay: float = 0.999) -> Averages:
    """The exponential moving average, for lists of tensors; see `get_ema_avg_fn`."""
    return _for_each(get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> Averages:
    """The mean of all, for lists of tensors; see `get_swa_avg_fn`."""
    return _for_each(get_swa_avg_fn())


class AveragedModel(Module):
    """A copy of a model whose parameters are averages of the model's.

    avg_fn: makes the new average of a parameter of its average, its value and how often it has
    been averaged; multi_avg_fn: changes a list of averages. Without both it is the mean of all.
    use_buffers: whether buffers are averaged too, not taken over as they are.

    Raises:
        AssertionError: for both functions.
    """

    n_averaged: Tensor

    def __init__(
        self, model: Module, device: Any = None, avg_fn: Average | None = None,
        multi_avg_fn: Averages | None = None, use_buffers: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", tensor(0, device=device))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged model gives."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Let the averages take up a model; the first one is copied."""

        def averaged(module: Module) -> list[Any]:
            found = module.parameters(), module.buffers() if self.use_buffers else ()
            return [t.detach() for t in itertools.chain(*found)]

        means, current = averaged(self.module), averaged(model)
        if int(self.n_averaged) == 0:
            for mean, new in zip(means, current, strict=True):
                mean.copy_(new)
        elif self.avg_fn is not None:
            _for_each(self.avg_fn)(means, current, self.n_averaged)
        else:
            update = self.multi_avg_fn or get_swa_multi_avg_fn()
            update(means, current, self.n_averaged)
        if not self.use_buffers:
            for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
                mine.detach().copy_(theirs.detach())  # type: ignore[attr-defined]
        self.n_averaged += 1


@no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Set the running means and variances of batch normalization to those of all the batches.

    loader: gives inputs, or tuples and lists of which the first is one.
    """
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, _BatchNorm)}
    if not momenta:
        return
    training = model.training
    model.train()
    try:
        for module in momenta:
            module.reset_running_stats()
            module.momentum = None
        for batch in loader:
            input = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(input if device is None else input.to(device))
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum
        model.train(training)


class SWALR(LRScheduler):
    """From each group's rate to swa_lr in anneal_epochs steps, along a cosine or a line.

    Raises:
        ValueError: for a number of rates that is not that of the groups, and options out of range.
    """

    def __init__(
        self, optimizer: Optimizer, swa_lr: Any, anneal_epochs: int = 10,
        anneal_strategy: str = "cos", last_epoch: int = -1,
    ) -> None:  # fmt: skip
        groups = optimizer.param_groups
        rates = swa_lr if isinstance(swa_lr, (list, tuple)) else [swa_lr] * len(groups)
        if len(rates) != len(groups):
            raise ValueError(
                "swa_lr must have the same length as optimizer.param_groups. swa_lr has "
                f"{len(rates)} values, param_groups has {len(groups)}."
            )
        for rate, group in zip(rates, groups, strict=True):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_strategy = anneal_strategy
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """How much of the rate at a step is swa_lr."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return (1 - math.cos(math.pi * t)) / 2 if self._anneal_strategy == "cos" else t

    def get_lr(self) -> list[float]:
        """The rates at `last_epoch`, from those of the step before: others may change them too."""
        step = max(1, self.last_epoch) if self.anneal_epochs == 0 else self.last_epoch
        before, now = self._share(step - 1), self._share(step)

        def rate(group: dict[str, Any]) -> float:
            end = group["swa_lr"]
            start = end if before == 1 else (group["lr"] - before * end) / (1 - before)
            return end * now + start * (1 - now)  # type: ignore[no-any-return]

        return [rate(group) for group in self.optimizer.param_groups]
