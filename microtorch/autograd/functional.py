"""Jacobians, Hessians, and their products with vectors, of a function of tensors."""

from collections.abc import Callable
from typing import Any

from ..functions.cat import stack
from ..functions.creation import zeros_like
from ..tensor import Tensor
from .backward import grad
from .modes import enable_grad, is_grad_enabled, set_grad_enabled

Tensors = tuple[Tensor, ...]
STRICT = "This is not allowed in strict mode"


def _as_tuple(value: Any, argument: str, function: str) -> tuple[bool, Tensors]:
    """Whether it is a tuple, and the tuple.

    Raises:
        TypeError: for what is neither a Tensor nor a tuple of Tensors.
    """
    several = isinstance(value, tuple)
    for k, x in enumerate(value if several else (value,)):
        if not isinstance(x, Tensor):
            where = f"value at index {k}" if several else f"given {argument}"
            raise TypeError(
                f"The {argument} given to {function} must be either a Tensor or a tuple of Tensors "
                f"but the {where} has type {type(x)}."
            )
    return several, value if several else (value,)


def _prepared(inputs: Tensors, create_graph: bool, need_graph: bool) -> Tensors:
    """New tensors for the inputs: those that the function captured besides are not they."""
    return tuple(
        x.view_as(x)  # type: ignore[attr-defined]
        if create_graph and x.requires_grad
        else x.detach().requires_grad_(need_graph)
        for x in inputs
    )


def _finished(values: Any, create_graph: bool) -> Any:
    if create_graph:
        return values
    if isinstance(values, Tensor):
        return values.detach()
    return tuple(_finished(v, create_graph) for v in values)


def _called(
    func: Callable[..., Any], inputs: Tensors, function: str, strict: bool
) -> tuple[bool, Tensors]:
    several, outputs = _as_tuple(func(*inputs), "outputs of the user-provided function", function)
    _require_grad(outputs, "outputs", strict)
    return several, outputs


_INDEPENDENT = {
    "outputs": "Output {} of the user-provided function does not require gradients. The outputs "
    "must be computed in a differentiable manner from the input when running in strict mode.",
    "grad_inputs": "The gradient with respect to input {} is independent of the inputs of the "
    f"user-provided function. {STRICT}.",
    "jacobian": "While computing the hessian, found that the jacobian of the user-provided "
    f"function with respect to input {{}} is independent of the input. {STRICT}. You should ensure "
    "that your function is twice differentiable and that the jacobian depends on the inputs (this "
    "would be violated by a linear function for example).",
    "hessian": "The hessian of the user-provided function with respect to input {} is independent "
    f"of the input. {STRICT}. You should ensure that your function is thrice differentiable and "
    "that the hessian depends on the inputs.",
}
_NO_GRADIENT = {
    "back": f"The output of the user-provided function is independent of input {{}}. {STRICT}.",
    "back_trick": "The gradient with respect to the input is independent of entry {} in the "
    "grad_outputs when using the double backward trick to compute forward mode gradients. "
    f"{STRICT}.",
    "double_back": "The jacobian of the user-provided function is independent of input {}. "
    f"{STRICT}.",
    "double_back_trick": "The hessian of the user-provided function is independent of entry {} in "
    f"the grad_jacobian. {STRICT} as it prevents from using the double backward trick to replace "
    "forward mode AD.",
}


def _require_grad(values: Any, kind: str, strict: bool) -> None:
    """In strict mode, refuse what does not depend on the inputs."""
    for k, x in enumerate(values if strict else ()):
        if x is None:
            raise RuntimeError(_NO_GRADIENT["back"].format(k))
        if not x.requires_grad:
            raise RuntimeError(_INDEPENDENT[kind].format(k))


def _gradients(
    outputs: Any, inputs: Tensors, vectors: Any, create_graph: bool, keep: bool | None = None
) -> tuple[Any, ...]:
    """As `grad`, None for all inputs where no output requires grad."""
    vectors = (None,) * len(outputs) if vectors is None else vectors
    pairs = [
        (x, v) for x, v in zip(outputs, vectors, strict=True) if x is not None and x.requires_grad
    ]
    if not pairs:
        return (None,) * len(inputs)
    roots, given = zip(*pairs, strict=True)
    return grad(roots, inputs, given, keep, create_graph, allow_unused=True)


def _filled(
    grads: tuple[Any, ...], like: Tensors, strict: bool, create_graph: bool, stage: str
) -> Tensors:
    """Zeros where there is no gradient, which strict mode refuses."""
    found: list[Tensor] = []
    for k, (g, x) in enumerate(zip(grads, like, strict=True)):
        if g is None and strict:
            raise RuntimeError(_NO_GRADIENT[stage].format(k))
        if g is not None and strict and create_graph and not g.requires_grad:
            what = "hessian" if "double" in stage else "jacobian"
            raise RuntimeError(
                f"The {what} of the user-provided function is independent of input {k}. {STRICT} "
                "when create_graph=True."
            )
        found.append(zeros_like(x) if g is None else g)
    return tuple(found)


def _vector(v: Any, like: Tensors, several: bool, function: str, create_graph: bool) -> Tensors:
    """The vector, checked beside what it is multiplied with."""
    _, vectors = _as_tuple(v, "v", function)
    vectors = _prepared(vectors, create_graph, False)
    if len(like) != len(vectors):
        if several:
            raise RuntimeError(
                f"v is a tuple of invalid length: should be {len(like)} but got {len(vectors)}."
            )
        raise RuntimeError("The given v should contain a single Tensor.")
    for k, (x, other) in enumerate(zip(vectors, like, strict=True)):
        if x.shape != other.shape:
            entry = f"Entry {k} in " if several else ""
            raise RuntimeError(
                f"{entry}v has invalid size: should be {other.shape} but got {x.shape}."
            )
    return vectors


def _single_element(values: Tensors, message: str) -> None:
    if len(values) != 1 or values[0].numel() != 1:
        raise RuntimeError(message)


def vjp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """`(func(inputs), v @ Jacobian)`; v has the shapes of the outputs."""
    with enable_grad():
        several, inputs = _as_tuple(inputs, "inputs", "vjp")
        inputs = _prepared(inputs, create_graph, True)
        several_out, outputs = _called(func, inputs, "vjp", strict)
        if v is not None:
            v = _vector(v, outputs, several_out, "vjp", create_graph)
        else:
            _single_element(
                outputs,
                "The vector v can only be None if the user-provided function returns a single "
                "Tensor with a single element.",
            )
    with set_grad_enabled(create_graph or is_grad_enabled()):
        grads = _gradients(outputs, inputs, v, create_graph)
        found = _filled(grads, inputs, strict, create_graph, "back")
    return _both(outputs, several_out, found, several, create_graph)


def jvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """`(func(inputs), Jacobian @ v)`, by two backward passes; v has the shapes of the inputs."""
    with enable_grad():
        several, inputs = _as_tuple(inputs, "inputs", "jvp")
        inputs = _prepared(inputs, create_graph, True)
        if v is not None:
            v = _vector(v, inputs, several, "jvp", create_graph)
        else:
            _single_element(
                inputs,
                "The vector v can only be None if the input to the user-provided function is a "
                "single Tensor with a single element.",
            )
        several_out, outputs = _called(func, inputs, "jvp", strict)
        # The first backward is linear in these, so their value does not matter.
        dummies = tuple(zeros_like(x, requires_grad=True) for x in outputs)
        grads = _gradients(outputs, inputs, dummies, True)
        _require_grad(grads, "grad_inputs", strict)
    with set_grad_enabled(create_graph or is_grad_enabled()):
        grads = _gradients(grads, dummies, v, create_graph)
        found = _filled(grads, outputs, strict, create_graph, "back_trick")
    return _both(outputs, several_out, found, several_out, create_graph)


def _both(
    outputs: Tensors, several_out: bool, found: Tensors, several: bool, create_graph: bool
) -> tuple[Any, Any]:
    outputs, found = _finished(outputs, create_graph), _finished(found, create_graph)
    return outputs if several_out else outputs[0], found if several else found[0]


def _hessian_parts(
    function: str, func: Callable[..., Any], inputs: Any, v: Any, create_graph: bool, strict: bool
) -> tuple[bool, Tensors, Any, Tensors, tuple[Any, ...]]:
    """Inputs, the vector, the output and its gradients, for `vhp` and `hvp`."""
    several, inputs = _as_tuple(inputs, "inputs", function)
    inputs = _prepared(inputs, create_graph, True)
    if v is not None:
        v = _vector(v, inputs, several, function, create_graph)
    else:
        _single_element(
            inputs,
            "The vector v can only be None if the input to the user-provided function is a single "
            "Tensor with a single element.",
        )
    several_out, outputs = _called(func, inputs, function, strict)
    if several_out:
        raise RuntimeError(f"The function given to {function} should return a single Tensor")
    _single_element(
        outputs,
        f"The Tensor returned by the function given to {function} should contain a single element",
    )
    first = _gradients(outputs, inputs, None, True)
    _require_grad(first, "jacobian", strict)
    return several, inputs, v, outputs, first


def vhp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """`(func(inputs), v @ Hessian)` of a function with one element as its result."""
    with enable_grad():
        several, inputs, v, outputs, first = _hessian_parts(
            "vhp", func, inputs, v, create_graph, strict
        )
    with set_grad_enabled(create_graph or is_grad_enabled()):
        grads = _gradients(first, inputs, v, create_graph)
        found = _filled(grads, inputs, strict, create_graph, "double_back")
    return _both(outputs, False, found, several, create_graph)


def hvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """`(func(inputs), Hessian @ v)` of a function with one element as its result."""
    with enable_grad():
        several, inputs, v, outputs, first = _hessian_parts(
            "hvp", func, inputs, v, create_graph, strict
        )
        dummies = tuple(zeros_like(x, requires_grad=True) for x in inputs)
        second = _gradients(first, inputs, dummies, True)
        _require_grad(first, "hessian", strict)
    with set_grad_enabled(create_graph or is_grad_enabled()):
        grads = _gradients(second, dummies, v, create_graph)
        found = _filled(grads, inputs, strict, create_graph, "double_back_trick")
    return _both(outputs, False, found, several, create_graph)


def _check_strategy(strategy: str, text: str) -> None:
    if strategy not in ("forward-mode", "reverse-mode"):
        raise AssertionError(text)
    if strategy == "forward-mode":
        raise NotImplementedError(
            'forward-mode automatic differentiation is not there: use strategy="reverse-mode"'
        )


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """Derivatives of all outputs in all inputs: `result[i][j]` has the shape of output i followed
    by that of input j; without tuples where func takes or gives a single Tensor.

    vectorize: accepted; the rows are computed one by one.
    """
    _check_strategy(
        strategy,
        'Expected strategy to be either "forward-mode" or "reverse-mode". Hint: If your function '
        'has more outputs than inputs, "forward-mode" tends to be more performant. Otherwise, '
        'prefer to use "reverse-mode".',
    )
    with enable_grad():
        several, inputs = _as_tuple(inputs, "inputs", "jacobian")
        inputs = _prepared(inputs, create_graph, True)
        several_out, outputs = _called(func, inputs, "jacobian", strict)
        if vectorize and strict:
            raise RuntimeError(
                "torch.autograd.functional.jacobian: `strict=True` and `vectorized=True` are not "
                "supported together. Please either set `strict=False` or `vectorize=False`."
            )
        found = tuple(_rows(k, x, inputs, create_graph, strict) for k, x in enumerate(outputs))
    found = _finished(found, create_graph)
    if not several:
        found = tuple(of_output[0] for of_output in found)
    return found if several_out else found[0]


def _rows(k: int, output: Tensor, inputs: Tensors, create_graph: bool, strict: bool) -> Tensors:
    """The Jacobian of one output in each input."""
    rows: list[list[Tensor]] = [[] for _ in inputs]
    flat = output.reshape(-1)  # type: ignore[attr-defined]
    for j in range(output.numel()):
        grads = _gradients((flat[j],), inputs, None, create_graph, True)
        for number, (row, g, x) in enumerate(zip(rows, grads, inputs, strict=True)):
            if strict and g is None:
                raise RuntimeError(
                    f"Output {k} of the user-provided function is independent of input {number}. "
                    f"{STRICT}."
                )
            if strict and create_graph and not g.requires_grad:
                raise RuntimeError(
                    f"The jacobian of the user-provided function is independent of input {k}. "
                    f"{STRICT} when create_graph=True."
                )
            row.append(zeros_like(x) if g is None else g)
    return tuple(
        (stack(row) if row else x.new_zeros(0)).reshape(output.shape + x.shape)  # type: ignore[attr-defined]
        for row, x in zip(rows, inputs, strict=True)
    )


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Second derivatives of a function with one element as its result: `result[i][j]` in inputs
    i and j; without tuples where func takes a single Tensor."""
    several, inputs = _as_tuple(inputs, "inputs", "hessian")
    _check_strategy(
        outer_jacobian_strategy,
        'Expected strategy to be either "forward-mode" or "reverse-mode".',
    )

    def single(*values: Tensor) -> Tensor:
        several_out, outputs = _called(func, values, "hessian", strict)
        if several_out:
            raise RuntimeError("The function given to hessian should return a single Tensor")
        _single_element(
            outputs,
            "The Tensor returned by the function given to hessian should contain a single element",
        )
        return outputs[0].squeeze()  # type: ignore[attr-defined,no-any-return]

    def gradients(*values: Tensor) -> Tensors:
        found: Tensors = jacobian(single, values, create_graph=True)
        _require_grad(found, "jacobian", strict)
        return found

    found = jacobian(gradients, inputs, create_graph, strict, vectorize)
    return found if several else found[0][0]
