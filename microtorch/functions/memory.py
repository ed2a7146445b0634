"""Where tensors are: pinned memory of the host, and memory of a GPU that several streams use."""

from typing import Any

import numpy as np

from .. import cuda
from ..device import CPU, gpu
from ..tensor import Array, Tensor, device_of, wrap
from .names import method, public


def pinned(a: Array) -> bool:
    """Whether an array of the CPU lies in page-locked memory."""
    base = a
    while isinstance(base, np.ndarray):
        base = base.base  # type: ignore[assignment]
    return getattr(base, "pinned", False)


@public()
def get_device(input: Tensor) -> int:
    """The number of the GPU that the tensor is on; -1 on the CPU."""
    return -1 if device_of(input._array) is CPU else 0


@method()
def is_pinned(input: Tensor, device: Any = None) -> bool:
    """Whether the tensor lies in page-locked memory, from which a GPU copies by itself."""
    return device_of(input._array) is CPU and pinned(input._array)


@method()
def pin_memory(input: Tensor, device: Any = None) -> Tensor:
    """A copy in page-locked memory: the tensor itself if it is there.

    Raises:
        RuntimeError: without a GPU, and for a tensor that is on it.
    """
    if not cuda.is_available():
        raise RuntimeError("Cannot access accelerator device when none is available.")
    if device_of(input._array) is not CPU:
        kind = f"torch.cuda.{input.dtype.short}Tensor"
        raise RuntimeError(f"cannot pin '{kind}' only dense CPU tensors can be pinned")
    if pinned(input._array):
        return input
    made = gpu("exchange").pinned(input._array.shape, input._array.dtype)
    np.copyto(made, input._array)
    return wrap(made)


@method()
def record_stream(input: Tensor, stream: Any) -> None:
    """Keep the memory of a tensor from being used anew until a stream has done what it has now."""
    if device_of(input._array) is not CPU:
        block = input._array.block  # type: ignore[attr-defined]
        block.others = tuple({*block.others, stream.cuda_stream})
