"""Norms of vectors and matrices, distances, and what singular values tell."""

import math
from typing import Any

import numpy as np

from ..errors import argument_error
from ..kernels import cpu
from ..tensor import Tensor, normal_dim, normal_dims, wrap
from .affine import cross as cross_
from .arguments import need_tensor
from .convert import cast, where
from .decompose import LeastSquares, check_matrices, inv, svdvals
from .elementwise import FUNCTIONS
from .names import function, public
from .op import Rule, deliver, record
from .product import matmul
from .reduce import amax, amin
from .reduce import sum as sum_
from .strided import movedim
from .view import squeeze, unsqueeze

Dims = int | tuple[int, ...] | None


def _floating(name: str, x: Tensor, dtype: Any) -> Tensor:
    if dtype is not None:
        x = cast(x, dtype)
    if not x.is_floating_point():
        raise RuntimeError(
            f"linalg.{name}: Expected a floating point or complex tensor as input. Got "
            f"{x.dtype.short}"
        )
    return x


def vector_norm(
    x: Tensor, ord: Any = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(sum |x|^ord)^(1 / ord) over dims, or over all; the largest |x| for inf, the count for 0.

    The gradient at 0 is 0.
    """
    need_tensor("linalg_vector_norm", x, "self")
    if not isinstance(ord, (int, float)):
        raise argument_error("linalg_vector_norm", "ord", 2, "Number", ord)
    x = _floating("vector_norm", x, dtype)
    dims = normal_dims(dim, x.ndim)
    if ord < 0 or ord == math.inf:
        if x._array.size == 0 and any(x._array.shape[d] == 0 for d in dims):
            raise RuntimeError(
                f"linalg.vector_norm cannot compute the {ord} norm on an empty tensor because the "
                "operation does not have an identity"
            )
    return deliver(_vector_norm(x, float(ord), dims, keepdim), out)


def _vector_norm(x: Tensor, p: float, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    size = FUNCTIONS["abs"](x)
    if math.isinf(p):
        return (amax if p > 0 else amin)(size, dims, keepdim)
    if p == 0:
        return sum_(FUNCTIONS["mul"](FUNCTIONS["sign"](size), 1.0), dims, keepdim)
    if p == 1:
        return sum_(size, dims, keepdim)
    if p == 2:
        return _root(sum_(FUNCTIONS["square"](x), dims, keepdim), 0.5)
    if p > 0:
        # 0 has no derivative where p < 1; what is 0 counts as constant.
        zero = FUNCTIONS["eq"](size, 0)
        powers = where(zero, 0.0, FUNCTIONS["pow_number"](where(zero, 1.0, size), p))
    else:
        powers = FUNCTIONS["pow_number"](size, p)
    return _root(sum_(powers, dims, keepdim), 1 / p)


def _root(total: Tensor, exponent: float) -> Tensor:
    """total to a power, with derivative 0 at 0."""
    zero = FUNCTIONS["eq"](total, 0)
    if not cpu.any_true(zero._array):
        return _power(total, exponent)
    return where(zero, 0.0 if exponent > 0 else math.inf, _power(where(zero, 1.0, total), exponent))


def _power(x: Tensor, exponent: float) -> Tensor:
    return FUNCTIONS["sqrt"](x) if exponent == 0.5 else FUNCTIONS["pow_number"](x, exponent)


def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """'fro', 'nuc' (sum of singular values), 2 (the largest), 1 and inf (largest column or row
    sum), or the smallest of each by -2, -1, -inf.

    Raises:
        RuntimeError: for another ord, or other than two different dims.
    """
    need_tensor("linalg_matrix_norm", A, "self")
    A = _floating("matrix_norm", A, dtype)
    if A.ndim < 2:
        raise RuntimeError(
            "linalg.matrix_norm: The input tensor A must have at least 2 dimensions."
        )
    if not isinstance(dim, (tuple, list)) or len(dim) != 2:
        raise RuntimeError(f"linalg.matrix_norm: dim must be a 2-tuple. Got {dim}")
    rows, columns = (normal_dim(d, A.ndim) for d in dim)
    if rows == columns:
        raise RuntimeError(f"linalg.matrix_norm: dims must be different. Got ({dim[0]}, {dim[1]})")
    if ord == "fro":
        z = _vector_norm(A, 2.0, (rows, columns), True)
    elif ord in (1, -1, math.inf, -math.inf):
        inner, other = (rows, columns) if abs(ord) == 1 else (columns, rows)
        sums = sum_(FUNCTIONS["abs"](A), inner, keepdim=True)
        z = (amax if ord > 0 else amin)(sums, other, keepdim=True)
    elif ord in ("nuc", 2, -2):
        values = svdvals(movedim(A, (rows, columns), (-2, -1)))
        z = sum_(values, -1) if ord == "nuc" else (amax if ord > 0 else amin)(values, -1)
        for d in sorted((rows, columns)):
            z = unsqueeze(z, d)
    else:
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    return deliver(z if keepdim else squeeze(z, (rows, columns)), out)


def norm(
    A: Tensor, ord: Any = None, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`vector_norm`, or `matrix_norm` for two dims, or for a matrix with an ord and no dim.

    Raises:
        RuntimeError: for an ord without dim and another number of dimensions than 1 or 2.
    """
    need_tensor("linalg_norm", A)
    if isinstance(dim, (tuple, list)) and len(dim) not in (1, 2):
        raise RuntimeError(
            f"linalg.norm: If dim is specified, it must be of length 1 or 2. Got {list(dim)}"
        )
    if dim is None and ord is not None and A.ndim not in (1, 2):
        raise RuntimeError(
            "linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got "
            f"{A.ndim}D."
        )
    two = A.ndim == 2 if dim is None else not isinstance(dim, int) and len(dim) == 2
    if isinstance(ord, str) or (ord is not None and two):
        dims = (-2, -1) if dim is None else dim
        return matrix_norm(A, ord, dims, keepdim, dtype=dtype, out=out)
    return vector_norm(A, 2 if ord is None else ord, dim, keepdim, dtype=dtype, out=out)


@function()
def cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:  # fmt: skip
    """Distances by the p-norm of every row of x1 (*, n, k) from every row of x2 (*, m, k)."""
    for position, x in enumerate((x1, x2), 1):
        need_tensor("cdist", x, f"x{position}", position)
        if x.ndim < 2:
            raise RuntimeError(
                f"cdist only supports at least 2D tensors, X{position} got: {x.ndim}D"
            )
    n, m = x1._array.shape[-1], x2._array.shape[-1]
    if n != m:
        raise RuntimeError(f"X1 and X2 must have the same number of columns. X1: {n} X2: {m}")
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")
    difference = FUNCTIONS["sub"](unsqueeze(x1, -2), unsqueeze(x2, -3))
    if difference._array.size == 0:
        return sum_(difference, -1)
    return vector_norm(difference, p, -1)


# ------------------------------------------------------------- by singular values
def cond(A: Tensor, p: Any = None, *, out: Tensor | None = None) -> Tensor:
    """Condition numbers: |A| |A^-1| by a matrix norm, by default 2."""
    check_matrices("cond", A, square=p not in (None, 2, -2))
    if p in (None, 2, -2):
        values = svdvals(A)
        largest, smallest = amax(values, -1), amin(values, -1)
        ratio = (smallest, largest) if p == -2 else (largest, smallest)
        return deliver(FUNCTIONS["div"](*ratio), out)
    return deliver(FUNCTIONS["mul"](matrix_norm(A, p), matrix_norm(inv(A), p)), out)


def matrix_rank(A: Tensor, *, tol: float | None = None, hermitian: bool = False) -> Tensor:
    """How many singular values are larger than tol, by default max(n, m) * eps * the largest."""
    check_matrices("matrix_rank", A, argument="input")
    return wrap(np.asarray(np.linalg.matrix_rank(A._array, tol)))


def _pinv_rule(F: Any, g: Any, _: Any, x: Any, z: Any) -> tuple[Any, ...]:
    """Golub and Pereyra (SIAM J. Numer. Anal. 10, 1973), for a constant rank."""
    zt, gt = F.mT(z), F.mT(g)
    inner = F.neg(F.matmul(F.matmul(zt, g), zt))
    right = F.matmul(F.matmul(gt, z), zt)
    right = F.add(right, F.neg(F.matmul(x, F.matmul(z, right))))
    left = F.matmul(F.matmul(zt, z), gt)
    left = F.add(left, F.neg(F.matmul(F.matmul(left, z), x)))
    return (F.add(inner, F.add(right, left)),)


PINV = Rule("LinalgPinvBackward0", _pinv_rule, True)


@public("pinverse")
def pinv(A: Tensor, rtol: float | None = None) -> Tensor:
    """Pseudoinverses; singular values up to rtol of the largest, by default max(n, m) * eps, count
    as 0."""
    check_matrices("pinv", A)
    return record(PINV, cpu.pinv(A._array, rtol), (A,), (A, ...))


def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """The x that minimizes |A @ x - B|, for B (*, n, k), or vectors (*, n).

    The solution is the pseudoinverse's. Residuals and singular values are left empty.
    """
    for name, x in (("input", A), ("other", B)):
        need_tensor("linalg_lstsq", x, name)
    if A.ndim < 2:
        raise RuntimeError("torch.linalg.lstsq: input must have at least 2 dimensions.")
    check_matrices("lstsq", A)
    vector = B.ndim == A.ndim - 1
    if A._array.shape[-2] != B._array.shape[-1 if vector else -2]:
        raise RuntimeError(
            f"torch.linalg.lstsq: input.size(-2) should match other.size({-1 if vector else -2})"
        )
    solution = matmul(pinv(A, rcond), unsqueeze(B, -1) if vector else B)
    empty = np.empty(0, A._array.dtype, like=A._array)
    rank = np.asarray(np.linalg.matrix_rank(A._array, rtol=rcond))
    return LeastSquares(
        (squeeze(solution, -1) if vector else solution, wrap(empty), wrap(rank), wrap(empty.copy()))
    )


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1, out: Tensor | None = None) -> Tensor:
    """Products of x and y summed over a dimension."""
    return deliver(sum_(FUNCTIONS["mul"](x, y), dim), out)


def cross(input: Tensor, other: Tensor, *, dim: int = -1, out: Tensor | None = None) -> Tensor:
    """Cross products of vectors of length 3 along dim."""
    return cross_(input, other, dim, out=out)
