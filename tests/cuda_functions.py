"""Every record of test_functions on the simulated GPU beside the CPU; test_cuda.py runs this.

In float32, with first derivatives; in float64 too, with second derivatives, every tenth record,
or all with MICROTORCH_FUZZ set.
"""

import os

import pytest
from test_functions import SAMPLES, run, same

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
