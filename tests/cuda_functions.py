"""Every record of test_functions on the simulated GPU beside the CPU; test_cuda.py runs this.

In float32, with first derivatives; in float64 too, with second derivatives, every tenth record,
and that results are where the operands are, every fourth; all of them with MICROTORCH_FUZZ set.
"""

import os
import re
import warnings

import numpy as np
import pytest
from test_functions import SAMPLES, Operands, flat, run, same

import microtorch
from microtorch.gpu import compiler, launch, ops

THOROUGH = "MICROTORCH_FUZZ" in os.environ
# What is another thing where the device is: its name, memory that can be pinned, generators.
TOLD = re.compile("is_cpu|get_default_device|pin_memory|Generator")
CASES = [(s, "float32") for s in SAMPLES] + [
    (s, "float64") for k, s in enumerate(SAMPLES) if THOROUGH or k % 10 == 0
]
CASES = [(s, dtype) for s, dtype in CASES if not TOLD.search(s.code)]


def shown(value):
    """What is told of a result, without the device."""
    if not isinstance(value, str):
        return value
    return value.replace(", device='cuda:0'", "").replace("torch.cuda.", "torch.")


def state():
    return bytes(microtorch.get_rng_state().tolist())


FRESH = (microtorch.manual_seed(0), state())[1]


@pytest.mark.parametrize("sample, dtype", CASES, ids=lambda v: str(v)[:90])
def test_sample(sample, dtype):
    ours = run(microtorch, sample, dtype)
    drawn = state() != FRESH
    with microtorch.device("cuda"):
        gpu = run(microtorch, sample, dtype)
    if sample.kind == "!":
        assert gpu["raised"] == ours["raised"]
        assert shown(gpu["words"]) == ours["words"]
        return
    assert "raised" not in gpu, gpu
    gpu["values"] = [shown(v) for v in gpu["values"]]
    if drawn:
        # The GPU has random numbers of its own.
        for mine, other in zip(gpu["values"], ours["values"], strict=True):
            assert not isinstance(other, tuple) or mine[1:] == other[1:]
        return
    for part, value in ours.items():
        if part != "no second":
            same(gpu[part], value, 1e-9 if dtype == "float64" else 2e-5, part)


class OnGPU(Operands):
    """The same operands on the GPU, where the CPU is the default."""

    def __init__(self, torch, dtype):
        super().__init__(torch, dtype)
        self.names["T"] = lambda *args, **named: torch.tensor(*args, **{"device": "cuda", **named})

    def n(self, *shape, **named):
        return super().n(*shape, **named).cuda()

    def i(self, *shape, **named):
        return super().i(*shape, **named).cuda()

    def b(self, *shape):
        return super().b(*shape).cuda()


# Samples that make tensors or generators of their own, or have no operand.
OWN = re.compile(
    r"(zeros|ones|empty|full|eye|arange|linspace|logspace|torch.rand\w*|tensor|F|Generator)\("
)
THEIRS = [s for s in SAMPLES if re.search(r"\b[xnibT]\(", s.code) and not OWN.search(s.code)]


@pytest.mark.parametrize(
    "sample", [s for k, s in enumerate(THEIRS) if s.kind != "!" and (THOROUGH or k % 4 == 0)],
    ids=lambda s: s.code[:90],
)  # fmt: skip
def test_results_are_where_the_operands_are(sample):
    operands = OnGPU(microtorch, "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = flat(microtorch, eval(sample.code, operands.names))
        tensors = [v for v in result if isinstance(v, microtorch.Tensor)]
        assert all(v.is_cuda for v in tensors)
        roots = [v for v in tensors if v.requires_grad]
        leaves = [v for v in operands.leaves if v.is_leaf]
        if roots and leaves:
            total = sum(v.sum().double() for v in roots)
            found = microtorch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
            assert all(g is None or g.is_cuda for g in found)


# ------------------------------------------------------------------------ the simulator itself
BARRIER = """def kernel(a):
    if cuda.threadIdx.x > 1:
        cuda.syncthreads()
        i64_at(a)[cuda.threadIdx.x] = i64_at(a)[1]
    elif cuda.threadIdx.x:
        i64_at(a)[1] = 5
"""


def test_threads_that_end_hold_up_nobody_at_a_barrier():
    kernel, _ = compiler.simulated(BARRIER)
    found = np.zeros(4, np.int64)
    kernel((1, 1), 4, found.ctypes.data + compiler.FAR)
    assert found.tolist() == [0, 5, 5, 5]


def test_an_error_in_one_thread_is_raised():
    kernel, _ = compiler.simulated(BARRIER.replace("i64_at(a)[1] = 5", "raise ValueError('odd')"))
    with pytest.raises(ValueError, match="odd"):
        kernel((1, 1), 4, np.zeros(4, np.int64).ctypes.data + compiler.FAR)


def test_an_operand_that_lies_where_indices_lead():
    x = microtorch.arange(9.0, device="cuda")
    x[microtorch.arange(2, 8, device="cuda")] = x[1:7]
    assert x.tolist() == [0, 1, 1, 2, 3, 4, 5, 6, 8]


def test_places_that_are_added_to():
    x = microtorch.zeros(3, device="cuda")._array
    ones = microtorch.ones(3, device="cuda")._array
    np.add.at(x, np.array([-1, 0, -1]), ones)
    assert x.tolist() == [1, 0, 2]
    with pytest.raises(IndexError, match="index 3 is out of bounds for axis 0 with size 3"):
        np.add.at(x, np.array([0, 3, 1]), ones)


@pytest.mark.parametrize("code", """
x.sort()[0]; x.sort(descending=True)[1]; x.argsort(0); x.topk(2)[1]; x[0].topk(3, largest=False)[0]
x.roll(2); x.roll(-1, 1); x.roll((1, -2), (0, 1)); x.tril(); x.triu(1); x.median(1)[0]
i & 6; i | 9; i ^ i.flip(1); ~i; i.byte() & 3; (x > 0) & (x < 1)
""".strip().replace("\n", "; ").split("; "))  # fmt: skip
def test_what_needs_no_cpu(code, monkeypatch):
    microtorch.manual_seed(0)
    x, i = microtorch.randn(3, 7), microtorch.tensor([[5, -3, 127], [0, 7, -128]])
    x[1, 3], x[2, 2] = microtorch.nan, x[2, 5]
    wanted = eval(code, {"x": x, "i": i})
    monkeypatch.setattr(ops, "on_host", None)
    found = eval(code, {"x": x.cuda(), "i": i.cuda()})
    run = microtorch.compile(eval(f"lambda x, i: {code}"))
    monkeypatch.undo()
    assert found.is_cuda and found.dtype == wanted.dtype
    for each in (found, *(run(x.cuda(), i.cuda()) for _ in range(3)), *(run(x, i),) * 3):
        np.testing.assert_array_equal(each.cpu().numpy(), wanted.numpy())


ROWS = """
microtorch.softmax(x, dim)
microtorch.log_softmax(x, dim)
F.rms_norm(x.movedim(dim, 1), x.shape[dim : dim + 1])
F.layer_norm(x.movedim(dim, 1), x.shape[dim : dim + 1])
""".strip().splitlines()


def same_rows(code, shape, dim, dtype=microtorch.float32):
    x = microtorch.randn(*shape, dtype=dtype)
    y = x.cuda().requires_grad_()
    x.requires_grad_()
    names = {"microtorch": microtorch, "F": microtorch.nn.functional, "dim": dim}
    found, wanted = (eval(code, {**names, "x": v}) for v in (y, x))
    for z in (found, wanted):
        (z * z.sigmoid()).sum().backward()
    limit = 1e-9 if dtype == microtorch.float64 else 1e-4
    for a, b in ((found, wanted), (y.grad, x.grad)):
        np.testing.assert_allclose(
            a.numpy(force=True), b.numpy(force=True), limit, limit, err_msg=str(shape)
        )


@pytest.mark.parametrize("code", ROWS)
def test_rows_of_any_length(code):
    for n in (1, 3, 9, 17):
        for shape, dim in (((n, 1), 0), ((n, 3), 0), ((3, n), 1)):
            same_rows(code, shape, dim, microtorch.float64)


@pytest.mark.parametrize("code", ROWS[:3])
@pytest.mark.parametrize(
    "threads, width, held", [(4, 1, 5), (4, 2, 3), (8, 2, 2), (4, 4, 2), (8, 2, 0), (4, 4, 0)]
)
def test_rows_shared_out_in_any_way(code, threads, width, held, monkeypatch):
    """Several rows a block, several threads a row, kept in registers or read again."""
    monkeypatch.setattr(launch, "_shared_out", lambda *_: (threads, width, held))
    n = width * held - (width > 1) if held else 7
    same_rows(code, (5, n), 1)
    same_rows(code, (n, 33), 0)


@pytest.mark.parametrize(
    "n, k, m", [(1, 1, 1), (4, 2, 4), (5, 3, 7), (9, 1, 2), (3, 9, 9), (2, 0, 3)]
)
def test_products_of_any_shape(n, k, m):
    for turned in (False, True):
        x, y = microtorch.randn(2, n, k), microtorch.randn(2, k, m)
        if turned:
            x, y = (v.mT.contiguous().mT for v in (x, y))
        found = x.cuda() @ y.cuda()
        np.testing.assert_allclose(found.cpu().numpy(), (x @ y).numpy(), 1e-5, 1e-5)
