"""Products of our own equal NumPy's, for any layout and number of threads."""

import itertools
import sys

import numpy as np
import pytest

import microtorch as torch
from microtorch.kernels import gemm

SHAPES = [(24, 500, 64), (64, 1000, 100), (300, 70, 333), (33, 1100, 31), (1000, 64, 40)]
LAYOUTS = {
    "rows": lambda a: a, "columns": np.asfortranarray, "reversed": lambda a: a[::-1, ::-1],
    "every other": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "repeated": lambda a: np.broadcast_to(a[:1], a.shape),
}  # fmt: skip


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def matrices(n, depth, m, dtype):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, depth)).astype(dtype), rng.standard_normal((depth, m)).astype(
        dtype
    )


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_of_any_layout(dtype, layout, threads):
    for shape in SHAPES:
        a, b = matrices(*shape, dtype)
        for x, y in ((LAYOUTS[layout](a), b), (a, LAYOUTS[layout](b))):
            exact = x.astype("f8") @ y.astype("f8")
            found = []
            for count in (1, 2, 3):
                threads(count)
                found.append(gemm.dot(x, y))
            tolerance = 1e-3 if dtype == "f4" else 1e-12
            np.testing.assert_allclose(found[0], exact, atol=tolerance, rtol=tolerance)
            assert found[0].dtype == a.dtype and found[0].flags.c_contiguous
            assert len({z.tobytes() for z in found}) == 1 or not gemm._fits(x, y, 24, 1.5)


STACKS = [
    ((40,), (40,)),
    ((), (3,)),
    ((5, 1), (1,)),
    ((2, 3), (2, 3)),
    ((4, 1), (1, 3)),
    ((0, 2), (2,)),
    ((2, 0), ()),
]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("left, right", STACKS)
def test_stacks(dtype, left, right, threads):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((*left, 64, 100)).astype(dtype)
    b = rng.standard_normal((*right, 64, 100)).astype(dtype).swapaxes(-1, -2)
    exact, tolerance = a.astype("f8") @ b.astype("f8"), 1e-4 if dtype == "f4" else 1e-12
    for count, x in itertools.product((1, 2, 3), (a, a[..., ::-1, :])):
        threads(count)
        found = gemm.matmul(x, b)
        expected = exact if x is a else exact[..., ::-1, :]
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)
        assert found.dtype == a.dtype and found.shape == exact.shape


def test_what_is_not_a_number_stays_in_its_row_and_column():
    a, b = matrices(64, 300, 100, "f4")
    a[3, 7], b[9, 11] = np.nan, np.inf
    found = gemm.dot(a, b)
    assert np.isnan(found[3]).all() and np.isfinite(np.delete(np.delete(found, 3, 0), 11, 1)).all()


@pytest.mark.parametrize(
    "x, y",
    [
        (np.ones((64, 300), "f4"), np.ones((300, 100), "f8")),
        (np.ones((64, 300), "i8"), np.ones((300, 100), "i8")),
        (np.ones((64, 300), ">f4"), np.ones((300, 100), ">f4")),
        (np.ones((64, 300), "f2"), np.ones((300, 100), "f2")),
        (np.ones((64, 300), "c16"), np.ones((300, 100), "c16")),
        (np.ones((3000, 0)), np.ones((0, 100))),
        (np.ones((64, 3000)), np.ones(3000)),
        (np.ones((3000, 64)), np.ones((64, 0))),
    ],
)
def test_other_operands_are_numpys(x, y):
    found = gemm.dot(x, y)
    assert found.dtype == np.dot(x, y).dtype
    np.testing.assert_array_equal(found, np.dot(x, y))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match=r"cannot be multiplied \(64x300 and 301x100\)"):
        torch.ones(64, 300) @ torch.ones(301, 100)


def test_gradients_of_large_products():
    for n, depth, m in itertools.islice(SHAPES, 3):
        a, b = (torch.from_numpy(x).requires_grad_() for x in matrices(n, depth, m, "f8"))
        (a @ b).square().sum().backward()
        expected = 2 * (a @ b).detach().numpy()
        np.testing.assert_allclose(a.grad.numpy(), expected @ b.detach().numpy().T, rtol=1e-10)
        np.testing.assert_allclose(b.grad.numpy(), a.detach().numpy().T @ expected, rtol=1e-10)


@pytest.mark.parametrize(
    "register, known, expected",
    [(64, True, (0, gemm.MOST)), (64, False, (0, sys.maxsize)),
     (32, False, (gemm.LEAST, gemm.MOST)), (16, False, (sys.maxsize, 0))],
)  # fmt: skip
def test_which_products_are_ours(register, known, expected, monkeypatch):
    monkeypatch.setattr(gemm.jit, "vector_bytes", lambda: register)
    monkeypatch.setattr(gemm.blas, "uses_avx512", lambda: known)
    monkeypatch.setattr(gemm.native, "available", lambda: True)
    assert gemm._range.__wrapped__() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_recorded_call_has_the_bits_of_eager_mode(dtype):
    x, w = torch.randn(128, 300, dtype=dtype), torch.randn(10, 40, 100, dtype=dtype)

    def products(x, w):
        left = x.tanh()
        return left @ left.T, left[:, :40] @ w, left.T @ left[:, :100].exp()

    for made, expected in zip(torch.compile(products)(x, w), products(x, w), strict=True):
        assert made.numpy().tobytes() == expected.numpy().tobytes()
