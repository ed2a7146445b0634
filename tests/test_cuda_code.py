"""Every kernel of every row becomes machine code for an H200 (sm_90), without a driver.

Needs NVIDIA's compiler, not a GPU: pip install 'microtorch[cuda13]'.
"""

import concurrent.futures
import importlib.util
import multiprocessing
import os

import pytest

from microtorch.gpu import compiler, rng, text, tiles
from microtorch.gpu.driver import Driver
from microtorch.gpu.launch import TILES
from microtorch.kernels.text import backward_operands, chain, formula_of
from microtorch.table import FOLDS, ROWS, ROWWISE, STEPS

FLOATS = ("float32", "float64")
THREADS = Driver.threads


def forward(row, dtype, rank=1):
    out = "bool" if row.types == "bool" else dtype
    ins = tuple((name, dtype) for name in row.operands)
    lines = (("out0", out, formula_of(row, dtype)),)
    return text.elementwise(rank, ins, (("out0", out),), lines, dtype)


def backward(row, dtype):
    needed = tuple(d is not None for d in row.derivatives)
    ins = tuple((name, dtype) for name in ("g", *backward_operands(row, needed)))
    outs = tuple((f"out{k}", dtype) for k in range(sum(needed)))
    formulas = [chain(d) for d in row.derivatives if d is not None]
    lines = tuple((*out, formula) for out, formula in zip(outs, formulas))
    return text.elementwise(1, ins, outs, lines, dtype)


def of_row(row):
    for dtype in FLOATS:
        yield forward(row, dtype)
        if row.derivatives and any(row.derivatives):
            yield backward(row, dtype)
    if row.types in ("any", "bool"):
        yield from (forward(row, dtype) for dtype in ("int64", "bool"))


def of_others():
    yield from (rng.text(dtype) for dtype in ("float32", "float64", "int64"))
    for dtype in FLOATS:
        for name in FOLDS:
            for columns in (False, True):
                yield text.fold(name, (("x", dtype),), "x", dtype, 2, 2, THREADS, columns, True)
        for row in ROWWISE.values():
            for width, held, columns in ((8, 3, True), (THREADS, 20, False)):
                yield text.rowwise(row, dtype, 1, THREADS, width, held, columns, 32)
            yield text.rowwise(row, dtype, 2, 2 * THREADS, 2 * THREADS, 0, False)
        for step in STEPS.values():
            yield text.step(step, dtype)
        of_program = ("p", "g"), (("lr", dtype),), ("new_p = p - lr * g",), (("p", "new_p"),)
        yield text.update(*of_program, dtype)
        yield tiles.product(dtype, *TILES[dtype])
        yield text.segments(dtype)
        yield forward(ROWS["add"], dtype, rank=3)
        for kind in ("int64", "int32", "uint8", "bool"):
            for pair in ((dtype, kind), (kind, dtype)):
                out = "x != 0" if pair[1] == "bool" else "x"
                lines = (("out0", pair[1], out),)
                yield text.elementwise(2, (("x", pair[0]),), (("out0", pair[1]),), lines, pair[0])
        far = (("x", dtype), ("at", "int64"))
        out, lines = (("out0", dtype),), (("out0", dtype, "x"),)
        yield text.elementwise(2, far, out, lines, dtype, "x")
        yield text.elementwise(2, far, out, lines, dtype, "out0")
        lines = (("m", dtype, "x * x"), ("out0", dtype, "m + 1"), ("u", dtype, "exp(out0)"))
        folds = (("u", "sum"), ("m", "max"))
        yield text.elementwise(2, (("x", dtype),), out, lines, dtype, "", folds, THREADS)
        many = tuple((f"v{k}", dtype) for k in range(60))
        lines = (("out0", dtype, " + ".join(n for n, _ in many)),)
        yield text.elementwise(2, many, out, lines, dtype)


def compiled(source):
    """The kernel's bytes, or what went wrong."""
    try:
        return len(compiler.machine_code(source, (9, 0))[1])
    except Exception as error:
        return f"{type(error).__name__}: {error}\n{source}"


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None,
    reason="needs NVIDIA's compiler: pip install 'microtorch[cuda13]'",
)


@needs_compiler
def test_a_gpu_newer_than_the_linker_gets_ptx():
    entry, code = compiler.machine_code(forward(ROWS["add"], "float32"), (99, 0))
    assert f".entry {entry}(".encode() in code and code.endswith(b"\0")


@needs_compiler
def test_every_kernel_becomes_machine_code():
    sources = [s for row in ROWS.values() for s in of_row(row)] + list(of_others())
    assert len(sources) > 500
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        found = list(pool.map(compiled, sources, chunksize=16))
    wrong = [each for each in found if isinstance(each, str)]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(found)}", *wrong[:3]])


READ = {
    "add": (forward(ROWS["add"], "float32"), 8),
    "tanh": (forward(ROWS["tanh"], "float32"), 4),
    "adam": (text.step(STEPS["adam"], "float32"), 8),
    "softmax": (text.rowwise(ROWWISE["softmax"], "float32", 1, THREADS, THREADS, 40, False), 40),
}


@needs_compiler
@pytest.mark.parametrize("name", READ)
def test_what_is_read_before_anything_is_stored(name):
    source, least = READ[name]
    _, code = compiler._ptx(name, compiler.complete(source), (9, 0))
    before, _, _ = code.decode().partition("st.global")
    assert before.count("ld.global.f32") == least


@needs_compiler
def test_products_read_16_bytes_at_a_time():
    source = tiles.product("float32", *TILES["float32"])
    _, code = compiler._ptx("product", compiler.complete(source), (9, 0))
    found = code.decode()
    assert found.count("ld.shared.v4.f32") == 4 and "ld.shared.f32" not in found
    assert ".local" not in found
