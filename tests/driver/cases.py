"""Memory, streams, events, captures and threads on the stand-in; test_cuda_driver.py runs this."""

import gc
import os
import threading
import time

import pytest
import standin
from cuda.bindings import driver as bindings

import microtorch as torch
from microtorch.gpu import compiler, driver, memory, text, tiles
from microtorch.table import ROWWISE

cuda = torch.cuda


# ---------------------------------------------------------------------------------- start
def test_asking_for_a_gpu_makes_no_context(gpu):
    # The first test: a process has one context.
    assert cuda.is_available() and cuda.why_unavailable() is None and cuda.device_count() == 1
    assert not cuda.is_initialized() and gpu.contexts == 0
    assert cuda.get_device_name() == "Stand-in" and cuda.get_device_capability() == (9, 0)
    assert cuda.is_initialized() and gpu.contexts == 1


RELEASE = driver.toolkit()
LEAST = "{}.{}".format(*driver.OLDEST[RELEASE])


@pytest.mark.parametrize("settings, words", [
    ({"devices": 0}, "The NVIDIA driver finds no GPU that this process may use."),
    ({"starts": 999}, "The NVIDIA driver does not start: unknown error."),
    ({"version": 1000 * RELEASE - 920},
     f"The NVIDIA driver supports CUDA {RELEASE - 1}.8, and the installed packages need "
     f"{RELEASE}.0: update the driver, or {driver.EXTRAS}."),
    ({"capability": 37},
     f"The GPU has compute capability 3.7, and the installed packages need {LEAST}: "
     "pip install 'microtorch[cuda12]' for GPUs from 5.0 on."),
])  # fmt: skip
def test_why_there_is_no_gpu(gpu, monkeypatch, settings, words):
    for name in ("start", "problem"):
        monkeypatch.setattr(driver, name, getattr(driver, name).__wrapped__)
    for name, value in settings.items():
        monkeypatch.setattr(gpu, name, value)
    assert cuda.why_unavailable() == words and not cuda.is_available()
    assert cuda.device_count() == 0
    with pytest.raises(AssertionError, match="Torch not compiled|GPU|NVIDIA"):
        torch.ones(2, device="cuda")


def test_a_forked_process_is_told():
    x = torch.ones(3, device="cuda")
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            torch.ones(3, device="cuda")
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1000).decode() == f"RuntimeError: {memory.FORKED}"
    assert (x + 1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("capability", [(9, 0), (99, 0)])
def test_kernels_of_the_size_of_a_gpu_are_loaded_and_launched(gpu, monkeypatch, capability):
    """Machine code, and PTX for a GPU that is newer than the linker."""
    nothing = lambda entry: (lambda *_: None, compiler.words(standin.TEXTS[entry]))
    monkeypatch.setattr(standin, "simulated", nothing)
    monkeypatch.setattr(gpu, "capability", 10 * capability[0] + capability[1])
    found = driver.Driver(bindings)
    assert found.capability == capability
    sources = [
        text.rowwise(ROWWISE["softmax"], "float32", 1, 256, 256, 40, False),
        tiles.product("float32", 128, 8, 8),
    ]
    before = gpu.launches
    for source in sources:
        words = [0] * len(compiler.words(source))
        found.launch(found.load(source), (3, 1), 256, words, 0)
    found.enter()
    found.wait()
    assert gpu.launches == before + 2


# --------------------------------------------------------------------------------- copies
KINDS = "float64 float32 float16 int64 int32 int16 int8 uint8 bool".split()


@pytest.mark.parametrize("kind", KINDS)
def test_copies_keep_every_byte(kind):
    x = (torch.rand(3, 5, 7) * 100).to(getattr(torch, kind))
    for view in (x, x.permute(2, 0, 1), x[1:, ::2], x[0, 0, 0], x[:0]):
        there = view.to("cuda")
        assert there.dtype is x.dtype and there.is_cuda and there.shape == view.shape
        assert there.cpu().tolist() == view.tolist()
        assert there.clone().cpu().tolist() == view.tolist()


def test_a_copy_that_does_not_block_is_done_later():
    x = torch.rand(1000).pin_memory()
    stream = cuda.Stream()
    with cuda.stream(stream):
        there = [x.to("cuda", non_blocking=True) for _ in range(5)]
        back = [y.to("cpu", non_blocking=True) for y in there]
    assert x.is_pinned() and all(y.is_pinned() for y in back)
    assert not stream.query()
    stream.synchronize()
    assert stream.query() and all((y == x).all() for y in back)


def test_memory_of_a_copy_is_nobody_elses_until_it_is_done():
    for k in range(20):
        there = torch.full((5000,), float(k)).pin_memory().to("cuda", non_blocking=True)
        torch.full((5000,), -1.0).pin_memory()
        back = there.to("cpu", non_blocking=True)
        del there
        torch.full((5000,), -1.0, device="cuda")
        cuda.synchronize()
        assert (back == k).all()


def test_pinned_memory_is_given_back_after_its_copies():
    x, y = (torch.rand(1000).pin_memory() for _ in range(2))
    there = torch.empty(1000, device="cuda")
    there.copy_(x, non_blocking=True)
    y.copy_(there, non_blocking=True)
    wanted = x.clone()
    del x, y
    gc.collect()
    cuda.empty_cache()
    assert (there.cpu() == wanted).all()


# --------------------------------------------------------------------- streams and events
def test_streams_wait_for_each_other():
    first, second = cuda.Stream(), cuda.Stream(priority=-1)
    assert first != second and cuda.current_stream() == cuda.default_stream()
    x = torch.arange(4.0).pin_memory()
    with cuda.stream(first):
        y = x.to("cuda", non_blocking=True) * 2
        event = first.record_event()
    assert not event.query()
    second.wait_event(event)
    with cuda.stream(second):
        y.record_stream(second)
        z = (y + 1).to("cpu", non_blocking=True)
    second.synchronize()
    assert z.tolist() == [1, 3, 5, 7] and event.query() and second.query()
    third = cuda.Stream()
    third.wait_stream(second)
    with third:
        assert (y - 1).tolist() == [-1, 1, 3, 5]


def test_memory_that_another_stream_uses_is_not_given_away():
    x, stream = torch.full((1000,), 1.0).cuda(), cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with stream:
        y = x + 1
    x.record_stream(stream)
    del x
    z = torch.full((1000,), 5.0, device="cuda")
    cuda.default_stream().synchronize()
    stream.synchronize()
    assert (y == 2).all() and (z == 5).all()


def test_the_time_between_events():
    first, last = (cuda.Event(enable_timing=True) for _ in range(2))
    with pytest.raises(ValueError, match="must be recorded"):
        first.elapsed_time(last)
    with pytest.raises(ValueError, match="enable_timing=True"):
        first.elapsed_time(cuda.Event())
    first.record()
    x = torch.ones(8, device="cuda")
    for _ in range(3):
        x = x + 1
    last.record()
    with pytest.raises(RuntimeError, match="must be completed"):
        first.elapsed_time(last)
    last.synchronize()
    assert first.query() and last.query() and first.elapsed_time(last) > 0
    first.record()
    cuda.synchronize()
    assert first.elapsed_time(last) < 0


def test_streams_are_given_out_again():
    assert len({cuda.Stream().cuda_stream for _ in range(100)}) == cuda.MOST_STREAMS


def test_each_thread_begins_with_the_default_stream():
    found = []

    def work():
        found.append((torch.arange(3.0).cuda() * 2).tolist())
        found.append(cuda.current_stream().cuda_stream)

    with cuda.Stream():
        thread = threading.Thread(target=work)
        thread.start(), thread.join()
    assert found == [[0, 2, 4], 0]


def test_a_table_of_addresses_is_each_streams_own():
    """What launches read is not written again before they have read it."""

    def made():
        p = torch.nn.Parameter(torch.ones(2, device="cuda"))
        p.grad = torch.ones(2, device="cuda")
        return p, torch.optim.SGD([p], lr=1.0)

    p, optimizer = made()
    optimizer.step()
    others = [made() for _ in range(70)]
    cuda.synchronize()
    with cuda.Stream():
        optimizer.step()
    for _, other in others:
        other.step()
    cuda.default_stream().synchronize()
    cuda.synchronize()
    assert p.tolist() == [-1, -1]
    assert all(q.tolist() == [0, 0] for q, _ in others)


# --------------------------------------------------------------------------------- memory
def test_memory_is_kept_and_given_back(gpu):
    gc.collect()
    cuda.empty_cache()
    assert cuda.memory_reserved() == gpu.used
    before, allocations = cuda.memory_allocated(), gpu.allocations
    x = torch.empty(1 << 20, device="cuda")
    assert cuda.memory_allocated() - before == 4 << 20
    del x
    x = torch.empty(1 << 20, device="cuda")
    assert gpu.allocations == allocations + 1
    del x
    cuda.empty_cache()
    assert cuda.memory_reserved() == gpu.used and cuda.mem_get_info()[0] == gpu.total - gpu.used


def test_out_of_memory(gpu, monkeypatch):
    x = torch.arange(3.0).cuda()
    with pytest.raises(torch.OutOfMemoryError) as error:
        torch.empty(1 << 32, device="cuda")
    assert (
        "CUDA out of memory. Tried to allocate 16.00 GiB. GPU 0 has a total capacity of 8.00 GiB"
        in str(error.value)
    )
    cached = torch.empty(1 << 20, device="cuda")
    del cached
    monkeypatch.setattr(gpu, "full", 1)
    with pytest.raises(
        torch.OutOfMemoryError, match="CUDA out of memory. Tried to allocate 8.00 MiB"
    ):
        torch.empty(1 << 21, device="cuda")
    with pytest.raises(
        torch.OutOfMemoryError, match=r"out of memory \(CUDA_ERROR_OUT_OF_MEMORY\)$"
    ):
        torch.empty(1 << 28, pin_memory=True)
    monkeypatch.undo()
    assert (x + torch.ones(3, device="cuda")).tolist() == [1, 2, 3]


# ------------------------------------------------------------------------------- captures
def test_a_compiled_step_is_one_graph(gpu):
    torch.manual_seed(0)
    x = torch.randn(5, 3).cuda()
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh()).to("cuda")
    run = torch.compile(lambda x: model(x).sum())
    # A sum of 20 floats of up to 1, which may cancel.
    wanted = pytest.approx(model(x).sum().item(), abs=2e-6)
    replays, graphs = gpu.replays, gpu.graphs
    assert [run(x).item() for _ in range(6)] == [wanted] * 6
    # The first call is recorded, the second runs once and is captured.
    assert gpu.replays == replays + 4 and gpu.graphs == graphs + 1
    with cuda.Stream():
        assert run(x).item() == wanted
    assert run(x).item() == wanted and gpu.replays == replays + 6
    del run
    gc.collect()
    cuda.synchronize()
    torch.empty(77777, device="cuda")  # Asks what streams have come to.
    assert gpu.graphs == graphs


def test_memory_of_a_graph_is_its_own(gpu):
    """The stand-in ends a launch that is given memory which is not allocated."""
    x = torch.randn(3, 4).cuda()
    run = torch.compile(lambda x: (x.exp() @ x.T).sum(0) - x.T.sum(0))
    wanted = run(x)
    run(x)
    gc.collect()
    cuda.empty_cache()
    others = [torch.full((n,), torch.nan, device="cuda") for n in range(1, 40)]
    for stream in (cuda.default_stream(), cuda.Stream(), cuda.default_stream()):
        with stream:
            torch.testing.assert_close(run(x), wanted)
    held = gpu.used
    del run, others
    gc.collect()
    cuda.synchronize()
    cuda.empty_cache()
    assert gpu.used < held and cuda.memory_reserved() == gpu.used


def test_threads_synchronize_and_free_while_one_captures():
    stream, wrong, working = cuda.Stream(), [], True

    def allocate():
        x = torch.empty(50000, device="cuda")
        x.record_stream(stream)

    def free():
        cuda.empty_cache()
        gc.collect()

    def send():
        torch.ones(10).pin_memory().to("cuda", non_blocking=True)

    def repeat(work):
        try:
            while working:
                work()
                time.sleep(1e-3)
        except BaseException as error:
            wrong.append(error)

    works = (cuda.synchronize, allocate, free, send)
    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    try:
        for thread in threads:
            thread.start()
        for _ in range(3):
            w, x = torch.randn(3, 4).cuda(), torch.randn(5, 3).cuda()
            run = torch.compile(lambda x, w=w: (x @ w).tanh().sum())
            wanted = (x.cpu() @ w.cpu()).tanh().sum()
            for _ in range(4):
                torch.testing.assert_close(run(x).cpu(), wanted)
    finally:
        working = False
        for thread in threads:
            thread.join()
    assert not wrong
