"""`torch.linalg`: linear algebra on matrices (*, n, m), loaded at first use."""

from .errors import LinAlgError, unknown_names
from .functions.affine import multi_dot
from .functions.decompose import (
    cholesky,
    det,
    eigh,
    eigvalsh,
    inv,
    matrix_power,
    qr,
    slogdet,
    solve,
    svd,
    svdvals,
)
from .functions.norms import (
    cond,
    cross,
    lstsq,
    matrix_norm,
    matrix_rank,
    norm,
    pinv,
    vecdot,
    vector_norm,
)
from .functions.product import matmul
from .functions.strided import diagonal_of_matrices as diagonal
from .functions.triangular import eig, eigvals, solve_triangular

__all__ = [
    "LinAlgError", "cholesky", "cond", "cross", "det", "diagonal", "eig", "eigh",
    "eigvals", "eigvalsh", "inv",
    "lstsq", "matmul", "matrix_norm", "matrix_power", "matrix_rank", "multi_dot", "norm", "pinv",
    "qr", "slogdet", "solve", "solve_triangular", "svd", "svdvals", "vecdot", "vector_norm",
]  # fmt: skip

__getattr__ = unknown_names(__name__)
