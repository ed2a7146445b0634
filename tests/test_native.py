"""Kernels as built-in functions give what their ufuncs give, for every layout, and refuse the same."""

import gc
import itertools
import weakref

import numpy as np
import pytest

from microtorch.kernels import cpu, native
from microtorch.table import ROWS

F4 = np.dtype("f4")
LAYOUTS = {
    "0-d": np.array(3, "f4"),
    "one": np.full(1, 3, "f4"),
    "one by one": np.full((1, 1), 3, "f4"),
    "row": np.arange(5, dtype="f4"),
    "matrix": np.arange(15, dtype="f4").reshape(3, 5),
    "column": np.arange(3, dtype="f4").reshape(3, 1),
    "transposed": np.arange(15, dtype="f4").reshape(5, 3).T,
    "strided": np.arange(30, dtype="f4").reshape(3, 10)[:, ::2],
    "repeated": np.broadcast_to(np.float32(2), (3, 5)),
    "repeated row": np.broadcast_to(np.arange(5, dtype="f4"), (3, 5)),
    "backwards": np.arange(5, dtype="f4")[::-1],
    "empty": np.zeros((0, 5), "f4"),
    "no row": np.zeros((3, 0), "f4"),
    "unaligned": np.frombuffer(b"\0" + np.arange(5, dtype="f4").tobytes(), "u1")[1:].view("f4"),
    "swapped": np.arange(5, dtype=">f4"),
    "double": np.arange(5, dtype="f8"),
    "large": np.ones((300, 300), "f4"),
}
PAIRS = list(itertools.product(LAYOUTS, LAYOUTS))


@pytest.mark.parametrize("x, y", PAIRS)
def test_map(x, y):
    a, b = LAYOUTS[x], LAYOUTS[y]
    kernel = cpu.ROW_KERNELS["sub"][F4]
    try:
        wanted = a - b
    except ValueError:
        wanted = None
    if wanted is None or wanted.dtype != F4:
        with pytest.raises((TypeError, ValueError)):
            kernel(a, b)
        return
    found = kernel(a, b)
    assert type(found) is np.ndarray
    assert found.dtype == F4 and found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("x, y", PAIRS)
def test_in_place(x, y):
    a, b = LAYOUTS[x].copy(), LAYOUTS[y]
    if a.dtype != F4 or b.dtype != F4:
        return
    wanted = a.copy()
    try:
        wanted -= b
    except ValueError:
        before = a.copy()
        with pytest.raises(ValueError):
            cpu.IN_PLACE["sub"][F4](a, b, a)
        np.testing.assert_array_equal(a, before)
        return
    assert cpu.IN_PLACE["sub"][F4](a, b, a) is a
    np.testing.assert_array_equal(a, wanted)


def test_result_overlaps_an_operand():
    x = np.arange(10, dtype="f4")
    cpu.ROW_KERNELS["sub"][F4](x[1:], x[:-1], x[1:])
    np.testing.assert_array_equal(x, [0, *[1] * 9])
    one = np.arange(3, dtype="f4")
    cpu.ROW_KERNELS["sub"][F4](one, one[1:2], one)
    np.testing.assert_array_equal(one, [-1, 0, 1])


def test_result_is_read_only():
    x = np.ones(3, "f4")
    x.flags.writeable = False
    with pytest.raises(ValueError):
        cpu.IN_PLACE["sub"][F4](x, np.ones(3, "f4"), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fold(layout):
    x = LAYOUTS[layout]
    if x.dtype != F4 or x.ndim != 1:
        return
    found = cpu.FOLD_KERNELS["sum"][F4](x)
    assert type(found) is np.ndarray and found.shape == ()
    assert found == x.sum()


def test_wrong_numbers_of_operands():
    kernel = cpu.ROW_KERNELS["sub"][F4]
    x = np.ones(3, "f4")
    for operands in ((), (x,), (x,) * 4, (x,) * 20):
        with pytest.raises((TypeError, ValueError)):
            kernel(*operands)
    for operand in (None, "a", [1.0], object()):
        with pytest.raises((TypeError, ValueError)):
            kernel(x, operand) if operand != [1.0] else kernel(x, np.ones(2, "f4"))
    assert kernel(x, x, out=x) is x


def test_references_are_balanced():
    import sys

    x, dtype = np.ones(3, "f4"), np.dtype("f4")
    kernel, fold, in_place = (
        cpu.ROW_KERNELS["sub"][F4], cpu.FOLD_KERNELS["sum"][F4], cpu.IN_PLACE["add"][F4],
    )  # fmt: skip
    before = sys.getrefcount(x), sys.getrefcount(dtype), sys.getrefcount(np.ndarray)
    for _ in range(1000):
        kernel(x, x), fold(x), in_place(x, x, x)
    after = sys.getrefcount(x), sys.getrefcount(dtype), sys.getrefcount(np.ndarray)
    assert all(abs(a - b) < 50 for a, b in zip(before, after))


def test_another_layout_of_objects_means_plain_ufuncs(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: False)
    kernel = cpu.forward(ROWS["sub"])[F4]
    for a, b in itertools.product(LAYOUTS.values(), repeat=2):
        if a.dtype == b.dtype == F4 and a.ndim == b.ndim == 0:
            assert type(kernel(a, b)) is np.ndarray
    assert type(kernel).__name__ == "function"


def test_a_definition_outlives_its_function(monkeypatch):
    """A function reads its definition when it dies, even when Python has emptied all modules."""
    seen = []

    class Definition(native._MethodDef):
        def __init__(self, *fields):
            super().__init__(*fields)
            seen.append(weakref.ref(self))

    monkeypatch.setattr(native, "_MethodDef", Definition)
    made = native.builtin("f", native.address_of("PyObject_Vectorcall"), [0])
    module_state = [v for v in vars(native).values() if isinstance(v, list)]
    del made
    gc.collect()
    assert seen[0]() is not None
    assert not any(
        seen[0]() in (x if isinstance(x, tuple) else (x,)) for v in module_state for x in v
    )
