"""Writing where elements share memory: PyTorch refuses what has no clear meaning.

A written tensor may not repeat elements (`expand`), and may not share some but not all of its
memory with an operand (`x[1:] = x[:-1]`).
"""

from typing import Any

import numpy as np

from ..tensor import TENSORS, Tensor, root_of
from .op import Array

REPEATED = (
    "unsupported operation: more than one element of the written-to tensor refers to a single "
    "memory location. Please clone() the tensor before performing the operation."
)
SHARED = (
    "unsupported operation: some elements of the input tensor and the written-to tensor refer to a "
    "single memory location. Please clone() the tensor before performing the operation."
)


def check_overlap(x: Tensor, *operands: Any) -> None:
    """Refuse to write into x where its elements share memory.

    Raises:
        RuntimeError: if x repeats an element, or shares a part of its memory with an operand.
    """
    check_repeated(x._array)
    for y in operands:
        if y.__class__ in TENSORS and y is not x and root_of(y) is root_of(x):
            check_shared(x._array, y._array)


def repeats(a: Array) -> bool:
    """Whether several elements of an array are one."""
    if 0 not in a.strides or a.flags.c_contiguous or not a.size:
        return False
    return any(s == 0 and n > 1 for s, n in zip(a.strides, a.shape, strict=True))


def check_repeated(a: Array) -> None:
    """Refuse an array in which several elements are one."""
    if repeats(a):
        raise RuntimeError(REPEATED)


def check_shared(a: Array, b: Array) -> None:
    """Refuse two gapless arrays that share some of their elements, or all in another order."""
    if not (a.size and b.size and _gapless(a) and _gapless(b)):
        return
    a_start, b_start = a.ctypes.data, b.ctypes.data
    a_end, b_end = a_start + a.nbytes, b_start + b.nbytes
    if a_start < b_end and b_start < a_end:
        if (a_start, a_end) != (b_start, b_end) or a.strides != b.strides:
            raise RuntimeError(SHARED)


def _gapless(a: Array) -> bool:
    if a.flags.c_contiguous or a.flags.f_contiguous:
        return True
    return a.transpose(np.argsort(a.strides)[::-1]).flags.c_contiguous
