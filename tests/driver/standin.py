"""A stand-in for NVIDIA's driver (libcuda.c), and the pytest plug-in that puts it in place.

    PYTHONPATH=.:tests/driver python -m pytest -p standin tests/driver/cases.py

All calls of microtorch/gpu go through the bindings of cuda-python to the stand-in. Kernels are made
machine code, in a process beside, and what they do is done by Numba's simulator from their text.
"""

import atexit
import concurrent.futures
import ctypes
import functools
import gc
import multiprocessing
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import traceback

import pytest

from microtorch import cuda
from microtorch.gpu import compiler, driver, launch

HERE = pathlib.Path(__file__).resolve().parent
NUMBERS = (
    "version starts devices capability processors total full launches_left lost contexts "
    "allocations used launches replays graphs"
).split()
RUN = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p,
    ctypes.c_int,
)  # fmt: skip


class Standin(ctypes.Structure):
    """What tests set and read: device.h says what each means."""

    _fields_ = [*((name, ctypes.c_int64) for name in NUMBERS), ("run", RUN),
                ("misuse", ctypes.c_char * 400)]  # fmt: skip


@functools.cache
def standin():
    """The stand-in of this process, which is built and put in the driver's place."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    library = f"{folder}/libcuda.so.1"
    words = "cc -std=gnu99 -O1 -shared -fPIC -Wl,-soname,libcuda.so.1 -pthread"
    subprocess.run([*words.split(), HERE / "libcuda.c", "-o", library, "-ldl"], check=True)
    # A library of this name is loaded once in a process.
    return Standin.in_dll(ctypes.CDLL(library, ctypes.RTLD_GLOBAL), "standin")


# -------------------------------------------------------------------------------- kernels
# Texts of kernels by the names of their entries.
TEXTS = {}


def _machine_code(text, capability):
    return compiler.machine_code(text, capability)


@functools.cache
def _worker():
    """A process whose Numba compiles, as that of this one simulates."""
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def machine_code(text, capability):
    """What microtorch.gpu.compiler.machine_code gives."""
    entry, code = _worker().submit(_machine_code, text, capability).result()
    TEXTS[entry] = text
    return entry, code


@functools.cache
def simulated(entry):
    """A kernel in Numba's simulator, and the types of its words."""
    return compiler.simulated(compiler.complete(TEXTS[entry]))


@RUN
def run(name, x, y, block, words, count):
    """Do what a kernel does, thread by thread."""
    gc.disable()  # A tensor that goes in a simulated thread would wait for this call to end.
    try:
        kernel, kinds = simulated(name.decode())
        assert len(kinds) == count, f"the machine code takes {count} words, the text {kinds}"
        kernel((x, y), block, *struct.unpack(kinds, ctypes.string_at(words, 8 * count)))
    except Exception:
        standin().misuse = traceback.format_exc()[-399:].encode()
    finally:
        gc.enable()


# --------------------------------------------------------------------------------- pytest
def pytest_configure(config):
    """Put the stand-in in place before anything asks for a GPU."""
    assert not compiler.SIMULATED
    _worker().submit(os.getpid).result()
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
    compiler.machine_code = machine_code
    # As few threads as on the simulator.
    driver.Driver.threads, driver.Driver.blocks_each = 2, 2
    launch.TILES = dict.fromkeys(launch.TILES, launch.SMALL_TILES)
    standin().processors, standin().run = 1, run


def pytest_unconfigure(config):
    """End the process that compiles."""
    _worker().shutdown()


@pytest.fixture
def gpu():
    """The stand-in."""
    return standin()


@pytest.fixture(autouse=True)
def nothing_is_misused():
    """A test fails that makes an improper call, or gives a stream what ends so."""
    yield
    if cuda.is_initialized() and not standin().lost:
        cuda.synchronize()
    words, standin().misuse = standin().misuse, b""
    assert not words, words.decode()
