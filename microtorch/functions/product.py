"""Matrix products: BLAS through NumPy, and the affine map built on it."""

import math
from typing import Any

import numpy as np

from ..errors import argument_error, broadcast_error
from ..kernels import cpu, gemm
from ..tensor import TENSORS, Tensor
from .elementwise import FUNCTIONS
from .names import public
from .op import Rule, deliver, record
from .view import expand, unsqueeze


def _mm_rule(F: Any, g: Any, _: Any, x: Any, y: Any) -> tuple[Any, ...]:
    return (
        None if y is None else F.matmul(g, F.mT(y)),
        None if x is None else F.matmul(F.mT(x), g),
    )


def _mv_rule(F: Any, g: Any, shapes: Any, x: Any, y: Any) -> tuple[Any, ...]:
    column = F.reshape(g, (*shapes[0][:-1], 1))
    return (
        None if y is None else F.mul(column, F.reshape(y, (1, shapes[1][0]))),
        None if x is None else F.reshape(F.matmul(F.mT(x), column), shapes[1]),
    )


def _dot_rule(F: Any, g: Any, _: Any, x: Any, y: Any) -> tuple[Any, ...]:
    return (None if y is None else F.mul(y, g), None if x is None else F.mul(x, g))


def _batched_rule(F: Any, g: Any, shapes: Any, x: Any, y: Any) -> tuple[Any, ...]:
    """A product over stacks of matrices; vectors were given a dimension of length 1."""
    x_shape, y_shape, x_matrix, y_matrix, matrix = shapes
    rows = F.reshape(g, matrix)
    dx = dy = None
    if y is not None:
        dx = F.matmul(rows, F.mT(F.reshape(y, y_matrix)))
        dx = F.reshape(F.sum_to(dx, x_matrix), x_shape)
    if x is not None:
        dy = F.matmul(F.mT(F.reshape(x, x_matrix)), rows)
        dy = F.reshape(F.sum_to(dy, y_matrix), y_shape)
    return dx, dy


def _linear_rule(F: Any, g: Any, const: Any, x: Any, weight: Any) -> tuple[Any, ...]:
    """(x W^T + b)' over all leading dimensions of x."""
    shape, out_features, with_bias = const
    if len(shape) == 2:
        return (
            None if weight is None else F.matmul(g, weight),
            None if x is None else F.matmul(F.mT(g), x),
            F.reduce("sum", g, (0,)) if with_bias else None,
        )
    rows = F.reshape(g, (-1, out_features))
    return (
        None if weight is None else F.reshape(F.matmul(rows, weight), shape),
        None if x is None else F.matmul(F.mT(rows), F.reshape(x, (-1, shape[-1]))),
        F.reduce("sum", rows, (0,)) if with_bias else None,
    )


MM = Rule("MmBackward0", _mm_rule)
MV = Rule("MvBackward0", _mv_rule)
DOT = Rule("DotBackward0", _dot_rule)
BATCHED = Rule("UnsafeViewBackward0", _batched_rule)
VM = Rule("SqueezeBackward4", _batched_rule)
ADDMM = Rule("AddmmBackward0", _linear_rule)
LINEAR_MM = Rule("MmBackward0", _linear_rule)
LINEAR_VIEW = Rule("ViewBackward0", _linear_rule)
LINEAR_UNSAFE_VIEW = Rule("UnsafeViewBackward0", _linear_rule)
LINEAR_SQUEEZE = Rule("SqueezeBackward4", _linear_rule)


_DTYPES = {
    (1, 1): "dot : expected both vectors to have same dtype, but found {A} and {B}",
    (2, 1): "addmv input tensors must have the same dtype, but got {B}, {A}, and {B}",
    (2, 2): "expected m1 and m2 to have the same dtype, but got: {a} != {b}",
}


_C_NAMES = {
    "Long": "long int",
    "Short": "short int",
    "Char": "signed char",
    "Byte": "unsigned char",
}


def _same_dtype(x: Tensor, y: Tensor, words: str) -> None:
    if x._array.dtype != y._array.dtype:
        a, b = x.dtype.short, y.dtype.short
        c, d = (_C_NAMES.get(name, name.lower()) for name in (a, b))
        raise RuntimeError(words.format(a=c, b=d, A=a, B=b))


def needs(x: Tensor, y: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What a product saves: each operand if the other one requires grad."""
    return (None if y._node is None else x, None if x._node is None else y)


def _check(name: str, x: Any, y: Any) -> None:
    if not isinstance(x, Tensor):
        raise argument_error(name, "input", 1, "Tensor", x)
    if not isinstance(y, Tensor):
        raise argument_error(name, "mat2" if name == "mm" else "other", 2, "Tensor", y)


@public()
def mm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Product of two matrices."""
    _check("mm", input, mat2)
    if input._array.ndim != 2:
        raise RuntimeError("self must be a matrix")
    if mat2._array.ndim != 2:
        raise RuntimeError("mat2 must be a matrix")
    return matmul(input, mat2, out=out)


@public()
def mv(input: Tensor, vec: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Product of a matrix and a vector."""
    if input._array.ndim != 2 or vec._array.ndim != 1:
        raise RuntimeError(
            f"vector + matrix @ vector expected, got 1, {input._array.ndim}, {vec._array.ndim}"
        )
    return matmul(input, vec, out=out)


@public()
def dot(input: Tensor, tensor: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Inner product of two vectors."""
    a, b = input._array, tensor._array
    if a.ndim != 1 or b.ndim != 1:
        raise RuntimeError(f"1D tensors expected, but got {a.ndim}D and {b.ndim}D tensors")
    if a.shape != b.shape:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor [{a.size}] and src [{b.size}] to have the "
            f"same number of elements, but got {a.size} and {b.size} elements respectively"
        )
    return matmul(input, tensor, out=out)


@public()
def bmm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Products of two stacks of matrices."""
    for name, x in (("batch1", input), ("batch2", mat2)):
        if x.ndim != 3:
            raise RuntimeError(f"{name} must be a 3D tensor")
    if input._array.shape[0] != mat2._array.shape[0]:
        a, b = input._array.shape, mat2._array.shape
        raise RuntimeError(
            "Expected size for first two dimensions of batch2 tensor to be: "
            f"[{a[0]}, {a[2]}] but got: [{b[0]}, {b[1]}]."
        )
    return matmul(input, mat2, out=out)


@public()
def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Product of vectors, matrices or stacks of matrices, which broadcast.

    Raises:
        RuntimeError: for 0-d operands, shapes that do not fit, or different dtypes.
    """
    if out is not None:
        return deliver(matmul(input, other), out)
    _check("matmul", input, other)
    a, b = input._array, other._array
    if not a.ndim or not b.ndim:
        raise RuntimeError(
            f"both arguments to matmul need to be at least 1D, but they are {a.ndim}D and {b.ndim}D"
        )
    if a.dtype is not b.dtype:
        _same_dtype(input, other, _DTYPES.get((a.ndim, b.ndim), _DTYPES[2, 2]))
    try:
        array = cpu.matmul(a, b)
    except ValueError:
        raise _shapes_error(a.shape, b.shape) from None
    ranks = (a.ndim, b.ndim)
    saved = needs(input, other)
    if ranks == (2, 2):
        return record(MM, array, (input, other), saved)
    if ranks == (2, 1):
        return record(MV, array, (input, other), saved, (a.shape, b.shape))
    if ranks == (1, 1):
        return record(DOT, np.asarray(array), (input, other), saved)
    x_matrix = a.shape if a.ndim > 1 else (1, *a.shape)
    y_matrix = b.shape if b.ndim > 1 else (*b.shape, 1)
    matrix = np.broadcast_shapes(x_matrix[:-2], y_matrix[:-2]) + (x_matrix[-2], y_matrix[-1])
    const = (a.shape, b.shape, x_matrix, y_matrix, matrix)
    return record(VM if ranks == (1, 2) else BATCHED, array, (input, other), saved, const)


def _shapes_error(a: tuple[int, ...], b: tuple[int, ...]) -> RuntimeError:
    if len(a) == 2 and len(b) == 1:
        return RuntimeError(f"size mismatch, got input ({a[0]}), mat ({a[0]}x{a[1]}), vec ({b[0]})")
    if len(a) == len(b) == 1:
        return RuntimeError(
            f"inconsistent tensor size, expected tensor [{a[0]}] and src [{b[0]}] to have the same "
            f"number of elements, but got {a[0]} and {b[0]} elements respectively"
        )
    if a[-1] == b[-min(2, len(b))]:
        return broadcast_error(a[:-2], b[:-2])
    if len(a) > 2 and len(b) > 2:
        return RuntimeError(
            "Expected size for first two dimensions of batch2 tensor to be: "
            f"[{math.prod(b[:-2])}, {a[-1]}] but got: [{math.prod(b[:-2])}, {b[-2]}]."
        )
    rows = math.prod(a[:-1])
    columns = b[-1] if len(b) > 1 else 1
    inner = b[-min(2, len(b))]
    return RuntimeError(
        f"mat1 and mat2 shapes cannot be multiplied ({rows}x{a[-1]} and {inner}x{columns})"
    )


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: input (*, in_features), weight (out_features, in_features), bias (out_features).

    Raises:
        RuntimeError: for shapes that do not fit or different dtypes.
    """
    if input.__class__ not in TENSORS and not isinstance(input, Tensor):
        raise argument_error("linear", "input", 1, "Tensor", input)
    a, w = input._array, weight._array
    if a.dtype is not w.dtype:
        _same_dtype(input, weight, "mat1 and mat2 must have the same dtype, but got {A} and {B}")
    shape = a.shape
    if not shape or shape[-1] != w.shape[1]:
        rows = math.prod(a.shape[:-1])
        last = a.shape[-1] if a.ndim else 1
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({rows}x{last} and "
            f"{w.shape[1]}x{w.shape[0]})"
        )
    if len(shape) == 2:
        # A small layer feels another call.
        array = np.dot(a, w.T) if a.size < gemm.FIRST else gemm.dot(a, w.T)
    else:
        # One product of all rows takes half the time of a stack of small ones.
        rows = gemm.dot(a.reshape(math.prod(shape[:-1]), shape[-1]), w.T)
        array = rows.reshape(*shape[:-1], len(w))
    if bias is None:
        op = LINEAR_MM if a.ndim == 2 else LINEAR_UNSAFE_VIEW if a.ndim > 2 else LINEAR_SQUEEZE
        return record(op, array, (input, weight), needs(input, weight), (shape, len(w), False))
    try:
        array = cpu.add_into(array, bias._array)
    except ValueError:
        expand(bias, math.prod(shape[:-1]), len(w))
        raise
    op = ADDMM if len(shape) == 2 else LINEAR_VIEW
    return record(op, array, (input, weight, bias), needs(input, weight), (shape, len(w), True))


@public()
def outer(input: Tensor, vec2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Every product of an element of input and one of vec2."""
    for name, x in (("self", input), ("vec2", vec2)):
        if x.ndim != 1:
            raise RuntimeError(f"outer: Expected 1-D argument {name}, but got {x.ndim}-D")
    return deliver(FUNCTIONS["mul"](unsqueeze(input, 1), vec2), out)
