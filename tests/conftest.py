"""What all tests share.

Compiled functions are built-in calls at once, as tests call them a few times only. The tests of the
simulated GPU (`cuda_*.py`) run beside all others, in a process of their own: Numba simulates in the
whole process or not at all.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from microtorch.kernels import entry

entry.AFTER = 0
HERE = pathlib.Path(__file__).resolve().parent
SIMULATED = []


def pytest_collection_finish(session):
    wanted = any(item.path.name == "test_cuda.py" for item in session.items)
    if not wanted or session.config.option.collectonly:
        return
    search = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    output = tempfile.TemporaryFile()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        command + sorted(map(str, HERE.glob("cuda_*.py"))),
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": search},
        cwd=HERE.parent, stdout=output, stderr=subprocess.STDOUT,
    )  # fmt: skip
    SIMULATED.append((process, output))


def pytest_unconfigure():
    for process, _ in SIMULATED:
        process.kill()
        process.wait()
