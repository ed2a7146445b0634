"""The native convolutions give what the NumPy ones give."""

import itertools

import numpy as np
import pytest

from microtorch.kernels import convolve, threads, windows

# A case: N, C, O, groups, image, window, stride, before, after, dilation.
CASES = [
    (5, 4, 6, 1, (9, 8), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    (3, 4, 6, 2, (9, 8), (3, 2), (2, 3), (0, 1), (0, 1), (1, 2)),
    (2, 3, 3, 3, (7, 9), (1, 1), (1, 1), (0, 0), (0, 0), (1, 1)),
    (1, 2, 4, 2, (1, 12), (1, 5), (1, 2), (0, 3), (0, 4), (1, 1)),
    (4, 3, 2, 1, (6, 6), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1)),
    (0, 3, 2, 1, (6, 6), (2, 2), (1, 1), (1, 0), (1, 0), (1, 1)),
    (40, 8, 8, 1, (16, 16), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    (9, 4, 6, 2, (4, 5), (4, 5), (1, 1), (0, 0), (0, 0), (1, 1)),
    (9, 4, 6, 1, (5, 4), (3, 3), (2, 1), (1, 1), (1, 0), (1, 1)),
    (0, 4, 6, 1, (3, 3), (3, 3), (1, 1), (0, 0), (0, 0), (1, 1)),
    (33, 8, 16, 2, (17, 15), (3, 3), (2, 1), (2, 1), (1, 0), (2, 1)),
]


def random_cases(count):
    rng = np.random.default_rng(3)
    pick = lambda low, high: tuple(int(n) for n in rng.integers(low, high, 2))
    for _ in range(count):
        groups = int(rng.integers(1, 4))
        n, c, o = (int(k) for k in rng.integers(1, 5, 3))
        yield (
            n, c * groups, o * groups, groups, pick(6, 12), pick(1, 4), pick(1, 4), pick(0, 3),
            pick(0, 3), pick(1, 3),
        )  # fmt: skip


def arrays(case, dtype, layout):
    n, c, o, groups, image, size, stride, before, after, dilation = case
    plan = windows.Plan(windows.Windows(image, size, stride, before, after, dilation), groups)
    rng = np.random.default_rng(0)
    shapes = (n, c, *image), (o, c // groups, *size), (n, o, *plan.at.counts)
    found = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    if layout == "transposed":
        found = [a.transpose(3, 2, 0, 1).copy().transpose(2, 3, 1, 0) for a in found]
    elif layout == "repeated":
        found[2] = np.broadcast_to(found[2][:, :1, :1, :1], shapes[2])
    return (*found, plan)


def three(way, x, weight, g, plan):
    return way.conv(x, weight, plan), way.conv_input(g, weight, plan), way.conv_weight(x, g, plan)


@pytest.mark.parametrize("layout", ["plain", "transposed", "repeated"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_the_numpy_way(dtype, layout):
    for case in itertools.chain(CASES, random_cases(60)):
        given = arrays(case, dtype, layout)
        for ours, theirs in zip(three(convolve, *given), three(windows, *given), strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
            scale = float(abs(theirs).max(initial=1))
            close = 1e-5 if dtype == "float32" else 1e-13
            assert abs(ours - theirs).max(initial=0) <= close * scale, case


def test_few_windows_of_many_images_in_lots(monkeypatch):
    given = arrays(CASES[7], "float64", "plain")
    assert given[-1].few
    whole = three(convolve, *given)
    monkeypatch.setattr(windows, "FEW_BUFFER", 3_000)
    for ours, theirs in zip(three(convolve, *given), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)


def test_results_do_not_depend_on_the_threads():
    given = arrays(CASES[6], "float32", "plain")
    count = threads.get_num_threads()
    try:
        found = []
        for k in (1, 2, 3):
            threads.set_num_threads(k)
            found.append(three(convolve, *given))
    finally:
        threads.set_num_threads(count)
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)
