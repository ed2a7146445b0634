"""Every record of test_functions on the simulated GPU beside the CPU; test_cuda.py runs this.

In float32, with first derivatives; in float64 too, with second derivatives, every tenth record,
and that results are where the operands are, every fourth; all of them with MICROTORCH_FUZZ set.
"""

import os
import re
import warnings

import pytest
from test_functions import SAMPLES, Operands, flat, run, same

import microtorch

THOROUGH = "MICROTORCH_FUZZ" in os.environ
# They tell the device.
TOLD = ("is_cpu", "get_default_device")
CASES = [(s, "float32") for s in SAMPLES] + [
    (s, "float64") for k, s in enumerate(SAMPLES) if THOROUGH or k % 10 == 0
]


@pytest.mark.parametrize("sample, dtype", CASES, ids=lambda v: str(v)[:90])
def test_sample(sample, dtype):
    ours = run(microtorch, sample, dtype)
    with microtorch.device("cuda"):
        gpu = run(microtorch, sample, dtype)
    if sample.name in TOLD:
        return
    if sample.kind == "!":
        assert gpu["raised"] == ours["raised"] and gpu["words"] == ours["words"]
        return
    assert "raised" not in gpu, gpu
    shown = lambda v: v.replace(", device='cuda:0'", "") if isinstance(v, str) else v
    gpu["values"] = [shown(v) for v in gpu["values"]]
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


# Samples that make tensors of their own, or have no operand.
OWN = re.compile(r"(zeros|ones|empty|full|eye|arange|linspace|logspace|torch.rand\w*|tensor|F)\(")
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
