"""`torch.optim`: every update is a row of the table, one compiled call a group."""

from ..errors import unknown_names
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .adaptive import Adadelta, Adamax, NAdam, RAdam
from .asgd import ASGD
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .rprop import Rprop
from .sgd import SGD

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "Optimizer", "RMSprop",
]  # fmt: skip

__getattr__ = unknown_names(__name__, ("lr_scheduler",))
