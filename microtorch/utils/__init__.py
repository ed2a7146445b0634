"""`torch.utils`: what belongs to no other module."""

from . import dlpack as dlpack
