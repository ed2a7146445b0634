"""`torch.utils`: what belongs to no other module."""

from ..errors import unknown_names
from . import data as data
from . import dlpack as dlpack

__getattr__ = unknown_names(__name__, ("checkpoint",))
