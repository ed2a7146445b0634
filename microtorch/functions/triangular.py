"""Triangular systems, and the eigenvalues that only complex numbers can hold."""

from typing import Any, NoReturn

from ..tensor import Tensor
from .arguments import need_tensor
from .decompose import solve
from .op import deliver
from .ranges import eye
from .rearrange import tril, triu


def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The X with A @ X = B, or X @ A = B if not left, for a triangular A (*, n, n); the other half
    of A is not looked at, nor its diagonal if unitriangular.

    Raises:
        LinAlgError: for a zero on the diagonal.
        RuntimeError: for shapes that do not fit.
    """
    need_tensor("linalg_solve_triangular", A, "A", 1)
    need_tensor("linalg_solve_triangular", B, "B", 2)
    for name, x in (("A", A), ("B", B)):
        if x.ndim < 2:
            raise RuntimeError(
                f"linalg.solve_triangular: The input tensor {name} must have at least 2 dimensions."
            )
    n, columns = A._array.shape[-2:]
    if n != columns:
        raise RuntimeError(
            "linalg.solve_triangular: A must be batches of square matrices, but they are "
            f"{n} by {columns} matrices"
        )
    rows = B._array.shape[-2 if left else -1]
    if rows != n:
        r, c = B._array.shape[-2:]
        raise RuntimeError(
            "linalg.solve_triangular: Incompatible shapes of A and B for the equation "
            f"{'AX' if left else 'XA'} = B ({n}x{n} and {r}x{c})"
        )
    half: Any = (triu if upper else tril)(A, (1 if upper else -1) * unitriangular)
    return deliver(
        solve(
            half + eye(n, dtype=A.dtype, device=A.device) if unitriangular else half, B, left=left
        ),
        out,
    )


def eig(A: Tensor, *, out: Any = None) -> NoReturn:
    """Refused: eigenvalues of a matrix that is not symmetric are complex.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        "microtorch has no complex tensors, so there is no torch.linalg.eig or eigvals: use eigh "
        "or eigvalsh for symmetric matrices"
    )


def eigvals(A: Tensor, *, out: Any = None) -> NoReturn:
    """Refused, as eig."""
    eig(A)
