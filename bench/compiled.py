"""Whole training steps, compiled: the same step for microtorch, PyTorch, JAX and by hand in Numba.

Every step gives its loss and leaves updated parameters. JAX's are one jitted function each that
takes parameters and state and gives new ones; Numba's are what one would write by hand.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .workloads import (
    Step,
    Workload,
    numba_logistic,
    torch_chain,
    torch_linear_regression,
    torch_logistic,
    torch_mlp_adam,
    torch_mlp_hinge,
    value_moons,
)

Maker = Callable[[Any], Step]
RNG = np.random.default_rng


def _floats(*shape: int, seed: int = 0) -> Any:
    return RNG(seed).standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------- PyTorch's interface
def torch_dispatch20(torch: Any) -> Step:
    x, y = (torch.ones(20, requires_grad=True) for _ in range(2))

    def step() -> Any:
        x.grad = y.grad = None
        loss = ((x + y) * y).sum()
        loss.backward()
        return loss

    return step


def torch_two_layer(torch: Any) -> Step:
    torch.manual_seed(0)
    x, y = torch.randn(64, 1000), torch.randn(64, 10)
    w1 = torch.randn(1000, 100, requires_grad=True)
    w2 = torch.randn(100, 10, requires_grad=True)

    def step() -> Any:
        w1.grad = w2.grad = None
        loss = (x.mm(w1).clamp(min=0).mm(w2) - y).pow(2).sum()
        loss.backward()
        with torch.no_grad():
            w1.sub_(1e-9 * w1.grad)
            w2.sub_(1e-9 * w2.grad)
        return loss

    return step


# --------------------------------------------------------------------------------- JAX
def _jax_step(jax: Any, state: Any, update: Callable[[Any], Any]) -> Step:
    jitted = jax.jit(update, donate_argnums=0)

    def step() -> Any:
        nonlocal state
        state, loss = jitted(state)
        return jax.block_until_ready((state, loss))

    return step


def _descent(jax: Any, parameters: Any, loss_of: Any, rate: float, momentum: float = 0.0) -> Step:
    """Steps of gradient descent."""
    tree = jax.tree_util.tree_map

    def update(state: Any) -> Any:
        p, v = state
        loss, g = jax.value_and_grad(loss_of)(p)
        if momentum:
            v = g = tree(lambda v, g: momentum * v + g, v, g)
        return (tree(lambda p, g: p - rate * g, p, g), v), loss

    p = tree(jax.numpy.asarray, parameters)
    velocity = tree(jax.numpy.zeros_like, p) if momentum else ()
    return _jax_step(jax, (p, velocity), update)


def jax_dispatch20(jax: Any) -> Step:
    both = jax.jit(jax.value_and_grad(lambda x, y: ((x + y) * y).sum(), (0, 1)))
    x = jax.numpy.ones(20, np.float32)
    return lambda: jax.block_until_ready(both(x, x))


def jax_linear_regression(jax: Any) -> Step:
    x = RNG(0).random((20, 1), np.float32) * 10
    y = 2 * x + 5 + _floats(20, 1)
    start = {"w": np.ones(1, np.float32), "b": np.zeros(1, np.float32)}
    return _descent(jax, start, lambda p: (0.5 * (y - (p["w"] * x + p["b"])) ** 2).mean(), 0.005)


def jax_logistic(jax: Any) -> Step:
    jnp = jax.numpy
    x, y = _floats(200, 2), np.repeat(np.float32([0, 1]), 100)

    def loss(p: Any) -> Any:
        z = jax.nn.sigmoid((x @ p["w"] + p["b"]).squeeze())
        return -(y * jnp.log(z) + (1 - y) * jnp.log1p(-z)).mean()

    start = {"w": np.zeros((2, 1), np.float32), "b": np.zeros(1, np.float32)}
    return _descent(jax, start, loss, 0.01, 0.9)


def _layers(*sizes: int) -> list[tuple[Any, Any]]:
    return [
        (_floats(m, n, seed=k) / np.float32(math.sqrt(m)), np.zeros(n, np.float32))
        for k, (m, n) in enumerate(itertools.pairwise(sizes))
    ]


def _forward(jax: Any, p: Any, x: Any) -> Any:
    for w, b in p[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ p[-1][0] + p[-1][1]


def jax_mlp_hinge(jax: Any) -> Step:
    x, y = _floats(100, 2), np.sign(_floats(100, 1, seed=1))
    loss = lambda p: jax.nn.relu(1 - y * _forward(jax, p, x)).mean()
    return _descent(jax, _layers(2, 16, 16, 1), loss, 0.01)


def jax_chain(n: int) -> Maker:
    def make(jax: Any) -> Step:
        jnp = jax.numpy
        both = jax.jit(jax.value_and_grad(lambda x: (jnp.tanh(x) * jnp.exp(x)).sum()))
        x = jnp.asarray(_floats(n))
        return lambda: jax.block_until_ready(both(x))

    return make


def jax_two_layer(jax: Any) -> Step:
    x, y = _floats(64, 1000), _floats(64, 10)
    loss = lambda p: ((jax.nn.relu(x @ p[0]) @ p[1] - y) ** 2).sum()
    return _descent(jax, (_floats(1000, 100), _floats(100, 10)), loss, 1e-9)


def jax_mlp_adam(jax: Any) -> Step:
    jnp, tree = jax.numpy, jax.tree_util.tree_map
    x, y = _floats(128, 784), RNG(0).integers(0, 10, 128)

    def loss_of(p: Any) -> Any:
        return -jax.nn.log_softmax(_forward(jax, p, x))[jnp.arange(128), y].mean()

    def update(state: Any) -> Any:
        p, m, v, t = state
        loss, g = jax.value_and_grad(loss_of)(p)
        t = t + 1
        m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = tree(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        size, scale = 1e-3 / (1 - 0.9**t), 1 / jnp.sqrt(1 - 0.999**t)
        p = tree(lambda p, m, v: p - size * m / (jnp.sqrt(v) * scale + 1e-8), p, m, v)
        return (p, m, v, t), loss

    p = tree(jnp.asarray, _layers(784, 256, 256, 10))
    zeros = tree(jnp.zeros_like, p)
    return _jax_step(jax, (p, zeros, tree(jnp.copy, zeros), jnp.zeros((), jnp.float32)), update)


# -------------------------------------------------------------------------- Numba by hand
def numba_dispatch20(numba: Any) -> Step:
    x, y, gx, gy = (np.ones(20, np.float32) for _ in range(4))

    @numba.njit
    def run(x: Any, y: Any, gx: Any, gy: Any) -> Any:
        loss = np.float32(0)
        for i in range(20):
            loss += (x[i] + y[i]) * y[i]
            gx[i] = y[i]
            gy[i] = x[i] + y[i] + y[i]
        return loss

    return lambda: run(x, y, gx, gy)


def numba_linear_regression(numba: Any) -> Step:
    x = RNG(0).random(20, np.float32) * 10
    y = 2 * x + 5 + _floats(20)
    p, g = np.zeros(2, np.float32), np.zeros(2, np.float32)

    @numba.njit
    def run(x: Any, y: Any, p: Any, g: Any) -> Any:
        loss = gw = gb = np.float32(0)
        for i in range(20):
            d = p[0] * x[i] + p[1] - y[i]
            loss += np.float32(0.5) * d * d
            gw += d * x[i]
            gb += d
        g[0], g[1] = gw / np.float32(20), gb / np.float32(20)
        for k in range(2):
            p[k] -= np.float32(0.005) * g[k]
            g[k] = 0
        return loss / np.float32(20)

    return lambda: run(x, y, p, g)


def numba_mlp_hinge(numba: Any) -> Step:
    x, y = _floats(100, 2), np.sign(_floats(100, seed=1))
    (w1, b1), (w2, b2), (w3, b3) = _layers(2, 16, 16, 1)

    @numba.njit
    def run(x: Any, y: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
        zero, one, n, rate = np.float32(0), np.float32(1), np.float32(100), np.float32(0.01)
        g1, g2, g3 = np.zeros_like(w1), np.zeros_like(w2), np.zeros_like(w3)
        c1, c2, c3 = np.zeros_like(b1), np.zeros_like(b2), np.zeros_like(b3)
        h1, h2, d1, d2 = (
            np.empty(16, np.float32),
            np.empty(16, np.float32),
            np.empty(16, np.float32),
            np.empty(16, np.float32),
        )
        loss = zero
        for i in range(100):
            for j in range(16):
                h1[j] = max(x[i, 0] * w1[0, j] + x[i, 1] * w1[1, j] + b1[j], zero)
                h2[j] = b2[j]
            for k in range(16):
                for j in range(16):
                    h2[j] += h1[k] * w2[k, j]
            z = b3[0]
            for j in range(16):
                h2[j] = max(h2[j], zero)
                z += h2[j] * w3[j, 0]
            margin = one - y[i] * z
            if margin > zero:
                loss += margin
                d = -y[i] / n
                c3[0] += d
                for j in range(16):
                    g3[j, 0] += d * h2[j]
                    d2[j] = d * w3[j, 0] if h2[j] > zero else zero
                    c2[j] += d2[j]
                for k in range(16):
                    s = zero
                    for j in range(16):
                        g2[k, j] += h1[k] * d2[j]
                        s += w2[k, j] * d2[j]
                    d1[k] = s if h1[k] > zero else zero
                for j in range(16):
                    g1[0, j] += x[i, 0] * d1[j]
                    g1[1, j] += x[i, 1] * d1[j]
                    c1[j] += d1[j]
        w1 -= rate * g1
        w2 -= rate * g2
        w3 -= rate * g3
        b1 -= rate * c1
        b2 -= rate * c2
        b3 -= rate * c3
        return loss / n

    return lambda: run(x, y, w1, b1, w2, b2, w3, b3)


def numba_chain(n: int) -> Maker:
    def make(numba: Any) -> Step:
        x = _floats(n)

        @numba.njit(parallel=n > 50_000, fastmath=True)
        def run(x: Any) -> Any:
            one = np.float32(1)
            g = np.empty_like(x)
            loss = np.float32(0)
            for i in numba.prange(x.size):
                e = math.exp(x[i])
                t = one - (one + one) / (e * e + one)
                loss += t * e
                g[i] = e * (one - t * t + t)
            return loss, g

        return lambda: run(x)

    return make


def numba_two_layer(numba: Any) -> Step:
    x, y, w1, w2 = _floats(64, 1000), _floats(64, 10), _floats(1000, 100), _floats(100, 10)

    @numba.njit
    def run(x: Any, y: Any, w1: Any, w2: Any) -> Any:
        h = np.maximum(x @ w1, np.float32(0))
        d = h @ w2 - y
        loss = (d * d).sum()
        d *= np.float32(2)
        g2 = h.T @ d
        gh = d @ w2.T
        for i in range(64):
            for j in range(100):
                if h[i, j] <= 0:
                    gh[i, j] = 0
        g1 = x.T @ gh
        w1 -= np.float32(1e-9) * g1
        w2 -= np.float32(1e-9) * g2
        return loss

    return lambda: run(x, y, w1, w2)


def numba_mlp_adam(numba: Any) -> Step:
    x, y = _floats(128, 784), RNG(0).integers(0, 10, 128)
    state = [(p, np.zeros_like(p), np.zeros_like(p)) for w in _layers(784, 256, 256, 10) for p in w]
    time = [0]

    @numba.njit
    def gradients(x: Any, y: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
        zero, n = np.float32(0), np.float32(128)
        h1 = np.maximum(x @ w1 + b1, zero)
        h2 = np.maximum(h1 @ w2 + b2, zero)
        z = h2 @ w3 + b3
        loss = zero
        for i in range(128):
            z[i] = np.exp(z[i] - z[i].max())
            z[i] /= z[i].sum()
            loss -= math.log(z[i, y[i]])
            z[i, y[i]] -= np.float32(1)
        z /= n
        d2 = z @ w3.T
        d2 *= h2 > zero
        d1 = d2 @ w2.T
        d1 *= h1 > zero
        return (loss / n, x.T @ d1, d1.sum(0), h1.T @ d2, d2.sum(0), h2.T @ z, z.sum(0))

    @numba.njit(error_model="numpy")
    def adam(p: Any, g: Any, m: Any, v: Any, size: Any, scale: Any) -> None:
        for i in range(p.size):
            m[i] = np.float32(0.9) * m[i] + np.float32(0.1) * g[i]
            v[i] = np.float32(0.999) * v[i] + np.float32(0.001) * g[i] * g[i]
            p[i] -= size * m[i] / (math.sqrt(v[i]) * scale + np.float32(1e-8))

    def step() -> Any:
        time[0] += 1
        loss, *found = gradients(x, y, *[p for p, _, _ in state])
        size = np.float32(1e-3 / (1 - 0.9 ** time[0]))
        scale = np.float32(1 / math.sqrt(1 - 0.999 ** time[0]))
        for (p, m, v), g in zip(state, found, strict=True):
            adam(p.reshape(-1), g.reshape(-1), m.reshape(-1), v.reshape(-1), size, scale)
        return loss

    return step


# ------------------------------------------------------------------------------ the table
def compiled(make: Maker) -> Maker:
    """The step, compiled by the library itself."""
    return lambda torch: torch.compile(make(torch))


def _all(make: Maker, jax: Maker, numba: Maker) -> dict[str, Maker]:
    return {"microtorch": compiled(make), "torch": make, "torch_compile": compiled(make),
            "jax": jax, "numba": numba}  # fmt: skip


BEST = "torch, torch_compile, jax"
COMPILED = (
    Workload("compiled_dispatch20", "jax", 0.20, _all(
        torch_dispatch20, jax_dispatch20, numba_dispatch20)),
    Workload("compiled_linear_regression", "jax", 0.15, _all(
        torch_linear_regression, jax_linear_regression, numba_linear_regression)),
    Workload("compiled_logistic", "jax", 0.05, _all(torch_logistic, jax_logistic, numba_logistic)),
    Workload("compiled_mlp_hinge", "jax", 0.35, _all(
        torch_mlp_hinge, jax_mlp_hinge, numba_mlp_hinge)),
    Workload("compiled_chain1e5", "jax", 0.35, _all(
        torch_chain(100_000), jax_chain(100_000), numba_chain(100_000))),
    Workload("compiled_chain1e7", "jax", 0.15, _all(
        torch_chain(10_000_000), jax_chain(10_000_000), numba_chain(10_000_000))),
    Workload("compiled_two_layer", BEST, 0.75, _all(
        torch_two_layer, jax_two_layer, numba_two_layer)),
    Workload("compiled_mlp_adam", BEST, 0.80, _all(
        torch_mlp_adam, jax_mlp_adam, numba_mlp_adam)),
    Workload("compiled_value_moons", "micrograd", 0.005, {
        "microtorch": compiled(value_moons), "micrograd": value_moons}),
)  # fmt: skip
