"""`torch.optim`: every update is a row of the table, one compiled call a group."""

from ..errors import unknown_names
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop"]

__getattr__ = unknown_names(__name__, ("lr_scheduler",))
