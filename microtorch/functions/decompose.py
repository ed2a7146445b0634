"""Inverses, determinants and decompositions of matrices (*, n, m).

The rules of decompositions compute them again in backward: so they differentiate to any order
without results that refer to each other.
"""

import functools
from typing import Any

import numpy as np

from ..graph.node import mode as grad_mode
from ..kernels import cpu
from ..tensor import Tensor, wrap
from .arguments import int_of, need_tensor
from .cat import cat
from .convert import clone, where
from .elementwise import FUNCTIONS
from .names import METHODS, PUBLIC, public
from .op import Array, Rule, deliver, primitive, record
from .op import tensors as primitives
from .product import matmul
from .results import named
from .view import expand, matrix_transpose, narrow, squeeze, unsqueeze

primitives.given = wrap
SlogDet = named("linalg_slogdet", "sign", "logabsdet")
Eigh = named("linalg_eigh", "eigenvalues", "eigenvectors")
SVD = named("linalg_svd", "U", "S", "Vh")
QR = named("linalg_qr", "Q", "R")
LeastSquares = named("linalg_lstsq", "solution", "residuals", "rank", "singular_values")


def check_matrices(name: str, x: Any, square: bool = False, argument: str = "A") -> None:
    """Refuse what are no matrices of floats.

    Raises:
        TypeError: for what is no Tensor.
        RuntimeError: for fewer than two dimensions, other dtypes, or not square matrices.
    """
    need_tensor(name, x, argument)
    if x.ndim < 2:
        raise RuntimeError(
            f"linalg.{name}: The input tensor {argument} must have at least 2 dimensions."
        )
    if square and x._array.shape[-1] != x._array.shape[-2]:
        n, m = x._array.shape[-2:]
        raise RuntimeError(
            f"linalg.{name}: {argument} must be batches of square matrices, but they are {n} by "
            f"{m} matrices"
        )
    if not x.is_floating_point():
        raise RuntimeError(
            f"linalg.{name}: Expected a floating point or complex tensor as input. Got "
            f"{x.dtype.short}"
        )
    if x._array.dtype == np.float16:
        raise RuntimeError(
            f"linalg.{name}: Low precision dtypes not supported. Got {x.dtype.short}"
        )


def _number_per_matrix(F: Any, g: Any, x: Any) -> Any:
    return F.reshape(g, (*x.shape[:-2], 1, 1))


def _inv_rule(F: Any, g: Any, _: Any, z: Any) -> tuple[Any, ...]:
    turned = F.mT(z)
    return (F.neg(F.matmul(F.matmul(turned, g), turned)),)


def _det_rule(F: Any, g: Any, _: Any, x: Any) -> tuple[Any, ...]:
    return (F.mul(_number_per_matrix(F, g, x), F.cofactors(x)),)


def _logabsdet_rule(F: Any, g: Any, _: Any, x: Any) -> tuple[Any, ...]:
    return (F.mul(_number_per_matrix(F, g, x), F.mT(F.inv(x))),)


def _solve_rule(F: Any, g: Any, _: Any, a: Any, z: Any) -> tuple[Any, ...]:
    db = F.solve(F.mT(a), g)
    return F.neg(F.matmul(db, F.mT(z))), db


def _cholesky_rule(F: Any, g: Any, _: Any, z: Any) -> tuple[Any, ...]:
    """Murray, arXiv:1602.07527: with P = tril(L^T G), diagonal halved, S = L^-T P L^-1, made
    symmetric."""
    turned = F.mT(z)
    half = F.mapped(F.matmul(turned, g), (_half_diagonal, _half_diagonal))
    inner = F.solve(turned, F.mT(F.solve(turned, F.mT(half))))
    return (F.mul(F.add(inner, F.mT(inner)), 0.5),)


def _half_diagonal(a: Array) -> Array:
    low = np.tril(a)
    n = np.arange(a.shape[-1])
    low[..., n, n] *= 0.5
    return low


INV = Rule("LinalgInvExBackward0", _inv_rule, True)
DET = Rule("LinalgDetBackward0", _det_rule)
SIGN = Rule("LinalgSlogdetBackward0", lambda F, g, const: (None,))
LOGABSDET = Rule("LinalgSlogdetBackward0", _logabsdet_rule)
SOLVE = Rule("LinalgSolveExBackward0", _solve_rule, True)
CHOLESKY = Rule("LinalgCholeskyExBackward0", _cholesky_rule, True)


@primitive
def inv(A: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Inverses of square matrices.

    Raises:
        LinAlgError: for a singular matrix.
    """
    check_matrices("inv", A, True)
    return deliver(record(INV, cpu.inv(A._array), (A,), (...,)), out)


PUBLIC["inverse"] = METHODS["inverse"] = inv


@public()
def det(A: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Determinants of square matrices."""
    check_matrices("det", A, True)
    with np.errstate(all="ignore"):
        array = np.asarray(np.linalg.det(A._array))
    return deliver(record(DET, array, (A,), (A,)), out)


@primitive
def cofactors(x: Tensor) -> Tensor:
    """Derivatives of the determinants; beyond the first derivative x must not be singular."""
    if x._node is None or not grad_mode.enabled:
        return wrap(cpu.cofactors(x._array))
    scale = unsqueeze(unsqueeze(det(x), -1), -1)
    return FUNCTIONS["mul"](scale, matrix_transpose(inv(x)))


@public()
def slogdet(A: Tensor) -> Any:
    """Signs and logarithms of the absolute values of determinants; (0, -inf) where singular."""
    check_matrices("slogdet", A, True)
    with np.errstate(all="ignore"):
        sign, logabs = map(np.asarray, np.linalg.slogdet(A._array))
    return SlogDet((record(SIGN, sign, (A,)), record(LOGABSDET, logabs, (A,), (A,))))


@public()
def logdet(input: Tensor) -> Tensor:
    """Logarithms of determinants; nan where they are negative."""
    sign, logabs = slogdet(input)
    if not cpu.any_true(sign._array < 0):
        return logabs
    return where(sign < 0, float("nan"), logabs)


@primitive
def solve(A: Tensor, B: Tensor, *, left: bool = True, out: Tensor | None = None) -> Tensor:
    """The x with A @ x = B, or x @ A = B if not left; B is a vector, or matrices (*, n, k).

    Raises:
        LinAlgError: for a singular A.
        RuntimeError: for shapes that do not fit.
    """
    check_matrices("solve", A, True)
    need_tensor("solve", B, "B", 2)
    if A._array.dtype != B._array.dtype:
        raise RuntimeError(
            "linalg.solve: Expected A and B to have the same dtype, but found A of type "
            f"{A.dtype.short} and B of type {B.dtype.short} instead"
        )
    vector = B.ndim == 1 or (A.ndim - 1 == B.ndim and A._array.shape[:-1] == B._array.shape)
    if vector:
        B = unsqueeze(B, -1)
    elif not left:
        A, B = matrix_transpose(A), matrix_transpose(B)
    a, b = A._array.shape, B._array.shape
    if a[-1] != b[-2]:
        equation = "AX = B" if left else "XA = B"
        rows, others = (b[-2], b[-1]) if left else (b[-1], b[-2])
        raise RuntimeError(
            f"linalg.solve: Incompatible shapes of A and B for the equation {equation} "
            f"({a[-2]}x{a[-1]} and {rows}x{others})"
        )
    try:
        lead = np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        raise RuntimeError(
            f"linalg.solve: The batch dimensions of A and B, {list(a[:-2])} and {list(b[:-2])}, "
            "cannot be broadcast"
        ) from None
    x = _solve(expand(A, (*lead, *a[-2:])), expand(B, (*lead, *b[-2:])))
    if vector:
        return deliver(squeeze(x, -1), out)
    return deliver(x if left else matrix_transpose(x), out)


def _solve(A: Tensor, B: Tensor) -> Tensor:
    return record(SOLVE, cpu.solve(A._array, B._array), (A, B), (A, ...))


@public()
def cholesky(input: Tensor, upper: bool = False, *, out: Tensor | None = None) -> Tensor:
    """Lower triangular L with L @ L^T = input, or the upper L^T; input is positive-definite.

    Raises:
        LinAlgError: if it is not.
    """
    check_matrices("cholesky", input, True)
    z = record(CHOLESKY, cpu.cholesky(input._array), (input,), (...,))
    return deliver(clone(matrix_transpose(z)) if upper else z, out)


@public()
def matrix_power(input: Tensor, n: int, *, out: Tensor | None = None) -> Tensor:
    """Square matrices to an integer power; negative powers are those of the inverse.

    Raises:
        LinAlgError: for a negative power of a singular matrix.
    """
    need_tensor("matrix_power", input)
    power = int_of("matrix_power", n, "n", 2)
    if input.is_floating_point() or power < 0:
        check_matrices("matrix_power", input, True)
    if power < 0:
        input, power = inv(input), -power
    if power == 0:
        one = np.broadcast_to(np.eye(input._array.shape[-1], like=input._array), input._array.shape)
        return deliver(wrap(one.astype(input._array.dtype)), out)
    result = None
    while power:
        if power & 1:
            result = input if result is None else matmul(result, input)
        power >>= 1
        if power:
            input = matmul(input, input)
    assert result is not None
    return deliver(clone(result) if result is input else result, out)


# ------------------------------------------------------------------------ decompositions
def _column(F: Any, x: Any) -> Any:
    return F.reshape(x, (*x.shape, 1))


def _row(F: Any, x: Any) -> Any:
    return F.reshape(x, (*x.shape[:-1], 1, x.shape[-1]))


@functools.lru_cache(maxsize=64)
def _eye(n: int, dtype: Any) -> Any:
    """The unit matrix, read-only."""
    made = np.eye(n, dtype=dtype)
    made.flags.writeable = False
    return made


def _gaps(F: Any, values: Any) -> Any:
    """values[j] - values[i], and 1 on the diagonal."""
    n = values.shape[-1]
    dtype = F.numpy_dtype(values)
    gaps = F.add(_row(F, values), F.neg(_column(F, values)))
    return F.add(gaps, F.given(_eye(n, dtype)))


def _eigenvalues_rule(F: Any, g: Any, _: Any, x: Any) -> tuple[Any, ...]:
    _, v = F.eigh(x)
    return (F.matmul(F.mul(v, _row(F, g)), F.mT(v)),)


def _skew(F: Any, x: Any) -> Any:
    return F.add(x, F.neg(F.mT(x)))


def _eigenvectors_rule(F: Any, g: Any, _: Any, x: Any) -> tuple[Any, ...]:
    values, v = F.eigh(x)
    inner = F.div(F.mul(_skew(F, F.matmul(F.mT(v), g)), 0.5), _gaps(F, values))
    return (F.matmul(F.matmul(v, inner), F.mT(v)),)


EIGENVALUES = Rule("LinalgEighBackward0", _eigenvalues_rule)
EIGENVECTORS = Rule("LinalgEighBackward0", _eigenvectors_rule)


@primitive
def eigh(A: Tensor, UPLO: str = "L") -> Any:
    """Eigenvalues in ascending order and eigenvectors, as columns, of symmetric matrices.

    The lower triangle is read, or with UPLO="U" the upper one. A gradient that depends on the
    signs of eigenvectors, or on those of equal eigenvalues, is meaningless.
    """
    check_matrices("eigh", A, True)
    if UPLO not in ("L", "U"):
        raise RuntimeError(f"Expected UPLO argument to be 'L' or 'U', but got {UPLO}")
    if UPLO == "U":
        A = matrix_transpose(A)
    values, vectors = cpu.eigh(A._array)
    found = (record(EIGENVALUES, values, (A,), (A,)), record(EIGENVECTORS, vectors, (A,), (A,)))
    return Eigh(found)


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues of symmetric matrices, in ascending order."""
    return eigh(A, UPLO).eigenvalues


def _reduced(F: Any, x: Any, full: bool) -> tuple[Any, Any, Any]:
    """The decomposition that gave the result, without the vectors beyond the singular values."""
    u, s, vh = F.svd(x, full)
    last, count = len(x.shape) - 1, s.shape[-1]
    return F.narrow(u, last, 0, count), s, F.narrow(vh, last - 1, 0, count)


def _vectors_gradient(F: Any, g: Any, u: Any, s: Any, vh: Any) -> Any:
    """The gradient of the matrix from that of its left singular vectors."""
    g = F.narrow(g, len(g.shape) - 1, 0, s.shape[-1])
    product = F.matmul(F.mT(u), g)
    inner = F.mul(F.div(_skew(F, product), _gaps(F, F.mul(s, s))), _row(F, s))
    # The part of g outside the space of the vectors.
    outside = F.div(F.add(g, F.neg(F.matmul(u, product))), _row(F, s))
    return F.matmul(F.add(F.matmul(u, inner), outside), vh)


def _u_rule(F: Any, g: Any, full: bool, x: Any) -> tuple[Any, ...]:
    return (_vectors_gradient(F, g, *_reduced(F, x, full)),)


def _s_rule(F: Any, g: Any, full: bool, x: Any) -> tuple[Any, ...]:
    u, _, vh = _reduced(F, x, full)
    return (F.matmul(F.mul(u, _row(F, g)), vh),)


def _vh_rule(F: Any, g: Any, full: bool, x: Any) -> tuple[Any, ...]:
    u, s, vh = _reduced(F, x, full)
    return (F.mT(_vectors_gradient(F, F.mT(g), F.mT(vh), s, F.mT(u))),)


SINGULAR = [Rule("LinalgSvdBackward0", rule) for rule in (_u_rule, _s_rule, _vh_rule)]


@primitive
def svd(A: Tensor, full_matrices: bool = True) -> Any:
    """U, S, Vh with U @ diag(S) @ Vh = A, S descending; U and Vh are square or, reduced, fitting.

    A gradient that depends on the signs of singular vectors, or on those of equal singular values,
    is meaningless.
    """
    check_matrices("svd", A)
    arrays = cpu.svd(A._array, full_matrices)
    found = [
        record(op, a, (A,), (A,), full_matrices) for op, a in zip(SINGULAR, arrays, strict=True)
    ]
    return SVD(found)


def svdvals(A: Tensor) -> Tensor:
    """Singular values, in descending order."""
    return svd(A, False).S


def _copy_low(a: Array) -> Array:
    return np.tril(a) + np.tril(a, -1).swapaxes(-1, -2)


def _sum_low(a: Array) -> Array:
    return np.tril(a) + np.tril(a.swapaxes(-1, -2), -1)


def _qr_gradient(F: Any, q: Any, r: Any, product: Any, g: Any) -> tuple[Any, ...]:
    """(g + q copy(product)) r^-T, where copy mirrors the lower triangle."""
    mirrored = F.matmul(q, F.mapped(product, (_copy_low, _sum_low)))
    total = mirrored if g is None else F.add(mirrored, g)
    return (F.mT(F.solve(r, F.mT(total))),)


def _q_rule(F: Any, g: Any, _: Any, x: Any) -> tuple[Any, ...]:
    q, r = F.qr(x)
    return _qr_gradient(F, q, r, F.neg(F.matmul(F.mT(g), q)), g)


def _r_rule(F: Any, g: Any, _: Any, x: Any) -> tuple[Any, ...]:
    q, r = F.qr(x)
    return _qr_gradient(F, q, r, F.matmul(r, F.mT(g)), None)


Q_RULE, R_RULE = Rule("LinalgQrBackward0", _q_rule), Rule("LinalgQrBackward0", _r_rule)


@primitive
def qr(A: Tensor, mode: str = "reduced") -> Any:
    """Q with orthonormal columns and triangular R with Q @ R = A; Q is empty in the mode 'r'.

    Raises:
        RuntimeError: for another mode, and for a gradient that is not defined: of the mode 'r',
            and of 'complete' for more rows than columns.
    """
    check_matrices("qr", A)
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(
            f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), "
            "'r', or 'complete'"
        )
    n, m = A._array.shape[-2:]
    if mode == "r" or (mode == "complete" and n > m):
        if A._node is not None and grad_mode.enabled:
            raise RuntimeError(f"The QR decomposition is not differentiable when mode='{mode}'")
        q, r = cpu.qr(A._array, mode)
        return QR((wrap(q), wrap(r)))
    if n < m:
        # The first n columns fix Q.
        first, rest = narrow(A, -1, 0, n), narrow(A, -1, n, m - n)
        Q, R = qr(first)
        return QR((Q, cat([R, matmul(matrix_transpose(Q), rest)], -1)))
    q, r = cpu.qr(A._array)
    return QR((record(Q_RULE, q, (A,), (A,)), record(R_RULE, r, (A,), (A,))))
