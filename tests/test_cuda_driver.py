"""The GPU without one, but for the driver: a stand-in in C for NVIDIA's (tests/driver/libcuda.c).

Every call goes through cuda-python's bindings, each file of tests in a process of its own.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from microtorch.gpu import driver

HERE = pathlib.Path(__file__).resolve().parent
LACKS = [
    words
    for found, words in (
        (sys.platform == "linux" and shutil.which("cc"), "a C compiler (cc) on Linux"),
        (importlib.util.find_spec("numba_cuda"), "numba-cuda: pip install 'microtorch[cuda13]'"),
        (importlib.util.find_spec("cuda"), "cuda-bindings: pip install 'microtorch[cuda13]'"),
        (not driver._has_driver(), "a machine without NVIDIA's driver"),
    )
    if not found
]


@pytest.mark.skipif(bool(LACKS), reason=f"needs {' and '.join(LACKS)}")
@pytest.mark.parametrize("name", ["driver/cases.py", "driver/lost.py", "cuda_compile.py"])
def test_on_the_stand_in(name):
    search = [str(HERE.parent), str(HERE / "driver"), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, search)), "NUMBA_ENABLE_CUDASIM": "0",
    }  # fmt: skip
    plugins = "-p standin -p no:cacheprovider".split()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, str(HERE / name)],
        env=os.environ | environment, cwd=HERE.parent,
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
