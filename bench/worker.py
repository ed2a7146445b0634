"""The child process of one library: reads workload names, answers with seconds a step.

Each library has a process of its own, so that the thread pools of one do not disturb another;
only one process is at work at a time.
"""

import importlib
import sys
import time
from typing import Any

from . import EVERY

MODULES = {"micrograd": "micrograd.engine", "torch_compile": "torch"}


def load(library: str, threads: int) -> Any:
    """The library, with its number of threads set."""
    module = importlib.import_module(MODULES.get(library, library))
    if hasattr(module, "set_num_threads"):
        module.set_num_threads(threads)
    return module


def timed(step: Any, seconds: float) -> float:
    """Seconds a step, over as many steps as fit."""
    # The first steps after a pause are slow: they count for nothing.
    steps, start, now = 0, time.perf_counter(), 0.0
    while steps == 0 or now - start < seconds / 4:
        step()
        steps, now = steps + 1, time.perf_counter()
    count = max(1, int(seconds / max((now - start) / steps, 1e-7)))
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def main() -> None:
    """Answer requests until the input ends."""
    library, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    sys.setrecursionlimit(100_000)
    module = load(library, threads)
    makers = {w.name: w.makers[library] for w in EVERY if library in w.makers}
    steps: dict[str, Any] = {}
    print(getattr(module, "__version__", "?"), flush=True)
    for line in sys.stdin:
        name = line.strip()
        if name not in steps:
            steps[name] = makers[name](module)
            timed(steps[name], seconds / 2)
        print(timed(steps[name], seconds), flush=True)


if __name__ == "__main__":
    main()
