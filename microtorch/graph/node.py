"""Nodes of the graph, the grad mode, and the clock that orders nodes and in-place changes.

A node is data: which op, which parents, what was saved. Numbers from one clock are given to every
new node and to every in-place change. The clock counts down, so the smallest number is the newest:
`change < node.seq` says that something was changed after the node had saved it, and a heap of
`seq` gives nodes in a valid backward order.
"""

import functools
import itertools
import threading
from typing import Any

next_seq = itertools.count(-1, -1).__next__


class Node:
    """One application of an op.

    parents: an edge per differentiable input: a Node, a leaf Tensor, or None where no gradient
    is wanted. saved: values that backward needs, None once freed; () if nothing is needed.
    const: what is no tensor (shapes, dims) and never freed.
    """

    __slots__ = ("__weakref__", "const", "op", "parents", "saved", "seq")

    op: Any
    seq: int
    parents: tuple[Any, ...]
    saved: tuple[Any, ...] | None
    const: Any

    def name(self) -> str:
        """PyTorch's name of the node."""
        return type(shown(self)).__name__

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """`(node, output number)` an input; leaves appear as AccumulateGrad."""
        return tuple(
            (shown(p) if p is None or isinstance(p, Node) else AccumulateGrad(p), 0)
            for p in self.parents
        )


class AccumulateGrad:
    """Stands for a leaf among `next_functions`."""

    __slots__ = ("variable",)
    __module__ = "builtins"

    def __init__(self, variable: Any) -> None:
        self.variable = variable

    next_functions = ()

    def name(self) -> str:
        """PyTorch's name of the node."""
        return "torch::autograd::AccumulateGrad"


class Mode(threading.local):
    """Whether operations are recorded; a thread has its own."""

    enabled = True
    inference = False
    # What was asked for, which differs from `enabled` inside inference mode only.
    asked = True


class Clock:
    """The time of the latest change of any tensor: newer nodes need no check.

    epoch: how often a tensor got other memory or began or ceased to require grad, or a module or
    an optimizer got other members: compiled programs check theirs again then.
    """

    __slots__ = ("epoch", "latest_change")

    def __init__(self) -> None:
        self.latest_change = 0
        self.epoch = 0


mode = Mode()
clock = Clock()


def next_change(earlier: Any) -> tuple[int, int, Any]:
    """The record of one more in-place change: how many there were, when, and the one before.

    The last 32 changes at least are remembered, which is what messages need.
    """
    now = next_seq()
    # A thread that was held up since its number may not set the clock back; between the comparison
    # and the store no other thread runs.
    if now < clock.latest_change:
        clock.latest_change = now
    if earlier is None:
        return (1, now, None)
    count = earlier[0]
    return (count + 1, now, earlier if count & 31 else (count, earlier[1], None))


def version_at(change: Any, seq: int) -> int:
    """The version of a storage that a node of that `seq` saw."""
    count: int = change[0]
    while change is not None and change[1] < seq:
        count = change[0] - 1
        change = change[2]
    return count


# Marks the tensors that are leaves and require grad.
LEAF = Node()
LEAF.op = None
LEAF.seq = 0
LEAF.parents = ()
LEAF.saved = ()
LEAF.const = None


@functools.cache
def node_class(name: str) -> type[Node]:
    """The type under which the nodes of an op are shown: PyTorch's name, such as MulBackward0."""
    return type(name, (Node,), {"__slots__": (), "__module__": "builtins"})


def shown(node: Any) -> Any:
    """A node, or None, as a user gets it: of the type that its op names.

    Until then all are of one type: a step on small tensors takes a tenth less time so.
    """
    if node.__class__ is Node:
        kind = getattr(node.op, "kind", None)
        node.__class__ = Node if kind is None else node_class(kind)
    return node
