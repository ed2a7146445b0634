"""`torch.utils.dlpack`: the functions that exchange arrays with other libraries."""

from ..interop import from_dlpack, to_dlpack

__all__ = ["from_dlpack", "to_dlpack"]
