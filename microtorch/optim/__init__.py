"""`torch.optim`: every update is a row of the table, one compiled call a group."""

from ..errors import unknown_names
from .adam import Adam, AdamW
from .optimizer import Optimizer
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]

__getattr__ = unknown_names(__name__)
