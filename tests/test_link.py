"""Object code placed in memory without LLVM: the same results, or left to LLVM."""

import ctypes

import pytest

from microtorch.kernels import jit, link, store

pytestmark = pytest.mark.skipif(not link.available(), reason="for Linux on x86-64 only")

# Constants, a helper, and a function of the C library.
TEXT = """
def half(x):
    return x * f64(0.5) + f64(1e-300)

def fill(place, n, x, unused):
    a = f64_at(place)
    for i in range(n):
        a[i] = half(f64(i)) - copysign(f64(3.25), f64(i - 5))
    for i in range(n):
        u8_at(x)[i] = 0
    a[0] += libm_log1p(f64(unused))
    clear_flags()
"""
CALL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """Symbol and object code of `fill`."""
    folder = tmp_path_factory.mktemp("link")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROTORCH_CACHE_DIR", str(folder))
        patch.setattr(store, "_writable", True)
        jit.address("fill", TEXT)
        (found,) = folder.glob("fill-*.o")
        return store.read(found.stem)


def results(address, n=11):
    values, zeros = (ctypes.c_double * n)(), (ctypes.c_uint8 * n)(*[7] * n)
    CALL(address)(ctypes.addressof(values), n, ctypes.addressof(zeros), 0)
    assert not any(zeros)
    return list(values)


def test_placed_code_gives_what_the_code_of_llvm_gives(entry, monkeypatch):
    symbol, code = entry
    placed = results(link.place(code, symbol))
    monkeypatch.setattr(link, "available", lambda: False)
    assert results(jit._install(symbol, code)) == placed
    assert placed[3] == 1.5 + 3.25 and placed[7] == 3.5 - 3.25


def test_an_unknown_symbol_is_left_to_llvm(entry):
    assert link.place(entry[1], "another symbol") == 0


def test_another_kind_of_reference_is_left_to_llvm(entry):
    symbol, code = entry
    absolute = code.replace(
        b"\x01\x00\x00\x00\x02\x00\x00\x00", b"\x02\x00\x00\x00\x02\x00\x00\x00"
    )
    assert absolute != code
    assert link.place(absolute, symbol) == 0


def test_an_unknown_function_is_left_to_llvm(entry):
    symbol, code = entry
    assert link.place(code.replace(b"log1p", b"log1X"), symbol) == 0


@pytest.mark.parametrize("part", [0, 3, 10, 63, 64, 500, -1, -200])
def test_code_that_is_cut_off_is_left_to_llvm(entry, part):
    symbol, code = entry
    assert link.place(code[:part], symbol) == 0


def test_no_processor_text_is_left_to_llvm(monkeypatch):
    monkeypatch.setattr(link, "cpu", lambda: "")
    assert jit._cpu()[0] == jit._backend()[0].get_host_cpu_name()
