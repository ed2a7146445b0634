"""The backward pass: iterative, newest node first, leaves last.

Gradients are whatever the graph's ops take and give (arrays, Tensors, floats). The result is
handed out only after the whole pass has succeeded, so an error changes no gradient. No recursion;
a node is released as soon as it is done.
"""

import operator
from collections.abc import Callable, Collection, Iterable
from heapq import heappop, heappush
from typing import Any

from . import hooks
from .node import Node, clock

SECOND_BACKWARD = (
    "Trying to backward through the graph a second time (or directly access saved tensors after "
    "they have already been freed). Saved intermediate values of the graph are freed when you "
    "call .backward() or autograd.grad(). Specify retain_graph=True if you need to backward "
    "through the graph a second time or if you need to access saved tensors after calling "
    "backward."
)


_seq = operator.attrgetter("seq")


def topological(roots: Iterable[Any]) -> tuple[list[Node], list[Any]]:
    """All nodes that the roots depend on, newest first, and the leaves."""
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
    roots: dict[Any, Any],
    arithmetic: Any,
    keep: bool,
    create_graph: bool = False,
    targets: Collection[Any] | None = None,
    sink: Callable[[Any, Any], None] | None = None,
) -> dict[Any, Any]:
    """Gradients of the leaves, or of the targets (nodes or leaves), given those of the roots.

    With a sink, `sink(leaf, gradient)` is called for each leaf instead, when all nodes are done.

    What keeps its gradient (`retain_grad`, Values) gets it when all nodes and hooks are done.

    With targets, only nodes on a way from the roots to a target run. Saved values are freed
    unless `keep`. `arithmetic` has `add`, `add_into` and `check(node)`, which raises where a
    value that a node saved has been changed since.

    Waiting nodes are in a heap of their numbers. When the newest of them is taken, all that
    depends on it has been taken before, so its gradient is complete: no pass over the graph is
    needed beforehand.
    """
    needed = None if targets is None else _towards(roots, targets)
    special = needed is not None or bool(hooks.live)
    found: dict[Any, Any] = {}
    # (function, node, gradient) of what keeps its gradient.
    late: list[tuple[Any, Any, Any]] = []
    # What waits: number of a node, or leaf -> [node or leaf, gradient, whether the pass owns it].
    waiting: dict[Any, list[Any]] = {}
    heap: list[int] = []
    node = None
    for root, g in roots.items():
        if isinstance(root, Node):
            waiting[root.seq] = [root, g, False]
            heappush(heap, root.seq)
        else:
            waiting[root] = [root, g, False]
    while True:
        # `node` is the newest parent of the last one; most graphs are chains, where nothing waits.
        if heap:
            if node is None or heap[0] <= node.seq:
                if node is not None:
                    _wait(waiting, heap, node, g, arithmetic)
                node, g, _ = waiting.pop(heappop(heap))
        elif node is None:
            break
        if special:
            wanted = needed is not None and node in targets  # type: ignore[operator]
            if needed is None or wanted or node in needed:
                g = call_hooks(node, g, late)
            if wanted:
                found[node] = g
            if needed is not None and node not in needed:
                node = None
                continue
        saved = node.saved
        if saved:
            if clock.latest_change < node.seq:
                arithmetic.check(node)
        elif saved is None:
            raise RuntimeError(SECOND_BACKWARD)
        op = node.op
        gradients = op.differentiate(node, g) if create_graph else op.backward(node, g)
        if saved and not keep:
            node.saved = None
        parents = node.parents
        node = None
        if len(parents) == 1:
            (parent,) = parents
            if type(parent) is Node:
                # The usual case: straight on.
                d = gradients[0]
                if d is not None:
                    node, g = parent, d
                gradients = d = None
                continue
        for parent, d in zip(parents, gradients):
            if d is None or parent is None:
                continue
            if not (type(parent) is Node or isinstance(parent, Node)):
                entry = waiting.get(parent)
                if entry is None:
                    waiting[parent] = [parent, d, False]
                else:
                    _merge(entry, d, arithmetic)
            elif node is None:
                node, g = parent, d
            elif parent.seq < node.seq:
                # The newer one goes on.
                _wait(waiting, heap, node, g, arithmetic)
                node, g = parent, d
            else:
                _wait(waiting, heap, parent, d, arithmetic)
        # An op may write into a gradient that nothing else refers to.
        gradients = d = entry = None
    g = None
    if special:
        for entry in reversed(waiting.values()):
            if targets is None or entry[0] in targets:
                entry[1] = call_hooks(entry[0], entry[1], late)
        for keep_gradient, node, g in late:
            keep_gradient(node, g)
        late = g = entry = node = None  # type: ignore[assignment]
    while waiting:
        leaf, g, _ = waiting.popitem()[1]
        if sink is not None:
            sink(leaf, g)
            if special:
                call_leaf_hooks(leaf)
        elif targets is None or leaf in targets:
            found[leaf] = g
    return found


def _wait(
    waiting: dict[Any, list[Any]], heap: list[int], node: Node, g: Any, arithmetic: Any
) -> None:
    """Let a node wait with its gradient, or add that to what waits for it already."""
    entry = waiting.get(node.seq)
    if entry is None:
        waiting[node.seq] = [node, g, False]
        heappush(heap, node.seq)
    else:
        _merge(entry, g, arithmetic)


def _merge(entry: list[Any], g: Any, arithmetic: Any) -> None:
    """Add a gradient to a waiting one, in a buffer that the pass owns."""
    if entry[2]:
        entry[1] = arithmetic.add_into(entry[1], g)
    else:
        entry[1] = arithmetic.add(entry[1], g)
        entry[2] = True


def _towards(roots: Iterable[Any], targets: Collection[Any]) -> set[Node]:
    """The nodes that have a target among their ancestors."""
    needed: set[Node] = set()
    order, _ = topological(roots)
    for node in reversed(order):
        if any(p in targets or p in needed for p in node.parents if p is not None):
            needed.add(node)
    return needed


def call_hooks(node: Any, g: Any, late: list[tuple[Any, Any, Any]]) -> Any:
    """The gradient as the hooks of a node (its op has them) or of a leaf leave it; an op that
    keeps it is entered in `late`."""
    keep = None
    if isinstance(node, Node):
        own, keep = getattr(node.op, "hooks", None), getattr(node.op, "keep", None)
    else:
        own = node.__dict__.get("_hooks")
    for _, hook in sorted((own or {}).items()):
        g = hook(g)
    if keep is not None:
        late.append((keep, node, g))
    return g


def call_leaf_hooks(leaf: Any) -> None:
    """Tell the hooks of a leaf that it has received its gradient."""
    for hook in list(leaf.__dict__.get("_leaf_hooks", {}).values()):
        hook(leaf)
