"""Decompositions of matrices (*, n, m) by NumPy's LAPACK, with PyTorch's errors.

Results are column-major, as LAPACK leaves them.
"""

from typing import Any

import numpy as np

from ..errors import LinAlgError

__all__ = ["cholesky", "cofactors", "columns", "eigh", "inv", "pinv", "qr", "solve", "svd"]

Array = np.ndarray[Any, Any]


def columns(x: Array) -> Array:
    """The same matrices in column-major order."""
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)


def _batch(x: Array, fails: Any) -> tuple[str, int]:
    """Which matrix of a stack fails first, in words, and the number that `fails` gives for it."""
    stack = x.reshape(-1, *x.shape[-2:])
    k, number = next((k, fails(matrix)) for k, matrix in enumerate(stack) if fails(matrix))
    return ("" if x.ndim == 2 else f"(Batch element {k}): "), number


def _zero_pivot(x: Array) -> int:
    """The number of the first pivot of Gaussian elimination that is zero, from 1; 0 if none is."""
    a = x.copy()
    for k in range(len(a)):
        row = k + int(np.argmax(np.abs(a[k:, k])))
        if a[row, k] == 0:
            return k + 1
        a[[k, row]] = a[[row, k]]
        a[k + 1 :] -= np.outer(a[k + 1 :, k] / a[k, k], a[k])
    return 0


def _bad_minor(x: Array) -> int:
    """The order of the first leading minor that is not positive-definite; 0 if all are."""
    for k in range(1, len(x) + 1):
        try:
            np.linalg.cholesky(x[:k, :k])
        except np.linalg.LinAlgError:
            return k
    return 0


def inv(x: Array) -> Array:
    """Inverses.

    Raises:
        LinAlgError: for a singular matrix.
    """
    try:
        return columns(np.linalg.inv(x))
    except np.linalg.LinAlgError:
        where, k = _batch(x, lambda a: _zero_pivot(a) or len(a))
        raise LinAlgError(
            f"linalg.inv: {where}The diagonal element {k} is zero, the inversion could not be "
            "completed because the input matrix is singular."
        ) from None


def solve(a: Array, b: Array) -> Array:
    """The matrices x with a @ x = b.

    Raises:
        LinAlgError: for a singular a.
    """
    try:
        return columns(np.linalg.solve(a, b))
    except np.linalg.LinAlgError:
        where, _ = _batch(a, lambda m: _zero_pivot(m) or len(m))
        raise LinAlgError(
            f"torch.linalg.solve: {where}The solver failed because the input matrix is singular."
        ) from None


def cholesky(x: Array) -> Array:
    """The lower triangular matrices l with l @ l^T = x.

    Raises:
        LinAlgError: if x is not positive-definite.
    """
    try:
        return columns(np.linalg.cholesky(x))
    except np.linalg.LinAlgError:
        where, k = _batch(x, _bad_minor)
        raise LinAlgError(
            f"linalg.cholesky: {where}The factorization could not be completed because the input "
            f"is not positive-definite (the leading minor of order {k} is not positive-definite)."
        ) from None


def cofactors(x: Array) -> Array:
    """Derivatives of the determinants: det(x) inv(x)^T, defined for singular matrices too."""
    u, s, vh = np.linalg.svd(x)
    others = np.ones_like(s)
    for k in range(s.shape[-1]):
        others[..., k] = np.prod(np.delete(s, k, -1), axis=-1)
    sign = np.linalg.det(u) * np.linalg.det(vh)
    return np.asarray((u * (sign[..., None] * others)[..., None, :]) @ vh)


def eigh(x: Array) -> tuple[Array, Array]:
    """Eigenvalues in ascending order, and eigenvectors as columns, of symmetric matrices."""
    values, vectors = np.linalg.eigh(x)
    return values, columns(vectors)


def svd(x: Array, full: bool = False) -> tuple[Array, Array, Array]:
    """The decomposition u @ diag(s) @ vh, s descending; u and vh are square if full."""
    u, s, vh = np.linalg.svd(x, full_matrices=full)
    return columns(u), s, columns(vh)


def qr(x: Array, mode: Any = "reduced") -> tuple[Array, Array]:
    """Orthonormal columns q and triangular r with q @ r = x; q is empty in the mode "r"."""
    if mode == "r":
        r: Any = np.linalg.qr(x, "r")
        return np.empty(0, x.dtype, like=x), columns(r)
    q, r = np.linalg.qr(x, mode)
    return columns(q), columns(r)


def pinv(x: Array, rtol: float | None = None) -> Array:
    """Pseudoinverses; singular values up to rtol, by default max(n, m) * eps, of the largest
    count as 0."""
    if rtol is None:
        rtol = max(x.shape[-2:]) * float(np.finfo(x.dtype).eps)
    return np.linalg.pinv(x, rtol)
