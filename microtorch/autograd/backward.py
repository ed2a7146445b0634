"""`backward` and `grad`: the engine's roots, and where its results go."""

import sys
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..functions.op import tensors as primitives
from ..graph import engine
from ..graph.node import LEAF, Node, mode, next_change
from ..kernels import cpu
from ..tensor import Tensor, check_saved, edge, wrap

NO_GRAD = "element {} of tensors does not require grad and does not have a grad_fn"


class _OnArrays:
    add = staticmethod(cpu.add)
    add_into = staticmethod(cpu.add_into)
    check = staticmethod(check_saved)


class _OnTensors:
    check = staticmethod(check_saved)

    @staticmethod
    def add(a: Tensor, b: Tensor) -> Tensor:
        return a + b

    add_into = add


def _several(value: Any) -> list[Any]:
    return [value] if value is None or isinstance(value, (Tensor, Node)) else list(value)


def _first_gradient(output: Tensor, g: Any, number: int) -> Any:
    """The gradient of a root, given or 1.

    Raises:
        RuntimeError: for a root without grad, a missing gradient of a non-scalar, a wrong shape.
    """
    if output._node is None:
        raise RuntimeError(NO_GRAD.format(number))
    if g is None:
        if output._array.size != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        return np.ones(output._array.shape, output._array.dtype)
    if not isinstance(g, Tensor):
        raise TypeError(f"gradients can be either Tensors or None, but got {type(g).__name__}")
    if g._array.shape != output._array.shape:
        raise RuntimeError(
            f"Mismatch in shape: grad_output[{number}] has a shape of {g.shape} and "
            f"output[{number}] has a shape of {output.shape}."
        )
    return g


def _run(
    outputs: list[Tensor],
    gradients: list[Any],
    keep: bool,
    create_graph: bool,
    targets: Any,
) -> dict[Any, Any]:
    if len(gradients) != len(outputs):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(gradients)} gradients")
    arithmetic: Any = _OnTensors if create_graph else _OnArrays
    roots: dict[Any, Any] = {}
    for number, (output, given) in enumerate(zip(outputs, gradients, strict=True)):
        g = _first_gradient(output, given, number)
        if create_graph:
            g = g if isinstance(g, Tensor) else wrap(g)
            g = primitives.cast(g, output.dtype)
        elif isinstance(g, Tensor):
            g = g._array.astype(output._array.dtype, copy=False)
        place = edge(output)
        roots[place] = arithmetic.add(roots[place], g) if place in roots else g
    before = mode.enabled
    mode.enabled = create_graph
    try:
        return engine.run(roots, arithmetic, keep, create_graph, targets)
    finally:
        mode.enabled = before


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of `tensors` to the `.grad` of the leaves that they depend on.

    grad_tensors: a gradient for each tensor, of its shape; may be left out for single elements.
    inputs: accumulate into these tensors only.

    Raises:
        RuntimeError: as PyTorch, and nothing has been accumulated then.
    """
    outputs = _several(tensors)
    given = _several(grad_tensors) if grad_tensors is not None else [None] * len(outputs)
    targets = None
    if inputs is not None:
        wanted = _several(inputs)
        if not wanted:
            raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
        targets = {edge(t): t for t in wanted}
    if create_graph:
        warnings.warn(
            "Using backward() with create_graph=True will create a reference cycle between the "
            "parameter and its gradient which can cause a memory leak. We recommend using "
            "autograd.grad when creating the graph to avoid this. If you have to use this "
            "function, make sure to reset the .grad fields of your parameters to None after use "
            "to break the cycle and avoid the leak.",
            stacklevel=2,
        )
    keep = create_graph if retain_graph is None else retain_graph
    found = _run(outputs, given, keep, create_graph, targets)
    while found:
        place, g = found.popitem()
        if isinstance(place, Tensor):
            accumulate(place, g)
        elif targets is not None:
            accumulate(targets[place], g)


def accumulate(leaf: Tensor, g: Any) -> None:
    """Add a gradient to a leaf's, in place if there is one already.

    An array that nothing else refers to is taken over as it is; others are copied. A leaf that no
    longer requires grad gets none.
    """
    if leaf._node is None:
        return
    held = leaf._grad
    if g.__class__ is not np.ndarray:
        g = g if isinstance(g, Tensor) else wrap(np.asarray(g))
        leaf._grad = g if held is None else held + g
    elif held is None:
        own = g.base is None and sys.getrefcount(g) <= cpu.ALONE and g.flags.c_contiguous
        leaf._grad = wrap(g if own else np.array(g, order="C"))
    elif held._node is not None:
        leaf._grad = held + wrap(g)
    else:
        cpu.add_into(held._array, g)
        held._changes = next_change(held._changes)


_ONES = {dtype: cpu.constant(1, dtype) for dtype in map(np.dtype, ("f4", "f8"))}


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    is_grads_batched: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """Gradients of outputs with respect to inputs, as a tuple; no `.grad` is touched.

    Raises:
        RuntimeError: for inputs that do not require grad, or that outputs do not depend on
            (unless allow_unused, which gives None, or materialize_grads, which gives zeros).
    """
    roots, wanted = _several(outputs), _several(inputs)
    given = _several(grad_outputs) if grad_outputs is not None else [None] * len(roots)
    for number, root in enumerate(roots):
        if root._node is None:
            raise RuntimeError(NO_GRAD.format(number))
    for t in wanted:
        if t._node is None:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    keep = create_graph if retain_graph is None else retain_graph
    targets = {edge(t) for t in wanted}
    found = _run(roots, given, keep, create_graph, targets)
    results: list[Any] = []
    for number, t in enumerate(wanted):
        g = found.get(edge(t))
        if g is None and materialize_grads:
            g = np.zeros_like(t._array)
        elif g is None and not allow_unused:
            raise RuntimeError(
                f"The differentiated Tensor at index {number} appears to not have been used in "
                "the graph. Set allow_unused=True if this is the desired behavior."
            )
        results.append(wrap(np.array(g)) if isinstance(g, np.ndarray) else g)
    return tuple(results)


def tensor_backward(
    self: Tensor,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of this tensor to the `.grad` of the leaves that it depends on."""
    node = self._node
    if gradient is None and inputs is None and not create_graph and isinstance(node, Node):
        # The usual call, without what only the general one needs.
        array = self._array
        if array.ndim == 0 and node is not LEAF:
            roots = {node: _ONES[array.dtype]}
            engine.run(roots, _OnArrays, bool(retain_graph), sink=accumulate)
            return
    if gradient is not None and not isinstance(gradient, Tensor):
        if isinstance(gradient, (int, float)):
            raise TypeError(f"'{type(gradient).__name__}' object is not iterable")
        bad = gradient[0] if isinstance(gradient, (list, tuple)) and gradient else gradient
        raise TypeError(f"gradients can be either Tensors or None, but got {type(bad).__name__}")
    backward([self], [gradient], retain_graph, create_graph, inputs)


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
    self.__dict__["_retains_grad"] = True
    reference = weakref.ref(self)

    def keep(g: Any) -> Any:
        tensor = reference()
        if tensor is not None:
            found = g if isinstance(g, Tensor) else wrap(np.array(g))
            tensor._grad = found if tensor._grad is None else tensor._grad + found
        return g

    engine.hooks.setdefault(node, []).append(keep)


Tensor.backward = tensor_backward  # type: ignore[attr-defined]
Tensor.retain_grad = retain_grad  # type: ignore[attr-defined]
