"""The GPU without one: the tests in cuda_*.py pass where Numba simulates one (see conftest.py).

There the text of CUDA kernels runs thread by thread, in host memory.
"""

import conftest


def test_simulated_gpu():
    ((process, output),) = conftest.SIMULATED
    process.wait()
    output.seek(0)
    assert process.returncode == 0, output.read().decode()[-10_000:]
