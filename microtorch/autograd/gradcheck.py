"""`gradcheck`: gradients beside small differences of the values."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from .backward import grad

Array = np.ndarray[Any, Any]


class GradcheckError(RuntimeError):
    """Gradients are not what differences of the values say."""


def _as_tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)


def _differentiable(values: Any) -> list[Tensor]:
    return [v for v in _as_tuple(values) if isinstance(v, Tensor) and v.requires_grad]


def _check_inputs(inputs: tuple[Any, ...]) -> None:
    if not _differentiable(inputs):
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them "
            "have requires_grad=True."
        )
    for k, x in enumerate(inputs):
        if not isinstance(x, Tensor) or not x.requires_grad:
            continue
        if x._array.dtype != np.float64:
            warnings.warn(
                f"Input #{k} requires gradient and is not a double precision floating point or "
                "complex. This check will likely fail if all the inputs are not of double "
                "precision floating point or complex. ",
                stacklevel=4,
            )
        if any(s == 0 and n > 1 for s, n in zip(x._array.strides, x.shape, strict=True)):
            raise RuntimeError(
                f"The {k}th input has a dimension with stride 0. gradcheck only supports inputs "
                "that are non-overlapping to be able to compute the numerical gradients "
                "correctly. You should call .contiguous on the input before passing it to "
                "gradcheck."
            )


def _numerical(
    func: Callable[..., Any], inputs: tuple[Any, ...], x: Tensor, eps: float
) -> list[Array]:
    """An array an output: row i holds its differences in element i of x."""

    def values() -> list[Array]:
        found = _as_tuple(func(*inputs))
        return [v._array.ravel().copy() for v in found if isinstance(v, Tensor)]

    array = x._array
    rows: list[list[Array]] = []
    for place in np.ndindex(array.shape):
        before = array[place].copy()
        try:
            array[place] = before - eps
            low = values()
            array[place] = before + eps
            high = values()
        finally:
            array[place] = before
        rows.append([(b - a) / (2 * eps) for a, b in zip(low, high, strict=True)])
    if not rows:
        return [np.zeros((0, v.size)) for v in values()]
    return [np.stack(of_output) for of_output in zip(*rows, strict=True)]


def _analytical(output: Tensor, inputs: list[Tensor], check_dtypes: bool) -> list[Array]:
    """An array an input: column j holds the gradient of element j of the output."""
    found = [np.zeros((x.numel(), output.numel()), x._array.dtype, like=x._array) for x in inputs]
    for j in range(output.numel()):
        seed = np.zeros(output.numel(), output._array.dtype, like=output._array)
        seed[j] = 1
        vector = wrap(seed.reshape(output.shape))
        grads = grad(output, inputs, vector, retain_graph=True, allow_unused=True)
        for jacobian, g, x in zip(found, grads, inputs, strict=True):
            if g is None:
                continue
            if check_dtypes and g._array.dtype != x._array.dtype:
                raise GradcheckError("Gradient has dtype mismatch")
            if g.shape != x.shape:
                raise GradcheckError("Analytical gradient has incorrect size")
            jacobian[:, j] = g._array.ravel()
    return found


def _check_reentrant(first: list[Array], second: list[Array], tolerance: float) -> None:
    for a, b in zip(first, second, strict=True):
        if a.size and not np.abs(a - b).max() <= tolerance:
            raise GradcheckError(
                "Backward is not reentrant, i.e., running backward with same input and "
                "grad_output multiple times gives different values, although analytical gradient "
                "matches numerical gradient."
                f"The tolerance for nondeterminism was {tolerance}."
            )


def _check_zero_gradient(outputs: list[Tensor], inputs: list[Tensor]) -> None:
    zeros = [wrap(np.zeros_like(v._array)) for v in outputs]
    for g in grad(outputs, inputs, zeros, retain_graph=True, allow_unused=True):
        if g is not None and (g._array != 0).any():
            raise GradcheckError("backward not multiplied by grad_output")


def _check_outputs_alone(func: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    """Backward from each output alone: the gradients of the others are not there."""
    count = len(_differentiable(func(*inputs)))
    for k in range(count if count > 1 else 0):
        output = _differentiable(func(*inputs))[k]
        zero = wrap(np.zeros_like(output._array))
        try:
            grads = grad(output, _differentiable(inputs), zero, allow_unused=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise GradcheckError(
                "Expected backward function to handle undefined output grads."
            ) from error
        if any(g is not None and (g._array != 0).any() for g in grads):
            raise GradcheckError(
                "Expected all input grads to be undefined or zero when all output grads are "
                "undefined or zero."
            )


def _check(
    func: Callable[..., Any],
    inputs: tuple[Any, ...],
    eps: float,
    atol: float,
    rtol: float,
    nondet_tol: float,
    check_undefined_grad: bool,
    check_grad_dtypes: bool,
) -> None:
    _check_inputs(inputs)
    wanted = _differentiable(inputs)
    results = [v for v in _as_tuple(func(*inputs)) if isinstance(v, Tensor)]
    numerical = [_numerical(func, inputs, x, eps) for x in wanted]
    outputs = _differentiable(results)
    if not outputs and any((n != 0).any() for of_input in numerical for n in of_input):
        raise GradcheckError("Numerical gradient for function expected to be zero")
    for k, output in enumerate(outputs):
        place = next(i for i, r in enumerate(results) if r is output)
        found = _analytical(output, wanted, check_grad_dtypes)
        _check_reentrant(found, _analytical(output, wanted, False), nondet_tol)
        for j, analytical in enumerate(found):
            expected = numerical[j][place]
            if not np.allclose(analytical, expected, rtol, atol):
                raise GradcheckError(
                    f"Jacobian mismatch for output {k} with respect to input {j},\n"
                    f"numerical:{wrap(expected)}\nanalytical:{wrap(analytical)}\n"
                )
    if outputs:
        _check_zero_gradient(outputs, wanted)
        if check_undefined_grad:
            _check_outputs_alone(func, inputs)


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Whether the gradients of func in the inputs that require grad are what central differences
    with step eps give, within `atol + rtol * |difference|`. Inputs should be float64.

    fast_mode, masked: accepted; the whole Jacobian is compared always.

    Raises:
        GradcheckError: naming output and input, unless raise_exception is False.
        ValueError: if no input requires grad.
    """
    try:
        _check(
            func, _as_tuple(inputs), eps, atol, rtol, nondet_tol, check_undefined_grad,
            check_grad_dtypes,
        )  # fmt: skip
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """As gradcheck, of the gradients of func, in the inputs and in grad_outputs.

    grad_outputs: drawn from -1 to 1 if not given.

    Raises:
        As gradcheck.
    """
    given = _as_tuple(inputs)
    if grad_outputs is None:
        numbers = np.random.default_rng(0)
        vectors: tuple[Any, ...] = tuple(
            wrap(numbers.uniform(-1, 1, v.shape).astype(v._array.dtype)).requires_grad_()
            for v in _differentiable(func(*given))
        )
        if gen_non_contig_grad_outputs:
            for v in vectors:
                v._array = np.repeat(v._array[..., None], 2, -1)[..., 0]
    else:
        vectors = _as_tuple(grad_outputs)

    def gradients(*operands: Any) -> tuple[Any, ...]:
        own, seeds = operands[: len(given)], operands[len(given) :]
        wanted = _differentiable(own)
        outputs = _differentiable(func(*own))
        found = grad(outputs, wanted, seeds, create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    return gradcheck(
        gradients, given + vectors, eps=eps, atol=atol, rtol=rtol,
        raise_exception=raise_exception, nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad, check_grad_dtypes=check_grad_dtypes,
    )  # fmt: skip
