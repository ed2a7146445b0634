"""`backward` and `grad`: the engine's roots, and where its results go."""

import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..device import CPU
from ..errors import kind_of
from ..functions.cat import stack
from ..functions.op import Rule, record
from ..functions.op import tensors as primitives
from ..functions.overlap import check_repeated
from ..graph import engine
from ..graph.node import LEAF, Node, mode
from ..kernels import cpu
from ..tensor import Tensor, changed, check_saved, device_of, edge, wrap

COPY = Rule("CopyBackwards", lambda F, g, const: (g,))
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
        return np.ones(output._array.shape, output._array.dtype, like=output._array)
    if not isinstance(g, Tensor):
        raise TypeError(f"gradients can be either Tensors or None, but got {kind_of(g)}")
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
        if any(t._node is None for t in wanted):
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
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
    before = mode.enabled
    mode.enabled = create_graph
    try:
        while found:
            place, g = found.popitem()
            leaf = place if isinstance(place, Tensor) else targets[place] if targets else None
            if leaf is not None:
                accumulate(leaf, g)
                engine.call_leaf_hooks(leaf)
    finally:
        mode.enabled = before


def accumulate(leaf: Tensor, g: Any) -> None:
    """Add a gradient to a leaf's, in place if there is one already.

    An array that nothing else refers to is taken over as it is; others are copied. A leaf that no
    longer requires grad gets none.
    """
    if leaf._node is None:
        return
    held = leaf._grad
    if type(g) is not np.ndarray:
        g = _placed(g, leaf)
    if g.__class__ is not np.ndarray:
        g = g if isinstance(g, Tensor) else wrap(np.asarray(g))
        leaf._grad = record(COPY, g._array.copy(), (g,)) if held is None else held + g
    elif held is None:
        own = g.base is None and sys.getrefcount(g) <= cpu.ALONE
        own = own and g.flags.c_contiguous and g.flags.writeable
        leaf._grad = wrap(g if own else np.array(g, order="C"))
    else:
        a = held._array
        if 0 in a.strides:
            check_repeated(a)
        if g.size > cpu.LARGE:
            # A long loop lets other threads run, which may have the same leaf.
            with _adding:
                cpu.add_into(a, g)
        else:
            cpu.add_into(a, g)
        changed(held)


def _placed(g: Any, leaf: Tensor) -> Any:
    """A gradient where its leaf is: a number on the CPU may have met tensors on a GPU."""
    if isinstance(g, Tensor):
        return primitives.move(g, leaf.device)
    place = leaf.device
    return g if not isinstance(g, np.ndarray) or device_of(g) is place else cpu.move(g, place)


_adding = threading.Lock()
_ONES = {dtype: cpu.constant(1, dtype) for dtype in map(np.dtype, ("f4", "f8"))}


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """Gradients of outputs with respect to inputs, as a tuple; no `.grad` is touched.

    is_grads_batched: the first dimension of each of grad_outputs counts several of them; so does
    that of the results then.

    Raises:
        RuntimeError: for inputs that do not require grad, or that outputs do not depend on
            (unless allow_unused, which gives None, or materialize_grads, which gives zeros).
        ValueError: for materialize_grads together with allow_unused=False.
    """
    if materialize_grads and allow_unused is False:
        raise ValueError(
            "Expected allow_unused to be True or not passed when materialize_grads=True, but got: "
            "allow_unused=False."
        )
    if not only_inputs:
        warnings.warn(
            "only_inputs argument is deprecated and is ignored now (defaults to True). To "
            "accumulate gradient for other parts of the graph, please use "
            "torch.autograd.backward.",
            FutureWarning,
            stacklevel=2,
        )
    roots, wanted = _several(outputs), _several(inputs)
    if not wanted:
        raise RuntimeError("`inputs` argument to `grad()` cannot be empty.")
    for root in roots:
        if not isinstance(root, Tensor):
            raise AssertionError("Expected output to be a torch.Tensor")
    if is_grads_batched and grad_outputs is not None:
        return _batched(
            roots, wanted, _several(grad_outputs), retain_graph, create_graph,
            bool(allow_unused), materialize_grads,
        )  # fmt: skip
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
        g = g if g is None else _placed(g, t)
        results.append(wrap(np.array(g)) if isinstance(g, np.ndarray) else g)
    return tuple(results)


def _batched(
    roots: list[Tensor],
    wanted: list[Tensor],
    grad_outputs: list[Any],
    retain_graph: bool | None,
    create_graph: bool,
    *flags: bool,
) -> tuple[Any, ...]:
    """The gradients for each of a batch of grad_outputs, stacked."""
    for k, (root, g) in enumerate(zip(roots, grad_outputs, strict=False)):
        if g is not None and g.shape[1:] != root.shape:
            raise RuntimeError(
                "If `is_grads_batched=True`, we interpret the first dimension of each grad_output "
                "as the batch dimension. The sizes of the remaining dimensions are expected to "
                "match the shape of corresponding output, but a mismatch was detected: "
                f"grad_output[{k}] has a shape of {g.shape} and output[{k}] has a shape of "
                f"{root.shape}. If you only want some tensors in `grad_output` to be considered "
                "batched, consider using vmap."
            )
    keep = create_graph if retain_graph is None else retain_graph
    count = next((len(g) for g in grad_outputs if g is not None), 1)
    rows = [
        grad(
            roots,
            wanted,
            [g if g is None else g[k] for g in grad_outputs],
            keep or k + 1 < count,
            create_graph,
            allow_unused=flags[0],
            materialize_grads=flags[1],
        )
        for k in range(count)
    ]
    return tuple(None if column[0] is None else stack(column) for column in zip(*rows, strict=True))


def tensor_backward(
    self: Tensor,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of this tensor to the `.grad` of the leaves that it depends on."""
    node = self._node
    if inputs is None and not create_graph and node is not None and node is not LEAF:
        # The usual calls, without what only the general one needs.
        array = self._array
        g = None
        if gradient is None:
            g = _ONES[array.dtype].copy() if array.ndim == 0 else None
            if g is not None and device_of(array) is not CPU:
                g = cpu.move(g, device_of(array))
        elif gradient.__class__ is Tensor and gradient._array.dtype is array.dtype:
            g = gradient._array if gradient._array.shape == array.shape else None
        if g is not None:
            engine.run({node: g}, _OnArrays, bool(retain_graph), sink=accumulate)
            return
    if gradient is not None and not isinstance(gradient, Tensor):
        if isinstance(gradient, (int, float)):
            raise TypeError(f"'{type(gradient).__name__}' object is not iterable")
        bad = gradient[0] if isinstance(gradient, (list, tuple)) and gradient else gradient
        raise TypeError(f"gradients can be either Tensors or None, but got {kind_of(bad)}")
    backward([self], [gradient], retain_graph, create_graph, inputs)


Tensor.backward = tensor_backward  # type: ignore[attr-defined]
