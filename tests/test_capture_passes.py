"""The passes, one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpret import memory, repeated, transposed

from microtorch.capture.fuse import Loop, fuse, work_of
from microtorch.capture.ir import Fold, Map, Product, Recording, Ref, Rows, Storage
from microtorch.capture.lower import lower
from microtorch.capture.passes import forward, prune, share, simplify
from microtorch.capture.space import common, covers, merged, overlap, split


def map1(out, ins, formula):
    return Map((out,), tuple(ins), formulas=(formula,), names=("x", "y", "w")[: len(ins)])


def view(shape, strides, offset=0, storage=None):
    return Ref(storage or Storage(np.dtype("float32"), 100, "temporary"), shape, strides, offset)


def elements(ref):
    index = np.indices(ref.shape).reshape(len(ref.shape), -1)
    return (
        set((ref.offset + np.array(ref.strides, int) @ index).tolist())
        if ref.shape
        else {ref.offset}
    )


@given(st.data())
def test_views_that_share_an_element_overlap(data):
    storage = Storage(np.dtype("float32"), 100, "temporary")
    side = st.tuples(st.integers(1, 4), st.integers(1, 4))
    steps = st.tuples(st.integers(-3, 9), st.integers(-3, 9))
    a, b = (
        view(data.draw(side), data.draw(steps), data.draw(st.integers(20, 40)), storage)
        for _ in "ab"
    )
    if elements(a) & elements(b):
        assert overlap(a, b)


def test_parts_that_interleave_do_not_overlap():
    a = view((5,), (2,))
    assert not overlap(a, view((5,), (2,), 1, a.storage))
    assert overlap(a, view((5,), (2,), 2, a.storage))
    assert not overlap(a, view((5,), (2,), 10, a.storage))
    assert covers(memory((3, 4))) and covers(transposed(memory((3, 4))))
    assert not covers(repeated(memory((4,)), (3, 4)))


@pytest.mark.parametrize("a, b, found", [((6,), (2, 3), (2, 3)), ((4, 6), (8, 3), (4, 2, 3)),
    ((4, 6), (6, 4), None), ((), (1,), ()), ((5,), (6,), None), ((2, 3, 4), (6, 4), (2, 3, 4))])  # fmt: skip
def test_common_dims(a, b, found):
    assert common(a, b) == found


def test_split_and_merged_are_inverse():
    work = work_of(map1(memory((24,)), [memory((24,))], "x"))
    fine = split(work, (2, 3, 4))
    assert fine.outs[0].strides == (12, 4, 1)
    assert merged([fine])[0].dims == (24,)
    turned = work_of(map1(transposed(memory((3, 4))), [transposed(memory((3, 4)))], "x"))
    assert turned.dims == (12,)


def test_copies_are_read_where_they_come_from():
    x, z, t = memory((4,), "argument"), memory((4,), "result"), memory((4,))
    ops = forward([map1(t, [x], "x"), map1(z, [t], "x + 1")])
    assert len(ops) == 1 and ops[0].ins == (x,)
    # But not where the source changes in between.
    ops = forward([map1(t, [x], "x"), map1(x, [x], "x * 2"), map1(z, [t], "x + 1")])
    assert len(ops) == 3


def test_one_number_is_kept_as_one():
    t, u, z = memory((4,)), memory((4,)), memory((4,), "result")
    ops = [map1(t, [], "2.0"), map1(u, [t], "x / 8"), map1(z, [u], "x")]
    (op,) = forward(ops)
    assert op.ins[0].strides == (0,) and op.ins[0].storage.array[0] == 0.25
    number = memory((), "number")
    ops = forward([map1(u, [repeated(number, (4,))], "x * 2"), map1(z, [u], "x + 1")])
    assert ops[0].outs[0].shape == () and ops[1].ins[0].strides == (0,)


def test_equal_values_are_computed_once():
    x, a, b = memory((4,), "argument"), memory((4,)), memory((4,))
    z, y = memory((4,), "result"), memory((4,), "result")
    ops = [map1(a, [x], "exp(x)"), map1(b, [x], "exp(x)"), map1(z, [a, b], "x + y")]
    assert len(share(ops)) == 2
    ops.insert(1, map1(x, [x], "x + 1"))
    assert len(share(ops)) == 4


def test_what_nobody_reads_is_left_out():
    x, a, z = memory((4,), "argument"), memory((4,)), memory((4,), "result")
    c = memory((), "captured", array=np.ones(4, np.float32))
    ops = [map1(a, [x], "exp(x)"), map1(z, [x], "x"), map1(c, [x], "x")]
    assert prune(ops, [z]) == ops[1:]


def test_small_products_are_formulas():
    x, w, z = memory((50, 2), "argument"), memory((1, 2), "argument"), memory((50, 1), "result")
    (op,), _ = lower(Recording([Product((z,), (x, transposed(w)))], [x, w], [z]))
    assert isinstance(op, Map) and op.formulas == ("x0 * x1 + x2 * x3",)
    ops, _ = lower(Recording([Product((memory((1, 2)),), (transposed(z), x))], [x, w], [z]))
    assert [type(op) for op in ops] == [Fold, Fold]


def test_loops_are_fused_and_temporaries_not_stored():
    x, a, z = memory((8, 5), "argument"), memory((8, 5)), memory((8, 5), "result")
    s, b = memory((), "result"), memory((5,), "argument")
    ops = [
        map1(a, [x, repeated(b, (8, 5))], "x + y"),
        map1(z, [a], "exp(x)"),
        Fold((s,), (z,), fold="sum", dims=(0, 1)),
    ]
    (loop,) = fuse(ops)
    assert isinstance(loop, Loop) and loop.dims == (8, 5)
    assert {r.storage for r in loop.kept} == {z.storage, s.storage}
    # A value that needs the whole fold comes after it.
    ops.append(map1(memory((8, 5), "result"), [z, repeated(s, (8, 5))], "x / y"))
    assert len(fuse(ops)) == 2


def test_a_read_stays_before_a_later_write():
    c = memory((), "captured", array=np.ones(4, np.float32))
    turned = Ref(c.storage, (4,), (-1,), 3)
    z = memory((4,), "result")
    assert len(fuse([map1(z, [turned], "x"), map1(c, [c], "x * 2")])) == 2
    assert len(fuse([map1(z, [c], "x"), map1(c, [c], "x * 2")])) == 1


def test_softmax_is_two_loops_over_its_elements():
    x, z = memory((30, 20), "argument"), memory((30, 20), "result")
    ops, results = lower(Recording([Rows((z,), (x,), name="softmax")], [x], [z]))
    loops = fuse(simplify(ops, results))
    assert [w.fold for loop in loops for w in loop.works if w.fold] == ["max", "sum"]
    assert len(loops) == 3
