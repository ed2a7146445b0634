"""How an op differentiates: once on arrays, once on Tensors for `create_graph`.

An op has two methods: `backward(node, g)` takes and gives arrays, `differentiate(node, g)`
Tensors that have a history themselves. `Rule` writes both as one function over primitives that
exist under the same names for arrays (`kernels.cpu`) and Tensors (`functions`). `record` puts a
result into the graph.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DIFFERENT_DEVICES, argument_error
from ..graph.node import LEAF, Node, clock, mode, next_seq
from ..kernels import cpu
from ..tensor import TENSORS, Tensor, changed, new, wrap

Array = np.ndarray[Any, Any]


class TensorPrimitives:
    """The primitives of `kernels.cpu` on Tensors; `functions` registers each here."""

    __slots__ = ("__dict__",)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no primitive {name} on Tensors")


tensors: Any = TensorPrimitives()


def primitive(f: Callable[..., Any]) -> Callable[..., Any]:
    """Enter a function among the primitives on Tensors, under its name."""
    setattr(tensors, f.__name__, f)
    return f


class Rule:
    """An op whose gradient is `rule(F, g, const, *saved)`, F the primitives to compute with.

    The rule gives one gradient per parent; `saved` are arrays where g is an array, Tensors where
    g is one. An op that saves its own result saves it last.
    """

    __slots__ = ("kind", "rule", "saves_result")

    def __init__(self, name: str, rule: Callable[..., tuple[Any, ...]], saves_result: bool = False):
        self.kind = name
        self.rule = rule
        self.saves_result = saves_result

    def backward(self, node: Node, g: Array) -> tuple[Any, ...]:
        """Gradients of the parents, as arrays."""
        if not node.saved:
            return self.rule(cpu, g, node.const)
        saved = [s._array if s.__class__ in TENSORS else s for s in node.saved]
        return self.rule(cpu, g, node.const, *saved)

    def differentiate(self, node: Node, g: Tensor) -> tuple[Any, ...]:
        """Gradients of the parents, as Tensors with a history."""
        return self.rule(tensors, g, node.const, *saved_tensors(node))


def saved_tensors(node: Node) -> list[Any]:
    """Saved values as Tensors: an input as it is, the result with its history, others plain."""
    found = [wrap(s) if isinstance(s, np.ndarray) else s for s in node.saved or ()]
    if node.op.saves_result:
        found[-1]._node = node
    return found


def record(
    op: Any, array: Array, inputs: tuple[Any, ...], saved: tuple[Any, ...] = (), const: Any = None
) -> Tensor:
    """The result of an op: in the graph if a Tensor of `inputs` requires grad and grad is on.

    saved: what backward needs, in the order of the rule; `...` stands for the result, last.
    """
    z = new(Tensor)
    z._array = array
    z._node = None
    if mode.enabled:
        parents, wanted = [], False
        for x in inputs:
            # Where its gradient goes, as in `edge`.
            if x is not None:
                node = x._node
                if node is not LEAF:
                    x = node
                wanted = wanted or node is not None
            parents.append(x)
        if wanted:
            z._node = node = new(Node)
            node.op = op
            node.seq = next_seq()
            node.parents = parents
            node.saved = (*saved[:-1], array) if op.saves_result else saved
            node.const = const
    return z  # type: ignore[no-any-return]


def need_tensor(name: str, argument: str, position: int, value: Any) -> None:
    """Refuse what is not a Tensor.

    Raises:
        TypeError: naming the function and its argument.
    """
    if not isinstance(value, Tensor):
        raise argument_error(name, argument, position, "Tensor", value)


def deliver(z: Tensor, out: Tensor | None) -> Tensor:
    """A result, written into `out` if that is given; `out` is resized where it must be.

    Raises:
        TypeError: if `out` is no Tensor.
        RuntimeError: if an argument requires grad, or `out` is elsewhere or of a lower category.
    """
    if out is None:
        return z
    if not isinstance(out, Tensor):
        raise TypeError(f"argument 'out' must be Tensor, not {type(out).__name__}")
    if mode.enabled and (out._node is not None or z._node is not None):
        raise RuntimeError(
            "functions with out=... arguments don't support automatic differentiation, but one of "
            "the arguments requires grad."
        )
    if z.device is not out.device:
        raise RuntimeError(DIFFERENT_DEVICES)
    if z.dtype.category > out.dtype.category:
        raise RuntimeError(
            f"result type {z.dtype.short} can't be cast to the desired output type "
            + out.dtype.short
        )
    if out._array.shape == z._array.shape:
        np.copyto(out._array, z._array, casting="unsafe")
    else:
        if out._array.size:
            warnings.warn(
                "An output with one or more elements was resized since it had shape "
                f"{list(out._array.shape)}, which does not match the required output shape "
                f"{list(z._array.shape)}. This behavior is deprecated, and in a future PyTorch "
                "release outputs will not be resized unless they have zero elements. You can "
                "explicitly reuse an out tensor t by resizing it, inplace, to zero elements with "
                "t.resize_(0).",
                stacklevel=3,
            )
        out._array = z._array.astype(out._array.dtype)
        clock.epoch += 1
    changed(out)
    return out
