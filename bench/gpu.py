"""`python -m bench.gpu`: microtorch and PyTorch on one GPU, round by round, beside its limits.

Writes bench/results/gpu.json and prints a table: milliseconds, the ratio to PyTorch (below 1 is
faster) with its bound, and the share of the copy bandwidth that was reached. `--small` shrinks
everything a thousandfold, to see that it runs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import microtorch

Step = Callable[[], Any]
FLOATS = 10**8


def add(torch: Any, n: int) -> Step:
    a, b = (torch.ones(n, device="cuda") for _ in range(2))
    return lambda: a + b


def copy(torch: Any, n: int) -> Step:
    a, b = (torch.ones(n, device="cuda") for _ in range(2))
    return lambda: b.copy_(a)


def chain(torch: Any, n: int) -> Step:
    x = torch.full((n,), 0.5, device="cuda", requires_grad=True)

    def step() -> Any:
        x.grad = None
        loss = (x.tanh() * x.exp()).sum()
        loss.backward()
        return loss

    return step


def total(torch: Any, n: int) -> Step:
    x = torch.ones(n, device="cuda")
    return lambda: x.sum()


def softmax(torch: Any, n: int) -> Step:
    x = torch.ones(n // 10_000 or 1, 10_000, device="cuda")
    return lambda: torch.softmax(x, 1)


def layer_norm(torch: Any, n: int) -> Step:
    x = torch.ones(n // 10_000 or 1, 10_000, device="cuda")
    w, b = (torch.ones(10_000, device="cuda") for _ in range(2))
    return lambda: torch.nn.functional.layer_norm(x, (10_000,), w, b)


def product(torch: Any, n: int) -> Step:
    k = 4096 if n == FLOATS else 32
    a, b = (torch.ones(k, k, device="cuda") for _ in range(2))
    return lambda: a @ b


def logistic(torch: Any, n: int) -> Step:
    torch.manual_seed(10)
    x, y = torch.randn(200, 2).to("cuda"), torch.ones(200).to("cuda")
    model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid()).to("cuda")
    return _training(torch, model, torch.nn.BCELoss(), x, y, torch.optim.SGD, {"momentum": 0.9})


def mlp_adam(torch: Any, n: int) -> Step:
    torch.manual_seed(0)
    x, y = torch.randn(128, 784).to("cuda"), torch.randint(10, (128,)).to("cuda")
    layers = [torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256),
              torch.nn.ReLU(), torch.nn.Linear(256, 10)]  # fmt: skip
    model = torch.nn.Sequential(*layers).to("cuda")
    return _training(torch, model, torch.nn.CrossEntropyLoss(), x, y, torch.optim.Adam, {})


def _training(
    torch: Any, model: Any, criterion: Any, x: Any, y: Any, optimizer: Any, options: Any
) -> Step:
    made = optimizer(model.parameters(), lr=0.01, **options)

    def step() -> Any:
        made.zero_grad()
        found = model(x)
        loss = criterion(found.squeeze(1) if found.shape[1] == 1 else found, y)
        loss.backward()
        made.step()
        return loss

    return step


def adam_update(torch: Any, n: int) -> Step:
    p = torch.ones(n, device="cuda", requires_grad=True)
    p.grad = torch.ones(n, device="cuda")
    options = {} if torch is microtorch else {"fused": True}
    return torch.optim.Adam([p], lr=0.01, **options).step


def allocation(torch: Any, n: int) -> Step:
    return lambda: torch.empty(1000, device="cuda")


# What is timed: (name, maker, whether microtorch's is compiled, bound of the ratio, bytes an
# element that must move, least share of the copy bandwidth).
WORK: tuple[tuple[str, Any, bool, float | None, int, float | None], ...] = (
    ("add", add, False, 1.05, 12, 0.85),
    ("tanh*exp chain", chain, False, 1.1, 0, None),
    ("tanh*exp chain, compiled", chain, True, 0.35, 0, None),
    ("sum", total, False, None, 4, 0.80),
    ("softmax of rows of 10,000", softmax, False, None, 8, 0.80),
    ("layer norm of rows of 10,000", layer_norm, False, None, 8, 0.80),
    ("matmul 4096", product, False, 1.05, 0, None),
    ("logistic step, compiled", logistic, True, 0.25, 0, None),
    ("784-256-256-10 Adam step, compiled", mlp_adam, True, 0.25, 0, None),
    ("Adam update", adam_update, False, None, 28, 0.80),
    ("allocation of 4 kB", allocation, False, None, 0, None),
)  # fmt: skip


def timed(torch: Any, step: Step, seconds: float) -> float:
    """Seconds a call, of as many as fit; the first calls, which may compile, are not counted."""
    for _ in range(4):
        step()
    torch.cuda.synchronize()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or count < 3:
        step()
        count += 1
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--out", default="bench/results/gpu.json")
    given = parser.parse_args()
    if not microtorch.cuda.is_available():
        raise SystemExit(f"No GPU: {microtorch.cuda.why_unavailable()}")
    try:
        import torch

        peers = [microtorch] + [torch] * torch.cuda.is_available()
    except ImportError:
        peers = [microtorch]
    n = FLOATS // 1000 if given.small else FLOATS
    seconds = 0 if given.small else given.seconds
    moved = 8 * n / timed(microtorch, copy(microtorch, n), seconds)
    print(f"{microtorch.cuda.get_device_name()}: copies move {moved / 1e9:,.0f} GB/s\n")
    print("| work | ms | to PyTorch | bound | of copy bandwidth | bound |")
    print("| --- | --- | --- | --- | --- | --- |")
    found = []
    for name, make, compiled, bound, size, least in WORK:
        steps: list[Step] = []
        for m in peers:
            # What one keeps of the row before, the other cannot use.
            m.cuda.empty_cache()
        steps = [make(m, n) for m in peers]
        if compiled:
            steps[0] = microtorch.compile(steps[0])
        rounds = [[timed(m, s, seconds) for m, s in zip(peers, steps, strict=True)]
                  for _ in range(given.repeats)]  # fmt: skip
        own = statistics.median(r[0] for r in rounds)
        ratio = statistics.median(r[0] / r[1] for r in rounds) if len(peers) > 1 else None
        share = size * n / own / moved if size else None
        shown = [f"{own * 1e3:.4g}", *(("-" if v is None else f"{v:.3g}")
                                       for v in (ratio, bound, share, least))]  # fmt: skip
        print(f"| {name} | {' | '.join(shown)} |")
        found.append({"name": name, "seconds": own, "ratio": ratio, "bandwidth": share})
    result = {"gpu": microtorch.cuda.get_device_name(), "copy": moved, "results": found}
    Path(given.out).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
