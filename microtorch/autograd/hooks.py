"""Hooks of tensors and nodes: functions that see, and may replace, gradients on their way."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..graph.hooks import HookDict, RemovableHandle, add
from ..graph.node import LEAF, Node, mode
from ..tensor import Tensor, wrap
from .function import OutputNode, Parts


def _with_mode(function: Callable[[], Any], enabled: bool) -> Any:
    before = mode.enabled
    mode.enabled = enabled
    try:
        return function()
    finally:
        mode.enabled = before


def _name(hook: Any) -> str:
    return getattr(hook, "__name__", str(hook))


def _call(hook: Callable[[Tensor], Any], g: Any) -> Any:
    """The gradient, or what the hook gives in its place; g is an array or a Tensor.

    Raises:
        TypeError: if the hook gives neither None nor a Tensor.
        RuntimeError: if what it gives has another shape or dtype.
    """
    seen = g if isinstance(g, Tensor) else wrap(g)
    found = _with_mode(lambda: hook(seen), seen is g)
    if found is None:
        return g
    if not isinstance(found, Tensor):
        raise TypeError(f"expected Variable, but hook returned '{type(found).__name__}'")
    _check_same(hook, seen, found)
    return found if seen is g else found._array


def _check_same(hook: Any, before: Tensor, after: Tensor) -> None:
    if after.dtype is not before.dtype:
        raise RuntimeError(
            f"hook '{_name(hook)}' has changed the type of value (was {before.type()} got "
            f"{after.type()})"
        )
    if after.shape != before.shape:
        raise RuntimeError(f"hook '{_name(hook)}' has changed the size of value")


def register_hook(self: Tensor, hook: Callable[[Tensor], Any]) -> RemovableHandle:
    """Call `hook(grad)` whenever a gradient of this tensor is computed; it may give another.

    Raises:
        RuntimeError: if the tensor does not require grad.
    """
    if self._node is None:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    return add(_hooks_of(self), lambda g: _call(hook, g))


def _hooks_of(x: Tensor) -> HookDict:
    """The hooks of a tensor's gradient: at the op of its node, or at the leaf."""
    if x._node is LEAF:
        found: HookDict = x.__dict__.setdefault("_hooks", HookDict())
        return found
    return _with_hooks(x._node).hooks


def _with_hooks(node: Node) -> "HookedOp":
    """The op of a node, which can have hooks from now on."""
    if not isinstance(node.op, HookedOp):
        node.op = HookedOp(node.op)
    return node.op


def register_post_accumulate_grad_hook(
    self: Tensor, hook: Callable[[Tensor], None]
) -> RemovableHandle:
    """Call `hook(tensor)` whenever a gradient has been added to the `.grad` of this leaf.

    Raises:
        RuntimeError: if the tensor does not require grad, or is no leaf.
    """
    if self._node is None:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    if self._node is not LEAF:
        raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
    hooks = self.__dict__.setdefault("_leaf_hooks", HookDict())
    return add(hooks, lambda leaf: _with_mode(lambda: hook(leaf), False))


def retain_grad(self: Tensor) -> None:
    """Keep the gradient of this non-leaf at the next backward.

    Raises:
        RuntimeError: if the tensor does not require grad.
    """
    node = self._node
    if node is None:
        raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
    if node is LEAF or "_retains_grad" in self.__dict__:
        return
    self.__dict__["_retains_grad"] = _Retained(self)


class _Retained:
    """Keeps the gradients of a tensor, which an in-place change moves to another node."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = weakref.ref(tensor)
        self.enter(tensor)

    def enter(self, tensor: Tensor) -> None:
        """Keep the gradients of the tensor's present node."""
        self.op = _with_hooks(tensor._node)
        self.op.kept[id(self)] = self
        self.op.keep = self.op.keep_gradient

    def follow(self, tensor: Tensor) -> None:
        """Leave the earlier node of the tensor for its present one."""
        self.op.kept.pop(id(self))
        if not tensor.is_leaf:
            self.enter(tensor)

    def __call__(self, g: Any) -> None:
        tensor = self.tensor()
        if tensor is not None:
            found = g if isinstance(g, Tensor) else wrap(np.array(g))
            tensor._grad = found if tensor._grad is None else tensor._grad + found


class HookedOp:
    """The op of one node, with hooks of its result's gradient, and before and after it."""

    def __init__(self, op: Any) -> None:
        self.op = op
        self.hooks = HookDict()
        self.kind = getattr(op, "kind", None)
        self.saves_result = op.saves_result
        self.before: dict[int, Callable[..., Any]] = {}
        self.after: dict[int, Callable[..., Any]] = {}
        # What keeps the gradient, and the function for the engine where something does.
        self.kept = HookDict()
        self.keep: Any = getattr(op, "keep", None)

    def keep_gradient(self, node: Node, g: Any) -> None:
        """Hand the gradient, as all hooks have left it, to what keeps it."""
        for keep in list(self.kept.values()):
            keep(g)

    def backward(self, node: Node, g: Any) -> tuple[Any, ...]:
        """Gradients of the parents, as arrays."""
        if not (self.before or self.after):
            return self.op.backward(node, g)  # type: ignore[no-any-return]
        grads = _outputs(node, g)
        seen = [None if a is None else wrap(a) for a in grads]
        given = _with_mode(lambda: _replaced(self.before, seen), False)
        g = _like(g, [None if t is None else t._array for t in given])
        found = [None if a is None else wrap(a) for a in self.op.backward(node, g)]
        left = _with_mode(lambda: _replaced(self.after, found, given), False)
        return tuple([None if t is None else t._array for t in left])

    def differentiate(self, node: Node, g: Any) -> tuple[Any, ...]:
        """Gradients of the parents, as Tensors with a history."""
        if not (self.before or self.after):
            return self.op.differentiate(node, g)  # type: ignore[no-any-return]
        given = _replaced(self.before, _outputs(node, g))
        found = self.op.differentiate(node, _like(g, given))
        return tuple(_replaced(self.after, found, given))


def _outputs(node: Any, g: Any) -> list[Any]:
    """A gradient an output of the node."""
    return [g.get(k) for k in range(len(node.outputs))] if isinstance(g, Parts) else [g]


def _like(g: Any, grads: Any) -> Any:
    """Gradients of the outputs, in the form that the node's op takes."""
    if isinstance(g, Parts):
        return Parts((k, d) for k, d in enumerate(grads) if d is not None)
    return grads[0]


def _replaced(hooks: dict[int, Callable[..., Any]], values: Any, *more: Any) -> tuple[Any, ...]:
    """Values as the hooks leave them: each gives None, or as many values as it was given."""
    values = tuple(values)
    for hook in list(hooks.values()):
        found = hook(values, *map(tuple, more))
        if found is None:
            continue
        found = found if isinstance(found, tuple) else (found,)
        if len(found) != len(values):
            raise RuntimeError(
                f"hook '{_name(hook)}' has returned an incorrect number of values (got "
                f"{len(found)}, but expected {len(values)})"
            )
        for before, after in zip(values, found, strict=True):
            if before is None and after is not None:
                raise RuntimeError("can't replace a None gradient with a non-None value")
            if after is not None:
                _check_same(hook, before, after)
        values = found
    return values


def _hooked(node: Any) -> HookedOp:
    return _with_hooks(node.parents[0] if isinstance(node, OutputNode) else node)


def register_prehook(self: Node, fn: Callable[..., Any]) -> RemovableHandle:
    """Call `fn(grad_outputs)` before the node runs; it may give others."""
    return add(_hooked(self).before, fn)


def register_node_hook(self: Node, fn: Callable[..., Any]) -> RemovableHandle:
    """Call `fn(grad_inputs, grad_outputs)` after the node has run; it may give other inputs'."""
    return add(_hooked(self).after, fn)


Tensor.register_hook = register_hook  # type: ignore[attr-defined]
Tensor.register_post_accumulate_grad_hook = register_post_accumulate_grad_hook  # type: ignore[attr-defined]
Tensor.retain_grad = retain_grad  # type: ignore[attr-defined]
Node.register_hook = register_node_hook  # type: ignore[attr-defined]
Node.register_prehook = register_prehook  # type: ignore[attr-defined]
