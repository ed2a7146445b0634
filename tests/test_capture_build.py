"""Programs do what their recordings say."""

import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpret import check, memory, repeated, transposed

import microtorch as torch
from microtorch.capture import build as build_module
from microtorch.capture import emit, fuse
from microtorch.capture.build import build
from microtorch.capture.ir import Call, Fold, Map, Number, Product, Recording, Ref, Rows
from microtorch.kernels import jit

rng = np.random.default_rng(0)


def array(*shape, dtype="float32"):
    return rng.standard_normal(shape).astype(dtype)


def argument(shape, position=0, name="x", dtype="float32"):
    return memory(shape, "argument", name, dtype, position=position)


def result(shape, dtype="float32", name="z"):
    return memory(shape, "result", name, dtype)


def map1(out, ins, formula, names="x y w"):
    return Map((out,), tuple(ins), formulas=(formula,), names=tuple(names.split()[: len(ins)]))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 1, 4), (0,), (3, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_map_over_any_shape(shape, dtype):
    x, z = argument(shape, dtype=dtype), result(shape, dtype)
    recording = Recording([map1(z, [x], "exp(x) * 2 + 0.5")], [x], [z])
    check(recording, [array(*shape, dtype=dtype)])


def test_a_chain_with_broadcasting_and_transposes():
    x, y, z = argument((3, 4)), argument((4,), 1, "y"), result((4, 3))
    t = memory((3, 4))
    ops = [
        map1(t, [x, repeated(y, (3, 4))], "x * y + 1"),
        map1(z, [transposed(t), transposed(x)], "tanh(x) - y"),
    ]
    check(Recording(ops, [x, y], [z]), [array(3, 4), array(4)])


def test_a_strided_view_and_a_write_into_a_part():
    data = array(10)
    c = memory((), "captured", "c", array=data)
    even = Ref(c.storage, (5,), (2,), 0)
    odd = Ref(c.storage, (5,), (2,), 1)
    z = result((10,))
    ops = [map1(odd, [even, odd], "x + y"), map1(z, [c], "x * 3")]
    check(Recording(ops, [], [z]), [])


def test_overlapping_views_are_read_before_they_are_written():
    c = memory((), "captured", "c", array=array(9))
    low, high = Ref(c.storage, (8,), (1,), 0), Ref(c.storage, (8,), (1,), 1)
    check(Recording([map1(high, [low], "x * 2")], [], []), [])
    check(Recording([map1(low, [high, low], "x * 2 + y")], [], []), [])


@pytest.mark.parametrize("fold", ["sum", "mean", "prod", "max", "min"])
@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_folds_over_some_dims(fold, dims):
    x = argument((3, 9, 11))
    z = result(tuple(n for d, n in enumerate(x.shape) if d not in dims))
    op = Fold((z,), (x,), fold=fold, dims=dims, formula="x * x + 0.5")
    check(Recording([op], [x], [z]), [array(3, 9, 11) * 0.3], 1e-4)


@pytest.mark.parametrize("shape, dims", [((400, 500), (0, 1)), ((400, 500), (0,)),
    ((400, 500), (1,)), ((300000, 2), (0,)), ((3, 100000), (1,)), ((2, 300, 400), (0, 2))])  # fmt: skip
@pytest.mark.parametrize("fold", ["mean", "max"])
def test_large_folds_beside_maps(shape, dims, fold):
    x, z = argument(shape), result(shape)
    total = result(tuple(n for d, n in enumerate(shape) if d not in dims))
    t = memory(shape)
    ops = [
        map1(t, [x], "exp(x)"),
        Fold((total,), (t,), fold=fold, dims=dims),
        map1(z, [t], "x + 1"),
    ]
    check(Recording(ops, [x], [z, total]), [array(*shape)])


def test_bools_and_integers():
    x, z = argument((6, 3), dtype="int64"), result((), "int64")
    mask, other = memory((6, 3), dtype="bool"), result((6, 3), "float32")
    count = result((), "int64")
    largest = result((3,), "int64")
    ops = [
        map1(mask, [x], "x > 2"),
        map1(other, [mask, x], "x", "x y"),
        Fold((z,), (x,), fold="sum", dims=(0, 1)),
        Fold((count,), (mask,), fold="sum", dims=(0, 1)),
        Fold((largest,), (x,), fold="max", dims=(0,)),
    ]
    ops[1] = map1(other, [mask], "x")
    check(Recording(ops, [x], [z, count, other, largest]), [rng.integers(0, 9, (6, 3))])


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "int16"])
def test_integers_wrap(dtype):
    x, z = argument((9,), dtype=dtype), result((9,), dtype)
    t = memory((9,), dtype=dtype)
    ops = [map1(t, [x], "x * x"), map1(z, [t, x], "x + y")]
    check(Recording(ops, [x], [z]), [rng.integers(0, 120, 9).astype(dtype)])


def test_choices_and_casts():
    x, z, y = argument((4, 5)), result((4, 5), "float64"), result((4, 5), "int32")
    mask, wide = memory((4, 5), dtype="bool"), memory((4, 5), dtype="float64")
    ops = [
        map1(mask, [x], "x > 0"),
        map1(wide, [x], "x"),
        Map((z,), (mask, wide), formulas=("where(c, exp(x), 0)",), names=("c", "x")),
        map1(y, [z], "x"),
    ]
    check(Recording(ops, [x], [z, y]), [array(4, 5)])


@pytest.mark.parametrize("n, k, m", [(1, 1, 1), (3, 2, 4), (1, 40, 2), (50, 3, 1), (5, 7, 6),
    (64, 100, 10), (1, 300, 40), (300, 20, 1), (40, 50, 60), (4, 0, 3)])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("turned", range(8))
def test_products(n, k, m, dtype, turned):
    shapes = [(n, k), (k, m)]
    refs = [
        argument(s[::-1] if turned >> i & 1 else s, i, "ab"[i], dtype) for i, s in enumerate(shapes)
    ]
    a, b = (transposed(r) if turned >> i & 1 else r for i, r in enumerate(refs))
    z = result((m, n) if turned & 4 else (n, m), dtype)
    op = Product((transposed(z) if turned & 4 else z,), (a, b))
    check(Recording([op], refs, [z]), [array(*r.shape, dtype=dtype) for r in refs], 1e-3, times=1)


def test_batched_products():
    x, y = argument((2, 3, 20, 30)), argument((3, 2, 30, 25), 1, "y")
    turned = Ref(y.storage, (2, 3, 30, 25), (750, 1500, 25, 1))
    z = result((2, 3, 20, 25))
    check(
        Recording([Product((z,), (x, turned))], [x, y], [z]),
        [array(2, 3, 20, 30), array(3, 2, 30, 25)],
        1e-3,
    )


def test_a_product_of_views_without_unit_steps():
    x, y = argument((40, 60)), argument((30, 50), 1, "y")
    every = Ref(x.storage, (40, 30), (60, 2))
    z = result((40, 50))
    check(Recording([Product((z,), (every, y))], [x, y], [z]), [array(40, 60), array(30, 50)], 1e-3)


def test_integer_products():
    x, y, z = (
        argument((5, 6), dtype="int64"),
        argument((6, 7), 1, "y", "int64"),
        result((5, 7), "int64"),
    )
    check(
        Recording([Product((z,), (x, y))], [x, y], [z]),
        [rng.integers(-5, 5, (5, 6)), rng.integers(-5, 5, (6, 7))],
    )


@pytest.mark.parametrize("shape", [(5,), (4, 10), (3, 4, 6), (300, 200)])
@pytest.mark.parametrize(
    "name", ["softmax", "log_softmax", "softmax_backward", "log_softmax_backward"]
)
def test_rows(name, shape):
    count = 2 if "back" in name else 1
    refs = [argument(shape, k, "xy"[k]) for k in range(count)]
    z = result(shape)
    recording = Recording([Rows((z,), tuple(refs), name=name)], refs, [z])
    # Differences of numbers up to 40, of sums that are added up in different orders.
    check(recording, [array(*shape) for _ in refs], 1e-4, atol=1e-4)


def test_layer_norm_in_place():
    c = memory((), "captured", "c", array=array(6, 8))
    w, b = argument((8,)), argument((8,), 1, "b")
    eps = memory((), "constant", array=np.array(1e-5, np.float32))
    op = Rows(
        (c,),
        (c, repeated(w, (6, 8)), repeated(b, (6, 8)), repeated(eps, (6, 8))),
        name="layer_norm",
    )
    check(Recording([op], [w, b], []), [array(8), array(8)], 1e-4)


def test_in_place_updates_of_captured_memory():
    p = memory((), "captured", "p", array=array(7))
    buf = memory((), "captured", "buf", array=array(7))
    g = argument((7,), 0, "g")
    rate = {"lr": 0.1}
    lr = memory((1,), "number", "lr", source=Number(rate, "lr"))
    ops = [
        map1(buf, [buf, g], "0.9 * x + y"),
        map1(p, [p, buf, repeated(lr, (7,))], "x - w * y"),
    ]
    recording = Recording(ops, [g], [])
    program = check(recording, [array(7)])
    rate["lr"] = 0.7
    check(recording, [array(7)], program=program)


def test_an_update_whose_gradient_is_a_single_number():
    p = memory((), "captured", "p", array=array(1))
    x, g, z = argument((6,)), memory((1,)), result((1,))
    lr = memory((1,), "number", "lr", source=Number({"lr": 0.5}, "lr"))
    total = Fold((Ref(g.storage, (), ()),), (x,), dims=(0,))
    names = ("p", "g", "lr")
    update = Map((p,), (p, g, lr), formulas=("p - lr * g",), names=names, label="sgd")
    check(Recording([total, update, map1(z, [p], "x * 2")], [x], [z]), [array(6)])


def test_two_results_of_one_map_that_swap():
    a = memory((), "captured", "a", array=array(5))
    b = memory((), "captured", "b", array=array(5))
    op = Map((a, b), (a, b), formulas=("y", "x + y"), names=("x", "y"))
    check(Recording([op], [], []), [])


def test_calls_between_loops():
    x, t, s, z = argument((6,)), memory((6,)), memory((6,)), result((6,))

    def sort(outs, ins):
        outs[0][...] = np.sort(ins[0])

    ops = [
        map1(t, [x], "x * 2"),
        Call((s,), (t,), function=sort),
        map1(z, [s, x], "x + y"),
        Call((z,), (z,), function=lambda outs, ins: np.negative(ins[0], out=outs[0])),
    ]
    check(Recording(ops, [x], [z]), [array(6)])


def test_results_that_are_views_or_not_computed():
    x, t = argument((3, 4)), memory((3, 4), "result")
    c = memory((), "captured", "c", array=array(5))
    part = Ref(t.storage, (2,), (4,), 5)
    recording = Recording([map1(t, [x], "x + 1")], [x], [transposed(t), part, c, x])
    program = build(recording)
    a = array(3, 4)
    got = program.run((a,))
    np.testing.assert_array_equal(got[0], (a + 1).T)
    np.testing.assert_array_equal(got[1], (a + 1)[1:, 1])
    np.testing.assert_array_equal(got[2], c.storage.array)
    np.testing.assert_array_equal(got[3], a)
    assert not np.shares_memory(got[2], c.storage.array)


def test_the_text_is_the_same_each_time():
    def make():
        p = memory((), "captured", "p", array=np.ones(3, np.float32))
        x, z = argument((3,)), result((3,))
        return build(Recording([map1(z, [x, p], "exp(x) + y")], [x], [z]))

    one, other = make().writer, make().writer
    assert one.complete() == other.complete()


def simple():
    x, z = argument((3, 4)), result((3, 4))
    return build(Recording([map1(z, [x], "x + 1")], [x], [z]))


def test_arguments_are_checked_and_laid_out():
    program, a = simple(), array(4, 3).T
    np.testing.assert_array_equal(program.run((a,))[0], a + 1)
    for wrong in (array(4, 3), array(3, 4, dtype="float64"), [[1.0]]):
        with pytest.raises((TypeError, ValueError), match="recorded with"):
            program.run((wrong,))
    with pytest.raises(ValueError):
        program.run(())


def test_an_argument_in_memory_that_is_written_is_copied_first():
    data = np.arange(6, dtype=np.float32)
    c = memory((), "captured", "c", array=data)
    x = argument((6,))
    turned = Ref(x.storage, (6,), (-1,), 5)
    program = build(Recording([map1(c, [turned], "x * 2")], [x], []))
    program.run((data,))
    np.testing.assert_array_equal(data, np.arange(6)[::-1] * 2)


def test_numbers_may_be_of_any_kind_and_may_fail():
    group = {"betas": (1.0, 2.0)}
    lr = memory((1,), "number", "lr", source=Number(group, "betas", 1))
    z = result((1,))
    program = build(Recording([map1(z, [lr], "x * 1.5")], [], [z]))
    for number in (2.0, 3, np.float32(4)):
        group["betas"] = 1.0, number
        assert program.run(())[0] == number * 1.5
    group["betas"] = 1.0, None
    with pytest.raises(TypeError):
        program.run(())
    group["betas"] = (1.0,)
    with pytest.raises(IndexError):
        program.run(())
    group.clear()
    with pytest.raises(KeyError):
        program.run(())


def test_results_are_fresh_and_nothing_leaks():
    program, a = simple(), array(3, 4)
    kept = program.run((a,))[0]
    before = kept.copy()
    program.run((a * 5,))
    np.testing.assert_array_equal(kept, before)
    assert sys.getrefcount(kept) == sys.getrefcount(before)


def test_what_a_program_says_of_itself(tmp_path):
    program = simple()
    program.save(str(tmp_path / "program.py"))
    assert program.source.splitlines()[2] in (tmp_path / "program.py").read_text()
    assert "loop" in program.explain() and "12" in program.explain()


def test_code_that_moves_to_another_line_is_not_compiled_again():
    text = "def step(x):\n    return (x * 3 + 1).tanh() * x\n"
    for name, above in (("one.py", 0), ("two.py", 3)):
        names = {}
        exec(compile("\n" * above + text, name, "exec"), names)
        step = torch.compile(names["step"])
        step(torch.ones(5))
        assert f"({name}:{above + 2})" in step.source
    assert "from the cache" in step.explain()


FORMULAS = [
    "x + y",
    "x * y",
    "x - 2 * y",
    "where(x > y, x, y)",
    "tanh(x) + y",
    "fabs(x) * 0.5",
    "x",
]


@st.composite
def recordings(draw):
    """Maps, folds, products and writes in place, over views of a few memories."""
    n, m = draw(st.sampled_from([(3, 4), (2, 5), (4, 4), (1, 6)]))
    shape = (n, m)
    pool = [
        argument(shape, 0, "a"), argument(shape, 1, "b"),
        memory((), "captured", "c", array=np.linspace(-1, 1, n * m, dtype=np.float32).reshape(shape)),
        memory((), "constant", "k", array=np.full(shape, 0.5, np.float32)),
    ]  # fmt: skip
    captured = pool[2]
    vectors = [memory((), "captured", "v", array=np.linspace(0, 1, m, dtype=np.float32))]
    numbers = [memory((), "constant", "one", array=np.array(1.0, np.float32))]
    columns = [memory((), "captured", "u", array=np.linspace(-1, 1, n, dtype=np.float32))]
    ops = []

    def matrix():
        kind = draw(st.integers(0, 10))
        if kind == 10:
            column = draw(st.sampled_from(columns))
            return Ref(column.storage, shape, (*column.strides, 0), column.offset)
        if kind == 0:
            return repeated(draw(st.sampled_from(vectors)), shape)
        if kind == 1:
            return repeated(draw(st.sampled_from(numbers)), shape)
        if kind == 2:
            # Another view of the same elements, with rows or columns turned round.
            r = draw(st.sampled_from(pool))
            return Ref(
                r.storage, shape, (r.strides[0], -r.strides[1]), r.offset + (m - 1) * r.strides[1]
            )
        if kind == 3 and n == m:
            return transposed(draw(st.sampled_from(pool)))
        return draw(st.sampled_from(pool))

    for k in range(draw(st.integers(1, 9))):
        kind = draw(st.integers(0, 12))
        if kind == 10:
            # Along rows: its reader may stand in the same loop.
            out = draw(st.sampled_from([memory((n,), name=f"q{k}"), *columns[:1]]))
            fold = draw(st.sampled_from(["sum", "mean", "max"]))
            ops.append(Fold((out,), (matrix(),), fold=fold, dims=(1,)))
            columns.append(out)
        elif kind == 11:
            out = draw(st.sampled_from([memory(shape, name=f"w{k}"), captured]))
            ops.append(Rows((out,), (matrix(),), name="softmax"))
            pool.append(out)
        elif kind <= 3:
            out = memory(shape, name=f"t{k}")
            ops.append(map1(out, [matrix(), matrix()], draw(st.sampled_from(FORMULAS))))
            pool.append(out)
        elif kind == 4:
            target = draw(
                st.sampled_from([r for r in pool if r.storage.kind in ("captured", "temporary")])
            )
            ops.append(map1(target, [matrix(), matrix()], draw(st.sampled_from(FORMULAS))))
        elif kind == 5:
            dims, out, where = draw(st.sampled_from([
                ((0,), memory((m,), name=f"r{k}"), vectors),
                ((0, 1), memory((), name=f"s{k}"), numbers),
            ]))  # fmt: skip
            fold = draw(st.sampled_from(["sum", "mean", "max"]))
            ops.append(
                Fold(
                    (out,),
                    (matrix(), matrix()),
                    fold=fold,
                    dims=dims,
                    formula="x * y",
                    names=("x", "y"),
                )
            )
            where.append(out)
        elif kind == 6:
            # A row, and its place in the vectors' pool.
            row = draw(st.integers(0, n - 1))
            r = draw(st.sampled_from(pool))
            vectors.append(Ref(r.storage, (m,), r.strides[1:], r.offset + row * r.strides[0]))
        elif kind == 7:
            target = draw(st.sampled_from([r for r in vectors if r.storage.kind != "constant"]))
            ops.append(map1(target, [draw(st.sampled_from(vectors))], "x * 0.5 + 1"))
        elif kind == 8:
            out = memory((n, n), name=f"p{k}")
            ops.append(Product((out,), (matrix(), transposed(matrix()))))
            s = memory((), name=f"s{k}")
            ops.append(Fold((s,), (out,), fold="mean", dims=(0, 1)))
            numbers.append(s)
        else:
            out = memory(shape, name=f"f{k}")
            ops.append(Map((out,), (), formulas=("0.25",), names=()))
            pool.append(out)
    results = draw(
        st.lists(st.sampled_from(pool[4:] + vectors + numbers + columns), min_size=1, max_size=3)
    )
    return Recording(ops, pool[:2], results), captured


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(recordings())
def test_random_programs(made):
    recording, _ = made
    shape = recording.arguments[0].shape
    check(recording, [array(*shape), array(*shape)], 1e-3, times=1)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(recordings(), st.integers(1, 4))
def test_every_loop_a_function(made, most):
    recording, _ = made
    shape = recording.arguments[0].shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emit, "MOST", -1)
        patch.setattr(fuse, "LONG", -1)
        patch.setattr(fuse, "SHORT", most)
        check(recording, [array(*shape), array(*shape)], 1e-3, times=1)


def test_equal_loops_are_written_once(monkeypatch):
    """Loops that differ in places of memory, arguments and results too, are one function."""
    monkeypatch.setattr(fuse, "LONG", 5)
    monkeypatch.setattr(fuse, "SHORT", 4)
    x, w, scale = argument((6, 12, 8)), argument((8, 8), 1, "w"), 1.5
    ops, results, h = [], [], memory((12, 8), "constant", array=np.ones((12, 8), np.float32))
    for k in range(6):
        product, row, total = (
            memory((12, 8)),
            Ref(x.storage, (12, 8), (8, 1), 96 * k),
            result((12,)),
        )
        ops.append(Product((product,), (h, w)))
        h = memory((12, 8))
        ops.append(map1(h, [product, row], "x + y"))
        ops.append(map1(h, [h], f"tanh(x) * {scale}"))
        ops.append(Fold((total,), (h,), dims=(1,)))
        results.append(total)
    program = check(Recording(ops, [x, w], results), [array(6, 12, 8), array(8, 8)])
    # The first and the last are not quite equal.
    assert program.source.count("tanh(") == 3 and program.source.count("    loop(t, t + ") == 4


def test_many_calls_in_a_row_are_a_loop_over_a_table(monkeypatch):
    for module, name, most in ((fuse, "LONG", 5), (fuse, "SHORT", 2), (emit, "MOST", 6)):
        monkeypatch.setattr(module, name, most)
    x, w, ops = argument((20, 12, 8)), argument((8, 8), 1, "w"), []
    h = Ref(x.storage, (12, 8), (8, 1))
    for k in range(20):
        product, row = memory((12, 8)), Ref(x.storage, (12, 8), (8, 1), 96 * k)
        ops.append(Product((product,), (h, w)))
        h = memory((12, 8)) if k < 19 else result((12, 8))
        ops.append(map1(h, [product, row], "tanh(x * 0.1 + y)"))
    program = check(Recording(ops, [x, w], [h]), [array(20, 12, 8), array(8, 8)])
    assert "for line in range(" in program.source


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_of_one_number_in_a_formula(dtype):
    a, b = torch.tensor(-0.75, dtype=dtype), torch.tensor(3.0, dtype=dtype)

    def function(a):
        mean = a.mean(0)
        return mean**3, b / mean, b - mean, torch.tanh(mean), mean.sum(), -mean

    compiled = torch.compile(function)
    for _ in range(3):
        assert torch.allclose(torch.stack(compiled(a)), torch.stack(function(a)))


def test_names_of_kernel_text_are_no_names_of_arrays():
    f32, f32_at, f64_of = torch.ones(3), torch.ones(3), torch.ones(3, 3)
    compiled = torch.compile(lambda: ((f32 + f32_at).exp() * f64_of).sum(0))
    for _ in range(2):
        assert torch.allclose(compiled(), torch.full((3,), 3 * float(np.exp(2))))


def test_a_program_of_many_loops():
    """Numba calls itself once for each; more often than Python allows."""
    lines = ["def many(at, me, parts, more):", "    x, total = f32_at(at), f32(0)"]
    for k in range(150):
        lines += [f"    for i in range({k}):", f"        x[i] = f32({k})"]
    lines += ["    for i in range(9):", "        total = total + x[i]", "    x[0] = total"]
    text = "\n".join([*lines, "    clear_flags()", ""])
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(420)
    try:
        jit.address("many", text)
        assert sys.getrecursionlimit() == 420
    finally:
        sys.setrecursionlimit(limit)


def test_a_long_program_says_how_long_it_takes(monkeypatch, tmp_path):
    monkeypatch.setattr(build_module, "LONG", 3)
    monkeypatch.setenv("MICROTORCH_CACHE_DIR", str(tmp_path))
    function = lambda x: (x.exp() * 12.5 + 0.125).sum()  # noqa: E731
    with pytest.warns(UserWarning, match=r"has become \d+ lines of text.*takes about 0 s"):
        torch.compile(function)(torch.ones(7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.compile(function)(torch.ones(7))


@pytest.mark.parametrize("step", [0, 9])
def test_a_constant_that_is_read_as_an_array_and_as_a_number(step):
    matrix = torch.randn(64, 64) * 0.1
    rows = [([0.5 + 0.01 * k * (i + 1) for k in range(64)], 3 + step * i) for i in range(6)]

    def function(x):
        found = []
        for values, place in rows:
            c = torch.tensor(values)
            x = torch.tanh(x * c * 0.1 + c[place])
            found.append(x)
            x = x @ matrix
        return found

    compiled, x = torch.compile(function), torch.randn(40, 64)
    for _ in range(3):
        for got, expected in zip(compiled(x), function(x)):
            np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    assert ("loop(t" in compiled.source) == (step == 0)
