"""`torch.optim`: every update is a row of the table, one compiled call a group."""

from typing import Any

from ..errors import unknown_names
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop"]

_unknown = unknown_names(__name__)


def __getattr__(name: str) -> Any:
    if name == "lr_scheduler":
        import importlib

        return importlib.import_module(".lr_scheduler", __name__)
    return _unknown(name)
