"""The passes, one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from interpret import memory, repeated, transposed

from microtorch.capture.fuse import Loop, Table, fuse, keep
from microtorch.capture.ir import Fold, Map, Product, Recording, Ref, Rows, Storage
from microtorch.capture.passes import lower, numbers, prune
from microtorch.capture.space import covers, merged, overlap, work_of


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


def test_dims_are_put_in_order_and_merged():
    (work,) = merged([work_of(map1(memory((2, 3, 4)), [memory((2, 3, 4))], "x"))])
    assert work.dims == (24,) and work.outs[0].strides == (1,)
    turned = work_of(map1(transposed(memory((3, 4))), [transposed(memory((3, 4)))], "x"))
    assert turned.dims == (3, 4) and turned.outs[0].strides == (4, 1)
    (column,) = merged([work_of(map1(memory((3, 4)), [repeated(memory((4,)), (3, 4))], "x"))])
    assert column.dims == (3, 4)


def test_one_number_is_kept_as_one():
    u, z, number = memory((4,)), memory((4,), "result"), memory((), "number")
    ops = numbers([map1(u, [repeated(number, (4,))], "x * 2"), map1(z, [u], "x + 1")])
    assert ops[0].outs[0].shape == () and ops[1].ins[0].strides == (0,)
    full = memory((), "constant", array=np.full(4, 0.25, np.float32))
    (op,) = numbers([map1(z, [full], "x + 1")])
    assert op.ins[0].storage.size == 1 and op.ins[0].strides == (0,)


def test_what_nobody_reads_is_left_out():
    x, a, z = memory((4,), "argument"), memory((4,)), memory((4,), "result")
    c = memory((), "captured", array=np.ones(4, np.float32))
    ops = [map1(a, [x], "exp(x)"), map1(z, [x], "x"), map1(c, [x], "x")]
    assert prune(ops, [z]) == ops[1:]


def test_small_products_are_folds():
    x, w, z = memory((50, 2), "argument"), memory((1, 2), "argument"), memory((50, 1), "result")
    ops, _ = lower(Recording([Product((z,), (x, transposed(w)))], [x, w], [z]))
    (loop,) = fuse(ops)
    assert isinstance(ops[0], Fold) and loop.dims == (50, 2)


def test_loops_are_fused_and_temporaries_not_stored():
    x, a, z = memory((8, 5), "argument"), memory((8, 5)), memory((8, 5), "result")
    s, b = memory((), "result"), memory((5,), "argument")
    ops = [
        map1(a, [x, repeated(b, (8, 5))], "x + y"),
        map1(z, [a], "exp(x)"),
        Fold((s,), (z,), fold="sum", dims=(0, 1)),
    ]
    (loop,) = fuse(ops)
    keep([loop], False)
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


def test_softmax_is_one_loop_over_rows():
    x, z = memory((30, 20), "argument"), memory((30, 20), "result")
    ops, results = lower(Recording([Rows((z,), (x,), name="softmax")], [x], [z]))
    (loop,) = items = fuse(prune(numbers(ops), results))
    assert [w.fold for w in loop.works if w.fold] == ["max", "sum"]
    keep(items, False)
    # The largest element and the sum of a row are variables.
    assert all(ref.shape == (30, 20) and ref.strides[1] for ref in loop.kept)


def test_rows_that_need_other_rows_are_another_loop():
    c = memory((), "captured", array=np.ones((9, 4), np.float32))
    high, low = Ref(c.storage, (8, 4), (4, 1), 4), Ref(c.storage, (8, 4), (4, 1), 0)
    s, z = memory((8,)), memory((8, 4), "result")
    total = Fold((s,), (low,), dims=(1,))
    assert len(fuse([map1(low, [low], "x * 2"), total])) == 1
    assert len(fuse([map1(high, [high], "x * 2"), total])) == 2
    assert (
        len(
            fuse([total, map1(z, [low, repeated(Ref(s.storage, (8, 1), (1, 0)), (8, 4))], "x - y")])
        )
        == 1
    )


def test_updates_of_one_optimizer_are_a_table():
    lr = memory((), "number")
    ops = []
    for n in (3, 5, 7, 9):
        p, g = (memory((), "captured", array=np.ones(n, np.float32)) for _ in "pg")
        ops.append(Map((p,), (p, g, repeated(lr, (n,))), formulas=("p - lr * g",),
                       names=("p", "g", "lr"), label="sgd"))  # fmt: skip
    (table,) = fuse(ops)
    assert isinstance(table, Table) and table.works == ops
    # Few are loops, which may join others.
    assert all(isinstance(item, Loop) for item in fuse(ops[:3]))
