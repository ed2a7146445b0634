"""Numbers that differ from call to call: one program for all values, and eager mode's results."""

import collections
import copy
import functools
import json
import math
import pickle
import random
import sys
import threading
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from interpreter import Interpreter

import microtorch as torch
import microtorch.nn.functional as F
from microtorch import Value, nn
from microtorch.capture import kept
from microtorch.capture.live import MOST_CONDITIONS
from microtorch.capture.tape import CaptureError
from microtorch.graph.node import clock

X = torch.tensor(np.random.RandomState(0).randn(4, 3).astype("f4"))
WHOLE = torch.arange(6)
NAMED = {0.5: 1.0, 1.0: 2.0, 2.0: 3.0}
rate = 0.5


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Programs are interpreted, as each takes a second to compile."""
    monkeypatch.setattr(kept, "build", Interpreter)


def count(compiled):
    return sum(map(len, compiled.programs.values()))


def leaves(value):
    if isinstance(value, (tuple, list)):
        return [x for v in value for x in leaves(v)]
    return [value]


def same(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        assert type(x) is type(y)
        if isinstance(x, torch.Tensor):
            assert x.dtype == y.dtype
            x, y = x.detach().numpy(), y.detach().numpy()
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
        else:
            assert x == y or x != x != y


def warm_up(x, k):
    for _ in range(9):
        k = k - 1.5 if k > 1 else k
    return x * k


# What only computes with a number: one program for all of its values.
COMPUTING = [
    lambda x, k: x * k + k, lambda x, k: (k * x, k - x, x / k, k / x),
    lambda x, k: x * ((1.0 - 0.9 * k / 100) ** 2), lambda x, k: x * (k // 1 + k % 0.7 + abs(-k)),
    lambda x, k: x.clone().mul_(k).add_(k).div_(k + 1), lambda x, k: F.leaky_relu(x, k),
    lambda x, k: torch.add(x, x, alpha=k) - torch.sub(x, x, alpha=-k),
    lambda x, k: x.double() * k + k, lambda x, k: x if k is None else x * k,
    lambda x, k: x * math.exp(-k) + math.cos(math.pi * k), lambda x, k: x.abs() ** (k + 0.01),
    lambda x, k: (k + 0.01) ** x.abs(), lambda x, k: x * math.floor(k), lambda x, k: x * round(k),
    lambda x, k: torch.where(x > 0, x, k), lambda x, k: torch.full((2,), k) + torch.tensor(k),
    lambda x, k: torch.zeros(3).fill_(k) + x.masked_fill(x > 0, k),
    lambda x, k: x * round(k, 1) // (k + 1.0), lambda x, k: F.huber_loss(x, x * 0.5, delta=k + 0.1),
    lambda x, k: x * math.isfinite(k) * bool(k + 1), lambda x, k: x.clamp(min=-k, max=k),
    lambda x, k: x * copy.deepcopy(k) + copy.copy([k])[0],
]  # fmt: skip
# What asks something about it: as many programs as there are answers.
ASKING = [
    lambda x, k: x * k if k > 1 else x - k,
    lambda x, k: x + sum([k, k, 1]) + max(k, 0.75),
    lambda x, k: x * k if k else x,
    lambda x, k: x + k if k // 0.1 % 3 == 0 else x * min(1.0, k),
    lambda x, k: x * k if 0.5 <= k < 2 else x,
    lambda x, k: x * sorted([k, 1.0])[0],
    lambda x, k: torch.lerp(x, x * x, k),
    lambda x, k: x + k if k in (0.5, 1.0) else x,
    warm_up,
    lambda x, k: torch.addcmul(x, x, x, value=k),
    lambda x, k: x + k if not k > 1.5 else -x,
]
# What wants to know it.
READING = [
    lambda x, k: x * float(f"{k}"), lambda x, k: x * math.fsum([k, 1.0]),
    lambda x, k: x * NAMED.get(k, 7.0), lambda x, k: x * json.loads(json.dumps(float(k))),
    lambda x, k: x * float(np.sqrt(k)) + np.float64(2.0) * k, lambda x, k: WHOLE * k,
    lambda x, k: (x.half() * k).float(), lambda x, k: x * math.perm(int(k) % 5),
    lambda x, k: (x * k, k, k * 2, [k + 1]), lambda x, k: x * 2 if type(k) is float else x + k,
    lambda x, k: x * pickle.loads(pickle.dumps(k)), lambda x, k: x * (1 / (k - 2)),
    lambda x, k: x * k.real,
    lambda x, k: F.dropout(x, 0.5 * min(1, k / 4)), lambda x, k: x * len({k, 0.5, 1.0}),
    lambda x, k: x * divmod(k, 0.3)[0], lambda x, k: x * len(f"{k:.3f}"),
    lambda x, k: x[int(k) % 4 : 4], lambda x, k: torch.from_numpy(np.full(3, k)) + x[0],
    lambda x, k: x * abs(complex(k, 1)), lambda x, k: x * math.isclose(k, 1, rel_tol=0.5),
    lambda x, k: x + k if np.float64(1.0) < k else x, lambda x, k: x if k == "k" else x * k,
    lambda x, k: x + k if Fraction(3, 2) < k else x, lambda x, k: x + k if k == Decimal(2) else x,
]  # fmt: skip
VALUES = [
    (0.5, 1.0, 2.0, 0.5, 3.25, 2.0, 0.0, -0.0, math.nan, math.inf),
    (1, 2, 3, 2, 5, 0, 2**60, 1), (1, 0.5, 2, 1.5, True, 3, None, 2),
]  # fmt: skip


@pytest.mark.parametrize("values", VALUES, ids=["floats", "ints", "mixed"])
@pytest.mark.parametrize("number", range(len(COMPUTING + ASKING + READING)))
def test_same_as_eager(number, values):
    function = [*COMPUTING, *ASKING, *READING][number]
    compiled = torch.compile(function, fallback="eager")
    for k in values:
        for _ in range(2):
            found = []
            for f in (function, compiled):
                torch.manual_seed(3)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        found.append(f(X, k))
                    except Exception as error:
                        found.append(type(error).__name__)
            same(*found)


@pytest.mark.parametrize("number", range(len(COMPUTING)))
def test_one_program_for_all_values(number):
    compiled = torch.compile(COMPUTING[number])
    for k in range(1, 30):
        compiled(X, 0.1 * k)
    assert count(compiled) == 2 and not compiled.signatures.pinned
    by_name = torch.compile(COMPUTING[number])
    for k in range(1, 30):
        same(by_name(X, k=0.7 * k), COMPUTING[number](X, 0.7 * k))
    assert count(by_name) == 2 and not by_name.signatures.pinned


@pytest.mark.parametrize("number", range(len(ASKING)))
def test_one_program_for_each_answer(number):
    compiled = torch.compile(ASKING[number])
    for k in range(1, 40):
        same(compiled(X, 0.08 * k), ASKING[number](X, 0.08 * k))
    assert count(compiled) <= 5 and not compiled.signatures.pinned


def test_many_questions_are_read():
    def step(x, k):
        return x * sum(k > j for j in range(2 * MOST_CONDITIONS))

    compiled = torch.compile(step, fallback="eager")
    for k in (3.5, 7.5, 9.5, 7.5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            same(compiled(X, k), step(X, k))
    assert compiled.signatures.pinned


class Trainer:
    mu = 1.0


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.scale, self.calls = nn.Linear(3, 1), 0.1, 0

    def forward(self, x):
        return self.linear(x) * self.scale


def test_a_computed_number_of_another_type():
    whole = torch.arange(3)
    compiled = torch.compile(lambda k: whole * 2**k)
    for k in (-1, -2, -3, 1, 2, -1):
        same(compiled(k), whole * 2**k)


def test_a_dict_whose_items_are_attributes():
    class Options(dict):
        __getattr__ = dict.__getitem__

        def __init__(self, **items):
            super().__init__(**items)
            self.__dict__ = self

    options = Options(rate=0.5)
    compiled = torch.compile(lambda x: x * options.rate)
    for k in range(4):
        options.rate = 0.1 * k
        same(compiled(X), X * options.rate)


def test_wherever_the_number_is():
    global rate
    trainer, options = Trainer(), {"eps": 0.1, "epoch": 0, "name": "a"}
    trainer.mu = factor = 2.0
    module = Scaled()

    def function(x):
        return (module(x) * rate + trainer.mu) * factor + options["eps"]

    compiled = torch.compile(function)
    for k in range(30):
        options["epoch"] += 1
        module.calls += 1
        rate = 0.5 + (k % 5 == 0) * k
        trainer.mu = 1.0 + (k % 5 == 1) * k
        factor = 3.0 + (k % 5 == 2) * k
        options["eps"] = 0.01 + (k % 5 == 3) * k
        module.scale = 0.1 + (k % 5 == 4) * k
        same(compiled(X), function(X))
    assert (
        count(compiled) <= 8
        and len(compiled.signatures.live) == 7
        and not compiled.signatures.pinned
    )
    before = compiled.latest
    options["name"] = "b"
    same(compiled(X), function(X))
    assert compiled.latest is not before
    rate = None
    with pytest.raises(TypeError):
        compiled(X)
    rate = 0.5


def test_hand_written_descent():
    p, q = (torch.ones(3, requires_grad=True) for _ in range(2))

    def step(p, rate):
        p.grad = None
        loss = ((p * X) ** 2).sum() * (1 + rate)
        loss.backward()
        with torch.no_grad():
            p.add_(p.grad, alpha=-rate)
        return loss

    compiled = torch.compile(step)
    for k in range(20):
        same(compiled(p, 0.01 * 0.9**k), step(q, 0.01 * 0.9**k))
        same(p.detach(), q.detach())
    assert count(compiled) == 2


def test_values():
    def made():
        draw = random.Random(3)
        weights = [Value(draw.uniform(-1, 1)) for _ in range(5)]
        data = [([draw.uniform(-1, 1) for _ in range(4)], draw.choice((-1, 1))) for _ in range(6)]

        def step(k):
            total = Value(0.0)
            for x, y in data:
                score = sum((w * v for w, v in zip(weights, x, strict=False)), weights[4])
                total = total + (1 - y * score).relu()
            for w in weights:
                w.grad = 0.0
            total.backward()
            rate = 1.0 - 0.9 * k / 100
            for w in weights:
                w.data -= rate * w.grad
            return total * Value(rate)

        return weights, step

    (ours, step), (theirs, eager) = made(), made()
    compiled = torch.compile(step)
    for k in range(50):
        assert compiled(k).data == eager(k).data
        assert [w.data for w in ours] == [w.data for w in theirs]
    assert not compiled.signatures.pinned and count(compiled) <= 2


def test_gradients_of_a_call_are_those_of_its_number():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def function(x, k):
        return (x * k).exp() * k

    compiled = torch.compile(function)
    numbers = 0.1, 0.2, 0.3, 0.4
    results = [compiled(x, k) for k in numbers]
    for k, y in zip(numbers, results, strict=True):
        found = torch.autograd.grad(y.sum(), x)[0]
        same(found, torch.autograd.grad(function(x, k).sum(), x)[0])


def test_nothing_live_is_left_behind():
    trainer, seen = Trainer(), []

    def function(x, k):
        if seen:
            trainer.last = seen[0] = k
        return x * k

    compiled = torch.compile(function)
    for k in (0.1, 0.2, 0.3):
        compiled(X, k)
    seen.append(0.0)
    for k in (0.4, 0.5):
        compiled(X, k)
        assert type(trainer.last) is type(seen[0]) is float and trainer.last == seen[0] == k
    with pytest.raises(RuntimeError, match="changed inside a compiled function"):
        for k in range(60):
            compiled(X, 0.1 * k)


class Slotted:
    __slots__ = ("last",)


class Holder:
    last = None


Named = collections.namedtuple("Named", "number tensor")
PLACES = {
    "a tuple in a list": (list, lambda place, k: place.append((k, "a"))),
    "a set": (set, lambda place, k: place.add(k)),
    "a deque": (collections.deque, lambda place, k: place.append(k)),
    "a key": (dict, lambda place, k: place.__setitem__(k, 1)),
    "a new list": (lambda: collections.defaultdict(list), lambda place, k: place["a"].append(k)),
    "a slot": (Slotted, lambda place, k: setattr(place, "last", k)),
    "a class": (lambda: Holder, lambda place, k: setattr(place, "last", (k, Named(k, None)))),
    "an object in a list": (lambda: [Trainer()], lambda place, k: setattr(place[0], "last", k)),
    "a default": (lambda: lambda a=0.0: a, lambda place, k: setattr(place, "__defaults__", (k,))),
}


def parts(value, seen):
    """The types of all that an object holds."""
    if id(value) not in seen:
        seen[id(value)] = value
        inner = [getattr(value, "last", None), getattr(value, "__defaults__", None)]
        if isinstance(value, (list, tuple, set, dict, collections.deque)):
            inner += [*value, *(value.values() if isinstance(value, dict) else ())]
        for x in inner:
            parts(x, seen)
    return {type(x).__name__ for x in seen.values()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PLACES)
def test_what_the_function_keeps_is_a_number(name):
    make, put = PLACES[name]
    place, on = make(), [False]

    def function(x, k):
        if on[0]:
            put(place, k)
        return x * k

    compiled = torch.compile(function, fallback="eager")
    for k in (0.1, 0.2, 0.3, 0.4):
        on[0] = k > 0.3
        compiled(X, k)
        assert "Live" not in parts(place, {})
    assert "float" in parts(place, {})


@pytest.mark.filterwarnings("ignore")
def test_results_and_errors_hold_numbers():
    def function(x, k):
        if k > 5:
            raise ValueError(k)
        return Named(k, x * k), {k: [k]}, torch.Size([k])

    compiled = torch.compile(function, fallback="eager")
    for k in (1, 2, 3, 4):
        named, items, size = compiled(X, k)
        assert "Live" not in parts((named, items, size), {})
        assert type(named) is Named and items == {k: [k]} and size == (k,)
    with pytest.raises(ValueError, match="7") as error:
        compiled(X, 7)
    assert type(error.value.args[0]) is int


def pair(make):
    """A function and an object that it changes, and the same compiled with one of its own."""
    ours, theirs = Trainer(), Trainer()
    return ours, make(ours), theirs, torch.compile(make(theirs), fallback="eager")


@pytest.mark.filterwarnings("ignore")
def test_what_is_written_is_written_by_later_calls():
    def keeping(owner):
        def function(x, k):
            owner.mu = k
            return x * owner.mu

        return function

    ours, eager, theirs, compiled = pair(keeping)
    for k in (0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.1):
        same(compiled(X, k), eager(X, k))
        assert theirs.mu == ours.mu == k

    def changing(change):
        def make(owner):
            def function(x):
                owner.mu = change(owner.mu)
                return x * owner.mu

            return function

        return make

    for change in (abs, lambda k: k * 0.99, lambda k: k % 10, lambda k: 2.0, lambda k: k):
        ours, eager, theirs, compiled = pair(changing(change))
        for k in (0.5, 0.0, 0.0, 2.0, 2.0, -0.3, 2.0, 12.0, 0.0, 3.0):
            ours.mu = theirs.mu = k
            same(compiled(X), eager(X))
            assert theirs.mu == ours.mu


class Doubled:
    @property
    def mu(self):
        return self.__dict__["mu"] * 2

    @mu.setter
    def mu(self, value):
        self.__dict__["mu"] = value


class HandWritten:
    """Adam as people write it, with its count of steps, and more that changes."""

    def __init__(self, parameters):
        self.parameters, self.t, self.rate = parameters, 0, 0.1
        self.m, self.v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    @torch.no_grad()
    def step(self):
        self.t += 1
        self.rate *= 0.99
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            m.mul_(0.9).add_(p.grad, alpha=0.1)
            v.mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
            size = (v / (1 - 0.99**self.t)).sqrt() + 1e-8
            p -= self.rate * m / (1 - 0.9**self.t) / size
            p.grad.zero_()


calls = 0


def test_numbers_that_the_function_changes():
    def train(compiling):
        global calls
        calls, seen, options = 0, 0, {"k": 1, "name": "a"}
        w, b = (
            torch.tensor([[0.5], [-1.0], [2.0]]).requires_grad_(),
            torch.zeros(1).requires_grad_(),
        )
        optimizer = HandWritten([w, b])

        def step():
            global calls
            nonlocal seen
            loss = (X @ w + b).square().mean()
            loss.backward()
            optimizer.step()
            calls, seen = calls + 1, seen + 2
            options["k"] += 3
            return loss * 2 if seen % 8 == 0 else loss

        f = torch.compile(step) if compiling else step
        losses = [f() for _ in range(20)]
        assert not compiling or count(f) == 2
        return losses, w, b, calls, seen, options["k"], optimizer.t, optimizer.rate

    same(train(False), train(True))


def test_numbers_of_values_that_the_function_changes():
    def train(compiling):
        a, t = Value(2.0), 0

        def step():
            nonlocal t
            t += 1
            loss = a * a / t
            a.grad = 0.0
            loss.backward()
            a.data -= 0.1 / t * a.grad
            return loss.data

        f = torch.compile(step) if compiling else step
        return [*(f() for _ in range(9)), a.data, t]

    assert train(False) == pytest.approx(train(True))


@pytest.mark.parametrize("change", [
    lambda k: int(str(k)) + 1, lambda k: k + 0.5 if k == 0 else f"{k}1", lambda k: float(k) + 1,
])  # fmt: skip
def test_numbers_that_are_read_and_changed_are_refused(change):
    k = 0

    def f(x):
        nonlocal k
        k = change(k)
        return x * 2

    compiled = torch.compile(f)
    with pytest.raises(CaptureError, match="variable k is changed"):
        for _ in range(5):
            compiled(X)


def test_a_call_that_is_done_again_counts_once():
    k = 0.5

    def f(x):
        nonlocal k
        k += 1
        return x * int.__add__(int(k), 0) + float.__add__(k, 1.0)

    compiled = torch.compile(f, fallback="eager")
    for n in range(6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled(X)
        assert k == 1.5 + n


def test_a_number_of_a_module_that_another_program_reads():
    module = Scaled()
    module.calls = 0

    def count_up(x):
        module.calls += 1
        return module(x) * module.calls

    step, read = torch.compile(count_up), torch.compile(lambda x: x * int(module.calls))
    for k in range(9):
        step(X)
        if k % 4 > 1:
            same(read(X), X * module.calls)
    assert module.calls == 9 and count(step) == 1


STATS = [lambda o: o.stats, lambda o: o.nested["a"]["a"], lambda o: o.listed[0]]


@pytest.mark.parametrize("number", range(len(STATS)))
def test_a_dict_that_is_replaced_by_an_equal_one(number):
    owner, find = Trainer(), STATS[number]

    def step(x):
        stats = find(owner)
        stats["n"] += 1
        return x * stats["n"]

    compiled = torch.compile(step)
    for k in range(13):
        if k % 4 == 0:
            stats = {"n": 0, "rate": 0.5}
            owner.stats, owner.nested, owner.listed = stats, {"a": {"a": stats}}, [stats]
        same(compiled(X), X * (k % 4 + 1))
        assert stats["n"] == k % 4 + 1


def test_a_dict_of_a_module_after_epochs():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.stats = {"n": 0, "rate": 0.5}

        def forward(self, x):
            self.stats["n"] += 1
            return x * self.stats["n"] * float(str(self.stats["rate"]))

    module, other = Counting(), nn.Module()
    compiled = torch.compile(lambda x: module(x))
    for k in range(12):
        other.epoch = k
        # Equal, but another object.
        module.stats["rate"] = float("0.5")
        same(compiled(X), X * (k + 1) * 0.5)
    assert count(compiled) == 1


def test_an_object_with_another_dict():
    owner = Trainer()
    owner.t = 0

    def step(x):
        owner.t += 1
        return x * owner.t

    compiled = torch.compile(step)
    for k in range(8):
        if k == 5:
            owner.__dict__ = dict(vars(owner))
        same(compiled(X), X * (k + 1))


def test_one_place_under_two_names():
    owner = Trainer()
    owner.t = 0

    def step(x):
        owner.t += 1
        owner.__dict__["t"] += 2
        return x * owner.t

    compiled = torch.compile(step)
    for k in range(8):
        same(compiled(X), X * 3 * (k + 1))
        assert owner.t == 3 * (k + 1)
    assert count(compiled) == 1


def test_a_number_that_is_set_to_a_constant():
    owner = Trainer()
    owner.t = 0

    def step(x):
        owner.t += 1
        if owner.t == 4:
            owner.t = 0
        return x * owner.t

    compiled = torch.compile(step)
    for k in range(1, 20):
        same(compiled(X), X * (k % 4))
    assert count(compiled) == 2


def test_arithmetic_that_fails_is_read():
    def step(x, k):
        try:
            return x * (1 / (k - 2))
        except ZeroDivisionError:
            return x

    compiled = torch.compile(step)
    for k in (1, 3, 2, 4, 2, 5):
        same(compiled(X, k), step(X, k))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("at", [0, 4])
def test_a_refused_call_with_values_counts_once(at):
    v, t = Value(2.0), 0

    def step(on):
        nonlocal t
        t += 1
        return v * float(v.data) if on else v * t

    compiled = torch.compile(step, fallback="eager")
    for k in range(7):
        assert compiled(k == at).data == (4.0 if k == at else 2.0 * (k + 1))
        assert t == k + 1


def test_places_that_are_something_else():
    options = {".a": 1.0, "a": 2.0, "lambda": 3.0, "kinds": 4.0, "é": 5.0}
    constants = constant_0 = 1.0

    def function(x, k, **more):
        total = options[".a"] + options["a"] * options["lambda"] + more["class"]
        return x * total + (options["kinds"] * options["é"] + constants * constant_0) - k

    compiled = torch.compile(function)
    for k in range(1, 12):
        options[".a"], options["lambda"] = 0.7 * k, 0.9 * k
        options["kinds"], options["é"], constants, constant_0 = 1.5 * k, 2.0 * k, 3.0 * k, 0.25 * k
        more = {"class": 2.5 * k}
        same(compiled(X, 0.1 * k, **more), function(X, 0.1 * k, **more))
    assert count(compiled) == 2 and not compiled.signatures.pinned

    doubled = Doubled()

    def times(x):
        return x * doubled.mu

    compiled = torch.compile(times)
    for k in range(4):
        doubled.mu = 0.5 * k
        same(compiled(X), times(X))


@pytest.mark.filterwarnings("ignore")
def test_dtypes_of_numbers():
    ones = np.ones(3, "f4")

    def function(x, k):
        chosen = torch.from_numpy(np.where(ones > 0, ones, k))
        return x * k, torch.tensor(k), torch.tensor([[k], [k + 1]]), torch.as_tensor(k), chosen

    for values in ((0.5, 1.0, 2.0, 0.5), (1, 2, 3, 2)):
        compiled = torch.compile(function)
        for k in values:
            same(compiled(X, k), function(X, k))


@pytest.mark.parametrize("other", [math.nan, math.inf])
def test_nan_is_a_number_like_others(other):
    def function(x, k):
        return x * (k * 0.0 + 1)

    compiled = torch.compile(function)
    for k in (1.0, other, other, other, other, 2.0, other):
        same(compiled(X, k), function(X, k))


def test_long_expressions_are_read():
    def function(x, k):
        first = second = k
        for _ in range(200):
            k = k * 1.01 + 1e-3
            first, second = second, (first + second) * 0.5
        return x * k + second

    compiled = torch.compile(function)
    for k in (1.0, 2.0):
        same(compiled(X, k), function(X, k))
    assert compiled.signatures.pinned


@pytest.mark.filterwarnings("ignore")
def test_results_kept_by_numbers():
    @functools.lru_cache(None)
    def schedule(k):
        return 1 - 0.5 * k

    compiled = torch.compile(lambda x, k: x * schedule(k))
    for k in (0.1, 0.2, 0.3):
        same(compiled(X, k), X * (1 - 0.5 * k))
        assert type(schedule(k)) is float


def test_errors_of_the_function():
    def function(x, k):
        return x.reshape(2, 5) if k > 2 else x * k

    compiled = torch.compile(function)
    for k in (1, 2):
        same(compiled(X, k), X * k)
    with pytest.raises(RuntimeError, match="invalid for input of size 12"):
        compiled(X, 3)
    same(compiled(X, 1), X)


def test_threads():
    def function(x, k):
        return (x * k).sum() + k

    compiled = torch.compile(function)
    for k in (0.1, 0.2, 0.3):
        compiled(X, k)
    wrong = []

    def work(first):
        for k in range(100):
            number = first + 0.01 * k
            if abs(compiled(X, number).item() - function(X, number).item()) > 1e-3:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and count(compiled) == 2


def test_numbers_that_are_read_are_warned_of():
    compiled = torch.compile(lambda x, k: x * float(str(k)))
    with pytest.warns(UserWarning, match="3 values of the number k, each for itself"):
        for k in (0.1, 0.2, 0.3):
            compiled(X, k)


def test_natively(monkeypatch):
    monkeypatch.undo()

    def function(x, k):
        return (x * (1 - 0.5 * k)).sum() + rate

    global rate
    compiled = torch.compile(function)
    for k in range(6):
        rate = 0.1 * k
        same(compiled(X, 0.3 * k), function(X, 0.3 * k))
    assert compiled.latest.fast is not None
    rate = 0.5


@pytest.mark.parametrize("kind", [float, int, np.float64, np.float32, np.int64, np.int32])
def test_tensors_of_numbers_have_their_dtypes(kind):
    compiled = torch.compile(lambda k: torch.tensor(k) * 2)
    for k in range(2, 5):
        same(compiled(kind(k)), torch.tensor(kind(k)) * 2)


def test_threads_that_change_a_number(monkeypatch):
    monkeypatch.undo()
    total, w = 0, torch.zeros(3)

    def step():
        nonlocal total
        total += 1
        w.add_(1 / total)

    compiled = torch.compile(step)
    for _ in range(4):
        compiled()
    before, monitor = sys.getswitchinterval(), threading.Barrier(4)
    sys.setswitchinterval(1e-6)

    def work():
        monitor.wait()
        for _ in range(500):
            compiled()

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(before)
    assert total == 2004 and compiled.latest.fast is not None
    assert w[0].item() == pytest.approx(sum(1 / k for k in range(1, 2005)), rel=1e-4)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_numbers_of_numpy(kind):
    compiled = torch.compile(lambda x, k: x * k + (1 - k) / 2)
    for k in range(20):
        same(compiled(X, kind(k)), compiled.function(X, kind(k)))
    assert count(compiled) == 2 and not compiled.signatures.pinned


def rates(step_of, lr, change):
    """What six steps take off, the rate changed after each."""
    p, found = torch.zeros(1, requires_grad=True), []
    optimizer = torch.optim.SGD([p], lr=lr)
    after = change(optimizer)

    @step_of
    def step():
        optimizer.zero_grad()
        (p * 1.0).sum().backward()
        optimizer.step()

    for k in range(6):
        before = p.item()
        step()
        found.append(before - p.item())
        after(k)
    return found, step


def halving(optimizer):
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    return lambda k: scheduler.step()


def by_numpy(optimizer):
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: np.cos(0.1 * k))
    return lambda k: scheduler.step()


def replacing(optimizer):
    return lambda k: optimizer.param_groups[0].update(lr=torch.tensor(2.0**-k))


@pytest.mark.parametrize("change, most", [(halving, 1), (by_numpy, 1), (replacing, 6)])
@pytest.mark.parametrize("tensor", [False, True])
def test_rates_of_optimizers(change, most, tensor):
    lr = torch.tensor(1.0) if tensor else 1.0
    expected, _ = rates(lambda f: f, lr, change)
    found, step = rates(torch.compile, torch.tensor(1.0) if tensor else 1.0, change)
    assert found == expected and len(set(found)) > 4 and count(step) <= most


def test_values_and_the_weights_of_sums():
    a = Value(1.5)
    compiled = torch.compile(lambda k: (k * a + a / k - k) * (1 - k))
    for k in (5.0, 4.0, 3.0, 2.0, 0.5):
        assert compiled(k).data == compiled.function(k).data
    assert count(compiled) <= 2 and not compiled.signatures.pinned


def test_an_attribute_set_to_itself_changes_nothing():
    module = nn.BatchNorm1d(3)
    before = clock.epoch
    module.eps = module.eps
    module.running_mean += 1
    module.weight = module.weight
    assert clock.epoch == before
    module.eps = 1e-3
    assert clock.epoch > before
