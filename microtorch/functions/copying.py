"""Shallow and deep copies and pickles of tensors, and their export to other libraries."""

from copy import deepcopy as deep_copy
from typing import Any

import numpy as np

from .. import dtypes
from ..device import CPU, gpu
from ..device import check as check_device
from ..graph.node import LEAF
from ..kernels import cpu
from ..tensor import DEEPCOPY, Tensor, device_of, root_of, wrap
from .names import method
from .op import Array


def attributes(x: Tensor) -> dict[str, Any]:
    """What a program has attached to a tensor."""
    return {name: value for name, value in x.__dict__.items() if name[0] != "_"}


@method("__copy__")
def copy(input: Tensor) -> Tensor:
    """`copy.copy`: a leaf that shares memory."""
    made = wrap(input._array, type(input))
    made._node = None if input._node is None else LEAF
    made.__dict__.update(attributes(input))
    return made


@method("__deepcopy__")
def deepcopy(input: Tensor, memo: dict[Any, Any]) -> Tensor:
    """`copy.deepcopy`: views that shared memory share it in the copy.

    Raises:
        RuntimeError: for a tensor that is no leaf.
    """
    if not input.is_leaf:
        raise RuntimeError(DEEPCOPY)
    if id(input) in memo:
        return memo[id(input)]  # type: ignore[no-any-return]
    made = wrap(_copied(input, memo), type(input))
    made._node = input._node
    memo[id(input)] = made
    if input._grad is not None:
        made._grad = deepcopy(input._grad, memo)
    made.__dict__.update(deep_copy(attributes(input), memo))
    return made


def _copied(x: Tensor, memo: dict[Any, Any]) -> Array:
    """x's elements inside the one copy of its storage."""
    root = root_of(x)
    key = ("storage", id(root))
    if key not in memo:
        memo[key] = root._array.copy(order="K")
    whole, a = memo[key], x._array
    if x is root:
        return whole  # type: ignore[no-any-return]
    if whole.strides != root._array.strides:
        return a.copy(order="K")
    start = (a.ctypes.data - root._array.ctypes.data) // a.itemsize
    return np.lib.stride_tricks.as_strided(whole.ravel("K")[start:], a.shape, a.strides)


@method("__reduce_ex__")
def reduce_ex(input: Tensor, protocol: Any) -> Any:
    """For pickle: elements, requires_grad and attached attributes; a non-leaf becomes a leaf."""
    a = input._array
    place = () if device_of(a) is CPU else ("cuda",)
    a = cpu.move(a, CPU) if place else a
    array = a if a.flags.f_contiguous else np.asarray(a, order="C")
    return _restore, (type(input), array, input.requires_grad, *place), attributes(input) or None


def _restore(cls: "type[Tensor]", array: Array, requires_grad: bool, place: str = "cpu") -> Tensor:
    array = dtypes.native(array)
    made = wrap(array if place == "cpu" else cpu.move(array, check_device(place)), cls)
    made._node = LEAF if requires_grad else None
    return made


@method("__dlpack__")
def dlpack(
    input: Tensor,
    *,
    stream: Any = None,
    max_version: Any = None,
    dl_device: Any = None,
    copy: bool | None = None,
) -> Any:
    """A DLPack capsule that shares the tensor's memory.

    Raises:
        BufferError: for a tensor that requires grad, as in PyTorch, and for another GPU.
    """
    if input._node is not None:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    if device_of(input._array) is CPU:
        return input._array.__dlpack__(max_version=max_version, dl_device=dl_device, copy=copy)
    if dl_device == (1, 0):
        return input._array.host().__dlpack__(max_version=max_version)  # type: ignore[attr-defined]
    if dl_device not in (None, (2, 0)):
        raise BufferError(f"Can't export tensors to the dl_device {dl_device}")
    array = input._array.copy() if copy else input._array
    return gpu("exchange").export(array, stream, max_version)


@method("__dlpack_device__")
def dlpack_device(input: Tensor) -> tuple[int, int]:
    """`(1, 0)` for the CPU, `(2, 0)` for the GPU."""
    return (1 if device_of(input._array) is CPU else 2, 0)
