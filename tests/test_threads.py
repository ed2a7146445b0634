"""Threads and forks: independent work in two threads gives the same bits as one after the other."""

import itertools
import json
import os
import sys
import threading
import warnings

import numpy as np
import pytest
from process import run

import microtorch as torch
from microtorch import nn
from microtorch.kernels.threads import _cores

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="this platform has no os.fork; run on Linux or macOS"
)


def together(*functions):
    """Results of functions that run at the same time, each in a thread."""
    results = [None] * len(functions)
    barrier = threading.Barrier(len(functions))

    def work(k):
        barrier.wait()
        try:
            results[k] = functions[k]()
        except BaseException as error:
            results[k] = error

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.fixture
def eager_switching():
    """Threads change as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def trained(seed, optimizer):
    """Parameters, as bytes, of a small network after ten steps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 3, generator=generator)
    y = torch.randn(16, 1, generator=generator)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    step = optimizer(net.parameters())
    for _ in range(10):
        step.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        step.step()
    return b"".join(p.detach().numpy().tobytes() for p in net.parameters())


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def test_two_models_train_at_once_as_one_after_the_other(eager_switching):
    alone = [trained(1, sgd), trained(2, adam)]
    for _ in range(100):
        assert together(lambda: trained(1, sgd), lambda: trained(2, adam)) == alone


def test_large_arrays_in_two_threads():
    def work(k):
        x = torch.full((200_000,), 0.5 + k, requires_grad=True)
        for _ in range(5):
            (x.tanh() * x.exp()).sum().backward()
        return x.grad.numpy().tobytes()

    alone = [work(0), work(1)]
    assert together(lambda: work(0), lambda: work(1)) == alone


def test_gradients_of_one_leaf_from_two_graphs_of_one_thread_each():
    shared = torch.tensor([1.0, 2.0])

    def work(k):
        x = torch.tensor([1.0, 3.0], requires_grad=True)
        for _ in range(200):
            (x * shared * k).sum().backward()
        return x.grad.tolist()

    assert together(lambda: work(1.0), lambda: work(2.0)) == [[200.0, 400.0], [400.0, 800.0]]


# ----------------------------------------------------------------------------- grad modes
def test_grad_mode_belongs_to_a_thread():
    inside, looked = threading.Event(), threading.Event()
    seen = []

    def holder():
        with torch.no_grad():
            inside.set()
            looked.wait()
            seen.append(torch.is_grad_enabled())
        seen.append(torch.is_grad_enabled())

    def observer():
        inside.wait()
        seen.append(torch.is_grad_enabled())
        looked.set()

    together(holder, observer)
    assert seen == [True, False, True]


def test_a_new_thread_starts_with_grad_enabled():
    with torch.no_grad():
        assert together(torch.is_grad_enabled) == [True]
        assert not torch.is_grad_enabled()
    together(lambda: torch.set_grad_enabled(False))
    assert torch.is_grad_enabled()


def test_switches_of_two_threads_do_not_mix(eager_switching):
    def work():
        x = torch.ones(2, requires_grad=True)
        for _ in range(500):
            assert (x * 2).requires_grad
            with torch.no_grad():
                assert not (x * 2).requires_grad
                with torch.enable_grad():
                    assert (x * 2).requires_grad
                assert not (x * 2).requires_grad

    together(work, work)


# ----------------------------------------------------------------------------- generators
def test_draws_from_one_generator_are_whole_and_lost_by_nobody(eager_switching):
    def draw(generator, count):
        return [tuple(torch.rand(100, generator=generator).tolist()) for _ in range(count)]

    expected = draw(torch.Generator().manual_seed(3), 120)
    shared = torch.Generator().manual_seed(3)
    found = together(*[lambda: draw(shared, 30)] * 4)
    assert sorted(itertools.chain(*found)) == sorted(expected)
    place = {block: k for k, block in enumerate(expected)}
    for blocks in found:
        order = [place[block] for block in blocks]
        assert order == sorted(order)


def test_pairs_of_normals_are_not_torn(eager_switching):
    # A single normal keeps its twin in the generator for the next call.
    expected = torch.Generator().manual_seed(4)
    expected = sorted(torch.randn(1, generator=expected).item() for _ in range(200))
    shared = torch.Generator().manual_seed(4)

    def work():
        return [torch.randn(1, generator=shared).item() for _ in range(100)]

    assert sorted(itertools.chain(*together(work, work))) == expected


def test_default_generator_serves_two_threads():
    torch.manual_seed(5)
    expected = sorted(torch.randint(0, 2**40, (1,)).item() for _ in range(100))
    torch.manual_seed(5)

    def work():
        return [torch.randint(0, 2**40, (1,)).item() for _ in range(50)]

    assert sorted(itertools.chain(*together(work, work))) == expected


# ------------------------------------------------------------------------------ compiling
COMPILE = """
import json, sys, threading
import microtorch as torch
sys.setswitchinterval(1e-5)
barrier = threading.Barrier(4)
results = [None] * 4
def work(k):
    barrier.wait()
    x = torch.tensor([0.5, 1.5], requires_grad=True)
    z = x * x if k % 2 else x - x * 3
    z.backward(torch.ones(2))
    results[k] = x.grad.tolist()
threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
for t in threads: t.start()
for t in threads: t.join()
info = torch.cache_info()
print(json.dumps([results, info["compiled"], info["loaded"], info["kernels"]]))
"""


def test_threads_that_compile_at_once_compile_each_kernel_once(tmp_path):
    right = [[-2.0, -2.0], [1.0, 3.0]] * 2
    results, compiled, loaded, kernels = json.loads(run(COMPILE, tmp_path, "-W", "error")[0])
    assert results == right
    assert compiled == kernels > 0
    assert loaded == 0
    results, compiled, loaded, _ = json.loads(run(COMPILE, tmp_path, "-W", "error")[0])
    assert results == right
    assert (compiled, loaded) == (0, kernels)


# ---------------------------------------------------------------------------------- forks
def in_child(function):
    """What a function gives in a forked child."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork of a process with threads, which the pools of BLAS are; so
        # does jax, where another test has loaded it.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                json.dump(function(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"
    return json.loads(text)


def computed():
    """Results that need loops in one thread and in many, products, draws and backward."""
    generator = torch.Generator().manual_seed(6)
    x = torch.rand(300, 300, generator=generator, requires_grad=True)
    (x.exp() @ x.tanh()).mean().backward()
    small = torch.tensor([1.0, 2.0], requires_grad=True)
    (small * small).sum().backward()
    digest = x.grad.double().sum().item(), float(np.abs(x.grad.numpy()).max())
    return [*digest, *small.grad.tolist()]


@needs_fork
def test_child_computes_right_results_after_the_parent_has_run_kernels():
    expected = computed()
    assert in_child(computed) == pytest.approx(expected, rel=1e-6)
    # The parent is not disturbed.
    assert computed() == expected


@needs_fork
def test_child_compiles_what_the_parent_has_not_used():
    def fresh():
        return torch.tensor([1, 2, 3], dtype=torch.int16).square().tolist()

    assert in_child(fresh) == [1, 4, 9]


@needs_fork
def test_child_of_a_child():
    computed()
    assert in_child(lambda: in_child(lambda: (torch.ones(3) * 2).tolist())) == [2.0, 2.0, 2.0]


@needs_fork
def test_parent_and_child_draw_from_equal_generators():
    torch.manual_seed(7)
    expected = torch.rand(5).tolist()
    torch.manual_seed(7)
    assert in_child(lambda: torch.rand(5).tolist()) == expected
    assert torch.rand(5).tolist() == expected


FORK_WHILE_COMPILING = """
import os, signal, threading
import microtorch as torch
from microtorch.kernels import jit
held, forking = threading.Event(), threading.Event()
# Handlers of a fork run newest first: this one lets the other thread end its compilation.
os.register_at_fork(before=forking.set)
def compile_something():
    with jit._lock:
        held.set()
        forking.wait()
        jit.address("late", "def late(a, b, c, d):\\n    i64_at(a)[0] = 1\\n")
thread = threading.Thread(target=compile_something)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that waits for a lock which nobody holds
    os._exit(0 if (torch.ones(2) + 1).tolist() == [2.0, 2.0] else 1)
thread.join()
print(os.waitpid(child, 0)[1])
"""


@needs_fork
def test_fork_while_another_thread_compiles(tmp_path):
    out, _ = run(FORK_WHILE_COMPILING, tmp_path, "-W", "ignore::DeprecationWarning")
    assert out == "0\n"


def test_no_change_of_a_shared_tensor_is_lost():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    x = torch.zeros(3)
    try:
        together(*[lambda: [x.add_(1) for _ in range(5000)]] * 4)
    finally:
        sys.setswitchinterval(before)
    assert x._version == 20_000


def products(n):
    """Products and factorizations of matrices that are large enough for several threads."""
    rng = np.random.default_rng(0)
    a, b, v = (torch.tensor(rng.standard_normal(shape)) for shape in ((n, n), (n, 2 * n), n))
    positive = a @ a.T + n * torch.eye(n)
    calls = [
        lambda: a @ b, lambda: a @ a.T, lambda: a @ v, lambda: torch.stack([a] * 3) @ b,
        lambda: torch.linalg.solve(positive, b), lambda: torch.ones(100_000).exp_(),
    ]  # fmt: skip
    return [lambda call=call: call().numpy() for call in calls]


@pytest.mark.parametrize("count", [2, 3])
def test_products_of_several_threads_at_once(count):
    computed()
    calls = products(300)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        expected = [call() for call in calls]

        def work():
            return [call() for _ in range(20) for call in calls]

        for found in together(work, work, work):
            for each, right in zip(found, expected * 20, strict=True):
                np.testing.assert_allclose(each, right, rtol=1e-9, atol=1e-12)
    finally:
        torch.set_num_threads(before)


def test_the_interpreter_ends_during_products(tmp_path):
    code = """if True:
        import threading, time
        import microtorch as torch
        a = torch.ones(1000, 1000)
        def work():
            while True:
                (a @ a).tanh()
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.1)
    """
    for _ in range(3):
        run(code, tmp_path)


@needs_fork
def test_a_child_may_set_the_number_of_threads():
    calls = products(300)
    expected = [call().tolist() for call in calls]

    def again():
        torch.set_num_threads(2)
        return [call().tolist() for call in calls]

    assert in_child(again) == expected


@pytest.mark.parametrize("given, count", [("1", 1), ("3,2", 3), (" 2 ", 2)])
def test_omp_num_threads_is_followed(monkeypatch, given, count):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert _cores() == count


@pytest.mark.parametrize("given", ["", "0", "-1", "all"])
def test_what_is_no_number_of_threads_is_ignored(monkeypatch, given):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usual = _cores()
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert _cores() == usual
