"""Run a piece of Python in a process of its own, with a kernel cache of its own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def start(code, cache, *options, **environment):
    """A running process; an environment variable given as None is unset."""
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "MICROTORCH_CACHE_DIR": str(cache), "PYTHONPATH": search}
    variables |= environment
    return subprocess.Popen(
        [sys.executable, *options, "-c", code],
        env={k: v for k, v in variables.items() if v is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Standard output and standard error, after a success."""
    out, err = process.communicate()
    assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    return out, err


def run(code, cache, *options, **environment):
    """Start and finish."""
    return finish(start(code, cache, *options, **environment))
