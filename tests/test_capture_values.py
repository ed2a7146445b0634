"""Compiled functions of Values: the numbers of eager mode, and clear refusals."""

import collections
import math
import random

import numpy as np
import pytest

import microtorch
from microtorch import Value
from microtorch.capture.tape import CaptureError
from microtorch.table import ROWS

STEPS = 20


def both(make, steps=STEPS):
    """Numbers after each step: eager, and compiled."""
    found = []
    for wrapped in (lambda f: f, microtorch.compile):
        step, values = make()
        step = wrapped(step)
        lines = []
        for _ in range(steps):
            z = step()
            lines.append([z.data, *[n for v in values for n in (v.data, v.grad)]])
        found.append(lines)
    return found


def agree(make, steps=STEPS):
    eager, compiled = both(make, steps)
    np.testing.assert_allclose(compiled, eager, rtol=1e-11, atol=1e-300)


def test_a_step_of_gradient_descent():
    def make():
        x, y = Value(2.0), Value(-3.0)

        def step():
            x.grad = y.grad = 0.0
            z = (x * y + y**3).tanh() + x.exp() / y.sigmoid() - (x.relu() + 2).log() * x.maximum(y)
            z = z + x.sin() ** 2 + 2**x + (1 + -y).sqrt() - x / 3
            z.backward()
            x.data -= 0.01 * x.grad
            y.data -= 0.001 * y.grad
            return z

        return step, (x, y)

    agree(make)


@pytest.mark.parametrize("name", [n for n, r in ROWS.items() if r.derivatives is not None])
def test_every_row(name):
    row = ROWS[name]

    def make():
        rng = random.Random(name)
        ends = row.domain * len(row.inputs) if len(row.domain) == 1 else row.domain
        values = [Value(rng.uniform(max(a, -2), min(b, 2))) for a, b in ends]
        numbers = [0.3 + k for k in range(len(row.params))]

        def step():
            z = getattr(values[0], name)(*values[1:], *numbers)
            (z * z).backward()
            return z

        return step, values

    agree(make, 3)


def test_gradients_add_up_over_calls_and_passes():
    def make():
        x, y = Value(1.5), Value(0.5)

        def step():
            (x * y).backward()
            z = x * x + y
            z.backward()
            return z

        return step, (x, y)

    agree(make, 5)


def test_a_net_of_neurons():
    def make():
        rng = random.Random(1)
        rows = [[Value(rng.uniform(-1, 1)) for _ in range(3)] for _ in range(5)]
        out = [Value(rng.uniform(-1, 1)) for _ in range(5)]
        points = [[rng.uniform(-1, 1) for _ in range(3)] for _ in range(7)]
        parameters = [*out, *(w for row in rows for w in row)]

        def step():
            total = 0.0
            for k, point in enumerate(points):
                hidden = [sum(w * v for w, v in zip(r, point, strict=True)).tanh() for r in rows]
                score = sum(w * h for w, h in zip(out, hidden, strict=True))
                total = total + (1 - (-1) ** k * score).relu()
            for p in parameters:
                p.grad = 0
            total.backward()
            for p in parameters:
                p.data -= 0.05 * p.grad
            return total

        return step, parameters

    agree(make)


def test_a_long_chain_is_walked():
    x = Value(1.0)

    @microtorch.compile
    def step():
        x.grad = 0.0
        z = x
        for _ in range(50_000):
            z = z * 1.00001
        z.backward()
        return z

    for _ in range(2):
        assert step().data == pytest.approx(1.00001**50_000, rel=1e-9)
        assert x.grad == pytest.approx(1.00001**50_000, rel=1e-9)


def test_numbers_outside_are_read_at_every_call():
    x, rate = Value(1.0), Value(0.5)

    @microtorch.compile
    def step():
        x.data += rate.data * np.float64(2)
        return x.data, [x * 1]

    for k in range(1, 4):
        rate.data = float(k)
        before = x.data
        data, (z,) = step()
        assert x.data == data == z.data == before + 2 * k
    x.data = 7.0
    assert step()[0] == 13.0


def test_a_changed_global_or_list_is_seen():
    weights, factor = [Value(1.0), Value(2.0)], 3.0
    step = microtorch.compile(lambda: weights[0] * factor + weights[1])
    assert step().data == 5.0
    factor = 4.0
    assert step().data == 6.0
    weights[1] = Value(10.0)
    assert step().data == 14.0


@pytest.mark.parametrize(
    "read",
    [lambda x: x.data > 0, lambda x: float(x), lambda x: 1 if x.data else 2, lambda x: f"{x.data}",
     lambda x: math.sqrt(x.data), lambda x: int(x.data), lambda x: print(x), lambda x: x.item() == 1],
)  # fmt: skip
def test_reading_a_number_is_refused_and_changes_nothing(read):
    x = Value(4.0)

    @microtorch.compile
    def step():
        x.data = x.data * 2
        x.grad = 1.0
        if read(x):
            x.data = 0.0
        return x

    with pytest.raises(CaptureError, match=r"test_capture_values.py:\d+"):
        step()
    assert (x.data, x.grad) == (4.0, 0.0)


def test_reading_with_fallback_runs_eagerly_once():
    x = Value(4.0)

    @microtorch.compile(fallback="eager")
    def step():
        x.data = x.data * 2
        if x.data > 20:
            x.data = 1.0
        return x

    with pytest.warns(UserWarning, match="runs eagerly"):
        step()
    assert x.data == 8.0
    step(), step()
    assert x.data == 1.0


def test_values_and_tensors_are_not_mixed():
    x, t = Value(4.0), microtorch.ones(2, requires_grad=True)

    @microtorch.compile
    def step():
        return (t * 2).sum(), x * 2

    with pytest.raises(CaptureError, match="mixed"):
        step()
    assert x.data == 4.0


def test_backward_of_a_result_outside_is_refused():
    x = Value(4.0)
    z = microtorch.compile(lambda: x * x)()
    with pytest.raises(RuntimeError, match="inside the function"):
        z.backward()
    assert x.grad == 0.0


def test_a_value_that_was_kept_is_refused():
    x, kept = Value(4.0), []

    def step():
        kept[:] = [x * 2]
        return x * 3

    compiled = microtorch.compile(step)
    assert compiled().data == 12.0
    with pytest.raises(CaptureError):
        (kept[0] + 1).backward()


def test_an_exception_leaves_what_eager_mode_leaves():
    x = Value(4.0)

    @microtorch.compile
    def step():
        x.data = x.data * 2
        raise KeyError("stop")

    for k in range(1, 4):
        with pytest.raises(KeyError):
            step()
        assert x.data == 4.0 * 2**k


@pytest.mark.parametrize("caught", [ValueError, RuntimeError, Exception])
def test_a_refusal_that_is_caught_is_raised_at_the_end(caught):
    x = Value(4.0)

    @microtorch.compile
    def step():
        try:
            s = float(x.data)
        except caught:
            s = 0.0
        return x * s

    with pytest.raises(CaptureError, match=r"test_capture_values.py:\d+"):
        step()


def test_results_of_every_structure():
    Pair = collections.namedtuple("Pair", "a b")
    x = Value(4.0)

    @microtorch.compile
    def step():
        x.data += 1
        y = x * 2
        return Pair(y, {"data": y.data, "same": y}), [x, None, 3, "s"]

    for k in range(1, 4):
        pair, rest = step()
        assert type(pair) is Pair and pair.a.data == pair.b["data"] == 2 * (4 + k)
        assert pair.a is pair.b["same"] and rest == [x, None, 3, "s"]
    with pytest.raises(CaptureError, match="set"):
        microtorch.compile(lambda: {x * 2})()
