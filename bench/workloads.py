"""The workloads: a record each, with a function per library that gives one step to be timed.

A function named `torch_*` takes a module with PyTorch's interface, so it serves microtorch and
PyTorch alike. `bound` is the wanted ratio of microtorch's time to that of `peer`.
"""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Step = Callable[[], Any]


class Workload(NamedTuple):
    """What is timed: library -> function that makes the step; inner repeats of a timing."""

    name: str
    peer: str
    bound: float
    makers: dict[str, Callable[[Any], Step]]


def torch_dispatch20(torch: Any) -> Step:
    x, y = (torch.ones(20, requires_grad=True) for _ in range(2))
    return lambda: ((x + y) * y).sum().backward()


def autograd_dispatch20(autograd: Any) -> Step:
    import autograd.numpy as anp

    grad = autograd.grad(lambda xy: anp.sum((xy[0] + xy[1]) * xy[1]))
    x = np.ones(20, np.float32)
    return lambda: grad((x, x))


def jax_dispatch20(jax: Any) -> Step:
    import jax.numpy as jnp

    grad = jax.jit(jax.grad(lambda x, y: ((x + y) * y).sum(), (0, 1)))
    x = jnp.ones(20, jnp.float32)
    return lambda: jax.block_until_ready(grad(x, x))


def torch_linear_regression(torch: Any) -> Step:
    torch.manual_seed(10)
    x = torch.rand(20, 1) * 10
    y = 2 * x + (5 + torch.randn(20, 1))
    w = torch.randn(1, requires_grad=True)
    b = torch.zeros(1, requires_grad=True)

    def step() -> Any:
        y_pred = torch.add(torch.mul(w, x), b)
        loss = (0.5 * (y - y_pred) ** 2).mean()
        loss.backward()
        b.data.sub_(0.005 * b.grad)
        w.data.sub_(0.005 * w.grad)
        w.grad.zero_()
        b.grad.zero_()
        return loss

    return step


def _two_classes(torch: Any) -> tuple[Any, Any]:
    torch.manual_seed(10)
    ones = torch.ones(100, 2)
    x = torch.cat((torch.normal(1.7 * ones, 1) + 1, torch.normal(-1.7 * ones, 1) + 1), 0)
    return x, torch.cat((torch.zeros(100), torch.ones(100)), 0)


def torch_logistic(torch: Any) -> Step:
    x, y = _two_classes(torch)
    model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid())
    loss_fn = torch.nn.BCELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> Any:
        loss = loss_fn(model(x).squeeze(), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def numpy_logistic(numpy: Any) -> Step:
    rng = np.random.default_rng(10)
    x, y = rng.standard_normal((200, 2)).astype("f4"), np.repeat(np.float32([0, 1]), 100)
    w, b = np.zeros(2, "f4"), np.zeros(1, "f4")
    vw, vb = np.zeros(2, "f4"), np.zeros(1, "f4")

    def step() -> None:
        p = 1 / (1 + np.exp(-(x @ w + b)))
        np.mean(-(y * np.log(p) + (1 - y) * np.log1p(-p)))
        d = (p - y) / np.float32(200)
        for v, g, q in ((vw, x.T @ d, w), (vb, d.sum(keepdims=True), b)):
            v *= np.float32(0.9)
            v += g
            q -= np.float32(0.01) * v

    return step


def numba_logistic(numba: Any) -> Step:
    import math

    rng = np.random.default_rng(10)
    x, y = rng.standard_normal((200, 2)).astype("f4"), np.repeat(np.float32([0, 1]), 100)
    state = np.zeros(6, "f4")

    @numba.njit
    def run(x: Any, y: Any, s: Any) -> float:
        g0 = g1 = gb = loss = 0.0
        for i in range(200):
            p = 1 / (1 + math.exp(-(x[i, 0] * s[0] + x[i, 1] * s[1] + s[2])))
            loss -= y[i] * math.log(p) + (1 - y[i]) * math.log1p(-p)
            d = (p - y[i]) / 200
            g0 += d * x[i, 0]
            g1 += d * x[i, 1]
            gb += d
        for k, g in enumerate((g0, g1, gb)):
            s[3 + k] = 0.9 * s[3 + k] + g
            s[k] -= 0.01 * s[3 + k]
        return loss / 200

    return lambda: run(x, y, state)


def torch_mlp_hinge(torch: Any) -> Step:
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(
        nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(100, 2), torch.randint(0, 2, (100, 1)) * 2.0 - 1.0

    def step() -> Any:
        loss = (1 - y * model(x)).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def torch_two_layer(torch: Any) -> Step:
    torch.manual_seed(0)
    x, y = torch.randn(64, 1000), torch.randn(64, 10)
    w1 = torch.randn(1000, 100, requires_grad=True)
    w2 = torch.randn(100, 10, requires_grad=True)

    def step() -> None:
        nonlocal w1, w2
        loss = (x.mm(w1).clamp(min=0).mm(w2) - y).pow(2).sum()
        loss.item()
        loss.backward()
        with torch.no_grad():
            w1 -= 1e-9 * w1.grad
            w2 -= 1e-9 * w2.grad
            w1.grad.zero_()
            w2.grad.zero_()

    return step


def torch_mlp_adam(torch: Any) -> Step:
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.Adam(model.parameters())
    loss_fn = nn.CrossEntropyLoss()
    x, y = torch.randn(128, 784), torch.randint(0, 10, (128,))

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def torch_chain(n: int) -> Callable[[Any], Step]:
    def make(torch: Any) -> Step:
        x = torch.randn(n, requires_grad=True)

        def step() -> Any:
            x.grad = None
            loss = (x.tanh() * x.exp()).sum()
            loss.backward()
            return loss

        return step

    return make


def _jax_chain(n: int) -> Callable[[Any], Step]:
    def make(jax: Any) -> Step:
        import jax.numpy as jnp

        grad = jax.jit(jax.grad(lambda x: (jnp.tanh(x) * jnp.exp(x)).sum()))
        x = jnp.asarray(np.random.default_rng(0).standard_normal(n), jnp.float32)
        return lambda: jax.block_until_ready(grad(x))

    return make


def torch_scalar_chain(torch: Any) -> Step:
    x = torch.tensor(1.0, requires_grad=True)

    def step() -> None:
        z = x
        for _ in range(1000):
            z = z * 1.0001
        z.backward()

    return step


def value_chain(module: Any) -> Step:
    value = module.Value

    def step() -> None:
        z = value(1.0)
        for _ in range(1000):
            z = z * 1.0001
        z.backward()

    return step


def value_moons(module: Any) -> Step:
    """micrograd's moons demo step on 20 points: 2-16-16-1 relu network, hinge loss, L2."""
    value, rng = module.Value, random.Random(1)

    def layer(inputs: int, outputs: int) -> list[Any]:
        return [
            ([value(rng.uniform(-1, 1)) for _ in range(inputs)], value(0)) for _ in range(outputs)
        ]

    layers = [layer(2, 16), layer(16, 16), layer(16, 1)]
    parameters = [p for units in layers for weights, bias in units for p in (*weights, bias)]
    points = [(rng.uniform(-1, 2), rng.uniform(-1, 1)) for _ in range(20)]
    labels = [1 if a * a + b > 0.3 else -1 for a, b in points]

    def score(point: Any) -> Any:
        x: Any = [value(v) for v in point]
        for depth, units in enumerate(layers):
            x = [sum((w * v for w, v in zip(weights, x, strict=True)), b) for weights, b in units]
            if depth < 2:
                x = [v.relu() for v in x]
        return x[0]

    def step() -> None:
        losses = [(1 + -y * score(p)).relu() for p, y in zip(points, labels, strict=True)]
        loss = sum(losses) * (1.0 / 20) + 1e-4 * sum(p * p for p in parameters)
        for p in parameters:
            p.grad = 0
        loss.backward()
        for p in parameters:
            p.data -= 0.1 * p.grad

    return step


def torch_randn1e6(torch: Any) -> Step:
    return lambda: torch.randn(1_000_000)


def numpy_randn1e6(numpy: Any) -> Step:
    state = np.random.RandomState(0)
    return lambda: state.standard_normal(1_000_000)


def _function(shape: tuple[int, ...], call: Callable[[Any, Any], Any]) -> Callable[[Any], Step]:
    """`call(torch, x)` on floats of a shape, forward and backward."""

    def make(torch: Any) -> Step:
        torch.manual_seed(0)
        x = torch.randn(*shape, requires_grad=True)
        gradient = torch.ones_like(call(torch, x)).detach()

        def step() -> None:
            x.grad = None
            call(torch, x).backward(gradient)

        return step

    return make


def torch_conv2d(torch: Any) -> Step:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(16, 32, 3, padding=1)
    x = torch.randn(32, 16, 28, 28, requires_grad=True)
    gradient = torch.ones_like(layer(x)).detach()

    def step() -> None:
        x.grad = layer.weight.grad = layer.bias.grad = None
        layer(x).backward(gradient)

    return step


def torch_indexing(n: int) -> Callable[[Any], Step]:
    """Rows taken by numbers, a slice, and a mask, of an n x n matrix."""

    def make(torch: Any) -> Step:
        torch.manual_seed(0)
        x = torch.randn(n, n, requires_grad=True)
        rows, mask = torch.randint(0, n, (n,)), torch.rand(n, n) > 0.5

        def step() -> None:
            x.grad = None
            (x[rows].sum() + x[1:, ::2].sum() + x[mask].sum()).backward()

        return step

    return make


# Wanted of what PyTorch has as one function: 1.5 of its time on large arrays, 0.5 on small ones.
FUNCTIONS = {
    "cat": lambda torch, x: torch.cat((x, x, x), 0),
    "softmax": lambda torch, x: torch.softmax(x, 1),
    "log_softmax": lambda torch, x: torch.log_softmax(x, 1),
    "layer_norm": lambda torch, x: torch.nn.functional.layer_norm(x, (x.shape[1],)),
}


def _both(make: Callable[[Any], Step], **others: Any) -> dict[str, Callable[[Any], Step]]:
    return {"microtorch": make, "torch": make, **others}


WORKLOADS = (
    Workload("dispatch20", "torch", 0.40, _both(
        torch_dispatch20, jax=jax_dispatch20, autograd=autograd_dispatch20)),
    Workload("linear_regression", "torch", 0.40, _both(torch_linear_regression)),
    Workload("logistic", "torch", 0.25, _both(
        torch_logistic, numpy=numpy_logistic, numba=numba_logistic)),
    Workload("mlp_hinge", "torch", 0.40, _both(torch_mlp_hinge)),
    Workload("two_layer", "torch", 1.00, _both(torch_two_layer)),
    Workload("mlp_adam", "torch", 0.75, _both(torch_mlp_adam)),
    Workload("chain1e5", "torch", 0.60, _both(torch_chain(100_000), jax=_jax_chain(100_000))),
    Workload("chain1e7", "torch", 0.50, _both(torch_chain(10**7), jax=_jax_chain(10**7))),
    Workload("scalar_chain", "torch", 0.40, _both(torch_scalar_chain)),
    Workload("value_chain", "micrograd", 0.50, {
        "microtorch": value_chain, "micrograd": value_chain}),
    Workload("value_moons", "micrograd", 0.50, {
        "microtorch": value_moons, "micrograd": value_moons}),
    Workload("randn1e6", "numpy", 1.50, {
        "microtorch": torch_randn1e6, "numpy": numpy_randn1e6, "torch": torch_randn1e6}),
    Workload("indexing_20", "torch", 0.50, _both(torch_indexing(20))),
    Workload("indexing_1000", "torch", 1.50, _both(torch_indexing(1000))),
    *(Workload(f"{name}_{rows}x{columns}", "torch", bound, _both(_function((rows, columns), call)))
      for name, call in FUNCTIONS.items()
      for rows, columns, bound in ((20, 32, 0.50), (2000, 1000, 1.50))),
    Workload("conv2d", "torch", 1.50, _both(torch_conv2d)),
)  # fmt: skip
