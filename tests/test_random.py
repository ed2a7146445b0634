"""The random streams: PyTorch's bits, from stored vectors and from PyTorch where it is installed.

A row of `ROWS` is one draw, ours and PyTorch's. Every row is checked on 5 seeds and 15 sizes, the
generator's whole state after the draw included. `python tests/test_random.py` writes the stored
vectors anew, from PyTorch alone.
"""

import copy
import hashlib
import json
import math
import os
import pathlib
import pickle
import platform
import random as python_random
import subprocess
import sys
import threading

import numpy as np
import pytest

from microtorch import random
from microtorch.random import Generator
from microtorch.tensor import Tensor, wrap

VECTORS = pathlib.Path(__file__).parent / "data" / "random_vectors.json"
SEEDS = (0, 1, 42, 2**32 + 10, -1)
SIZES = (0, 1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 100, 1000, 4099, 100003)
F32 = np.dtype(np.float32)


def th(dtype):
    """PyTorch's dtype of a name."""
    return getattr(_torch(), dtype)


def fill(method, torch_method, dtype, *arguments):
    """A row that fills an array: ours, and PyTorch's by the name of the Tensor method."""

    def mine(g, n):
        out = np.empty(n, dtype)
        getattr(g, method)(out, *arguments)
        return out

    def expected(g, n):
        out = _torch().empty(n, dtype=th(dtype))
        return getattr(out, torch_method)(*arguments, generator=g).numpy()

    return mine, expected


def rand(dtype):
    return (
        lambda g, n: g.rand((n,), dtype),
        lambda g, n: _torch().rand(n, dtype=th(dtype), generator=g).numpy(),
    )


def strided_normal(dtype):
    def mine(g, n):
        out = np.empty((n, 2), dtype)
        g.normal(out[:, 1], 0.3, 1.7)
        return out[:, 1].copy()

    def expected(g, n):
        out = _torch().empty(n, 2, dtype=th(dtype))
        return out[:, 1].normal_(0.3, 1.7, generator=g).numpy()

    return mine, expected


def bernoulli(dtype):
    def p(n):
        return np.linspace(0, 1, n).astype(dtype)

    return (
        lambda g, n: g.bernoulli(p(n)),
        lambda g, n: _torch().bernoulli(_torch().from_numpy(p(n)), generator=g).numpy(),
    )


def dropout(dtype, p):
    def expected(g, n):
        torch = _torch()
        torch.set_rng_state(g.get_state())
        mask = torch.nn.functional.dropout(torch.ones(n, dtype=th(dtype)), p, True).numpy()
        g.set_state(torch.get_rng_state())
        return mask

    return fill("dropout_mask", "", dtype, p)[0], expected


def multinomial(dtype, k, replacement):
    def weights(n):
        return np.linspace(0.1, 2, n).astype(dtype)

    def expected(g, n):
        torch = _torch()
        return torch.multinomial(torch.from_numpy(weights(n)), k, replacement, generator=g).numpy()

    return lambda g, n: g.multinomial(weights(n), k, replacement), expected


def randperm(dtype):
    return (
        lambda g, n: g.randperm(n, dtype),
        lambda g, n: _torch().randperm(n, dtype=th(dtype), generator=g).numpy(),
    )


def rows():
    """Name -> (ours, PyTorch's), each (generator, n) -> array."""
    found = {}
    for dtype in ("float32", "float64"):
        # In the last range a good part of the values would round up to its end.
        third, step = 1 / math.sqrt(3), 2 * np.finfo(dtype).eps
        for low, high in ((0, 1), (-0.1, 0.1), (3.0, 7.5), (-third, third), (1, 1 + step)):
            row = fill("uniform", "uniform_", dtype, low, high)
            found[f"uniform {low:.3g} {high - low:.3g} {dtype}"] = row
        for mean, std in ((0.0, 1.0), (0.3, 1.7), (-2.0, 0.0)):
            found[f"normal {mean} {std} {dtype}"] = fill("normal", "normal_", dtype, mean, std)
        for rate in (1.0, 1.7, 3.0):
            row = fill("exponential", "exponential_", dtype, rate)
            found[f"exponential {rate} {dtype}"] = row
        for p in (0.1, 0.2, 0.5):
            found[f"dropout {p} {dtype}"] = dropout(dtype, p)
        for k, again in ((1, False), (7, False), (1, True), (300, True)):
            found[f"multinomial {k} {again} {dtype}"] = multinomial(dtype, k, again)
        found[f"normal strided {dtype}"] = strided_normal(dtype)
        found[f"bernoulli {dtype}"] = bernoulli(dtype)
    for dtype in ("float16", "float32", "float64"):
        found[f"rand {dtype}"] = rand(dtype)
    found["uniform float16"] = fill("uniform", "uniform_", "float16", -0.1, 0.1)
    for dtype in ("float32", "float64", "int64", "bool"):
        for p in (0.0, 0.3, 1.0):
            found[f"bernoulli_ {p} {dtype}"] = fill("bernoulli_scalar", "bernoulli_", dtype, p)
    least = -(2**63)
    ends = ((0, 10), (-5, 5), (0, 2**28 - 1), (0, 2**28), (-7, 2**31), (0, 2**40), (least, 9))
    for low, high in (*ends, (least, None), (7, None)):
        found[f"randint {low} {high} int64"] = fill("randint", "random_", "int64", low, high)
    for dtype in ("int64", "int32", "int16", "int8", "uint8", "float16", "float32", "float64"):
        found[f"randint 3 100 {dtype}"] = fill("randint", "random_", dtype, 3, 100)
        found[f"random {dtype}"] = fill("random", "random_", dtype)
    found["random bool"] = fill("random", "random_", "bool")
    for dtype in ("int64", "int32", "float64"):
        found[f"randperm {dtype}"] = randperm(dtype)
    return found


def _torch():
    import torch

    return torch


ROWS = rows()


def sizes_of(name):
    """The sizes at which a row is defined."""
    least = {"multinomial 7 False": 7, "multinomial": 1}
    needed = next((n for start, n in least.items() if name.startswith(start)), 0)
    return [n for n in SIZES if n >= needed]


def summary(draw, start, state, name):
    """Digests of all sizes' values and states, one a seed, and the first values at size 33."""
    digests, leading = [], None
    for seed in SEEDS:
        digest = hashlib.sha256()
        for n in sizes_of(name):
            g = start(seed)
            values = np.ascontiguousarray(draw(g, n))
            digest.update(values.tobytes() + state(g))
            if n == 33 and leading is None:
                leading = values[:4].tolist()
        digests.append(digest.hexdigest()[:16])
    return {"leading": leading, "digests": digests}


def write_vectors():
    """Write the stored vectors, all drawn by PyTorch."""
    torch = _torch()

    def start(seed):
        return torch.Generator().manual_seed(seed)

    def state(g):
        return g.get_state().numpy().tobytes()

    lines = [
        f"{json.dumps(name)}: {json.dumps(summary(pair[1], start, state, name))}"
        for name, pair in ROWS.items()
    ]
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def our_start(seed):
    return Generator().manual_seed(seed)


def our_state(g):
    return g.state_bytes().tobytes()


@pytest.fixture(scope="session")
def torch():
    """PyTorch, on a processor whose kernels draw the values that ours are modelled on."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install torch")
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("PyTorch draws other last bits without AVX2: run on a processor that has it")
    return torch


def same(mine, expected):
    assert mine.dtype == expected.dtype
    assert mine.shape == expected.shape
    assert mine.tobytes() == np.ascontiguousarray(expected).tobytes()


# ------------------------------------------------------------------------- values and states
@pytest.mark.parametrize("name", ROWS)
def test_row_gives_the_stored_bits(name):
    stored = json.loads(VECTORS.read_text())[name]
    found = summary(ROWS[name][0], our_start, our_state, name)
    np.testing.assert_allclose(
        np.array(found["leading"], float), np.array(stored["leading"], float), rtol=1e-14
    )
    # Other C libraries may round another last bit of float64 log, sin and cos.
    exact = not name.startswith(("normal", "exponential")) or platform.libc_ver()[0] == "glibc"
    assert not exact or found["digests"] == stored["digests"]


@pytest.mark.parametrize("name", ROWS)
def test_row_gives_pytorchs_bits_and_state(torch, name):
    mine, expected = ROWS[name]
    for seed in SEEDS:
        for n in sizes_of(name):
            g, tg = our_start(seed), torch.Generator().manual_seed(seed)
            same(mine(g, n), expected(tg, n))
            same(g.state_bytes(), tg.get_state().numpy())


def test_multinomial_of_a_matrix_draws_row_by_row(torch):
    w = np.random.RandomState(3).rand(4, 50).astype(np.float32)
    for k, replacement in ((7, False), (7, True), (1, True)):
        g, tg = our_start(5), torch.Generator().manual_seed(5)
        expected = torch.multinomial(torch.from_numpy(w), k, replacement, generator=tg).numpy()
        same(g.multinomial(w, k, replacement), expected)
        same(g.state_bytes(), tg.get_state().numpy())


def test_left_over_normal_survives_every_other_draw(torch):
    g, tg = our_start(3), torch.Generator().manual_seed(3)
    for n in (3, 1, 20, 5, 2, 40, 7):
        for dtype in ("float32", "float64"):
            mine, expected = ROWS[f"normal 0.0 1.0 {dtype}"]
            same(mine(g, n), expected(tg, n))
            same(g.rand((2,)), torch.rand(2, generator=tg).numpy())
            same(g.state_bytes(), tg.get_state().numpy())


@pytest.mark.parametrize("seed", SEEDS)
def test_any_sequence_of_draws_moves_between_the_two_libraries(torch, seed):
    choose = python_random.Random(seed)
    names = [name for name in ROWS if not name.startswith("multinomial")]
    g, tg = our_start(seed), torch.Generator().manual_seed(seed)
    for _ in range(40):
        name, n = choose.choice(names), choose.choice((1, 3, 15, 16, 17, 700))
        same(ROWS[name][0](g, n), ROWS[name][1](tg, n))
        state = g.get_state()
        same(state._array, tg.get_state().numpy())
        # From here each goes on from what the other saved.
        fresh, torch_fresh = Generator(), torch.Generator()
        fresh.set_state(wrap(tg.get_state().numpy()))
        torch_fresh.set_state(torch.from_numpy(state._array))
        assert fresh.initial_seed() == torch_fresh.initial_seed() == seed % 2**64
        g, tg = fresh, torch_fresh


def test_draws_into_strides_are_those_into_a_contiguous_array():
    calls = {"uniform": (-1, 1), "exponential": (), "bernoulli_scalar": (0.4,), "randint": (0, 9)}
    for name, arguments in calls.items():
        flat, wide = np.empty((5, 7), F32), np.zeros((7, 10), F32)
        getattr(our_start(2), name)(flat, *arguments)
        getattr(our_start(2), name)(wide.T[::2], *arguments)
        assert (wide.T[::2] == flat).all()
        assert (wide.T[1::2] == 0).all()


def test_contiguous_flag_chooses_between_blocks_and_single_normals():
    single, blocks, wide = np.empty(40, F32), np.empty(40, F32), np.empty((40, 2), F32)
    our_start(1).normal(single, contiguous=False)
    our_start(1).normal(wide[:, 0])
    our_start(1).normal(blocks)
    assert (single == wide[:, 0]).all()
    assert (single != blocks).all()
    our_start(1).normal(wide[:, 0], contiguous=True)
    assert (wide[:, 0] == blocks).all()


def test_float16_normal_is_float32_rounded():
    half, single = np.empty(100, np.float16), np.empty(100, F32)
    our_start(4).normal(half)
    our_start(4).normal(single)
    assert (half == single.astype(np.float16)).all()


def test_nothing_to_fill_takes_nothing():
    g = our_start(6)
    before = our_state(g)
    for name in ROWS:
        if 0 in sizes_of(name):
            assert ROWS[name][0](g, 0).size == 0
    assert our_state(g) == before


# --------------------------------------------------------------------------- seeds, the default
def test_seed_counts_by_its_low_32_bits_but_is_kept_whole():
    assert (our_start(10).rand((5,)) == our_start(2**32 + 10).rand((5,))).all()
    assert our_start(2**32 + 10).initial_seed() == 2**32 + 10
    assert our_start(-1).initial_seed() == 2**64 - 1
    assert our_start(-(2**63)).initial_seed() == 2**63
    assert Generator().initial_seed() == 67280421310721


def test_manual_seed_returns_the_default_generator_and_drops_the_left_over_normal():
    assert random.manual_seed(3) is random.default_generator
    fresh = our_state(random.default_generator)
    random.default_generator.normal(np.empty(3, F32))
    assert our_state(random.default_generator) != fresh
    random.manual_seed(3.7)
    assert random.initial_seed() == 3
    assert our_state(random.default_generator) == fresh


def test_seed_takes_64_bits_of_entropy():
    g = Generator()
    drawn = {g.seed() for _ in range(8)}
    assert len(drawn) == 8
    assert max(drawn) >= 2**53
    assert g.initial_seed() in drawn
    assert random.seed() == random.initial_seed()


def test_rng_state_of_the_default_generator_is_a_byte_tensor():
    random.manual_seed(5)
    state = random.get_rng_state()
    assert isinstance(state, Tensor)
    assert state._array.dtype == np.uint8
    assert state._array.shape == (5056,)
    first = random.default_generator.rand((4,))
    random.set_rng_state(state)
    assert (random.default_generator.rand((4,)) == first).all()


@pytest.mark.parametrize("enabled", [True, False])
def test_fork_rng_puts_the_state_back_even_after_an_error(enabled):
    random.manual_seed(5)
    before = our_state(random.default_generator)
    with pytest.raises(KeyError), random.fork_rng(enabled=enabled):
        random.default_generator.rand((4,))
        raise KeyError
    assert (our_state(random.default_generator) == before) is enabled


@pytest.mark.parametrize(
    "duplicate", [Generator.clone_state, copy.copy, copy.deepcopy,
                  lambda g: pickle.loads(pickle.dumps(g))]
)  # fmt: skip
def test_a_copy_goes_on_alone_from_the_same_place(duplicate):
    g = our_start(9)
    g.normal(np.empty(5, F32))
    other = duplicate(g)
    mine, its = np.empty(7), np.empty(7)
    g.normal(mine)
    other.normal(its)
    assert (mine == its).all()
    assert other.initial_seed() == 9


def test_device_is_the_cpu():
    assert repr(Generator().device) == "device(type='cpu')"
    with pytest.raises(RuntimeError, match=r"not supported for torch.Generator\(\) api"):
        Generator("cuda")


# ------------------------------------------------------------------------- threads, processes
def test_threads_that_share_a_generator_share_out_its_words():
    g, parts = our_start(8), [np.empty((50, 1000), np.int64) for _ in range(4)]

    def draw(part):
        for row in part:
            g.randint(row, 0, 2**27)

    threads = [threading.Thread(target=draw, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = np.empty((200, 1000), np.int64)
    our_start(8).randint(alone, 0, 2**27)
    assert sorted(map(tuple, np.concatenate(parts))) == sorted(map(tuple, alone))


def test_values_do_not_depend_on_other_threads_and_generators():
    alone = np.empty(100003, F32)
    our_start(8).normal(alone)
    parts = [np.empty(100003, F32) for _ in range(4)]
    threads = [threading.Thread(target=our_start(8).normal, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((part == alone).all() for part in parts)


def test_import_compiles_nothing_and_a_warm_draw_needs_no_numba():
    expected = np.empty(40)
    our_start(3).normal(expected)
    our_start(3).exponential(expected[:4])
    program = """
import sys
import numpy as np
from microtorch.random import Generator
assert not {"numba", "llvmlite"} & set(sys.modules)
out = np.empty(40)
Generator().manual_seed(3).normal(out)
Generator().manual_seed(3).exponential(out[:4])
assert "numba" not in sys.modules
print(out.tobytes().hex())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=_environment()
    )
    assert done.stderr == ""
    assert bytes.fromhex(done.stdout) == expected.tobytes()


def _environment():
    import microtorch

    package = pathlib.Path(microtorch.__path__[0]).parent
    return {**os.environ, "PYTHONPATH": str(package)}


# ------------------------------------------------------------------------------------- errors
def i64(n=3):
    return np.empty(n, np.int64)


def f32(n=3):
    return np.empty(n, np.float32)


def corrupt(**fields):
    """A state with other values at the byte offsets `o8` and so on."""
    state = Generator().state_bytes()
    for place, value in fields.items():
        state[int(place[1:]) : int(place[1:]) + 4] = np.array([value], "<i4").view(np.uint8)
    return wrap(state)


ERRORS = {
    "seed too large": (lambda g: g.manual_seed(2**64), ValueError, "Overflow when unpacking long"),
    "seed too small": (lambda g: random.manual_seed(-(2**63) - 1), ValueError, "Overflow when un"),
    "seed a float": (lambda g: g.manual_seed(1.5), RuntimeError,
                     "manual_seed expected a long, but got float"),
    "seed a letter": (lambda g: random.manual_seed("a"), ValueError, "invalid literal for int"),
    "seed None": (lambda g: random.manual_seed(None), TypeError, "int() argument must be"),
    "state a number": (lambda g: g.set_state(3), TypeError,
                       "expected a torch.ByteTensor, but got int"),
    "state of floats": (lambda g: random.set_rng_state(wrap(f32(5056))), TypeError,
                        "RNG state must be a torch.ByteTensor"),
    "state with gaps": (lambda g: g.set_state(wrap(np.zeros(10112, np.uint8)[::2])), RuntimeError,
                        "RNG state must be contiguous"),
    "state of 10": (lambda g: g.set_state(wrap(np.zeros(10, np.uint8))), RuntimeError,
                    "Expected a CPUGeneratorImplState of size 5056 but found the input RNG state "
                    "size to be 10"),
    "state not seeded": (lambda g: g.set_state(corrupt(o12=0)), RuntimeError, "Invalid mt19937"),
    "state left 0": (lambda g: g.set_state(corrupt(o8=0)), RuntimeError, "Invalid mt19937"),
    "state left 625": (lambda g: g.set_state(corrupt(o8=625)), RuntimeError, "Invalid mt19937"),
    "state next 625": (lambda g: g.set_state(corrupt(o16=625)), RuntimeError, "Invalid mt19937"),
    "rand negative": (lambda g: g.rand((2, -1)), RuntimeError,
                      "Trying to create tensor with negative dimension -1: [2, -1]"),
    "uniform int": (lambda g: g.uniform(i64(), 0, 1), NotImplementedError,
                    "\"check_uniform_bounds\" not implemented for 'Long'"),
    "uniform order": (lambda g: g.uniform(f32(), 2, 1), RuntimeError,
                      "uniform_ expects to return a [from, to) range, but found from=2 > to=1"),
    "uniform to": (lambda g: g.uniform(f32(), 0, 1e39), RuntimeError,
                   "to is out of bounds for float"),
    "uniform nan": (lambda g: g.uniform(np.empty(3), float("nan"), 1), RuntimeError,
                    "from is out of bounds for double"),
    "uniform wide": (lambda g: g.uniform(f32(), -3e38, 3e38), RuntimeError,
                     "uniform_ expects to-from <= std::numeric_limits<Float>::max(), but found "
                     "to=3e+38 and from=-3e+38 which result in to-from to exceed the limit"),
    "normal int": (lambda g: g.normal(i64()), NotImplementedError,
                   "\"normal_kernel_cpu\" not implemented for 'Long'"),
    "normal std": (lambda g: g.normal(f32(0), 0, -1), RuntimeError,
                   "normal expects std >= 0.0, but found std -1"),
    "exponential int": (lambda g: g.exponential(i64()), RuntimeError,
                        "dtype must be a floating point but you specified Long"),
    "exponential 0": (lambda g: g.exponential(f32(), 0), RuntimeError,
                      "exponential_ expects lambda > 0.0, but found lambda=0"),
    "randint empty": (lambda g: g.randint(i64(), 5, 5), RuntimeError,
                      "random_ expects 'from' to be less than 'to', but got from=5 >= to=5"),
    "randint to": (lambda g: g.randint(np.empty(3, np.uint8), 0, 300), RuntimeError,
                   "to - 1 is out of bounds for unsigned char"),
    "randint from": (lambda g: g.randint(np.empty(3, np.uint8), -1, 3), RuntimeError,
                     "from is out of bounds for unsigned char"),
    "randint half": (lambda g: g.randint(np.empty(3, np.float16), 0, 2**20), RuntimeError,
                     "to - 1 is out of bounds for c10::Half"),
    "randperm negative": (lambda g: g.randperm(-1), RuntimeError,
                          "Trying to create tensor with negative dimension -1: [-1]"),
    "randperm bool": (lambda g: g.randperm(3, np.bool_), NotImplementedError,
                      "\"randperm\" not implemented for 'Bool'"),
    "randperm uint8": (lambda g: g.randperm(257, np.uint8), RuntimeError,
                       "value cannot be converted to type uint8_t without overflow"),
    "randperm half": (lambda g: g.randperm(3000, np.float16), RuntimeError,
                      "n cannot be greater than 2049 for Half type."),
    "randperm float": (lambda g: g.randperm(2**24 + 2, F32), RuntimeError,
                       "n cannot be greater than 2^24+1 for Float type."),
    "bernoulli 1.5": (lambda g: g.bernoulli(np.array([1.5], F32)), RuntimeError,
                      "Expected p_in >= 0 && p_in <= 1 to be true, but got false."),
    "bernoulli nan": (lambda g: g.bernoulli(np.array([np.nan])), RuntimeError,
                      "Expected p_in >= 0 && p_in <= 1 to be true, but got false."),
    "bernoulli int": (lambda g: g.bernoulli(i64()), NotImplementedError,
                      "\"bernoulli_tensor_cpu_p_\" not implemented for 'Long'"),
    "bernoulli_ 1.5": (lambda g: g.bernoulli_scalar(f32(), 1.5), RuntimeError,
                       "bernoulli_ expects p to be in [0, 1], but got p=1.5"),
    "multinomial rank": (lambda g: g.multinomial(np.ones((2, 2, 2)), 1), RuntimeError,
                         "prob_dist must be 1 or 2 dim"),
    "multinomial int": (lambda g: g.multinomial(i64(), 1), RuntimeError,
                        "multinomial only supports floating-point dtypes for input, got: Long"),
    "multinomial none": (lambda g: g.multinomial(np.ones(2), 0), RuntimeError,
                         "cannot sample n_sample <= 0 samples"),
    "multinomial many": (lambda g: g.multinomial(np.ones(2), 3), RuntimeError,
                         "cannot sample n_sample > prob_dist.size(-1) samples without replacement"),
    "multinomial wide": (lambda g: g.multinomial(np.broadcast_to(F32.type(1), 2**24 + 1), 1),
                         RuntimeError, "number of categories cannot exceed 2^24"),
    "multinomial sign": (lambda g: g.multinomial(np.array([1.0, -1.0]), 1), RuntimeError,
                         "probability tensor contains either `inf`, `nan` or element < 0"),
    "multinomial zero": (lambda g: g.multinomial(np.array([[1.0, 1], [0, 0]]), 1), RuntimeError,
                         "invalid multinomial distribution (sum of probabilities <= 0)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_pytorchs_and_draws_nothing(name):
    call, kind, text = ERRORS[name]
    g = our_start(1)
    before = our_state(g)
    with pytest.raises(kind) as raised:
        call(g)
    assert text in str(raised.value)
    assert our_state(g) == before


def test_randint_beyond_a_floats_integers_warns():
    with pytest.warns(UserWarning, match=r"to - 1 is out of bounds \[-\(2\^24\), 2\^24\]"):
        our_start(1).randint(f32(), 0, 2**25)


if __name__ == "__main__":
    write_vectors()
