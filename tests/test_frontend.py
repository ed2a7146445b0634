"""Kernel text to LLVM IR: the words of kernel text, and Numba's own functions beside it."""

import gc
import math
import subprocess
import sys
import time

import numpy as np
import pytest

from microtorch.kernels import jit

SIGNATURE = "void(i64,i64,i64,i64)"

# A function of the user's and a kernel of ours share nothing but Numba.
BESIDE = """
import numba, numpy as np
import microtorch
from microtorch.kernels import jit

@numba.njit
def of_user(x):
    total = 0.0
    for value in np.sort(x):
        total += np.exp(value)
    return [total, np.sqrt(np.sum(x * x))]

x = np.array([3.0, 4.0])
expected = [np.exp(x).sum(), 5.0]
if {first}:
    assert np.allclose(of_user(x), expected)
text = "def twice{tag}(a, b, c, d):\\n    f64_at(a)[0] = 2.0 * f64_at(a)[0]\\n"
jit.function("twice{tag}", text, "void(i64,i64,i64,i64)")(x.ctypes.data, 0, 0, 0)
assert x[0] == 6.0
x[0] = 3.0
assert np.allclose(of_user(x), expected)
assert numba.njit(lambda a: max(a, 2) + abs(-a))(5) == 10
"""


def run(text, *words):
    array = np.array(words)
    jit.function("word", text, SIGNATURE)(array.ctypes.data, 0, 0, 0)
    return array


@pytest.mark.parametrize("first", [True, False])
def test_functions_of_the_user_compile_beside_kernels(first, tmp_path):
    code = BESIDE.format(first=first, tag=f"_{first}".lower())
    subprocess.run([sys.executable, "-c", code], check=True)


def test_min_and_max_of_integers():
    text = (
        "def word(a, b, c, d):\n"
        "    x = i64_at(a)\n"
        "    x[2], x[3] = min(x[0], x[1]), max(x[0], i64(3))\n"
    )
    assert run(text, -5, 7, 0, 0).tolist() == [-5, 7, -5, 3]
    assert run(text, 8, 7, 0, 0).tolist() == [8, 7, 7, 8]


@pytest.mark.parametrize("name", ["cos", "sin", "log", "log1p"])
def test_functions_of_the_c_library(name):
    text = f"def word(a, b, c, d):\n    f64_at(a)[0] = libm_{name}(f64_at(a)[0])\n"
    assert run(text, 0.7)[0] == getattr(math, name)(0.7)


@pytest.mark.parametrize("mark", ["", "  # apart"])
def test_helpers_that_promise_not_to_overlap(mark):
    text = (
        f"def fill(x, y, n):{mark}\n"
        "    for i in range(n):\n"
        "        y[i] = x[i] + 1.0\n"
        "def word(a, b, c, d):\n"
        "    fill(f64_at(a), f64_at(a + 80), 10)\n"
    )
    values = run(text, *np.arange(20.0))
    assert values.tolist() == [*range(10), *range(1, 11)]


def test_pointer_by_a_line_of_a_table():
    text = (
        "def word(a, b, c, d):\n    x = f64_of(i64_at(a), i64_at(a + 8), 1)\n    x[1] = x[0] + 1\n"
    )
    values, words = np.array([1.0, 2.0, 0.0]), np.zeros(4, np.int64)
    # The address is in the table's first word; the line says so, and that 8 bytes come before.
    words[:] = values.ctypes.data, 0, 0, 8
    assert run(text, *words.tolist()).tolist() == words.tolist()
    assert values.tolist() == [1, 2, 3]


def test_changes_in_place_are_the_operations_of_their_types():
    text = (
        "def word(a, b, c, d):\n"
        "    x, y = f64_at(a)[0], i64(f64_at(a)[0])\n"
        "    x *= 3\n"
        "    y //= 2\n"
        "    y <<= 4\n"
        "    f64_at(a)[0] = x + y\n"
    )
    assert run(text, 2.5)[0] == 7.5 + 16


def test_options_of_a_text_change_no_result():
    body = (
        "def add(x, y):  # once\n    return x + y\n"
        "def word(a, b, c, d):\n"
        "    x = f64_at(a)\n"
        "    for i in range(9):\n        x[i] = add(x[i], 1.0)\n"
    )
    for options in ("", "# unroll 150\n", "# interleave 2\n# unroll 4\n"):
        assert run(options + body, *np.arange(9.0)).tolist() == [*range(1, 10)]


def test_nothing_is_kept_of_what_was_compiled():
    def libraries():
        gc.collect()
        return sum(type(found).__name__ == "Library" for found in gc.get_objects())

    text = (
        "def twice(x):\n    return 2.0 * x\n"
        "def word(a, b, c, d):\n    f64_at(a)[0] = twice(f64_at(a)[0]) + {}\n"
    )
    before = libraries()
    for _ in range(3):
        # Of no use to another run, so that it is compiled.
        assert run(text.format(time.time()), 1.0)[0] > 2
    assert libraries() <= before
