"""Products that are added to something, scaled; products of vectors; chains of matrices."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import broadcast_error
from ..tensor import Tensor, normal_dim
from .arguments import need_tensor
from .cat import tensor_list
from .elementwise import FUNCTIONS
from .names import function, public
from .op import Rule, deliver, record
from .product import bmm, dot, matmul, mm, mv, outer
from .rearrange import roll
from .reduce import sum as sum_
from .view import expand, reshape, t, unsqueeze


def _affine_rule(F: Any, g: Any, const: Any, x: Any, y: Any) -> tuple[Any, ...]:
    """Gradients of beta * b + alpha * x @ y."""
    shape, beta, alpha = const
    of_product = g if alpha == 1 else F.mul(g, alpha)
    return (
        F.sum_to(g if beta == 1 else F.mul(g, beta), shape),
        None if y is None else F.matmul(of_product, F.mT(y)),
        None if x is None else F.matmul(F.mT(x), of_product),
    )


ADDMM = Rule("AddmmBackward0", _affine_rule)
BADDBMM = Rule("BaddbmmBackward0", _affine_rule)


def _numbers(input: Tensor, beta: Any, alpha: Any) -> tuple[Any, Any]:
    """The two scales, as integers beside integers."""
    if input.is_floating_point():
        return beta, alpha
    return int(beta), int(alpha)


def _combined(input: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    """beta * input + alpha * product; with beta 0 nothing of input counts, not even nan."""
    beta, alpha = _numbers(input, beta, alpha)
    _same_dtype(input, product)
    shape = product._array.shape
    z = product if alpha == 1 else FUNCTIONS["mul"](product, alpha)
    added = expand(input, shape)
    if beta == 0:
        return z
    return FUNCTIONS["add"](added if beta == 1 else FUNCTIONS["mul"](added, beta), z)


def _same_dtype(input: Tensor, other: Tensor) -> None:
    if input._array.dtype != other._array.dtype:
        raise RuntimeError(
            f"self and mat2 must have the same dtype, but got {input.dtype.short} and "
            f"{other.dtype.short}"
        )


def _sum_and_product(
    input: Tensor, x: Tensor, y: Tensor, beta: Any, alpha: Any, multiply: Any, op: Rule
) -> Tensor:
    product = multiply(x.detach(), y.detach())
    z = _combined(input.detach(), product, beta, alpha)
    beta, alpha = _numbers(input, beta, alpha)
    saved = (x if y._node is not None else None, y if x._node is not None else None)
    return record(op, z._array, (input, x, y), saved, (input._array.shape, beta, alpha))


@public(in_place=True)
def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """beta * input + alpha * mat1 @ mat2, of (n, m) and (m, p); input broadcasts to (n, p)."""
    for k, (name, x) in enumerate((("input", input), ("mat1", mat1), ("mat2", mat2)), 1):
        need_tensor("addmm", x, name, k)
        if name != "input" and x.ndim != 2:
            raise RuntimeError(f"{name} must be a matrix, got {x.ndim}-D tensor")
    return deliver(_sum_and_product(input, mat1, mat2, beta, alpha, mm, ADDMM), out)


@public(in_place=True)
def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """beta * input + alpha * batch1 @ batch2, of (b, n, m) and (b, m, p)."""
    for k, (name, x) in enumerate((("input", input), ("batch1", batch1), ("batch2", batch2)), 1):
        need_tensor("baddbmm", x, name, k)
    return deliver(_sum_and_product(input, batch1, batch2, beta, alpha, bmm, BADDBMM), out)


@public(in_place=True)
def addbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """beta * input + alpha * the sum of the products batch1[k] @ batch2[k]."""
    return deliver(_combined(input, sum_(bmm(batch1, batch2), 0), beta, alpha), out)


@public(in_place=True)
def addmv(
    input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """beta * input + alpha * mat @ vec, of (n, m) and (m)."""
    product = mv(mat, vec)
    if input.ndim > 1 or input._array.size not in (1, product._array.size):
        raise RuntimeError(
            f"size mismatch, got input ({input._array.size}), mat "
            f"({mat._array.shape[0]}x{mat._array.shape[1]}), vec ({vec._array.size})"
        )
    return deliver(_combined(input, product, beta, alpha), out)


@public(in_place=True)
def addr(
    input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """beta * input + alpha * the outer product of two vectors."""
    for name, x in (("vec1", vec1), ("vec2", vec2)):
        if x.ndim != 1:
            raise RuntimeError(f"addr: Expected 1-D argument {name}, but got {x.ndim}-D")
    return deliver(_combined(input, outer(vec1, vec2), beta, alpha), out)


# ----------------------------------------------------------------------------- of vectors
@public()
def vdot(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Inner product of two vectors."""
    return dot(input, other, out=out)


@public()
def inner(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Products summed over the last dimensions: (*a, n) and (*b, n) give (*a, *b).

    Raises:
        RuntimeError: if the last dimensions have different lengths.
    """
    need_tensor("inner", input)
    need_tensor("inner", other, "other", 2)
    a, b = input._array.shape, other._array.shape
    if not a or not b:
        return deliver(FUNCTIONS["mul"](input, other), out)
    if a[-1] != b[-1]:
        raise RuntimeError(
            "inner() the last dimension must match on both input tensors but got shapes "
            f"{list(a)} and {list(b)}"
        )
    rows = reshape(input, (math.prod(a[:-1]), a[-1]))
    columns = reshape(other, (math.prod(b[:-1]), b[-1]))
    return deliver(reshape(matmul(rows, t(columns)), a[:-1] + b[:-1]), out)


@public()
def ger(input: Tensor, vec2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Every product of an element of input and one of vec2."""
    return outer(input, vec2, out=out)


@public()
def cross(
    input: Tensor, other: Tensor, dim: int | None = None, *, out: Tensor | None = None
) -> Tensor:
    """Cross products of vectors of length 3 along dim, by default the first of that length.

    Raises:
        RuntimeError: for other lengths, or different numbers of dimensions.
    """
    need_tensor("cross", input)
    need_tensor("cross", other, "other", 2)
    if input.ndim != other.ndim:
        raise RuntimeError("linalg.cross: inputs must have the same number of dimensions.")
    try:
        shape = np.broadcast_shapes(input._array.shape, other._array.shape)
    except ValueError:
        raise broadcast_error(input._array.shape, other._array.shape) from None
    if dim is None:
        if 3 not in shape:
            raise RuntimeError("no dimension of size 3 in input")
        dim = shape.index(3)
    place = normal_dim(dim, input.ndim)
    lengths = [x._array.shape[place] if x.ndim else 1 for x in (input, other)]
    if lengths != [3, 3]:
        raise RuntimeError(
            f"linalg.cross: inputs dimension {dim} must have length 3. Got {lengths[0]} and "
            f"{lengths[1]}"
        )
    x, y = expand(input, shape), expand(other, shape)
    mul = FUNCTIONS["mul"]
    forth = mul(roll(x, -1, place), roll(y, -2, place))
    back = mul(roll(x, -2, place), roll(y, -1, place))
    return deliver(FUNCTIONS["sub"](forth, back), out)


# --------------------------------------------------------------------- chains of matrices
@function()
def chain_matmul(*matrices: Tensor, out: Tensor | None = None) -> Tensor:
    """Product of several matrices, in the order that costs least."""
    if len(matrices) == 1 and isinstance(matrices[0], (tuple, list)):
        matrices = tuple(matrices[0])
    for x in matrices:
        need_tensor("chain_matmul", x, "matrices")
        if x.ndim != 2:
            raise RuntimeError(f"Tensor dimension is {x.ndim}, expected 2 instead.")
    if len(matrices) == 1:
        return matrices[0]
    return multi_dot(matrices, out=out)


def multi_dot(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """Product of two or more matrices, in the order that costs least; vectors at the ends.

    Raises:
        RuntimeError: for fewer than two tensors, or shapes that do not fit.
    """
    parts = tensor_list("multi_dot", tensors)
    if len(parts) < 2:
        raise RuntimeError(f"multi_dot(): expected at least 2 tensors but got {len(parts)}")
    for x, where in ((parts[0], "the first tensor"), (parts[-1], "the last tensor")):
        if x.ndim not in (1, 2):
            raise RuntimeError(f"multi_dot(): {where} must be 1D or 2D but got {x.ndim}D")
    for k, x in enumerate(parts[1:-1], 1):
        if x.ndim != 2:
            raise RuntimeError(f"multi_dot(): tensor {k} must be 2D but got {x.ndim}D")
    ends = (parts[0].ndim, parts[-1].ndim)
    if ends[0] == 1:
        parts[0] = unsqueeze(parts[0], 0)
    if ends[1] == 1:
        parts[-1] = unsqueeze(parts[-1], 1)
    sizes = [x._array.shape for x in parts]
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        if a[1] != b[0]:
            raise RuntimeError(
                f"multi_dot(): tensors {k} and {k + 1} with shapes {list(a)} and {list(b)} cannot "
                "be multiplied"
            )
    product = _cheapest(parts, [sizes[0][0], *(s[1] for s in sizes)])
    shape = product._array.shape
    kept = [n for n, rank in zip(shape, ends, strict=True) if rank == 2]
    return deliver(reshape(product, kept), out)


def _cheapest(parts: list[Tensor], n: list[int]) -> Tensor:
    """The product by dynamic programming over where to split; n are the lengths between parts."""
    count = len(parts)
    cost: dict[tuple[int, int], tuple[int, int]] = {(k, k): (0, k) for k in range(count)}
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            cost[i, j] = min(
                (cost[i, s][0] + cost[s + 1, j][0] + n[i] * n[s + 1] * n[j + 1], s)
                for s in range(i, j)
            )

    def product(i: int, j: int) -> Tensor:
        if i == j:
            return parts[i]
        split = cost[i, j][1]
        return mm(product(i, split), product(split + 1, j))

    return product(0, count - 1)
