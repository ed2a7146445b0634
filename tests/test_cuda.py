"""The GPU without one: each tests/cuda_*.py runs in a process with NUMBA_ENABLE_CUDASIM=1.

There Numba runs the text of CUDA kernels thread by thread, in host memory.
"""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent


@pytest.mark.parametrize("name", sorted(p.name for p in HERE.glob("cuda_*.py")))
def test_simulated(name):
    search = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / name)],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": search},
        cwd=HERE.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
