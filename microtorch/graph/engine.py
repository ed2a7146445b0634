"""The backward pass: iterative, newest node first, leaves last.

Gradients are whatever the graph's ops take and give (arrays, Tensors, floats). The result is
handed out only after the whole pass has succeeded, so an error changes no gradient. No recursion;
a node is released as soon as it is done.
"""

import operator
from collections.abc import Callable, Collection, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from . import node as clock
from .node import Node

# Called with the gradient of a node's result before the node runs: {node: [hook, ...]}; a hook
# returns the gradient to go on with.
hooks: "WeakKeyDictionary[Any, list[Callable[[Any], Any]]]" = WeakKeyDictionary()

SECOND_BACKWARD = (
    "Trying to backward through the graph a second time (or directly access saved tensors after "
    "they have already been freed). Saved intermediate values of the graph are freed when you "
    "call .backward() or autograd.grad(). Specify retain_graph=True if you need to backward "
    "through the graph a second time or if you need to access saved tensors after calling "
    "backward."
)


_seq = operator.attrgetter("seq")


def topological(roots: Iterable[Any]) -> tuple[list[Node], list[Any]]:
    """All nodes that the roots depend on, oldest first, and the leaves."""
    seen = set(roots)
    nodes: list[Node] = []
    leaves: list[Any] = []
    stack = list(seen)
    while stack:
        node = stack.pop()
        if not isinstance(node, Node):
            leaves.append(node)
            continue
        nodes.append(node)
        for parent in node.parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    nodes.sort(key=_seq)
    return nodes, leaves


def run(
    gradients: dict[Any, Any],
    arithmetic: Any,
    *,
    keep: bool,
    create_graph: bool = False,
    targets: Collection[Any] | None = None,
) -> dict[Any, Any]:
    """Gradients of the leaves, or of the targets (nodes or leaves), given those of the roots.

    With targets, only nodes on a way from the roots to a target run. Saved values are freed
    unless `keep`. `arithmetic` has `add`, `add_into` and `check(node)`, which raises where a
    value that a node saved has been changed since.
    """
    order, leaves = topological(gradients)
    needed = None if targets is None else _towards(order, targets)
    owned: set[Any] = set()
    found: dict[Any, Any] = {}
    while order:
        node = order.pop()
        g = gradients.pop(node, None)
        if g is None:
            continue
        if hooks:
            g = call_hooks(node, g)
        if needed is not None:
            if node in targets:  # type: ignore[operator]
                found[node] = g
            if node not in needed:
                continue
        if node.saved is None:
            raise RuntimeError(SECOND_BACKWARD)
        if clock.latest_change > node.seq:
            arithmetic.check(node)
        back = node.op.differentiate if create_graph else node.op.backward
        for parent, d in zip(node.parents, back(node, g), strict=False):
            if parent is None or d is None:
                continue
            old = gradients.get(parent)
            if old is None:
                gradients[parent] = d
            elif parent in owned:
                gradients[parent] = arithmetic.add_into(old, d)
            else:
                gradients[parent] = arithmetic.add(old, d)
                owned.add(parent)
        if not keep and node.saved:
            node.saved = None
        d = old = None
    for leaf in leaves:
        g = gradients.pop(leaf, None)
        if g is not None and (targets is None or leaf in targets):
            found[leaf] = call_hooks(leaf, g) if hooks else g
    return found


def _towards(order: list[Node], targets: Collection[Any]) -> set[Node]:
    """The nodes that have a target among their ancestors."""
    needed: set[Node] = set()
    for node in order:
        if any(p in targets or p in needed for p in node.parents if p is not None):
            needed.add(node)
    return needed


def call_hooks(node: Any, g: Any) -> Any:
    """The gradient as the hooks of a node or leaf leave it."""
    for hook in hooks.get(node, ()):
        g = hook(g)
    return g
