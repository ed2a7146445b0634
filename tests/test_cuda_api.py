"""`torch.cuda` and what belongs to it: random numbers, memory, streams, exchange, bad situations.

What needs a GPU are the functions under `@simulated`: they run in one process of its own, on the
simulator (`python tests/test_cuda_api.py`), and each is a test here. What the simulator cannot show
is tried on a stub of NVIDIA's driver.
"""

import ctypes
import enum
import gc
import importlib.util
import io
import itertools
import json
import os
import pickle
import sys
import threading
import time
import traceback
import types
import weakref

import numpy as np
import pytest
from process import run

import microtorch as torch
from microtorch import errors
from microtorch.gpu import array, blas, compiler, driver, exchange, memory, rng

F32, F64, I64 = np.float32, np.float64, np.int64
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
SIMULATED = []


def simulated(case):
    SIMULATED.append(case)
    return case


def expect(kind, words, function, *args, **options):
    try:
        function(*args, **options)
    except kind as error:
        assert words in str(error), str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")


# ------------------------------------------------------------------------------ without a GPU
def loaded(code, tmp_path):
    code += "\nimport sys\nprint(*(m for m in sys.modules if m.startswith('microtorch.gpu')))"
    return run(code, tmp_path, "-W", "error", NUMBA_ENABLE_CUDASIM=None)[0].split()


def test_import_loads_nothing_of_the_gpu(tmp_path):
    assert loaded("import microtorch", tmp_path) == []
    code = "import microtorch as torch\ntorch.manual_seed(1)\ntorch.rand(2)\n"
    code += "torch.cuda.memory_allocated()\ntorch.cuda.empty_cache()\ntorch.cuda.manual_seed(2)\n"
    code += "torch.ones(2).is_pinned()\ntorch.from_dlpack(torch.ones(2).__dlpack__())"
    assert loaded(code, tmp_path) == []


def test_is_available_loads_what_asks_the_driver_at_most(tmp_path):
    code = "import time, microtorch as torch\nstart = time.perf_counter()\n"
    code += "torch.cuda.is_available()\nassert time.perf_counter() - start < 2"
    asked = "microtorch.gpu microtorch.gpu.compiler microtorch.gpu.driver".split()
    installed = importlib.util.find_spec("numba_cuda") is not None
    assert sorted(loaded(code, tmp_path)) == (asked if installed else [])


@without_gpu
def test_without_a_gpu_nothing_is_there_and_seeds_are_accepted():
    cuda = torch.cuda
    assert not cuda.is_available() and cuda.device_count() == 0 and not cuda.is_initialized()
    assert cuda.why_unavailable().endswith(".") and cuda.why_unavailable().count(". ") == 0
    for name in "memory_allocated max_memory_allocated memory_reserved max_memory_reserved".split():
        assert getattr(cuda, name)() == 0
    assert cuda.memory_stats() == {}
    for name in ("manual_seed", "manual_seed_all"):
        assert getattr(cuda, name)(1) is None
    assert cuda.seed() is cuda.seed_all() is cuda.empty_cache() is None
    cuda.set_device(-1)
    with cuda.stream(None), cuda.device(-1):
        pass


NEEDS = (
    "init synchronize current_device get_device_name get_device_capability get_device_properties "
    "current_stream default_stream mem_get_info memory_summary reset_peak_memory_stats "
    "initial_seed get_rng_state Stream Event"
)


@without_gpu
@pytest.mark.parametrize("name", NEEDS.split())
def test_without_a_gpu_what_needs_one_says_why(name):
    with pytest.raises(AssertionError, match="^Torch not compiled with CUDA enabled: .*[.]$"):
        getattr(torch.cuda, name)()


@without_gpu
def test_without_a_gpu_nothing_is_pinned_or_put_there():
    x = torch.ones(2)
    assert not x.is_pinned() and not hasattr(x, "__cuda_array_interface__")
    with pytest.raises(RuntimeError, match="Cannot access accelerator device when none"):
        x.pin_memory()
    with pytest.raises(RuntimeError, match="pin_memory=True requires a CUDA"):
        torch.empty(2, pin_memory=True)
    with pytest.raises(AssertionError, match="Torch not compiled"):
        x.cuda()
    loader = torch.utils.data.DataLoader([1.0, 2.0], pin_memory=True)
    assert [b.tolist() for b in loader] == [[1.0], [2.0]]


def test_out_of_memory_error_is_one_class():
    assert torch.OutOfMemoryError is torch.cuda.OutOfMemoryError is errors.OutOfMemoryError
    assert issubclass(torch.OutOfMemoryError, RuntimeError)


# -------------------------------------------------------------------------------- the numbers
VECTORS = (
    (0, 0, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (-1, -1, -1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (0x85A308D3243F6A88, 0x299F31D0A4093822, 0x0370734413198A2E,
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
)  # fmt: skip


@pytest.mark.parametrize("low, key, high, words", VECTORS)
def test_philox_makes_the_published_words(low, key, high, words):
    made = rng.on_arrays("float32")["words"](low, key, high)
    assert " ".join(f"{int(w):08x}" for w in made) == words


def drawn(draw, n, dtype, seed=11, like=None):
    """What a stream draws on the CPU, or on the GPU."""
    stream = rng.Stream()
    stream.seed(seed)
    out = np.empty(n, dtype) if like is None else array.empty(n, dtype)
    draw(stream, out)
    return out if like is None else out.host()


def test_distributions():
    n = 40_000
    u = drawn(lambda s, x: s.uniform(x, 2, 5), n, F32)
    assert u.min() >= 2 and u.max() < 5 and abs(u.mean() - 3.5) < 0.02
    for dtype in (F32, F64):
        z = drawn(lambda s, x: s.normal(x, 3, 2), n, dtype)
        assert abs(z.mean() - 3) < 0.05 and abs(z.std() - 2) < 0.05
        assert abs(((z - 3) ** 4).mean() / 16 - 3) < 0.3
        # Both halves of Box and Muller's pairs are independent.
        assert abs(np.corrcoef(z[: n // 2], z[n // 2 :])[0, 1]) < 0.03
    e = drawn(lambda s, x: s.exponential(x, 4), n, F64)
    assert e.min() >= 0 and abs(e.mean() - 0.25) < 0.01
    m = drawn(lambda s, x: s.mask(x, 0.3, 5.0), n, F32)
    assert set(np.unique(m)) == {0, 5} and abs((m > 0).mean() - 0.3) < 0.01
    i = drawn(lambda s, x: s.integers(x, -3, 7, False), n, I64)
    counts = np.bincount(i + 3, minlength=7)
    assert len(counts) == 7 and abs(counts - n / 7).max() < 500
    assert sorted(drawn(rng.Stream.permutation, 1000, I64)) == list(range(1000))


@pytest.mark.parametrize("low, span", [
    (0, 1), (5, 2**31), (-(2**62), 2**63 - 1), (0, 2**63), (-(2**63), 2**63 + 5),
    (-(2**63), 2**64 - 1), (-(2**62), 3 * 2**62),
])  # fmt: skip
def test_integers_of_wide_ranges(low, span):
    found = [int(v) for v in drawn(lambda s, x: s.integers(x, low, span, True), 5000, I64)]
    assert low <= min(found) and max(found) < low + span
    # As in PyTorch, 64 bits modulo the span: up to a half of the numbers come twice as often.
    assert abs(sum((v - low) / span for v in found) / 5000 - (0 if span == 1 else 0.5)) < 0.1


def test_fills_and_seeds_are_independent():
    stream = rng.Stream()
    stream.seed(1)
    first, second = np.empty(2000), np.empty(2000)
    stream.fill(first), stream.fill(second)
    assert (first != second).all() and abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert (drawn(rng.Stream.fill, 2000, F64, seed=2) != first).all()
    # Fewer elements are the first of more; the elements do not depend on how many there are.
    assert (drawn(rng.Stream.fill, 7, F64, seed=1) == first[:7]).all()


@simulated
def the_same_numbers_on_both_devices():
    draws = {
        "fill": rng.Stream.fill, "uniform": lambda s, x: s.uniform(x, -1, 3),
        "mask": lambda s, x: s.mask(x, 0.4, 2.0),
    }  # fmt: skip
    for seed in (0, 7, 2**64 - 1):
        for n in (0, 1, 2, 7, 16, 33):
            for dtype in (F32, F64):
                for draw in draws.values():
                    a, b = (drawn(draw, n, dtype, seed, like) for like in (None, True))
                    assert a.dtype == b.dtype == dtype and (a == b).all()
                for draw in (lambda s, x: s.normal(x, 1, 2), lambda s, x: s.exponential(x, 3)):
                    a, b = (drawn(draw, n, dtype, seed, like) for like in (None, True))
                    assert np.allclose(a, b, 1e-6, 1e-6)
            for low, span in ((0, 10), (-5, 2**40), (0, 2**63), (-(2**63), 2**64 - 1), (0, 0)):
                draw = lambda s, x: s.integers(x, low, span, True)
                a, b = (drawn(draw, n, I64, seed, like) for like in (None, True))
                assert (a == b).all()
            a, b = (drawn(rng.Stream.permutation, n, I64, seed, like) for like in (None, True))
            assert (a == b).all()


@simulated
def generators_have_a_device_a_seed_and_a_state():
    g = torch.Generator(device="cuda")
    assert isinstance(g, torch.Generator) and str(g.device) == "cuda:0"
    assert g.initial_seed() == 67280421310721
    assert g.manual_seed(-1) is g and g.initial_seed() == 2**64 - 1
    torch.rand(3, device="cuda", generator=g)
    state = g.get_state()
    assert state.device == torch.device("cpu") and state.shape == (16,)
    a = torch.rand(3, device="cuda", generator=g)
    for other in (g.set_state(state), pickle.loads(pickle.dumps(g.set_state(state)))):
        assert torch.rand(3, device="cuda", generator=other).tolist() == a.tolist()
    other = torch.Generator("cuda")
    other.set_state(state)
    assert other.clone_state().device.type == "cuda"
    assert torch.rand(3, device="cuda", generator=other).tolist() == a.tolist()
    expect(RuntimeError, "RNG state is wrong size", g.set_state, torch.get_rng_state())
    expect(RuntimeError, "invalid device ordinal", torch.Generator, "cuda:1")


@simulated
def manual_seed_seeds_the_gpu_too():
    torch.manual_seed(5)
    a = torch.randn(4, device="cuda")
    torch.manual_seed(5)
    assert torch.cuda.initial_seed() == 5
    assert torch.randn(4, device="cuda").tolist() == a.tolist()
    state = torch.cuda.get_rng_state()
    b = torch.rand(3, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.rand(3, device="cuda").tolist() == b.tolist()
    torch.cuda.manual_seed(6)
    c = torch.rand(3, device="cuda")
    torch.cuda.manual_seed_all(6)
    before = torch.get_rng_state()
    assert torch.rand(3, device="cuda").tolist() == c.tolist()
    assert (torch.get_rng_state() == before).all()
    torch.cuda.seed()
    assert torch.cuda.initial_seed() != 6
    assert torch.seed() == torch.initial_seed() == torch.cuda.initial_seed()
    with torch.random.fork_rng():
        a = torch.rand(2, device="cuda")
    assert torch.rand(2, device="cuda").tolist() == a.tolist()


@simulated
def functions_draw_on_the_gpu():
    x = torch.ones(2, 3, device="cuda", dtype=torch.float64)
    p = torch.full((40,), 0.5, device="cuda")
    w = torch.tensor([1.0, 0.0, 2.0], device="cuda")
    made = {
        "rand": torch.rand(2, 3, device="cuda"), "randn": torch.randn(2, 3, device="cuda"),
        "randint": torch.randint(0, 9, (2, 3), device="cuda"),
        "normal": torch.normal(0.0, 1.0, (2, 3), device="cuda"),
        "normal of tensors": torch.normal(x, x), "like": torch.rand_like(x),
        "randn_like": torch.randn_like(x), "randn_like of columns": torch.randn_like(x.T).T,
        "randint_like": torch.randint_like(x, 5), "uniform_": torch.empty_like(x).uniform_(1, 2),
        "uniform_ of columns": torch.empty_like(x).T.uniform_(1, 2).T,
        "normal_": torch.empty_like(x).normal_(3), "random_": torch.empty_like(x).random_(),
        "exponential_": torch.empty_like(x).exponential_(), "bernoulli": torch.bernoulli(x / 2),
        "bernoulli_": x.clone().bernoulli_(0.5), "by tensor": x.clone().bernoulli_(x / 2),
        "dropout": torch.nn.functional.dropout(x), "half": torch.rand(2, 3, device="cuda").half(),
        "float16": torch.rand(2, 3, device="cuda", dtype=torch.float16),
        "dropout1d": torch.nn.functional.dropout1d(x[None])[0],
    }  # fmt: skip
    for name, z in made.items():
        assert z.is_cuda and z.shape == (2, 3), name
    assert sorted(torch.randperm(9, device="cuda").tolist()) == list(range(9))
    assert sorted(torch.multinomial(w, 2).tolist()) == [0, 2]
    assert set(torch.multinomial(w, 20, True).tolist()) <= {0, 2}
    assert 5 < torch.bernoulli(p).sum().item() < 35
    assert torch.rand(3, out=torch.empty(3, device="cuda")).is_cuda
    assert torch.rand_like(x, device="cpu").device.type == "cpu"
    soft = torch.nn.functional.gumbel_softmax(x.float(), hard=True)
    assert soft.is_cuda and soft.sum(1).tolist() == [1, 1]
    layer = torch.nn.Linear(3, 2).to("cuda")
    torch.nn.init.kaiming_normal_(layer.weight)
    assert layer.weight.is_cuda and layer.weight.std().item() > 0


@simulated
def a_compiled_step_draws_anew_at_each_call():
    step = torch.compile(lambda x: torch.nn.functional.dropout(x * 2, 0.5) + 1)
    x = torch.ones(40, device="cuda")
    torch.manual_seed(3)
    found = [step(x).tolist() for _ in range(4)]
    torch.manual_seed(3)
    plain = [(torch.nn.functional.dropout(x * 2, 0.5) + 1).tolist() for _ in range(4)]
    assert found == plain and plain[0] != plain[1]


@simulated
def a_generator_of_another_device_is_refused():
    words = "Expected a 'cuda' device type for generator but found 'cpu'"
    cpu, x = torch.Generator(), torch.ones(2, device="cuda")
    for draw in (
        lambda: torch.rand(2, device="cuda", generator=cpu),
        lambda: torch.randperm(2, device="cuda", generator=cpu),
        lambda: x.uniform_(generator=cpu), lambda: x.random_(generator=cpu),
        lambda: torch.multinomial(x, 1, generator=cpu), lambda: torch.bernoulli(x, generator=cpu),
        lambda: torch.normal(x, x, generator=cpu),
    ):  # fmt: skip
        expect(RuntimeError, words, draw)
    words = "Expected a 'cpu' device type for generator but found 'cuda'"
    expect(RuntimeError, words, torch.rand, 2, generator=torch.Generator("cuda"))


# -------------------------------------------------------------------------------------- memory
@simulated
def memory_is_used_again_and_counted():
    cuda = torch.cuda
    gc.collect(), cuda.empty_cache()
    assert cuda.is_initialized()
    before, held = cuda.memory_allocated(), cuda.memory_reserved()
    a = torch.empty(1000, device="cuda")
    place = a.data_ptr()
    assert cuda.memory_allocated() - before == 4096
    del a
    assert cuda.memory_allocated() == before and cuda.memory_reserved() == held + 4096
    b = torch.empty(1001, device="cuda")
    assert b.data_ptr() == place and cuda.max_memory_allocated() >= before + 4096
    del b
    cuda.reset_peak_memory_stats()
    assert cuda.max_memory_allocated() == before
    cuda.empty_cache()
    assert cuda.memory_reserved() == held
    free, total = cuda.mem_get_info()
    assert 0 < free < total == cuda.get_device_properties(0).total_memory
    assert "of 1.00 GiB free" in cuda.memory_summary()


@simulated
def out_of_memory_says_how_much_and_harms_nothing():
    cuda, simulator = torch.cuda, driver.start().cu
    kept = torch.arange(4.0, device="cuda")
    cached = torch.empty(1 << 20, device="cuda")
    del cached
    gc.collect()
    total, simulator.total = simulator.total, simulator.used
    try:
        # What is only cached is given back before an allocation fails.
        big = torch.empty((1 << 20) - 8192, device="cuda")
        del big
        words = "CUDA out of memory. Tried to allocate 8.00 MiB. GPU 0 has a total capacity of"
        expect(torch.OutOfMemoryError, words, torch.empty, 1 << 21, device="cuda")
        expect(torch.OutOfMemoryError, "is free", torch.ones, 1 << 21, device="cuda")
        assert (kept + 1).tolist() == [1, 2, 3, 4]
    finally:
        simulator.total = total
    assert torch.empty(1 << 21, device="cuda").numel() == 1 << 21


@simulated
def memory_goes_back_to_its_stream():
    s = torch.cuda.Stream()
    with torch.cuda.stream(s):
        assert torch.cuda.current_stream() == s
        a = torch.zeros(3000, device="cuda")
    assert torch.cuda.current_stream() == torch.cuda.default_stream() != s
    place = a.data_ptr()
    del a
    b = torch.empty(3000, device="cuda")
    assert b.data_ptr() != place
    with s:
        assert torch.empty(3000, device="cuda").data_ptr() == place
    b.record_stream(s)
    place = b.data_ptr()
    simulator = driver.start()
    happened, simulator.cuEventQuery = simulator.cuEventQuery, lambda event: False
    del b
    assert torch.empty(3000, device="cuda").data_ptr() != place
    simulator.cuEventQuery = happened
    again = [torch.empty(3000, device="cuda") for _ in range(2)]
    assert place in [x.data_ptr() for x in again]


@simulated
def streams_and_events():
    cuda = torch.cuda
    s, t = cuda.Stream(), cuda.Stream(device="cuda", priority=-1)
    assert s != t and len({s, t, s}) == 2 and "torch.cuda.Stream device=cuda:0" in repr(s)
    e = s.record_event()
    t.wait_event(e), t.wait_stream(s), s.synchronize(), e.synchronize()
    assert s.query() and e.query() and cuda.Event().query()
    first, second = (cuda.Event(enable_timing=True) for _ in range(2))
    expect(ValueError, "must be recorded", first.elapsed_time, second)
    first.record()
    time.sleep(0.002)
    second.record(cuda.current_stream())
    cuda.synchronize()
    assert 1 < first.elapsed_time(second) < 1000
    expect(ValueError, "enable_timing=True", e.elapsed_time, first)
    assert len({cuda.Stream().cuda_stream for _ in range(100)}) <= 32
    found = []
    thread = threading.Thread(target=lambda: found.append(cuda.current_stream().cuda_stream))
    with s:
        thread.start(), thread.join()
    assert found == [0]


@simulated
def devices():
    cuda = torch.cuda
    assert cuda.is_available() and cuda.device_count() == 1 and cuda.why_unavailable() is None
    assert cuda.current_device() == 0 and cuda.get_device_capability("cuda:0") == (9, 0)
    assert cuda.get_device_name() == cuda.get_device_properties(0).name == "Simulated GPU"
    cuda.set_device(0), cuda.set_device("cuda:0"), cuda.set_device(torch.device("cuda"))
    with cuda.device(0):
        assert torch.ones(1, device="cuda").device == torch.device("cuda:0")
    expect(RuntimeError, "invalid device ordinal", cuda.set_device, 1)
    expect(RuntimeError, "invalid device ordinal", torch.ones, 1, device="cuda:1")
    expect(ValueError, "Expected a cuda device", cuda.synchronize, "cpu")
    assert torch.ones(1, device="cuda").get_device() == 0 and torch.ones(1).get_device() == -1
    assert "device='cuda:0'" in repr(torch.ones(1, device="cuda"))


@simulated
def pinned_memory():
    x = torch.arange(6.0).reshape(2, 3)
    y = x.T.pin_memory()
    assert not x.is_pinned() and y.is_pinned() and y[1:].is_pinned() and y.pin_memory() is y
    assert y.tolist() == x.T.tolist() and torch.empty(2, pin_memory=True).is_pinned()
    assert (
        torch.tensor([1.0], pin_memory=True).is_pinned() and torch.empty(0).pin_memory().is_pinned()
    )
    z = y.to("cuda", non_blocking=True)
    back = z.to("cpu", non_blocking=True)
    assert back.is_pinned() and not z.is_pinned() and back.tolist() == y.tolist()
    assert not z.cpu().is_pinned() and y.cuda(non_blocking=True).tolist() == y.tolist()
    y.copy_(z * 2, non_blocking=True)
    assert y.tolist() == (x.T * 2).tolist()
    z.copy_(y, non_blocking=True)
    assert z.tolist() == y.tolist()
    x.copy_(z.T, non_blocking=True)
    assert x.tolist() == y.T.tolist()
    x.copy_(z[:, 0], non_blocking=True)
    assert x.tolist() == [z[:, 0].tolist()] * 2
    expect(RuntimeError, "only dense CPU tensors can be pinned", z.pin_memory)
    data = torch.utils.data
    batches = data.DataLoader([{"x": torch.ones(2), "y": (1, "a")}] * 2, 2, pin_memory=True)
    [batch] = batches
    assert batch["x"].is_pinned() and batch["y"][0].is_pinned() and batch["y"][1] == ["a", "a"]


# ------------------------------------------------------------------------------------ exchange
class Foreign:
    """An array of a library that has the interface alone."""

    def __init__(self, x, **changes):
        self.x, self.__cuda_array_interface__ = x, {**x.__cuda_array_interface__, **changes}


@simulated
def cuda_array_interface():
    x = torch.arange(12.0, device="cuda").reshape(3, 4)
    y = x[1:, ::2]
    said = y.__cuda_array_interface__
    assert said["shape"] == (2, 2) and said["strides"] == (16, 8) and said["typestr"] == "<f4"
    assert said["data"] == (y.data_ptr(), False) and said["version"] == 3 and said["stream"] == 1
    assert x.__cuda_array_interface__["strides"] is None
    with torch.cuda.Stream() as s:
        assert x.__cuda_array_interface__["stream"] == s.cuda_stream
    z = torch.as_tensor(Foreign(y), device="cuda")
    assert z.is_cuda and z.data_ptr() == y.data_ptr() and z.tolist() == y.tolist()
    z[0, 0] = -1
    assert x[1, 0].item() == -1
    assert torch.as_tensor(Foreign(y)).is_cuda
    assert torch.as_tensor(Foreign(y), device="cpu").tolist() == y.tolist()
    assert torch.as_tensor(Foreign(y, stream=None), dtype=torch.float64).dtype == torch.float64
    none = torch.empty(0, 3, device="cuda")
    assert torch.as_tensor(Foreign(none)).shape == (0, 3)
    expect(ValueError, "mask", torch.as_tensor, Foreign(y, mask=Foreign(y)))
    place = y.data_ptr()
    expect(TypeError, "read only flag", torch.as_tensor, Foreign(y, data=(place, True)))
    expect(ValueError, "different from the native", torch.as_tensor, Foreign(y, typestr=">f4"))
    expect(ValueError, "not a multiple of", torch.as_tensor, Foreign(y, strides=(16, 2)))
    expect(RuntimeError, "requires grad", lambda: x.requires_grad_().__cuda_array_interface__)
    expect(AttributeError, "non-CUDA tensor type: torch.FloatTensor",
           lambda: torch.ones(1).__cuda_array_interface__)  # fmt: skip
    # The owner lives as long as the tensor.
    owner = Foreign(y)
    seen, z = weakref.ref(owner), torch.as_tensor(owner)[0]
    del owner
    assert seen() is not None and z.tolist() == y[0].tolist()
    del z
    gc.collect()
    assert seen() is None


@simulated
def dlpack():
    x = torch.arange(12.0, device="cuda").reshape(3, 4)
    assert x.__dlpack_device__() == (2, 0) and torch.ones(1).__dlpack_device__() == (1, 0)
    for source in (x, x[1:, ::2], x.T, x[1], x.long(), x > 3, torch.empty(0, 2, device="cuda")):
        for given in (source, source.__dlpack__(), source.__dlpack__(max_version=(1, 0))):
            if not isinstance(given, torch.Tensor):
                assert exchange.device_of(given) == 2
            z = torch.from_dlpack(given)
            assert z.is_cuda and z.dtype == source.dtype and z.tolist() == source.tolist()
            assert z.stride() == source.stride() or not z.numel()
            assert z.data_ptr() == source.data_ptr() or not z.numel()
    z = torch.from_dlpack(x)
    z[0, 0] = 50
    assert x[0, 0].item() == 50
    expect(BufferError, "require gradient", x.clone().requires_grad_().__dlpack__)
    before = torch.cuda.memory_allocated()
    a = torch.zeros(1000, device="cuda")
    capsule = a.__dlpack__(stream=-1)
    del a
    gc.collect()
    assert torch.cuda.memory_allocated() == before + 4096
    b = torch.from_dlpack(capsule)[5:]
    del capsule
    assert b.sum().item() == 0
    del b
    gc.collect()
    assert torch.cuda.memory_allocated() == before
    assert torch.from_dlpack(x.__dlpack__(copy=True)).data_ptr() != x.data_ptr()
    assert torch.from_dlpack(x, copy=True).data_ptr() != x.data_ptr()
    assert torch.from_dlpack(x, device="cpu").tolist() == x.tolist()
    assert torch.from_dlpack(torch.ones(2), device="cuda").tolist() == [1, 1]
    assert np.from_dlpack(x, device="cpu").tolist() == x.tolist()
    expect(BufferError, "dl_device", x.__dlpack__, dl_device=(2, 1))
    expect(TypeError, "stream must be", x.__dlpack__, stream="1")
    expect(AssertionError, "unsupported stream on CUDA: 0.", x.__dlpack__, stream=0)
    expect(BufferError, "per-thread default stream", x.__dlpack__, stream=2)
    elsewhere = x.__dlpack__()
    exchange._device(elsewhere)[1] = 3
    expect(RuntimeError, "invalid device ordinal", torch.from_dlpack, elsewhere)
    expect(RuntimeError, "Unsupported device", np.from_dlpack, x)


@simulated
def checkpoints():
    x = torch.arange(12.0, device="cuda").reshape(3, 4)
    saved = {"x": x, "y": x[1:, ::2], "z": torch.ones(2), "e": torch.empty(0, 3, device="cuda"),
             "w": torch.nn.Parameter(x[0].clone()), "t": x.T}  # fmt: skip
    file = io.BytesIO()
    torch.save(saved, file)
    assert b"cuda:0" in file.getvalue()

    def loaded(where):
        file.seek(0)
        return torch.load(file, map_location=where)

    places = {"cuda": "cuda", "cpu": "cpu", torch.device("cuda"): "cuda", None: None,
              torch.device("cpu"): "cpu"}  # fmt: skip
    for where, expected in [*places.items(), ({"cuda:0": "cpu"}, "cpu"), (lambda s, place: s, "cpu"),
                            (lambda s, place: s.cuda(), "cuda"), (lambda s, place: None, None)]:  # fmt: skip
        found = loaded(where)
        for name, value in saved.items():
            z = found[name]
            assert z.device.type == (expected or value.device.type), (where, name)
            assert z.tolist() == value.tolist() and type(z) is type(value)
            assert z.stride() == value.stride() or not z.numel()
        found["x"][1, 0] = 99
        assert found["y"][0, 0].item() == 99 and found["t"][0, 1].item() == 99
    words = "on CUDA device 1 but torch.cuda.device_count() is 1."
    expect(RuntimeError, words, loaded, "cuda:1")
    expect(RuntimeError, words, loaded, {"cuda:0": "cuda:1"})
    # A view alone brings its storage along, and no more than that.
    file = io.BytesIO()
    torch.save(x[2], file)
    file.seek(0)
    assert torch.load(file).storage_offset() == 0 and b"data/0" in file.getvalue()
    copied = pickle.loads(pickle.dumps(x))
    assert copied.is_cuda and copied.tolist() == x.tolist()


@simulated
def a_checkpoint_of_a_gpu_is_read_without_one():
    file = io.BytesIO()
    torch.save(torch.ones(2, device="cuda"), file)
    code = "import io, microtorch as torch\n"
    code += f"file = io.BytesIO({file.getvalue()!r})\n"
    code += "try:\n    torch.load(file)\nexcept RuntimeError as error:\n    print(error)\n"
    code += "file.seek(0)\nprint(torch.load(file, map_location='cpu'))"
    words, made = run(code, os.environ["MICROTORCH_CACHE_DIR"], NUMBA_ENABLE_CUDASIM="0",
                      CUDA_VISIBLE_DEVICES="")[0].splitlines()  # fmt: skip
    assert "deserialize object on a CUDA device but torch.cuda.is_available() is False" in words
    assert made == "tensor([1., 1.])"


# ------------------------------------------------------------------------------------- cuBLAS
class Cublas:
    """The module `nvmath.bindings.cublas`, on the simulator's memory: columns come first."""

    class cuBLASError(Exception):
        pass

    def __init__(self):
        self.calls, self.fails = 0, None

    def set_stream(self, handle, stream):
        assert (type(handle), type(stream)) == (int, int)

    def sgemm_strided_batched(
        self, handle, turned_a, turned_b, m, n, k, alpha, a, lead_a, far_a, b, lead_b, far_b, beta,
        c, lead_c, far_c, batch, kind=F32,
    ):  # fmt: skip
        self.calls += 1
        if self.fails:
            raise self.cuBLASError(self.fails)
        assert lead_a >= (k if turned_a else m) and lead_b >= (n if turned_b else k)
        assert lead_c >= m and min(lead_a, lead_b, lead_c, m, n, k, batch) >= 1
        assert [ctypes.c_float.from_address(v).value for v in (alpha, beta)] == [
            1,
            0,
        ] or kind is F64

        def matrices(address, rows, columns, lead, far):
            size, first = np.dtype(kind).itemsize, address - compiler.FAR
            strides = (far * size, size, lead * size)
            return compiler.memory((batch, rows, columns), kind, first, strides).view(np.ndarray)

        x = matrices(a, *((k, m) if turned_a else (m, k)), lead_a, far_a)
        y = matrices(b, *((n, k) if turned_b else (k, n)), lead_b, far_b)
        x, y = (x.mT if turned_a else x), (y.mT if turned_b else y)
        matrices(c, m, n, lead_c, far_c)[...] = x @ y

    def dgemm_strided_batched(self, *args):
        self.sgemm_strided_batched(*args, kind=F64)


@simulated
def products_by_cublas():
    cublas, before = Cublas(), blas.library
    blas.library = lambda: (cublas, 1)
    try:
        sizes = [(4, 5, 6), (1, 5, 6), (4, 1, 6), (4, 5, 1), (1, 1, 1), (1, 1, 6)]
        leads, kinds = [(), (3,), (2, 3)], [torch.float32, torch.float64]
        for lead, (n, k, m), kind in itertools.product(leads, sizes, kinds):
            for turned_x, turned_y in itertools.product((False, True), repeat=2):
                x = torch.randn(*lead, *((k, n) if turned_x else (n, k)), dtype=kind).cuda()
                y = torch.randn(*lead, *((m, k) if turned_y else (k, m)), dtype=kind).cuda()
                for a in (x, torch.cat([x, x], -1)[..., : x.shape[-1]], x[:1].expand(x.shape)):
                    if not lead and 0 in a.stride():
                        continue
                    a, b = a.mT if turned_x else a, y.mT if turned_y else y
                    calls, z = cublas.calls, (a @ b).cpu()
                    assert cublas.calls == calls + 1
                    assert np.allclose(z.numpy(), a.cpu().numpy() @ b.cpu().numpy(), 1e-5, 1e-5)
        cublas.fails = "EXECUTION_FAILED (13)"
        words = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED (13)"
        expect(RuntimeError, words, lambda: torch.ones(2, 2).cuda() @ torch.ones(2, 2).cuda())
    finally:
        blas.library = before


# ------------------------------------------------------------------------------- bad situations
@simulated
def devices_are_not_mixed():
    x, y = torch.ones(2, device="cuda"), torch.ones(2)
    words = "Expected all tensors to be on the same device"
    for mix in (lambda: x + y, lambda: y * x, lambda: x.add_(y)):
        expect(RuntimeError, words, mix)
    words = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()"
    expect(TypeError, words, x.numpy)
    expect(TypeError, words, np.asarray, x)
    assert x.numpy(force=True).tolist() == [1, 1]


@simulated
def a_forked_child_is_told():
    torch.ones(1, device="cuda")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            assert not torch.cuda.is_initialized()
            torch.ones(1, device="cuda")
            said = "nothing"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    words = "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with"
    assert os.read(read, 1000).decode().startswith(words)
    assert torch.ones(1, device="cuda").item() == 1


CODES = "SUCCESS ERROR_NOT_READY ERROR_NO_DEVICE ERROR_UNKNOWN ERROR_OUT_OF_MEMORY " \
    "ERROR_ILLEGAL_ADDRESS ERROR_LAUNCH_FAILED ERROR_INVALID_VALUE"  # fmt: skip
ATTRIBUTES = "COMPUTE_CAPABILITY_MAJOR COMPUTE_CAPABILITY_MINOR MULTIPROCESSOR_COUNT"


class Stub:
    """The module `cuda.bindings.driver`: notes calls, answers, and fails where `fails` says so."""

    CUresult = enum.Enum("CUresult", [f"CUDA_{name}" for name in CODES.split()])
    CUdevice_attribute = enum.Enum(
        "CUdevice_attribute", [f"CU_DEVICE_ATTRIBUTE_{name}" for name in ATTRIBUTES.split()]
    )
    answers = {
        "cuDriverGetVersion": (13000,), "cuDeviceGetCount": (2,), "cuDeviceGet": (0,),
        "cuDevicePrimaryCtxRetain": ("context",), "cuDeviceGetAttribute": (9,),
        "cuDeviceGetName": (b"Stub\0\0",), "cuMemGetInfo": (1 << 20, 1 << 30),
        "cuEventCreate": ("event",), "cuStreamCreate": (77,), "cuStreamEndCapture": ("graph",),
    }  # fmt: skip
    CUstreamCaptureMode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)

    def __init__(self, **fails):
        self.calls, self.fails, self.next, self.host = [], fails, 1 << 40, {}

    def cuGetErrorString(self, code):
        return self.CUresult.CUDA_SUCCESS, code.name.lower().replace("_", " ").encode()

    def cuMemAlloc(self, size):
        self.calls.append("cuMemAlloc")
        if size > 1 << 30 or "cuMemAlloc" in self.fails:
            return self.CUresult.CUDA_ERROR_OUT_OF_MEMORY, 0
        self.next += 1 << 30
        return self.CUresult.CUDA_SUCCESS, self.next

    def cuMemAllocHost(self, size):
        if "cuMemAllocHost" in self.fails:
            return self.CUresult.CUDA_ERROR_OUT_OF_MEMORY, 0
        buffer = ctypes.create_string_buffer(size)
        self.host[ctypes.addressof(buffer)] = buffer
        return self.CUresult.CUDA_SUCCESS, ctypes.addressof(buffer)

    def __getattr__(self, name):
        def call(*args):
            self.calls.append(name)
            found = self.fails.get(name, "SUCCESS")
            if isinstance(found, Exception):
                raise found
            code = self.CUresult[f"CUDA_{found}"]
            return (code, *self.answers.get(name, ()))

        if not name.startswith("cu"):
            raise AttributeError(name)
        return call


@pytest.fixture
def stubbed(monkeypatch):
    """Begin with a driver that is a stub, in all modules."""

    def begin(**fails):
        monkeypatch.setattr(driver, "toolkit", lambda: 13)
        found = driver.Driver(Stub(**fails))
        for module in (memory, array, driver):
            monkeypatch.setattr(module, "start", lambda: found)
        for name, kind in (("pool", memory.pool._methods), ("pins", memory.pins._methods)):
            monkeypatch.setattr(memory, name, memory.Pool(*kind))
        monkeypatch.setattr(memory, "later", memory.Later())
        for name in ("pool", "later"):
            monkeypatch.setattr(array, name, getattr(memory, name))
        for name in ("pins", "later"):
            monkeypatch.setattr(exchange, name, getattr(memory, name))
        memory.current.__dict__.clear()
        return found

    yield begin
    gc.collect()
    memory.current.__dict__.clear()


@pytest.mark.parametrize("fails, words", [
    ({"cuInit": RuntimeError("Failed to dlopen libcuda.so.1\nmore")},
     "No NVIDIA driver was found on this machine (Failed to dlopen libcuda.so.1)."),
    ({"cuInit": "ERROR_NO_DEVICE"}, "The NVIDIA driver finds no GPU that this process may use."),
    ({"cuInit": "ERROR_UNKNOWN"}, "The NVIDIA driver does not start: cuda error unknown."),
])  # fmt: skip
def test_a_driver_that_does_not_start(stubbed, fails, words):
    with pytest.raises(driver.Unavailable) as error:
        stubbed(**fails)
    assert str(error.value) == words


def test_a_driver_that_is_too_old(stubbed, monkeypatch):
    monkeypatch.setitem(Stub.answers, "cuDriverGetVersion", (12080,))
    with pytest.raises(driver.Unavailable) as error:
        stubbed()
    assert str(error.value) == (
        "The NVIDIA driver supports CUDA 12.8, and the installed packages need 13.0: update the "
        "driver, or pip install 'microtorch[cuda13]' (or [cuda12], for drivers before release 580)."
    )


def test_a_gpu_that_is_too_old(stubbed, monkeypatch):
    monkeypatch.setitem(Stub.answers, "cuDeviceGetAttribute", (6,))
    with pytest.raises(driver.Unavailable) as error:
        stubbed()
    assert str(error.value) == (
        "The GPU has compute capability 6.6, and the installed packages need 7.5: "
        "pip install 'microtorch[cuda12]' for GPUs from 5.0 on."
    )


def test_packages_that_are_missing(monkeypatch):
    begin = driver.start.__wrapped__
    monkeypatch.setattr(driver.compiler, "SIMULATED", False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        driver.Unavailable, match=r"not installed.*: pip install 'microtorch.cuda13.'"
    ):
        begin()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(driver.Unavailable, match="packages for CUDA cannot be imported"):
        begin()


def test_what_the_driver_says_of_the_gpu(stubbed):
    found = stubbed()
    assert found.name == "Stub" and found.capability == (9, 9) and found.processors == 9
    # Asking makes no context: that takes memory, and would not outlive a fork.
    assert "cuDevicePrimaryCtxRetain" not in found.cu.calls and found.context is None


def test_each_thread_enters_the_context_once(stubbed):
    found = stubbed()
    use = lambda: [array.empty(3, F32) for _ in range(3)]
    use()
    thread = threading.Thread(target=use)
    thread.start(), thread.join()
    assert found.cu.calls.count("cuDevicePrimaryCtxRetain") == 1
    assert found.cu.calls.count("cuCtxSetCurrent") == 2


@pytest.mark.parametrize("name", ["ILLEGAL_ADDRESS", "LAUNCH_FAILED"])
@pytest.mark.parametrize("call", ["cuLaunchKernel", "cuStreamSynchronize", "cuEventQuery"])
def test_a_gpu_that_is_lost(stubbed, name, call):
    found = stubbed(**{call: f"ERROR_{name}"})
    kernel = driver.Kernel("handle", "qd")
    with pytest.raises(RuntimeError, match=rf"^CUDA error: .* \(CUDA_ERROR_{name}\). All tensors "
                                           "on the GPU are lost"):  # fmt: skip
        found.launch(kernel, (1, 1), 32, [1, 2.0], 0)
        found.wait(0)
        found.cuEventQuery("event")


def test_memory_of_a_gpu_that_is_lost_is_let_go_without_words(stubbed):
    found = stubbed()
    block = memory.pool.allocate(100)
    block.others = (5,)
    found.cu.fails["cuEventRecord"] = "ERROR_ILLEGAL_ADDRESS"
    del block
    gc.collect()
    assert "cuEventRecord" in found.cu.calls and memory.pool.allocated == 0


def test_errors_have_the_names_of_the_bindings():
    bindings = pytest.importorskip("cuda.bindings.driver")
    assert driver.LOST <= {code.name for code in bindings.CUresult}


def test_other_errors_lose_nothing(stubbed):
    found = stubbed(cuMemsetD8Async="ERROR_INVALID_VALUE")
    with pytest.raises(RuntimeError, match=r"\(CUDA_ERROR_INVALID_VALUE\)$"):
        found.cuMemsetD8Async(1, 0, 2, 0)


def test_out_of_memory_of_the_driver(stubbed):
    found = stubbed()
    kept = memory.pool.allocate(100)
    cached = memory.pool.allocate(1 << 20)
    del cached
    with pytest.raises(torch.OutOfMemoryError) as error:
        memory.pool.allocate(1 << 31)
    assert str(error.value) == (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB of "
        "which 1.00 MiB is free. Of the allocated memory 512 bytes is allocated by microtorch, and "
        "0 bytes is reserved by microtorch but unallocated."
    )
    assert found.cu.calls.count("cuMemFree") == 1 and found.cu.calls.count("cuMemAlloc") == 4
    assert memory.pool.allocate(1 << 20).address != kept.address


def test_what_a_graph_is_captured_with_stays_where_it_is(stubbed):
    found = stubbed()
    calls, held = found.cu.calls, []
    memory.current.stream = 77
    waiting = threading.Thread(target=found.wait)

    def work():
        made.append(memory.pool.allocate(100).address)
        waiting.start()
        waiting.join(0.01)
        memory.pool.empty()

    made = []
    with memory.pool.apart(77, held):
        found.captured(77, [work])
    waiting.join()
    # A wait for everything would be an error for both, and ends after the capture.
    assert calls.index("cuStreamEndCapture") < calls.index("cuCtxSynchronize")
    assert "cuMemFree" not in calls and [(512, made[0])] == held
    assert memory.pool.allocate(100).address != made[0]


@pytest.mark.parametrize("memories, words", [
    ("pool", "^CUDA out of memory. Tried to allocate"),
    ("pins", r"^CUDA error: .* \(CUDA_ERROR_OUT_OF_MEMORY\)$"),
])  # fmt: skip
def test_out_of_memory_says_of_what(stubbed, memories, words):
    stubbed(cuMemAlloc="ERROR_OUT_OF_MEMORY", cuMemAllocHost="ERROR_OUT_OF_MEMORY")
    with pytest.raises(torch.OutOfMemoryError, match=words):
        getattr(memory, memories).allocate(100)


def test_time_between_events_that_have_not_happened(stubbed, monkeypatch):
    found = stubbed(cuEventQuery="ERROR_NOT_READY")
    monkeypatch.setattr(torch.cuda, "_driver", lambda device=None: found)
    first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record(torch.cuda.Stream(stream_ptr=0)), second.record(torch.cuda.Stream(stream_ptr=0))
    with pytest.raises(RuntimeError, match="^Both events must be completed before calculating"):
        first.elapsed_time(second)


def test_a_stream_is_asked_once_for_all_that_waits_for_it(stubbed):
    found, done = stubbed(cuEventQuery="ERROR_NOT_READY"), []
    for k in range(5):
        memory.later.after([0], lambda k=k: done.append(k))
    assert found.cu.calls.count("cuEventQuery") == 4 and not done
    del found.cu.fails["cuEventQuery"]
    memory.later.settle()
    assert done == list(range(5))


def test_a_copy_that_does_not_block(stubbed):
    found = stubbed(cuEventQuery="ERROR_NOT_READY")
    calls = found.cu.calls
    x = exchange.pinned((5,), F32)
    x[:] = 1
    place, seen = x.ctypes.data, weakref.ref(x)
    z = array.upload(x, wait=False)
    del x
    gc.collect()
    assert "cuMemcpyHtoDAsync" in calls and "cuStreamSynchronize" not in calls
    # The pinned memory is not given to anyone else before the copy is done.
    assert seen() is not None and exchange.pinned((5,), F32).ctypes.data != place
    del found.cu.fails["cuEventQuery"]
    memory.later.settle()
    assert seen() is None
    back = z.host(exchange.pinned((5,), F32), wait=False)
    assert "cuMemcpyDtoHAsync" in calls and "cuStreamSynchronize" not in calls
    assert calls.count("cuEventCreate") == 1 and back.shape == (5,)
    z.host()
    assert calls[-1] == "cuStreamSynchronize"


# ---------------------------------------------------------------------------- on the simulator
@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    code = f"import runpy, sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
    code += f"runpy.run_path({__file__!r}, run_name='__main__')"
    out, _ = run(code, tmp_path_factory.mktemp("cache"), NUMBA_ENABLE_CUDASIM="1")
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("name", [case.__name__ for case in SIMULATED])
def test_on_the_simulator(outcomes, name):
    assert not outcomes[name], outcomes[name]


def report():
    """Run the cases, all in this process, and print what each raised."""
    found = {}
    torch.cuda.init()
    for case in SIMULATED:
        try:
            case()
            found[case.__name__] = ""
        except BaseException:
            found[case.__name__] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    report()
