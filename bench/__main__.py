"""`python -m bench`: interleaved rounds of every workload on every library, medians and ratios."""

import argparse
import fnmatch
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import EVERY
from .worker import MODULES

# Seconds between two processes' turns: for a while after a product OpenBLAS's threads keep their
# cores busy, which would slow down whoever comes next.
PAUSE = 0.3

LIBRARIES = (
    "microtorch",
    "torch",
    "torch_compile",
    "jax",
    "autograd",
    "micrograd",
    "numpy",
    "numba",
)
STARTUP = """
import {module} as torch
torch.manual_seed(10)
x, y = torch.randn(200, 2), torch.ones(200)
model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid())
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
loss_fn = torch.nn.BCELoss()
for _ in range(100):
    loss = loss_fn(model(x).squeeze(), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def whole(code: str) -> float:
    """Seconds of a process that runs the code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


class Worker:
    """A library's process."""

    def __init__(self, library: str, threads: int, seconds: float) -> None:
        command = [sys.executable, "-m", "bench.worker", library, str(threads), str(seconds)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def time(self, name: str) -> float | None:
        """Seconds a step of a workload; None if the process has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(name + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self._answer()
        return float(answer) if answer else None

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds by workload and library."""
    wanted = options.peers.split(",") if options.peers else LIBRARIES
    here = [n for n in LIBRARIES if n == "microtorch" or n in wanted]
    here = [n for n in here if importlib.util.find_spec(MODULES.get(n, n).partition(".")[0])]
    chosen = [w for w in EVERY if fnmatch.fnmatch(w.name, options.only)]
    results: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for workload in chosen:
        workers = {
            n: Worker(n, options.threads, options.seconds) for n in here if n in workload.makers
        }
        times: dict[str, list[float]] = {n: [] for n in workers}
        for _ in range(options.repeats):
            for n, worker in workers.items():
                time.sleep(PAUSE)
                seconds = worker.time(workload.name)
                times[n].append(math.nan if seconds is None else seconds)
        for n, worker in workers.items():
            versions[n] = worker.version
            worker.close()
        results[workload.name] = summary(workload.peer, workload.bound, times)
        print(line(workload.name, results[workload.name]), flush=True)
    processes = (
        (
            "startup",
            STARTUP.format(module="microtorch"),
            STARTUP.format(module="torch"),
            "torch",
            0.2,
        ),
        ("import", "import microtorch", "import numpy", "numpy", 1.6),
    )
    for name, ours, theirs, peer, bound in processes:
        if fnmatch.fnmatch(name, options.only) and peer in here:
            whole(ours), whole(theirs)
            pairs = [(whole(ours), whole(theirs)) for _ in range(options.repeats)]
            mine, other = map(list, zip(*pairs, strict=True))
            results[name] = summary(peer, bound, {"microtorch": mine, peer: other})
            print(line(name, results[name]), flush=True)
    return {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": options.threads, "python": platform.python_version(), "versions": versions,
        "results": results,
    }  # fmt: skip


def summary(peer: str, bound: float, times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of the rounds: of the times, and of microtorch's time over the peer's.

    The speed of a shared machine changes from second to second; the two times of one round are
    taken at nearly the same time, so their ratio does not. Of several peers the best counts.
    """
    seconds = {n: t for n, ts in times.items() if (t := statistics.median(ts)) == t}
    found = None
    peers = [n for n in peer.split(", ") if n in seconds]
    if "microtorch" in seconds and peers:
        rounds = zip(times["microtorch"], *(times[n] for n in peers), strict=True)
        found = statistics.median([mine / min(others) for mine, *others in rounds])
    return {"peer": peer, "bound": bound, "ratio": found, "seconds": seconds}


def ratio(result: dict[str, Any]) -> float | None:
    """microtorch's time over the peer's, if both were measured."""
    found = result["ratio"]
    return None if found is None else float(found)


def line(name: str, result: dict[str, Any]) -> str:
    """One row of the table."""
    found = ratio(result)
    times = "  ".join(f"{n} {1e6 * s:,.1f} us" for n, s in result["seconds"].items())
    shown = "-" if found is None else f"{found:.3f}"
    return f"{name:26} ratio {shown:>6} (wanted {result['bound']})  {times}"


def markdown(report: dict[str, Any]) -> str:
    """The results as a table."""
    names = [n for n in LIBRARIES if any(n in r["seconds"] for r in report["results"].values())]
    rows = [
        "| workload | ratio | wanted | " + " | ".join(f"{n}, us" for n in names) + " |",
        "| --- |" + " --- |" * (len(names) + 2),
    ]
    for name, result in report["results"].items():
        found = ratio(result)
        cells = [
            f"{1e6 * result['seconds'][n]:,.1f}" if n in result["seconds"] else "" for n in names
        ]
        shown = "" if found is None else f"{found:.2f}"
        rows.append(
            f"| {name} | {shown} | {result['bound']} to {result['peer']} | "
            + " | ".join(cells)
            + " |"
        )
    versions = ", ".join(f"{n} {v}" for n, v in report["versions"].items())
    rows.append(
        f"\n{report['cores']} cores, {report['threads']} threads, Python {report['python']}; "
        f"{versions}."
    )
    return "\n".join(rows) + "\n"


def picture(report: dict[str, Any], path: Path) -> None:
    """Bars of the ratios, with the wanted ones as marks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [(n, ratio(r), r["bound"], r["peer"]) for n, r in report["results"].items() if ratio(r)]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(shown) + 1.2))
    places = range(len(shown))
    axes.barh(places, [s[1] for s in shown], color="#0072b2", label="measured")
    axes.scatter([s[2] for s in shown], places, color="#d55e00", zorder=3, label="wanted")
    axes.set_yticks(places, [f"{s[0]} / {s[3]}" for s in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xlabel("time of microtorch over that of the peer (less is better)")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run, print, and write results.json, results.md and results.png."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="*", help="pattern of workload names")
    parser.add_argument("--peers", default="", help="libraries, separated by commas")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=0.08, help="of one timing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("MICROTORCH_CACHE_DIR", cache)
        report = measure(options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "results.md").write_text(markdown(report))
    if importlib.util.find_spec("matplotlib"):
        picture(report, options.out / "results.png")


if __name__ == "__main__":
    main()
