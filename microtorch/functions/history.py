"""The history of shared storage: an in-place change reaches the base and every view of it.

A base keeps weak references to the views that take part in autograd. After a change with a
history, the base's new node (PyTorch's CopySlices) puts the changed elements into the old ones,
and every view gets a node that takes its elements from the base.
"""

import math
from typing import Any
from weakref import ref

import numpy as np

from ..errors import BASE_OF_NO_GRAD_VIEW, NO_GRAD_VIEW
from ..graph.node import Node, clock, mode
from ..tensor import Tensor, base_of, root_of
from .op import Array, Rule, record
from .overlap import REPEATED, repeats


def _copy_slices_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    key, shape, view_shape = const
    flat = F.reshape(g, (-1,))
    return (
        F.reshape(F.clear_index(flat, key), shape),
        F.reshape(F.take_index(flat, key), view_shape),
    )


def _as_strided_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    key, shape, _ = const
    whole = F.put_index(F.reshape(g, (-1,)), key, (math.prod(shape),))
    return (F.reshape(whole, shape),)


def _repeated_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    """PyTorch writes a view that repeats elements, but gives no gradient."""
    raise RuntimeError(REPEATED)


COPY_SLICES = Rule("CopySlices", _copy_slices_rule)
REPEATED_SLICES = Rule("CopySlices", _repeated_rule)
AS_STRIDED = Rule("AsStridedBackward0", _as_strided_rule)


def remember(view: Tensor, base: Any) -> None:
    """Let the base of a view know it; 0.2 us."""
    known = base._views
    if known is None:
        base._views = [ref(view)]
        return
    n = len(known)
    if n > 15 and n & (n - 1) == 0:
        # At powers of two only, so that a loop over slices stays linear.
        known[:] = [r for r in known if r() is not None]
    known.append(ref(view))


def check_history(x: Tensor, node: Node | None) -> None:
    """Refuse to give the history of what is written into it to a view made in no_grad mode.

    Raises:
        RuntimeError: if there is one.
    """
    if node is not None and x._unrecorded and mode.enabled:
        raise RuntimeError(NO_GRAD_VIEW)


def forget(view: Tensor) -> None:
    """Let the base of a view not know it: changes of the base leave the view's history alone."""
    known = base_of(view)._views
    if known is not None:
        known[:] = [r for r in known if r() is not view]
    view.__dict__.pop("_unrecorded", None)


def take_over(x: Tensor, node: Node | None) -> None:
    """Give x the history of what was written into it, and with it its base and all their views."""
    _give(x, node)
    clock.epoch += 1
    base = base_of(x)
    if x is not root_of(x) and node is not None and node.saved and node.op.saves_result:
        root_of(x)._written = ref(node)
    if x is not base:
        op = REPEATED_SLICES if repeats(x._array) else COPY_SLICES
        _give(base, record(op, base._array, (base, x), const=_const(x, base))._node)
    for reference in base._views or ():
        view = reference()
        if view is not None and view._unrecorded:
            view._node = record(_AMBIGUOUS, view._array, (base,))._node
        elif view is not None:
            _give(view, record(AS_STRIDED, view._array, (base,), const=_const(view, base))._node)


def _give(x: Tensor, node: Node | None) -> None:
    """Give x another history; a gradient that it retains is the new one's."""
    x._node = node
    retained = x.__dict__.get("_retains_grad")
    if retained is not None:
        retained.follow(x)


class _Ambiguous:
    """The op of a view made in no_grad mode whose base has been given a history since."""

    kind = "NotDifferentiable"
    saves_result = False

    def backward(self, node: Node, g: Any) -> Any:
        """Refuse."""
        raise RuntimeError(BASE_OF_NO_GRAD_VIEW)

    differentiate = backward


_AMBIGUOUS = _Ambiguous()


def _const(view: Tensor, base: Tensor) -> tuple[Any, ...]:
    """Where the view's elements are in the flattened base, and both shapes."""
    a, whole = view._array, base._array
    places = (offsets(a) + (a.ctypes.data - whole.ctypes.data)).ravel()
    if whole.flags.c_contiguous:
        found = places // whole.itemsize
    else:
        there = offsets(whole).ravel()
        order = np.argsort(there)
        found = order[np.searchsorted(there[order], places)]
    return (found,), whole.shape, a.shape


def offsets(a: Array) -> Array:
    """Distance of each element from the first, in bytes."""
    found = np.zeros(a.shape, np.int64)
    for d, (length, stride) in enumerate(zip(a.shape, a.strides, strict=True)):
        steps = np.arange(length) * stride
        found += steps.reshape((length,) + (1,) * (a.ndim - d - 1))
    return found
