"""Recorded calls: equal to eager ones, recorded again where something changed, or refused."""

import collections
import contextvars
import copy
import ctypes
import datetime
import functools
import gc
import importlib
import io
import itertools
import logging
import multiprocessing
import operator
import os
import random
import subprocess
import sys
import sysconfig
import threading
import types
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np
import pytest
from interpreter import Interpreter
from process import run

import microtorch as torch
from microtorch import nn
from microtorch.capture import kept, program
from microtorch.capture.build import build
from microtorch.capture.tape import CaptureError
from microtorch.kernels import store


@pytest.fixture
def native():
    """For tests of what the compiled program itself does."""


@pytest.fixture(autouse=True)
def interpreted(request, monkeypatch):
    """All other tests interpret their programs, as each takes a second to compile."""
    if "native" not in request.fixturenames:
        monkeypatch.setattr(kept, "build", Interpreter)


TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


def close(a, b, dtype=torch.float32):
    a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for x in (a, b))
    assert a.shape == b.shape and a.dtype == b.dtype
    scale = max(1e-30, float(np.abs(a).max())) if a.size else 1.0
    assert np.all(np.abs(a.astype(float) - b) <= TOLERANCE[dtype] * scale), (a, b)


def flat(value):
    return list(value) if isinstance(value, (tuple, list)) else [value]


def everything(model, optimizers):
    """All that a step may change."""
    found = [*model.parameters(), *model.buffers()]
    found += [p.grad for p in model.parameters() if p.grad is not None]
    for optimizer in optimizers:
        found += [v for p in model.parameters() for _, v in sorted(optimizer.state[p].items())]
    return [*found, torch.get_rng_state()]


def layers(*sizes, between=nn.ReLU, dtype=torch.float32):
    made = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        made += [nn.Linear(a, b), between()]
    return nn.Sequential(*made[:-1]).to(dtype)


def regression(dtype):
    x = torch.arange(-3, 3, 0.1).view(-1, 1).to(dtype)
    y = -3 * x + 1 + 0.1 * torch.randn(x.shape, dtype=dtype)
    model = nn.Linear(1, 1).to(dtype)

    def step(x, y):
        loss = ((model.weight * x + model.bias - y) ** 2).mean()
        loss.backward()
        for p in (model.weight, model.bias):
            p.data = p.data - 0.05 * p.grad.data
            p.grad.data.zero_()
        return loss.detach()

    return model, [], step, (x, y)


def logistic(dtype):
    x = torch.randn(200, 2, dtype=dtype)
    y = (x.sum(1, keepdim=True) > 0).to(dtype)
    model = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    criterion = nn.BCELoss()

    def step(x, y):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, [optimizer], step, (x, y)


def hinge(dtype):
    x = torch.randn(100, 2, dtype=dtype)
    y = (x[:, :1] * x[:, 1:] > 0).to(dtype) * 2 - 1
    model = layers(2, 16, 16, 1, dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x, y):
        scores = model(x)
        data = (1 - y * scores).relu().mean()
        penalty = 1e-4 * sum((p * p).sum() for p in model.parameters())
        model.zero_grad()
        (data + penalty).backward()
        optimizer.step()
        return (data + penalty).detach(), scores.detach()

    return model, [optimizer], step, (x, y)


def classes(make_optimizer, extra=None, after=None, criterion=None, set_to_none=True):
    """A classifier's step; `after(model)` runs between backward and the update."""

    def case(dtype):
        x, y = torch.randn(16, 8, dtype=dtype), torch.randint(0, 3, (16,))
        model = nn.Sequential(
            nn.Linear(8, 6), nn.ReLU(), *([extra()] if extra else []), nn.Linear(6, 3)
        ).to(dtype)
        optimizer = make_optimizer(model.parameters())
        loss_of = criterion or nn.CrossEntropyLoss()

        def step(x, y):
            optimizer.zero_grad(set_to_none)
            loss = loss_of(model(x), y)
            loss.backward()
            found = after(model) if after else None
            optimizer.step()
            return loss.detach() if found is None else (loss.detach(), found)

        return model, [optimizer], step, (x, y)

    return case


def adam(p):
    return torch.optim.Adam(p, lr=1e-2)


def accumulation(dtype):
    model, optimizers, _, args = classes(adam)(dtype)

    def step(x, y):
        optimizers[0].zero_grad()
        for k in range(2):
            part = nn.functional.cross_entropy(model(x[8 * k : 8 * k + 8]), y[8 * k : 8 * k + 8])
            (part / 2).backward()
        optimizers[0].step()

    return model, optimizers, step, args


def frozen(dtype):
    model, _, _, args = classes(adam)(dtype)
    model[0].weight.requires_grad_(False)
    optimizer = adam(p for p in model.parameters() if p.requires_grad)

    def step(x, y):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, [optimizer], step, args


def two_optimizers(dtype):
    model, _, _, args = classes(adam)(dtype)
    first = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.5, nesterov=True)
    second = torch.optim.AdamW(model[-1].parameters(), lr=1e-2)

    def step(x, y):
        first.zero_grad()
        second.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        first.step()
        second.step()
        return loss.detach()

    return model, [first, second], step, args


def double_backward(dtype):
    model = layers(3, 5, 1, between=nn.Tanh, dtype=dtype)
    optimizer = adam(model.parameters())

    def step(x):
        optimizer.zero_grad()
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        loss = ((slope.norm(dim=1) - 1) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, [optimizer], step, (torch.randn(7, 3, dtype=dtype),)


def clipped(model):
    return nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def by_value(model):
    nn.utils.clip_grad_value_(model.parameters(), 0.01)


def with_noise(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype) * 1e-3)


def rms(p):
    return torch.optim.RMSprop(p, momentum=0.9, centered=True)


CASES = {
    "regression": regression,
    "logistic": logistic,
    "hinge": hinge,
    "adam": classes(adam),
    "amsgrad": classes(lambda p: torch.optim.AdamW(p, amsgrad=True)),
    "rmsprop": classes(rms),
    "adagrad": classes(lambda p: torch.optim.Adagrad(p, lr_decay=0.1)),
    "maximize": classes(lambda p: torch.optim.SGD(p, lr=1e-3, maximize=True)),
    "dropout": classes(adam, lambda: nn.Dropout(0.3)),
    "batch_norm": classes(adam, lambda: nn.BatchNorm1d(6)),
    "layer_norm": classes(adam, lambda: nn.LayerNorm(6)),
    "clip_norm": classes(adam, after=clipped),
    "clip_value": classes(adam, after=by_value),
    "noise": classes(adam, after=with_noise),
    "zeros": classes(adam, set_to_none=False),
    "smoothing": classes(adam, criterion=nn.CrossEntropyLoss(label_smoothing=0.1)),
    "accumulation": accumulation,
    "frozen": frozen,
    "two_optimizers": two_optimizers,
    "double_backward": double_backward,
}


# These run as native programs too; the others where there is time.
NATIVE = {"regression": torch.float32, "adam": torch.float64, "dropout": torch.float32,
          "batch_norm": torch.float64, "clip_norm": torch.float32, "accumulation": torch.float32,
          "double_backward": torch.float64}  # fmt: skip
STEPS = [(name, dtype, compiled)
         for name in CASES for dtype in TOLERANCE for compiled in (False, True)
         if not compiled or NATIVE.get(name) == dtype or "MICROTORCH_FUZZ" in os.environ]  # fmt: skip


@pytest.mark.parametrize("name, dtype, compiled", STEPS, ids=str)
def test_twenty_recorded_steps_equal_twenty_eager_ones(name, dtype, compiled, monkeypatch):
    if compiled:
        monkeypatch.setattr(kept, "build", build)
    torch.manual_seed(3)
    start = torch.get_rng_state()
    model, optimizers, step, args = CASES[name](dtype)
    wanted = [flat(step(*args)) for _ in range(20)]
    state = everything(model, optimizers)
    torch.set_rng_state(start)
    model, optimizers, step, args = CASES[name](dtype)
    step = torch.compile(step)
    found = [flat(step(*args)) for _ in range(20)]
    for a, b in zip(sum(wanted, []), sum(found, []), strict=True):
        if a is not None:
            close(a, b, dtype)
    for a, b in zip(state, everything(model, optimizers), strict=True):
        close(a, b, dtype)
    assert sum(map(len, step.programs.values())) <= 2
    assert step.latest.uses >= 17


def test_schedules_change_the_rate_between_calls():
    def train(compiled):
        torch.manual_seed(0)
        model, (optimizer,), step, args = logistic(torch.float64)
        step = torch.compile(step) if compiled else step
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        losses = []
        for _ in range(10):
            losses.append(step(*args))
            schedule.step()
        return losses

    for a, b in zip(train(False), train(True), strict=True):
        close(a, b, torch.float64)


# ------------------------------------------------------------------- results that require grad
@pytest.mark.usefixtures("native")
def test_gradients_flow_through_the_results_of_compiled_functions():
    torch.manual_seed(0)
    model = layers(3, 4, 2, between=nn.Tanh)
    compiled = torch.compile(model)
    for scale in (1.0, 2.0, 0.5, 1.0):
        found = []
        for f in (model, compiled):
            a = torch.tensor(scale, requires_grad=True)
            model.zero_grad()
            (f(torch.ones(5, 3) * a) ** 2).sum().backward()
            found.append([a.grad, *(p.grad.clone() for p in model.parameters())])
        for x, y in zip(*found, strict=True):
            close(x, y)
    assert compiled.latest.uses == 3


def test_only_the_results_used_have_gradients():
    v, w = (torch.tensor(2.0, requires_grad=True) for _ in range(2))

    @torch.compile
    def f(x):
        return v * x, w * x

    for _ in range(3):
        v.grad = w.grad = None
        f(torch.tensor(3.0))[1].backward()
        assert v.grad is None and w.grad.item() == 3


def test_each_result_has_a_backward_of_its_own():
    v, w = (torch.tensor(2.0, requires_grad=True) for _ in range(2))

    def f(x):
        y = v * x
        return y * y, w * w * y.detach()

    compiled = torch.compile(f)
    for again in (False, True, False):
        found = []
        for g in (f, compiled):
            v.grad = w.grad = None
            a, b = g(torch.tensor(3.0))
            a.backward(retain_graph=again)
            b.backward()
            if again:
                a.backward()
            with pytest.raises(RuntimeError, match="second time"):
                a.backward()
            found.append((v.grad.item(), w.grad.item()))
        assert found[0] == found[1]
        a, b = compiled(torch.tensor(3.0))
        (a + b).backward()
        with pytest.raises(RuntimeError, match="second time"):
            b.backward()


def test_what_backward_reads_is_checked_and_nothing_else():
    w = torch.tensor([2.0], requires_grad=True)
    b = torch.ones(1)
    cases = [
        (lambda x: (w * x).sum(), w, False),
        (lambda x: (w * b * x).sum(), b, True),
        (lambda x: (w * x).exp(), None, True),
    ]
    for function, tensor, noticed in cases:
        f = torch.compile(function)
        for _ in range(3):
            y = f(torch.ones(1))
            with torch.no_grad():
                (y if tensor is None else tensor).add_(1)
            if noticed:
                with pytest.raises(RuntimeError, match="modified by an inplace"):
                    y.backward()
            else:
                y.backward()


def test_hooks_of_arguments_and_leaves_are_called_once():
    w = torch.tensor([2.0], requires_grad=True)
    w.register_hook(lambda g: g * 3)
    f = torch.compile(lambda h: (h * h * w).sum())
    for _ in range(3):
        w.grad = None
        h = w * 2
        h.register_hook(lambda g: g * 10)
        f(h).backward()
        # 2 h w = 16 at h, 10 times that and twice it go to w; h h = 16 from w itself.
        assert w.grad.item() == (16 * 10 * 2 + 16) * 3


def test_graphs_from_outside_are_not_gone_through_inside():
    w = torch.ones(2, requires_grad=True)
    outer = w * 2
    for f, given in ((lambda h: (h * h).sum().backward(), (outer,)),
                     (lambda: (outer * 3).sum().backward(), ())):  # fmt: skip
        with pytest.raises(CaptureError, match=r"test_capture\.py:\d+.*made outside"):
            torch.compile(f)(*given)
    with pytest.raises(CaptureError, match="hook is added"):
        torch.compile(lambda h: h.register_hook(print))(outer)
    f = torch.compile(lambda h: torch.autograd.grad((h * h).sum(), h)[0])
    for k in range(3):
        assert f(w * k).tolist() == [2.0 * k] * 2


def test_gradients_of_gradients_are_refused_outside():
    w = torch.tensor([2.0], requires_grad=True)
    f = torch.compile(lambda x: (w * w * x).sum())
    with pytest.raises(RuntimeError, match="create_graph"):
        for _ in range(2):
            torch.autograd.grad(f(torch.ones(1)), w, create_graph=True)


def test_a_parameter_changed_before_backward_is_noticed():
    w = torch.tensor([2.0], requires_grad=True)
    f = torch.compile(lambda x: (w * w * x).sum())
    for _ in range(3):
        loss = f(torch.ones(1))
        with torch.no_grad():
            w.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            loss.backward()


# --------------------------------------------------------------------------- never silently wrong
READS = {
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(x.sum()),
    "int": lambda x: x * int(x.sum()),
    "bool": lambda x: x if x.sum() > 0 else -x,
    "tolist": lambda x: x * x.tolist()[0],
    "numpy": lambda x: torch.from_numpy(x.numpy() * 2),
    "asarray": lambda x: torch.tensor(np.asarray(x)),
    "repr": lambda x: x * len(repr(x)),
    "format": lambda x: x * len(f"{x.sum()}"),
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "mask": lambda x: x[x > 0],
    "unique": lambda x: x.unique(),
    "equal": lambda x: x * torch.equal(x, x),
    "allclose": lambda x: x * torch.allclose(x, x),
    "print": lambda x: (print("hello"), x)[1],
    "random": lambda x: x * np.random.rand(),
    "index": lambda x: [1, 2, 3][x.sum().long()] * x,
    "contains": lambda x: x * (1.0 in x),
}


@pytest.mark.parametrize("name", READS)
def test_values_read_in_python_are_refused_with_the_line(name, capsys):
    f = torch.compile(READS[name])
    with pytest.raises(CaptureError, match=r"test_capture\.py:\d+.*fallback"):
        f(torch.tensor([1.0, 2.0]) - (name == "index"))


@pytest.mark.parametrize("name", READS)
def test_fallback_runs_eagerly_and_says_so_once(name, capsys):
    f = torch.compile(READS[name], fallback="eager")
    x = torch.tensor([1.0, -2.0 if name == "bool" else 2.0]) - (name == "index")
    with pytest.warns(UserWarning, match="runs eagerly from now on"):
        found = f(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = f(x)
    if name != "random":
        assert np.array_equal(found, READS[name](x)) and np.array_equal(again, found)


def test_a_failed_recording_has_done_everything_once():
    w = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1.0)
    drawn = []

    def step(x):
        optimizer.zero_grad()
        y = (w * x * torch.rand(2)).sum()
        y.backward()
        optimizer.step()
        drawn.append(y.item())

    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="eagerly"):
        torch.compile(step, fallback="eager")(torch.ones(2))
    found, state = w.detach().clone(), torch.get_rng_state()
    torch.manual_seed(0)
    w.data = torch.ones(2)
    step(torch.ones(2))
    assert torch.equal(w, found) and torch.equal(state, torch.get_rng_state())
    assert drawn[0] == drawn[1]


def test_new_shapes_dtypes_and_strides_are_recorded_again():
    f = torch.compile(lambda x: x.sum() * x)
    for x in (torch.ones(2), torch.ones(3), torch.ones(2, 3), torch.ones(2, 3).t(),
              torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.int64)):  # fmt: skip
        for _ in range(2):
            found = f(x)
            assert found.dtype == x.dtype and torch.equal(found, x.sum() * x)
    assert len(f.programs) == 6


@pytest.mark.usefixtures("native")
def test_arguments_may_be_views_and_share_memory():
    f = torch.compile(lambda x, y: x.add_(1) + y)
    base = torch.arange(12.0)
    for _ in range(3):
        a, b = base.clone(), base.clone()
        assert torch.equal(f(a[::2], a[1::2]), b[::2].add_(1) + b[1::2])
        assert torch.equal(a, b)
        assert torch.equal(f(a[:6], a[:6]), b[:6].add_(1) + b[:6]) and torch.equal(a, b)


def test_nested_arguments_and_results():
    @torch.compile
    def f(pair, *, scale, extra=None):
        return {"sum": pair[0] + pair[1]["b"], "rest": [pair[0] * scale, extra, "text"]}

    for scale in (2, 2, 3):
        found = f((torch.ones(2), {"b": torch.zeros(2)}), scale=scale)
        assert torch.equal(found["rest"][0], torch.ones(2) * scale)
        assert torch.equal(found["sum"], torch.ones(2)) and found["rest"][1:] == [None, "text"]
    assert len(f.programs) == 2


def test_results_that_are_arguments_or_tensors_from_outside_are_the_same_objects():
    w = torch.ones(2)
    f = torch.compile(lambda x: (x, w, x * 2))
    for _ in range(3):
        x = torch.zeros(2)
        found = f(x)
        assert found[0] is x and found[1] is w


def test_results_with_names_keep_their_type():
    f = torch.compile(lambda x: x.max(1))
    for k in range(3):
        found = f(torch.tensor([[1.0, k], [k, 0.5]]))
        assert type(found) is type(torch.ones(1, 1).max(1))
        assert found.values.tolist() == [max(1, k), max(k, 0.5)]


class Box:
    def __init__(self, x):
        self.x = x


class Items(list):
    pass


def tagged(x):
    x.tag = "a"
    return x


NO_RESULTS = {
    "object": lambda x: Box(x),
    "list subclass": lambda x: Items([x * 2]),
    "ordered dict": lambda x: OrderedDict(a=x * 2),
    "set": lambda x: {1, 2},
    "generator": lambda x: (x * k for k in range(2)),
    "map": lambda x: map(abs, [x]),
    "function": lambda x: lambda: x * 2,
    "list of the caller's": lambda x, given: given,
    "attribute": lambda x: tagged(x * 2),
    "retain_grad": lambda x: (x.requires_grad_() * 2).retain_grad(),
}


@pytest.mark.parametrize("name", NO_RESULTS)
def test_results_that_could_not_be_made_again_are_refused(name):
    given = ([],) * (name == "list of the caller's")
    with pytest.raises(CaptureError, match=r"test_capture\.py:\d+.*fallback"):
        torch.compile(NO_RESULTS[name])(torch.ones(2), *given)
    f = torch.compile(NO_RESULTS[name], fallback="eager")
    with pytest.warns(UserWarning, match="runs eagerly"):
        f(torch.ones(2), *given)


def test_objects_from_outside_are_results_as_they_are():
    box = Box(1)
    f = torch.compile(lambda x, other: (x * 2, box, other, torch.float32, x.shape, x.device))
    for k in range(3):
        x = torch.full((2,), float(k))
        found = f(x, box)
        assert found[0].tolist() == [2.0 * k] * 2 and found[1] is box and found[2] is box
        assert found[3:] == (torch.float32, x.shape, x.device) and type(found[4]) is torch.Size


VIEWS = {
    "part": lambda x: x[1:],
    "detached": lambda x: x.detach(),
    "turned": lambda x: x.t()[1:],
    "flat": lambda x: x.view(-1)[2:],
    "written": lambda x: x.mul_(2)[0],
}


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("outside", [False, True])
def test_views_of_others_memory_are_results(name, outside):
    view = VIEWS[name]
    found = []
    for make in (lambda f: f, torch.compile):
        w = torch.arange(6.0).view(3, 2)
        f = make(lambda: view(w)) if outside else make(view)
        for _ in range(3):
            x = w if outside else torch.arange(6.0).view(2, 3)
            y = f() if outside else f(x)
            y.add_(10)
            found.append((x.tolist(), y.tolist(), y._version == x._version))
    assert found[:3] == found[3:] and f.latest.uses == 2


@pytest.mark.usefixtures("native")
def test_results_that_share_memory():
    w = torch.ones(3, requires_grad=True)

    def f(x):
        y = (x * w).tanh()
        return (y, y.detach(), y[1], *(y * 2).chunk(3))

    compiled = torch.compile(f)
    for _ in range(3):
        found = []
        for g in (f, compiled):
            w.grad = None
            y, same, part, *chunks = g(torch.ones(3))
            (part * chunks[0] * chunks[2]).sum().backward(retain_graph=True)
            same.mul_(2)
            found.append((y.tolist(), part.tolist(), [c.tolist() for c in chunks], w.grad.tolist()))
            with pytest.raises(RuntimeError, match="modified by an inplace"):
                y.sum().backward()
        assert found[0] == found[1]


def test_results_are_fresh():
    f = torch.compile(lambda x: x * 2)
    first, second, third = f(torch.ones(2)), f(torch.ones(2) * 2), f(torch.ones(2) * 3)
    assert first.tolist() == [2, 2] and second.tolist() == [4, 4] and third.tolist() == [6, 6]


def test_training_and_evaluation_are_different_programs():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9), nn.BatchNorm1d(3))
    f = torch.compile(model)
    x = torch.randn(4, 3)
    for flag in (True, False, True, False):
        model.train(flag)
        for _ in range(2):
            torch.manual_seed(1)
            mean = model[2].running_mean.clone()
            wanted = model(x)
            model[2].running_mean.copy_(mean)
            torch.manual_seed(1)
            close(wanted, f(x))


def test_grad_mode_is_part_of_the_signature():
    w = torch.ones(2, requires_grad=True)
    f = torch.compile(lambda x: w * x)
    for _ in range(2):
        assert f(torch.ones(2)).requires_grad
        with torch.no_grad():
            assert not f(torch.ones(2)).requires_grad


def test_changed_requires_grad_is_noticed():
    w = torch.ones(2, requires_grad=True)
    f = torch.compile(lambda x: w * x)
    for flag in (True, True, False, False, True):
        w.requires_grad_(flag)
        assert f(torch.ones(2)).requires_grad is flag
    x = torch.ones(2)
    for flag in (True, False):
        w.requires_grad_(False)
        assert f(x.clone().requires_grad_(flag)).requires_grad is flag


def test_replaced_memory_is_noticed():
    model = nn.Linear(2, 2, bias=False)
    f = torch.compile(model)
    x = torch.eye(2)
    f(x), f(x)
    model.weight.data = torch.full((2, 2), 3.0)
    assert torch.equal(f(x), torch.full((2, 2), 3.0))
    model.load_state_dict({"weight": torch.full((2, 2), 4.0)})
    assert torch.equal(f(x), torch.full((2, 2), 4.0))
    model.load_state_dict({"weight": torch.full((2, 2), 5.0)}, assign=True)
    assert torch.equal(f(x), torch.full((2, 2), 5.0))
    model.weight = nn.Parameter(torch.full((2, 2), 6.0))
    assert torch.equal(f(x), torch.full((2, 2), 6.0))
    model.double()
    assert torch.equal(f(x.double()), torch.full((2, 2), 6.0, dtype=torch.float64))


def test_tensors_changed_between_calls_are_read_anew():
    w = torch.ones(2)
    f = torch.compile(lambda x: w * x)
    f(torch.ones(2)), f(torch.ones(2))
    w.mul_(5)
    w[0] = 7
    assert f(torch.ones(2)).tolist() == [7, 5]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("option", ["lr", "momentum", "weight_decay", "dampening", "nesterov"])
def test_options_of_optimizers_may_change(option):
    def train(compiled):
        torch.manual_seed(0)
        model, (optimizer,), step, args = logistic(torch.float64)
        step = torch.compile(step) if compiled else step
        for k in range(8):
            optimizer.param_groups[0][option] = {"nesterov": k > 3}.get(option, 0.1 * (k // 3))
            if option == "nesterov":
                optimizer.param_groups[0]["momentum"] = 0.5
            step(*args)
        return list(model.parameters())

    for a, b in zip(train(False), train(True), strict=True):
        close(a, b, torch.float64)


def test_parameters_and_state_of_optimizers_may_change():
    def train(compiled):
        torch.manual_seed(0)
        model, (optimizer,), step, args = classes(adam)(torch.float64)
        step = torch.compile(step) if compiled else step
        for _ in range(3):
            step(*args)
        saved = optimizer.state_dict()
        saved = {**saved, "state": {k: {n: v.clone() for n, v in s.items()}
                                    for k, s in saved["state"].items()}}  # fmt: skip
        for _ in range(2):
            step(*args)
        optimizer.load_state_dict(saved)
        for _ in range(2):
            step(*args)
        optimizer.state.clear()
        for _ in range(4):
            step(*args)
        return list(model.parameters())

    for a, b in zip(train(False), train(True), strict=True):
        close(a, b, torch.float64)


def test_lasting_things_may_be_made_again_after_calls_that_made_none():
    layers = [torch.ones(2, requires_grad=k == 0) for k in range(5)]
    optimizer = torch.optim.SGD(layers, lr=0.1, momentum=0.9)

    @torch.compile
    def step():
        optimizer.zero_grad()
        loss = sum((p * p).sum() for p in layers)
        loss.backward()
        optimizer.step()

    for p in layers:
        p.requires_grad = True
        for _ in range(3):
            step()
    assert [len(optimizer.state[p]) for p in layers] == [1] * 5


SCALE = 2.0
SETTINGS = {"scale": 2.0}


class Config:
    scale = 2.0


def test_changed_globals_are_noticed(monkeypatch):
    @torch.compile
    def f(x):
        return x * SCALE * SETTINGS["scale"] * Config.scale

    one = torch.ones(1)
    assert [f(one).item() for _ in range(3)] == [8.0] * 3
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert [f(one).item() for _ in range(3)] == [12.0] * 3
    monkeypatch.setitem(SETTINGS, "scale", 5.0)
    assert [f(one).item() for _ in range(3)] == [30.0] * 3
    monkeypatch.setattr(Config, "scale", 1.0)
    assert [f(one).item() for _ in range(3)] == [15.0] * 3


def test_changed_closures_and_defaults_are_noticed():
    factor, items = 2.0, [1.0]

    def inner(x, k=1.0):
        return x * factor * k + items[0]

    def outer(x):
        return inner(x)

    f = torch.compile(outer)
    one = torch.ones(1)
    assert [f(one).item() for _ in range(3)] == [3.0] * 3
    factor = 4.0
    assert [f(one).item() for _ in range(3)] == [5.0] * 3
    items[0] = 0.0
    assert [f(one).item() for _ in range(3)] == [4.0] * 3
    inner.__defaults__ = (10.0,)
    assert [f(one).item() for _ in range(3)] == [40.0] * 3


def test_code_without_a_file_is_guarded_too():
    space = {"__name__": "__main__", "torch": torch, "scale": 2.0}
    exec("def f(x, k=1.0):\n    return x * scale * k\ng = torch.compile(f)", space)
    one = torch.ones(1)
    assert [space["g"](one).item() for _ in range(3)] == [2.0] * 3
    space["scale"] = 3.0
    assert [space["g"](one).item() for _ in range(3)] == [3.0] * 3
    space["f"].__defaults__ = (2.0,)
    assert [space["g"](one).item() for _ in range(3)] == [6.0] * 3


def test_changed_attributes_are_noticed():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = 1.0
            self.table = {"k": 1.0}

        def forward(self, x):
            return x * self.scale * self.table["k"]

    class Plain:
        def __init__(self):
            self.scale = 1.0

        def __call__(self, x):
            return x * self.scale

    model, plain = Model(), Plain()
    f, g = torch.compile(model), torch.compile(lambda x: plain(x))
    one = torch.ones(1)
    assert (
        f.scale == 1.0 and [f(one).item(), f(one).item(), g(one).item(), g(one).item()] == [1] * 4
    )
    model.scale = plain.scale = 2.0
    assert [f(one).item(), f(one).item(), g(one).item(), g(one).item()] == [2] * 4
    model.table["k"] = 3.0
    assert [f(one).item(), f(one).item()] == [6, 6]
    model.forward = lambda x: x
    assert f(one).item() == 1


def test_arrays_handed_to_the_package_are_compared():
    data = np.ones(2, np.float32)
    f = torch.compile(lambda x: x * torch.tensor(data) + torch.from_numpy(data))
    assert [f(torch.ones(2)).tolist() for _ in range(3)] == [[2, 2]] * 3
    data[0] = 5
    assert [f(torch.ones(2)).tolist() for _ in range(3)] == [[10, 2]] * 3


def test_tensors_kept_outside_are_refused():
    kept = []

    def f(x):
        kept.append(x * 2)
        return x

    g = torch.compile(f)
    with pytest.raises(CaptureError, match=r"test_capture\.py:\d+.*kept outside"):
        for _ in range(5):
            g(torch.ones(1))
    assert [k.item() for k in kept] == [2] * len(kept)


def test_python_values_changed_inside_are_refused():
    count = "1"

    def f(x):
        nonlocal count
        count += "1"
        return x * len(count)

    g = torch.compile(f)
    with pytest.raises(CaptureError, match="count is changed"):
        for _ in range(5):
            g(torch.ones(1))


def test_exceptions_leave_what_eager_mode_leaves():
    w = torch.ones(2, requires_grad=True)

    def f(x, fail):
        y = (w * x).sum()
        y.backward()
        if fail:
            raise KeyError("mine")
        return y.detach()

    g = torch.compile(f)
    with pytest.raises(KeyError, match="mine"):
        g(torch.ones(2), True)
    assert w.grad.tolist() == [1, 1] and type(w.grad.numpy()) is np.ndarray
    assert not g.programs
    for k in range(2, 5):
        assert g(torch.ones(2), False).item() == 2 and w.grad.tolist() == [k, k]


def test_a_gradient_kept_by_the_user_keeps_its_value():
    w = torch.ones(2, requires_grad=True)

    @torch.compile
    def f(x):
        w.grad = None
        (w * x).sum().backward()

    kept = []
    for k in range(5):
        f(torch.full((2,), float(k)))
        kept.append(w.grad)
    assert [g[0].item() for g in kept] == [0, 1, 2, 3, 4]
    views = []
    for k in range(4):
        f(torch.full((2,), float(k)))
        views.append(w.grad.numpy())
    assert [v[0] for v in views] == [0, 1, 2, 3]


def test_compiled_backward_and_compiled_update_share_gradients():
    def train(compiled):
        torch.manual_seed(0)
        model, (optimizer,), _, (x, y) = logistic(torch.float64)

        def backward(x, y):
            nn.functional.mse_loss(model(x), y).backward()

        def update():
            optimizer.step()

        both = [torch.compile(f) if compiled else f for f in (backward, update)]
        for _ in range(12):
            optimizer.zero_grad()
            for k in range(3):
                both[0](x + k, y)
            both[1]()
        return both, list(model.parameters())

    both, found = train(True)
    for a, b in zip(train(False)[1], found, strict=True):
        close(a, b, torch.float64)
    assert all(sum(map(len, f.programs.values())) <= 4 for f in both)


def test_memory_kept_by_the_user_keeps_its_value():
    w = torch.zeros(2)

    @torch.compile
    def f():
        w.data = w.data + 1

    kept = []
    for _ in range(5):
        f()
        kept.append(w.data)
    assert [k[0].item() for k in kept] == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("native")
def test_random_numbers_are_those_of_eager_mode():
    def f(x):
        a = torch.rand(3) + torch.randn(5)[:3] + torch.bernoulli(torch.full((3,), 0.5))
        return x * a + torch.randperm(3) + torch.randint(0, 9, (3,)) + torch.rand_like(x)

    g = torch.compile(f)
    torch.manual_seed(0)
    wanted = [f(torch.ones(3)) for _ in range(4)]
    torch.manual_seed(0)
    for a in wanted:
        close(a, g(torch.ones(3)))


def test_versions_count_changes():
    w = torch.zeros(2)
    f = torch.compile(lambda: (w.add_(1), None)[1])
    for k in range(1, 5):
        f()
        assert w._version == k and w[0].item() == k


def test_versions_of_arguments_count_too():
    f = torch.compile(lambda x: (x.mul_(2), None)[1])
    for _ in range(3):
        x = torch.ones(2)
        f(x)
        assert x._version == 1 and x.tolist() == [2, 2]


def test_tensors_from_outside_that_join_the_graph_are_refused():
    w, h = torch.ones(2, requires_grad=True), torch.zeros(2)
    with pytest.raises(CaptureError, match="history"):
        torch.compile(lambda x: (h.add_(w * x), None)[1])(torch.ones(2))


def test_tensors_that_joined_a_graph_between_calls_are_noticed():
    w, h = torch.ones(2, requires_grad=True), torch.zeros(2)
    f = torch.compile(lambda x: h * x)
    assert not f(torch.ones(2)).requires_grad and not f(torch.ones(2)).requires_grad
    h.add_(w)
    assert f(torch.ones(2)).requires_grad


def test_functions_of_the_users_and_hooks_are_recorded():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 2 * x * g

    w = torch.tensor([1.0, 2.0], requires_grad=True)
    w.register_hook(lambda g: g * 10)

    @torch.compile
    def f(x):
        w.grad = None
        Double.apply(w * x).sum().backward()

    for k in range(1, 5):
        f(torch.full((2,), float(k)))
        close(w.grad, 20 * k * k * w)


def test_hooks_added_and_removed_are_noticed():
    w = torch.tensor([1.0], requires_grad=True)
    model = nn.Identity()

    @torch.compile
    def f(x):
        w.grad = None
        model(w * x).sum().backward()

    def gradient():
        for _ in range(2):
            f(torch.ones(1))
        return w.grad.item()

    assert gradient() == 1
    handle = w.register_hook(lambda g: g * 10)
    assert gradient() == 10
    handle.remove()
    assert gradient() == 1
    handle = model.register_forward_hook(lambda module, args, out: out * 5)
    assert gradient() == 5
    handle.remove()
    assert gradient() == 1


def test_nested_and_recursive_functions():
    inner = torch.compile(lambda x: x * 2)
    outer = torch.compile(lambda x: inner(x) + 1)

    @torch.compile
    def power(x, n):
        return x if n == 1 else x * power(x, n - 1)

    for _ in range(3):
        assert outer(torch.ones(1)).item() == 3
        assert power(torch.tensor(2.0), 3).item() == 8


def test_many_signatures_warn_once():
    f = torch.compile(lambda x: x * 2)
    with pytest.warns(UserWarning, match="more than 8 signatures") as caught:
        for n in range(12):
            assert f(torch.ones(n)).shape == (n,)
    assert len([w for w in caught if "signatures" in str(w.message)]) == 1
    assert sum(map(len, f.programs.values())) == 8


def test_what_made_so_many_programs_is_named():
    class Trainer:
        count = 0

        def step(self, x):
            return x * int(self.count)

    trainer, x = Trainer(), torch.ones(2)
    compiled = torch.compile(trainer.step)
    with pytest.warns(UserWarning, match=r"as Trainer\.count differs \(.*test_capture\.py:\d+\)"):
        for trainer.count in range(30):
            assert compiled(x).tolist() == [trainer.count] * 2


def test_calls_of_ever_new_signatures_run_eagerly_in_the_end(monkeypatch):
    recordings, record = [], program.Compiled._record

    def counting(self, *args):
        recordings.append(args)
        return record(self, *args)

    monkeypatch.setattr(program.Compiled, "_record", counting)
    compiled, x = torch.compile(lambda x, rate: x * float(rate)), torch.ones(2)
    with pytest.warns(UserWarning) as caught:
        for k in range(1, 100):
            assert compiled(x, k / 100).tolist() == (x * (k / 100)).tolist()
    first, second = [str(w.message) for w in caught]
    assert "compiled for 3 values of the number rate" in first
    assert "more than 8 signatures" in second and "(float32[2], 0.09)" in second
    assert 8 < len(recordings) < 16
    # Whoever comes to stay gets a program.
    for _ in range(300):
        compiled(x, 5.0)
    assert compiled.latest.uses > 100


@pytest.mark.usefixtures("native")
def test_threads_share_a_program():
    w = torch.zeros(1)

    @torch.compile
    def f(x):
        w.add_(1)
        return x * 2

    errors = []

    def work(k):
        x = torch.full((3,), float(k))
        for _ in range(20):
            if not torch.equal(f(x), x + x):
                errors.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and w.item() == 80


def test_other_threads_stay_eager_while_one_records():
    inside, done = threading.Event(), threading.Event()
    found = []

    def other():
        inside.wait(10)
        x = torch.ones(2, requires_grad=True)
        (x * 3).sum().backward()
        found.append((x.grad.tolist(), type(x.grad.numpy())))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()

    def f(x):
        inside.set()
        done.wait(10)
        return x * 2

    torch.compile(f)(torch.ones(1))
    thread.join()
    assert found == [([3.0, 3.0], np.ndarray)]


def test_nothing_is_left_behind():
    before = torch.Tensor.__dict__["_array"]
    torch.compile(lambda x: x * 2)(torch.ones(2))
    with pytest.raises(CaptureError):
        torch.compile(lambda x: x.item())(torch.ones(1))
    assert torch.Tensor.__dict__["_array"] is before
    assert "np" in vars(torch.tensor) or torch.tensor(1.0)._array.__class__ is np.ndarray


@pytest.mark.parametrize(
    "shape", [(4, 6), (6,), (2, 6, 3)], ids=["rows", "one class", "more dims"]
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"ignore_index": 1, "reduction": "sum"}])
def test_backward_of_the_first_call_of_a_loss_of_classes(shape, options):
    x = torch.randn(*shape, requires_grad=True)
    y = torch.randint(0, 6, shape[:1] + shape[2:] if len(shape) > 1 else ())
    weight = torch.rand(6)

    def loss(x):
        return nn.functional.cross_entropy(x, y, weight, **options)

    compiled = torch.compile(loss)
    expected = torch.autograd.grad(loss(x), x)[0]
    for _ in range(2):
        close(torch.autograd.grad(compiled(x), x)[0], expected)


@pytest.mark.usefixtures("native")
def test_wrong_classes_are_not_silent():
    f = torch.compile(lambda x, y: nn.functional.cross_entropy(x, y))
    x = torch.zeros(2, 3)
    for y in ([0, 1], [0, -100], [1, 2]):
        close(nn.functional.cross_entropy(x, torch.tensor(y)), f(x, torch.tensor(y)))
    for y in (7, -1):
        with pytest.raises(IndexError, match=f"Target {y} is out of bounds"):
            f(x, torch.tensor([0, y]))
    assert f.latest.uses > 1


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_probabilities_are_not_silent(reduction):
    f = torch.compile(lambda x, y: nn.functional.binary_cross_entropy(x, y, reduction=reduction))
    x = torch.tensor([0.5, 1.0])
    for y in ([0.0, 1.0], [0.5, 1.0]):
        expected = nn.functional.binary_cross_entropy(x, torch.tensor(y), reduction=reduction)
        close(expected, f(x, torch.tensor(y)))
    for bad in (1.5, float("nan")):
        for given in ((torch.tensor([bad, 0.5]), x), (x, torch.tensor([0.5, bad]))):
            with pytest.raises(RuntimeError, match="between 0 and 1"):
                f(*given)


def test_indices_out_of_range_raise_what_eager_mode_raises():
    x, rows = torch.arange(3.0), torch.ones(3, 1)
    functions = [
        lambda i: x.gather(0, i), lambda i: x.scatter(0, i, 5.0), lambda i: x.index_select(0, i),
        lambda i: nn.functional.one_hot(i, 3), lambda i: nn.functional.embedding(i, rows),
    ]  # fmt: skip
    for f in functions:
        compiled = torch.compile(f)
        for last in (0, 2, 3, -1, 1):
            ends = []
            for call in (f, compiled):
                try:
                    ends.append(call(torch.tensor([1, last])).tolist())
                except (IndexError, RuntimeError) as error:
                    ends.append((type(error), str(error)))
            assert ends[0] == ends[1]


def backward_into_a_plain_buffer(x):
    flat = x.contiguous().view(-1)
    twice = torch.cat([flat, flat])
    loss = x.sum() + (x - x).sum() + flat.sum() + twice.sum() + x.t().sum() + flat.erf().sum()
    return torch.autograd.grad(loss, x)


def a_mask_of_one_element(x):
    y = x[0, 0].masked_fill(x[0, 0] > 0, 0.3).contiguous()
    return torch.autograd.grad(x[0, 0] + y, x)


def a_gradient_of_a_choice_of_one_element(x):
    y = x[0, 0].abs()
    (g,) = torch.autograd.grad(y * y, x, create_graph=True)
    return torch.autograd.grad(g.square().sum(), x)


@pytest.mark.parametrize("f", [
    backward_into_a_plain_buffer, a_mask_of_one_element, a_gradient_of_a_choice_of_one_element,
], ids=lambda f: f.__name__)  # fmt: skip
def test_nothing_is_read_where_gradients_start_as_numbers(f):
    compiled = torch.compile(f)
    for _ in range(3):
        x = torch.randn(2, 3).requires_grad_()
        close(f(x)[0], compiled(x)[0])


@pytest.mark.usefixtures("native")
def test_integers_divided_by_zero():
    f = torch.compile(lambda a, b: (a // b, a % b))
    a = torch.tensor([7, 8])
    for b in (2, 3, -3):
        assert [r.tolist() for r in f(a, torch.tensor([b, 5]))] == [
            [7 // b, 1], [7 % b, 3],
        ]  # fmt: skip
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        f(a, torch.tensor([0, 5]))


@pytest.mark.usefixtures("native")
def test_source_explain_and_save(tmp_path):
    f = torch.compile(lambda x: x * 2)
    with pytest.raises(RuntimeError, match="before the first call"):
        f.explain()
    f(torch.ones(2))
    assert f.source and f.explain()
    assert "float32" not in f.explain()
    f.save(tmp_path / "program.py")
    assert (tmp_path / "program.py").read_text() == f.source
    for _ in range(2):
        f(
            torch.ones(3, 4),
        )
    first, *_, last = f.explain().splitlines()
    assert first == "<lambda>(float32[3, 4]): the program that ran last"
    assert last.startswith("<lambda>(float32[2]): 0 runs, ")
    f(torch.ones(2))
    first, *_, last = f.explain().splitlines()
    assert first.startswith("<lambda>(float32[2])") and "[3, 4]): 1 runs" in last


def test_explain_says_something_for_values():
    a = torch.Value(2.0)
    f = torch.compile(lambda n: (a * a + n).tanh())
    f(1)
    assert "tanh" in f.explain() and f.source
    f(2)
    assert "<lambda>(1): 0 runs" in f.explain()


def test_a_loss_whose_graph_was_freed_says_so_as_eager():
    model = nn.Linear(3, 1)
    x = torch.randn(4, 3)

    @torch.compile
    def step(x):
        loss = model(x).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        loss = step(x)
        assert loss.requires_grad and type(loss.grad_fn).__name__ == "MeanBackward0"
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


def test_a_loss_whose_retained_graph_was_changed_says_so_as_eager():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 3)

    @torch.compile
    def step(x):
        loss = model(x).square().mean()
        loss.backward(retain_graph=True)
        optimizer.step()
        return loss

    for _ in range(3):
        loss = step(x)
        assert loss.requires_grad and type(loss.grad_fn).__name__ == "MeanBackward0"
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("kernel", ["conv", "conv_weight", "rows_added"])
def test_native_kernels_refuse_recorded_arrays(kernel):
    from microtorch.capture.recording import recording
    from microtorch.capture.session import Session
    from microtorch.kernels import convolve, rows, windows

    x, w = np.ones((2, 4, 8, 8), np.float32), np.ones((4, 4, 3, 3), np.float32)
    at = windows.Windows((8, 8), (3, 3), (1, 1), (0, 0), (0, 0), (1, 1))
    plan = windows.Plan(at, 1)
    session = Session()
    with recording(session), pytest.raises(CaptureError):
        if kernel == "conv":
            convolve.conv(session.capture(x), w, plan)
        elif kernel == "conv_weight":
            convolve.conv_weight(session.capture(x), x[:, :, :6, :6], plan)
        else:
            rows.rows_added(np.zeros(2, np.int64), session.capture(x[:, 0, 0]), (3, 8))


# --------------------------------------------------------------------------- memory and versions
HOLDERS = {
    "tensor": lambda g: g,
    "array": lambda g: g.numpy(),
    "detached": lambda g: g.detach(),
    "view": lambda g: g[1:],
    "buffer": lambda g: memoryview(g.numpy()),
}


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("cleared", [False, True])
def test_gradients_that_anyone_holds_keep_their_values(name, cleared):
    w = torch.ones(3, requires_grad=True)

    @torch.compile
    def f(x):
        w.grad = None
        (w * x).sum().backward()

    kept = []
    for k in range(8):
        f(torch.full((3,), float(k)))
        kept.append(HOLDERS[name](w.grad))
        if cleared:
            w.grad = None
    assert [float(np.asarray(g).ravel()[0]) for g in kept] == list(range(8))
    assert f.latest.uses == 7


@pytest.mark.usefixtures("native")
def test_a_gradient_that_two_parameters_share_at_some_calls():
    p, q, x = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True), torch.ones(2)

    @torch.compile
    def step():
        ((p * x).sum() + (q * x * 2).sum()).backward()

    for _ in range(2):
        for shared in (True, False):
            p.grad = torch.ones(2)
            q.grad = p.grad if shared else torch.ones(2)
            step()
            assert p.grad.tolist() == [4.0 if shared else 2.0] * 2
            assert q.grad.tolist() == [4.0 if shared else 3.0] * 2


def test_gradients_are_results_and_arguments_too():
    w = torch.ones(2, requires_grad=True)

    @torch.compile
    def f(x):
        w.grad = None
        (w * x).sum().backward()
        return w.grad

    g = torch.compile(lambda x: x * 2 + w.grad)
    for k in range(4):
        assert f(torch.full((2,), float(k))) is w.grad and w.grad.tolist() == [k, k]
        assert g(w.grad).tolist() == [3 * k, 3 * k]


@pytest.mark.usefixtures("native")
def test_a_failed_call_leaves_no_old_gradients():
    w = torch.ones(3, requires_grad=True)

    @torch.compile
    def f(i):
        w.grad = None
        w[i].sum().backward()

    f(torch.tensor([0])), f(torch.tensor([1]))
    with pytest.raises(IndexError):
        f(torch.tensor([7]))
    assert w.grad is None
    f(torch.tensor([2]))
    assert w.grad.tolist() == [0, 0, 1]


def test_changes_by_programs_and_by_eager_mode_are_counted_together():
    v, w = torch.ones(2), torch.ones(2, requires_grad=True)
    f, g = (torch.compile(lambda: (v.add_(1), None)[1]) for _ in range(2))
    for k in range(5):
        loss, before = (w * v).sum(), v._version
        f()
        if k % 2:
            v.mul_(1)
        g()
        assert v._version == before + 2 + k % 2
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            loss.backward()
    (w * v).sum().backward()


def test_views_as_arguments_are_counted_in_their_base():
    w = torch.ones(2, requires_grad=True)
    f = torch.compile(lambda x: (x.add_(1), None)[1])
    for _ in range(3):
        base = torch.zeros(4)
        loss = (w * base[:2]).sum()
        f(base[:2])
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            loss.backward()


def test_arguments_that_share_memory_which_is_written():
    buffer = torch.zeros(4)

    @torch.compile
    def f(x):
        buffer.add_(1)
        return x + buffer

    sharing = [torch.ones(4), buffer[:], buffer, torch.from_numpy(buffer.numpy()[::1])]
    for _ in range(3):
        for x in sharing:
            before = buffer.clone()
            other = before + 1 if x is not sharing[0] else x
            assert torch.equal(f(x), other + before + 1)


@pytest.mark.usefixtures("native")
def test_memory_that_moves_is_followed():
    w = torch.ones(2)

    @torch.compile
    def move():
        w.data = w.data * 2

    look = torch.compile(lambda: w + 0)
    for k in range(6):
        move()
        assert look().tolist() == [2.0 ** (k + 1)] * 2
    assert sum(map(len, look.programs.values())) <= 2


# ------------------------------------------------------------------------------ Python values
def test_values_are_found_through_objects_functions_and_decorators():
    config = types.SimpleNamespace(inner=types.SimpleNamespace(scale=1.0))
    factor = 1.0

    def scaled(c, x):
        return x * c.inner.scale

    @torch.no_grad()
    def decorated(x):
        return x * factor

    class Other:
        k = 1.0

        @property
        def scale(self):
            return self.k * factor

        @staticmethod
        def twice(x):
            return x * factor

        @classmethod
        def times(cls, x):
            return x * cls.k

    other = Other()
    functions = [
        lambda x: scaled(config, x),
        lambda x: [decorated][0](x),
        functools.partial(lambda k, x: x * k * factor, 1.0),
        lambda x: Other.twice(x) * other.scale * Other.times(x),
    ]
    compiled, one = [torch.compile(f) for f in functions], torch.ones(1)
    for change in range(4):
        if change == 1:
            config.inner.scale = 2.0
        elif change == 2:
            factor = 3.0
        elif change == 3:
            Other.k = 5.0
        for f, g in zip(functions, compiled, strict=True):
            assert [g(one).item() for _ in range(2)] == [f(one).item()] * 2


def test_attributes_of_modules_changed_inside_are_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = ""

        def forward(self, x):
            self.calls += "1"
            return x * 2

    f = torch.compile(Counting())
    with pytest.raises(CaptureError, match="attribute of Counting is changed"):
        for _ in range(4):
            f(torch.ones(1))


def test_generators_and_clocks_are_refused():
    import time

    own = np.random.default_rng(0)
    for f in (lambda x: x * own.random(), lambda x: x * random.random(), lambda x: x * time.time()):
        with pytest.raises(CaptureError, match=r"test_capture\.py:\d+.*fallback"):
            torch.compile(f)(torch.ones(1))


class Scaled:
    scale = 1.0


class Under(Scaled):
    pass


class Slots:
    __slots__ = ("scale",)


def with_default(s):
    return lambda x, s=s: x * s[0]


def with_keyword(s):
    def f(x, *, s=s):
        return x * s[0]

    return f


def importing(x):
    import types_of_a_test

    return x * types_of_a_test.scale


def with_attribute(x):
    return x * with_attribute.scale


# What a function reads, how that is changed, and the function.
with_attribute.scale = 1.0
REACHED = {
    "getattr": (types.SimpleNamespace(scale=1.0), lambda c: lambda x: x * getattr(c, "scale")),  # noqa: B009
    "any name": (
        types.SimpleNamespace(scale=1.0),
        lambda c: lambda x: x * getattr(c, f"{'sc'}ale"),
    ),
    "attrgetter": (
        types.SimpleNamespace(scale=1.0),
        lambda c, get=operator.attrgetter("scale"): lambda x: x * get(c),
    ),
    "vars": (types.SimpleNamespace(scale=1.0), lambda c: lambda x: x * vars(c)["scale"]),
    "hasattr": (
        types.SimpleNamespace(),
        lambda c: lambda x: x * c.scale if hasattr(c, "scale") else x,
    ),
    "shadowed": (Scaled(), lambda c: lambda x: x * c.scale),
    "subclass": (Under, lambda c: lambda x: x * c().scale),
    "function": (with_attribute, lambda c: c),
    "tensor": (torch.ones(1), lambda c: lambda x: x * getattr(c, "scale", 1.0)),
    "module": (types.ModuleType("types_of_a_test"), lambda c: importing),
    "nested": ([[[[1.0]]]], lambda c: lambda x: x * c[0][0][0][0]),
    "nested dict": ({"a": {"b": {"c": {"d": 1.0}}}}, lambda c: lambda x: x * c["a"]["b"]["c"]["d"]),
    "default": ([1.0], with_default),
    "keyword": ([1.0], with_keyword),
    "partial": ([1.0], lambda c: functools.partial(lambda x, s: x * s[0], s=c)),
    "deque": (collections.deque([1.0]), lambda c: lambda x: x * sum(c)),
    "slot": (Slots(), lambda c: lambda x: x * c.scale if hasattr(c, "scale") else x),
    "context": (contextvars.ContextVar("scale", default=1.0), lambda c: lambda x: x * c.get()),
    "environ": (os.environ, lambda c: lambda x: x * len(os.environ["SCALE"])),
}


SEEN = 1.0


class Doubled:
    scale = 2.0


def by_class(x):
    return x * doubled.scale


def all_globals():
    return globals()


doubled = Doubled()
ITSELF = sys.modules[__name__]
COUNTED = ctypes.c_double(1.0)
MASKED = np.ma.array([1.0, 1.0, 1.0], mask=[False, True, True])
HELD = np.array([types.SimpleNamespace(scale=1.0)], dtype=object)
SET = threading.Event()
LOADED = types.ModuleType("loaded_by_a_test")
LOADED.__file__, LOADED.values = __file__, {"scale": 1.0}
LOADED.__getattr__ = lambda name: operator.attrgetter(name)(types.SimpleNamespace(**LOADED.values))
# Where code finds a value in an unusual way, and how that is changed.
UNUSUAL = {
    "globals": (lambda x: x * globals()[f"{'SE'}EN"], lambda k: setattr(ITSELF, "SEEN", k)),
    "all globals": (lambda x: x * all_globals()["SEEN"], lambda k: setattr(ITSELF, "SEEN", k)),
    "a name in globals": (lambda x: x * globals()["SEEN"], lambda k: setattr(ITSELF, "SEEN", k)),
    "eval": (lambda x: x * eval("SEEN"), lambda k: setattr(ITSELF, "SEEN", k)),
    "this module": (
        lambda x: x * sys.modules[__name__].SEEN,
        lambda k: setattr(ITSELF, "SEEN", k),
    ),
    "another module": (
        lambda x: x * importlib.import_module("loaded_by_a_test").factor,
        lambda k: setattr(LOADED, "factor", k),
    ),
    "a module's getattr": (lambda x: x * LOADED.scale, lambda k: LOADED.values.update(scale=k)),
    "ctypes": (lambda x: x * COUNTED.value, lambda k: setattr(COUNTED, "value", k)),
    "a mask": (
        lambda x: x * float(MASKED.sum()),
        lambda k: MASKED.mask.__setitem__(slice(int(k)), False),
    ),
    "an array of objects": (lambda x: x * HELD[0].scale, lambda k: setattr(HELD[0], "scale", k)),
    "a library's object": (
        lambda x: x + SET.is_set(),
        lambda k: SET.set() if k == 2.0 else SET.clear(),
    ),
    "a class": (
        by_class,
        lambda k: setattr(doubled, "__class__", type("Other", (), {"scale": k})),
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_found_in_unusual_ways_is_compared(name, monkeypatch):
    monkeypatch.setattr(kept, "build", Interpreter)
    monkeypatch.setitem(sys.modules, "loaded_by_a_test", LOADED)
    LOADED.factor = 1.0
    f, change = UNUSUAL[name]
    compiled, one = torch.compile(f), torch.ones(1)
    for k in (None, 2.0, 3.0):
        if k:
            change(k)
        assert [compiled(one).item() for _ in range(2)] == [f(one).item()] * 2


def set_deepest(c, value):
    key = next(iter(c)) if isinstance(c, dict) else 0
    if isinstance(c[key], (list, dict)):
        set_deepest(c[key], value)
    else:
        c[key] = value


@pytest.mark.parametrize("name", REACHED)
def test_whatever_is_reached_is_compared(name, monkeypatch):
    reached, make = REACHED[name]
    monkeypatch.setenv("SCALE", "x")
    if name == "module":
        reached.__file__, reached.scale = __file__, 1.0
        monkeypatch.setitem(sys.modules, "types_of_a_test", reached)
    f = make(reached)
    compiled, one = torch.compile(f), torch.ones(1)
    for k in (1.0, 1.0, 2.0, 3.0):
        if k > 1:
            if reached is os.environ:
                monkeypatch.setenv("SCALE", "x" * int(k))
            elif isinstance(reached, (list, dict, collections.deque)):
                set_deepest(reached, k)
            elif isinstance(reached, contextvars.ContextVar):
                reached.set(k)
            else:
                reached.scale = k
        assert [compiled(one).item() for _ in range(2)] == [f(one).item()] * 2 == [k] * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda k: {1.0, k},
        lambda k: [[k]],
        lambda k: collections.deque([k]),
        lambda k: collections.OrderedDict(a=k),
        lambda k: collections.defaultdict(float, a=k),
        lambda k: 0.0 * -k,
    ],
)
def test_arguments_are_compared_by_content(make):
    def f(x, c):
        if isinstance(c, float):
            return torch.copysign(x, torch.tensor(c))
        c = c.values() if isinstance(c, dict) else c
        return x * sum(v[0] if isinstance(v, list) else v for v in c)

    compiled, one = torch.compile(f), torch.ones(1)
    for k in (2.0, -3.0, 2.0):
        assert compiled(one, make(k)).item() == f(one, make(k)).item()


def test_arguments_that_are_made_anew_are_equal():
    class Sum:
        factor = 1.0

        def loss(self, x):
            return x.sum() * self.factor

    losses = Sum(), Sum()
    losses[1].factor = 3.0
    compiled, x = torch.compile(lambda loss, x, at, places: loss(x[at]) + places[-1]), torch.ones(4)
    for k in (0, 1, 0, 1, 0):
        assert compiled(losses[k].loss, x, slice(2), range(3)).item() == 4.0 + 4 * k
    assert len(compiled.programs) == 2
    assert compiled(losses[0].loss, x, slice(3), range(2)).item() == 4.0


def in_thread(x):
    thread = threading.Thread(target=lambda: x * 2)
    thread.start()
    thread.join()
    return x


def adding(x, out=None, key=None):
    key["n"] = 1
    return x


def popping(x, out=None, key=None):
    return x * out.pop()


def naming(x, out=None, key=None):
    x.seen = True
    return x * 2


def naming_again(x, given=None, key=None):
    key["x"].seen = True
    return x * 2


def in_process(x):
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    return x


def installed(text):
    """A function of code that seems to be installed."""
    space = {"__name__": "installed_code", "np": np, "random": random}
    exec(compile(text, os.path.join(sysconfig.get_path("purelib"), "installed.py"), "exec"), space)
    return space["f"]


def with_its_seed(f):
    return lambda x: x * f()


counter, sink = itertools.count(1), io.StringIO()
processes = multiprocessing.get_context("fork").SimpleQueue()
REFUSED = {
    "iterator": lambda x: x * next(counter),
    "file": lambda x: (sink.write("x"), x)[1],
    "stdout": lambda x: (sys.stdout.write("x"), x)[1],
    "logging": lambda x: (logging.getLogger("of a test").error("x"), x)[1],
    "clock": lambda x: x * perf_counter(),
    "date": lambda x: x * datetime.datetime.now().microsecond,
    "generator": lambda x: x * np.random.default_rng().random(),
    "own random": lambda x: x * random.Random().random(),
    "version": lambda x: x * x._version,
    "thread": in_thread,
    "pool": lambda x: ThreadPoolExecutor(1).submit(lambda: x * 2).result(),
    "adding": adding,
    "popping": popping,
    "naming": naming,
    "naming, of an argument": naming_again,
    "process": in_process,
    "program": lambda x: (subprocess.run(["true"]), x)[1],
    "queue": lambda x: (processes.put(1), x)[1],
    "seed": with_its_seed(installed("def f(): return np.random.default_rng().random()")),
    "other seed": with_its_seed(installed("def f(): return random.Random().random()")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_again_is_refused(name):
    f = REFUSED[name]
    compiled = torch.compile(f)
    more = ([2.0], {"x": torch.ones(1)}) if f.__code__.co_argcount > 1 else ()
    with pytest.raises(CaptureError, match=r"test_capture\.py:\d+.*fallback"):
        for _ in range(4):
            compiled(torch.ones(1), *([c.copy() for c in more]))
    eager = torch.compile(f, fallback="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(4):
            assert isinstance(eager(torch.ones(1), *([c.copy() for c in more])), torch.Tensor)


LATE = """
import os, sys, sysconfig
import numpy as np
import microtorch as torch

space = {"np": np}
text = "def draw():\\n    return np.random.rand()"
file = os.path.join(sysconfig.get_path("purelib"), "installed.py")
exec(compile(text, file, "exec"), space)
draw = space["draw"]

def drawing(x):
    return x * draw()

def starting(x):
    import subprocess
    subprocess.run(["true"])
    return x * 2

torch.compile
print(sorted({"numpy.random", "logging", "subprocess"} & sys.modules.keys()))
for f in (drawing, starting):
    step = torch.compile(f)
    for _ in range(2):
        try:
            step(torch.ones(1))
        except RuntimeError as error:
            print("random numbers" in str(error), "a process is started" in str(error))
"""


def test_what_is_refused_may_be_imported_by_the_call_itself():
    printed, _ = run(LATE, store.directory())
    assert printed.splitlines() == ["[]", "True False", "False True"]


def test_names_of_attributes_are_not_globals():
    space = {"torch": torch}
    exec(
        "w = torch.ones(1, requires_grad=True)\n"
        "optimizer = torch.optim.SGD([w], lr=0.1)\n"
        "def f(x):\n    (w * x).sum().backward()\n    optimizer.step()\n",
        space,
    )
    f = torch.compile(space["f"])
    for k in range(6):
        space.update(step=k, backward=k, sum=k)
        f(torch.ones(1))
    # One without a gradient at entry, and one with.
    assert sum(map(len, f.programs.values())) == 2


def test_builtins_that_are_shadowed_later_are_noticed():
    space = {"torch": torch}
    exec("def f(x):\n    return sum([x, x])", space)
    f = torch.compile(space["f"])
    assert [f(torch.ones(1)).item() for _ in range(2)] == [2, 2]
    space["sum"] = lambda values: values[0] * 7
    assert [f(torch.ones(1)).item() for _ in range(2)] == [7, 7]


def test_methods_of_optimizers_may_be_replaced():
    w = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.5)

    @torch.compile
    def f():
        optimizer.zero_grad()
        w.sum().backward()
        optimizer.step()
        return w.detach().clone()

    assert [f().item() for _ in range(2)] == [0.5, 0]
    optimizer.step = lambda: w.data.add_(3)
    assert [f().item() for _ in range(2)] == [3, 6]
    del optimizer.step
    assert f().item() == 5.5


def test_what_a_hook_changes_is_refused_with_the_line_of_the_call():
    seen, model = [], nn.Sequential(nn.Linear(1, 1))
    model[0].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    compiled = torch.compile(model)
    with pytest.raises(CaptureError, match=r"test_capture\.py:\d+: the variable seen is changed"):
        for _ in range(4):
            compiled(torch.ones(1))


def test_what_is_wrong_with_a_result_is_said_with_the_function():
    w, h = torch.ones(1, requires_grad=True), torch.ones(1)

    def f():
        h.mul_(w)

    with pytest.raises(CaptureError, match=rf"test_capture\.py:{f.__code__.co_firstlineno + 1}: "):
        torch.compile(f)()


def test_options_that_the_function_reads_itself_are_noticed():
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.5)
    f = torch.compile(lambda x: x * optimizer.param_groups[0]["lr"])
    for lr in (0.5, 0.5, 0.25):
        optimizer.param_groups[0]["lr"] = lr
        assert f(torch.ones(1)).item() == lr


@pytest.mark.usefixtures("native")
def test_a_compiled_module_is_a_module():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module) and len(compiled) == 2 and compiled[1] is model[1]
    assert [id(p) for p in compiled.parameters()] == [id(p) for p in model.parameters()]
    compiled.extra = 3
    assert model.extra == 3
    compiled.eval()
    assert not model.training
    x = torch.ones(4, 3)
    for _ in range(3):
        assert torch.equal(compiled(x), model(x))
    assert "relu" in compiled.source
    again = copy.deepcopy(compiled)
    with torch.no_grad():
        again[0].weight.zero_()
    assert not torch.equal(again(x), compiled(x)) and torch.equal(compiled(x), model(x))
    assert torch.equal(nn.Sequential(compiled, nn.Linear(2, 1))[0](x), model(x))


def test_modules_are_compiled_in_place():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            return self.inner(x).relu()

    model, x, sums = Model(), torch.ones(4, 3), []
    expected = model(x)
    names = list(model.state_dict())
    assert model.compile(fallback="error") is None and list(model.state_dict()) == names
    model.register_forward_hook(lambda module, args, out: sums.append(out.sum().item()))
    for _ in range(3):
        assert torch.allclose(model(x), expected)
    assert len(sums) == 3 and model.forward.latest.uses == 2
    again = copy.deepcopy(model)
    with torch.no_grad():
        again.inner.weight.zero_()
        again.inner.bias.fill_(2.0)
    assert again(x).tolist() == [[2.0, 2.0]] * 4 and torch.allclose(model(x), expected)
    model.compile(fallback="eager")
    assert model.forward.fallback == "eager" and torch.allclose(model(x), expected)
    with pytest.raises(ValueError, match="fallback must be"):
        model.compile(fallback="other")


def test_a_refusal_that_is_caught_is_raised_at_the_end():
    @torch.compile
    def f(x):
        try:
            s = float(x.sum())
        except RuntimeError:
            s = 0.0
        return x * s

    with pytest.raises(CaptureError, match="test_capture.py"):
        f(torch.ones(2))


def test_a_recording_leaves_no_circles_of_frames():
    """A gradient that nothing else refers to is not copied; what refers to it must not be chance."""
    layer, x = nn.Linear(2, 1), torch.ones(4, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def step():
        loss = (layer(x).squeeze() ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    gc.collect()
    gc.disable()
    try:
        compiled = torch.compile(step)
        for _ in range(3):
            compiled()
    finally:
        gc.enable()
    made = [op.label for op in compiled.latest.recording.ops if op.outs[0].shape == (1, 2)]
    assert made == ["matmul", "sgd"]


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_a_mask_of_one_bool_is_recorded(value):
    def f(a, x):
        v = torch.tanh(a)
        v[v > 0] = 0.75
        y = x * 2
        y[v < 0] = -1
        return v, y

    compiled = torch.compile(f)
    for sign in (1, -1, 1):
        given = torch.tensor(value * sign), torch.ones(2, 3)
        assert [z.tolist() for z in compiled(*given)] == [z.tolist() for z in f(*given)]
