"""Programs as users write them: compiled as in eager mode, whatever changes between the calls.

A case takes a decorator, `torch.compile` or nothing, and gives a function that makes its k-th call.
Both must give the same results and leave the same behind, or the compiled one must be refused.
"""

import contextlib
import contextvars
import copy
import dataclasses
import enum
import functools
import os
import random
import re
import threading
import types
import typing
import warnings
import weakref

import numpy as np
import pytest
from test_capture_equality import TOLERANCE, reached, same, setting

import microtorch as torch
from microtorch import nn
from microtorch.capture.tape import CaptureError
from microtorch.utils.checkpoint import checkpoint

F = nn.functional
CALLS = 6
CASES = {}
# Cases that are refused, with a part of the message.
REFUSED = {}


def case(refused=None):
    """Enter a case by its name."""

    def enter(make):
        CASES[make.__name__] = make
        if refused:
            REFUSED[make.__name__] = refused
        return make

    return enter


def perceptron(*more):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *more, nn.Linear(5, 3))


def trainer(model, optimizer, loss_of=None):
    """The usual step on x and y."""

    def step(x, y):
        optimizer.zero_grad()
        loss = (loss_of or F.cross_entropy)(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def batch(k, n=6):
    """The k-th batch."""
    values = np.random.default_rng(k)
    x = torch.from_numpy(values.normal(size=(n, 4)))
    return x, torch.from_numpy(values.integers(0, 3, n))


# --------------------------------------------------------------------------------- schedules
@case("StepLR is changed inside")
def schedule_inside(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)

    @compiled
    def step(x, y):
        loss = trainer(model, optimizer)(x, y)
        schedule.step()
        return loss

    return lambda k: step(*batch(k))


class Halving(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self):
        return [r / 2 ** (self.last_epoch // 2) for r in self.base_lrs]


@case("Halving is changed inside")
def own_schedule_inside(compiled):
    w = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    schedule = Halving(optimizer)

    @compiled
    def step(x):
        optimizer.step()
        schedule.step()
        return x * 2

    return lambda k: step(batch(k)[0])


@case()
def schedule_outside(compiled):
    model = perceptron()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    step = compiled(trainer(model, optimizer))

    def call(k):
        found = step(*batch(k))
        schedule.step()
        return found

    return call


@case()
def warm_up_by_hand(compiled):
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    step = compiled(trainer(model, optimizer))

    def call(k):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (k + 1)
            group["betas"] = (0.9 - 0.1 * k, 0.99)
        return step(*batch(k))

    return call


@case()
def rate_as_argument(compiled):
    w = torch.randn(4, requires_grad=True)

    @compiled
    def step(x, lr):
        loss = (x @ w).square().mean()
        loss.backward()
        with torch.no_grad():
            w.sub_(lr * w.grad)
            w.grad.zero_()
        return loss.detach()

    return lambda k: step(batch(k)[0], 0.1 / (k + 1))


@case()
def rate_set_inside(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @compiled
    def step(x, y, lr):
        for group in optimizer.param_groups:
            group["lr"] = lr
        return trainer(model, optimizer)(x, y)

    return lambda k: step(*batch(k), 0.1 if k < 3 else 0.01)


# ------------------------------------------------------------------------ parts of a training
@case()
def clipping_switched_on(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    options = types.SimpleNamespace(clip=None)

    @compiled
    def step(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        norm = None
        if options.clip:
            norm = nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        return norm

    def call(k):
        options.clip = 0.1 if k > 2 else None
        return step(*batch(k))

    return call


@case()
def moving_average(compiled):
    model = perceptron(nn.BatchNorm1d(5))
    shadow = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    train = trainer(model, optimizer)

    @compiled
    def step(x, y):
        loss = train(x, y)
        with torch.no_grad():
            for p, q in zip(shadow.parameters(), model.parameters(), strict=True):
                p.lerp_(q, 0.1)
            for p, q in zip(shadow.buffers(), model.buffers(), strict=True):
                p.copy_(q)
        return loss

    def call(k):
        found = step(*batch(k))
        if k == 3:
            shadow.load_state_dict(model.state_dict())
        return found, shadow

    return call


@case()
def accumulation(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @compiled
    def part(x, y):
        (F.cross_entropy(model(x), y) / 2).backward()

    @compiled
    def update():
        optimizer.step()
        optimizer.zero_grad()

    def call(k):
        part(*batch(k))
        if k % 2:
            update()
        return [p.grad for p in model.parameters()]

    return call


@case()
def accumulation_by_a_flag(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @compiled
    def step(x, y, last):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if not last:
            return loss.detach()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return None

    return lambda k: step(*batch(k), last=bool(k % 2))


@case()
def gan(compiled):
    generator = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4))
    critic = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(4, 1))
    first = torch.optim.Adam(generator.parameters(), betas=(0.5, 0.9))
    second = torch.optim.RMSprop(critic.parameters(), 0.01)
    loss = nn.BCEWithLogitsLoss()

    @compiled
    def step(real, train_generator):
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        fake = generator(torch.randn(len(real), 2))
        second.zero_grad()
        errors = [loss(critic(real), ones), loss(critic(fake.detach()), zeros)]
        sum(errors).backward()
        second.step()
        if train_generator:
            first.zero_grad()
            errors.append(loss(critic(fake), ones))
            errors[-1].backward()
            first.step()
        return [e.detach() for e in errors]

    return lambda k: step(batch(k)[0], k % 3 == 0)


@case()
def layers_thawed_later(compiled):
    model = perceptron()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model[2].parameters(), lr=0.05)
    step = compiled(trainer(model, optimizer))

    def call(k):
        if k == 3:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.01})
        return step(*batch(k))

    return call


@case()
def train_and_eval(compiled):
    model = perceptron(nn.BatchNorm1d(5), nn.Dropout(0.4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = compiled(trainer(model, optimizer))

    @compiled
    def evaluate(x, y):
        with torch.no_grad():
            return (model(x).argmax(1) == y).double().mean()

    def call(k):
        model.train()
        found = step(*batch(k))
        model.eval()
        return found, evaluate(*batch(100 + k, 9))

    return call


@case()
def mode_changed_inside(compiled):
    model = perceptron(nn.Dropout(0.4))

    @compiled
    def step(x):
        model.train()
        noisy = model(x)
        model.eval()
        return noisy, model(x)

    return lambda k: step(batch(k)[0])


@case()
def early_return(compiled):
    model = perceptron()

    @compiled
    def step(x, stage):
        h = model[0](x)
        if stage == "features":
            return h
        h = model[1](h)
        return {"hidden": h, "out": model[2](h)} if stage == "both" else model[2](h)

    return lambda k: step(batch(k)[0], ["features", "both", "all"][k % 3])


@case()
def losses_in_a_list(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = [1.0, 0.5]

    @compiled
    def step(x, y):
        optimizer.zero_grad()
        out = model(x)
        losses = [
            F.cross_entropy(out, y),
            out.square().mean(),
            *([out.abs().mean()] * len(weights)),
        ]
        total = sum(w * z for w, z in zip(weights, losses, strict=False))
        total.backward()
        optimizer.step()
        return [z.detach() for z in losses]

    def call(k):
        if k == 2:
            weights[1] = 0.1
        if k == 4:
            weights.append(3.0)
        return step(*batch(k))

    return call


@case()
def changing_globals(compiled):
    space = {"torch": torch, "scale": 1.0, "__name__": "program"}
    exec("def helper(x):\n    return x * scale\ndef f(x):\n    return helper(x) + 1\n", space)
    f = compiled(space["f"])

    def call(k):
        space["scale"] = float(k // 2)
        if k == 4:
            exec("def helper(x):\n    return x - scale\n", space)
        return f(batch(k)[0])

    return call


@dataclasses.dataclass
class Batch:
    x: typing.Any
    y: typing.Any
    weight: float = 1.0


@case()
def dataclass_argument(compiled):
    model = perceptron()

    @compiled
    def loss(b):
        return F.cross_entropy(model(b.x), b.y) * b.weight

    return lambda k: loss(Batch(*batch(k), 1.0 + k))


@case()
def dataclass_from_outside(compiled):
    model, given = perceptron(), Batch(*batch(0))

    @compiled
    def loss():
        return (F.cross_entropy(model(given.x), given.y) * given.weight).detach()

    def call(k):
        given.x, given.y = batch(k)
        given.weight = 1.0 + k // 3
        return loss()

    return call


class Pair(typing.NamedTuple):
    x: typing.Any
    k: typing.Any


@case()
def named_tuple_argument(compiled):
    @compiled
    def f(pair):
        return pair._replace(x=pair.x * pair.k)

    return lambda k: f(Pair(batch(k)[0], k // 2))


@case()
def exception_in_the_middle(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @compiled
    def step(x, y, fail):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if fail:
            raise KeyError("in the middle")
        optimizer.step()
        return loss.detach()

    def call(k):
        try:
            return step(*batch(k), k in (2, 3))
        except KeyError:
            return [p.grad for p in model.parameters()]

    return call


@case()
def exception_caught_inside(compiled):
    table = {"a": 2.0}

    @compiled
    def f(x):
        try:
            x = x * table["b"]
        except KeyError:
            x = x - 1
        return x

    def call(k):
        if k == 3:
            table["b"] = 5.0
        return f(batch(k)[0])

    return call


@case()
def shapes_that_do_not_fit(compiled):
    w = torch.randn(4, 2)

    @compiled
    def f(x):
        return x @ w

    def call(k):
        try:
            return f(torch.ones(3, 5) if k == 2 else batch(k)[0])
        except RuntimeError as error:
            return str(error)[:30]

    return call


@case()
def partials(compiled):
    def loss(x, w, power):
        return ((x @ w) ** power).mean()

    w = torch.randn(4, requires_grad=True)
    functions = [compiled(functools.partial(loss, w=w, power=p)) for p in (2, 3)]

    def call(k):
        w.grad = None
        z = functions[k % 2](batch(k)[0])
        z.backward()
        return z.detach(), w.grad

    return call


class Trainer:
    """A class with state, whose method is compiled."""

    def __init__(self):
        self.model = perceptron()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.smooth = 0.0

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y, label_smoothing=self.smooth)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


@case()
def methods(compiled):
    trainer = Trainer()
    step = compiled(trainer.step)

    def call(k):
        if k == 2:
            trainer.smooth = 0.2
        if k == 4:
            trainer.model = perceptron()
            trainer.optimizer = torch.optim.Adam(trainer.model.parameters())
        return step(*batch(k)), trainer

    return call


@case()
def methods_compiled_in_the_class(compiled):
    class Own(Trainer):
        step = compiled(Trainer.step)

    trainers = [Own(), Own()]

    def call(k):
        trainers[0].smooth = 0.1 * (k // 3)
        return [t.step(*batch(k)) for t in trainers]

    return call


@case()
def methods_that_count(compiled):
    class Counting(Trainer):
        steps = 0

        def step(self, x, y):
            self.steps += 1
            return super().step(x, y)

    trainer = Counting()
    step = compiled(trainer.step)
    return lambda k: step(*batch(k))


@case("kept outside|changed inside")
def losses_kept_in_a_list(compiled):
    model, losses = perceptron(), []
    train = trainer(model, torch.optim.SGD(model.parameters(), lr=0.1))

    @compiled
    def step(x, y):
        losses.append(train(x, y))

    return lambda k: step(*batch(k))


# ------------------------------------------------------------------------------ tensors
@case()
def masks_in_place(compiled):
    state = torch.zeros(6, 4)

    @compiled
    def f(x):
        mask = x > 0.5
        state.mul_(0.9)
        state[:, 1:3] += x[:, 1:3] * mask[:, 1:3]
        state.masked_fill_(mask, 0.25)
        state[0] = x[1]
        return torch.where(state > 0.1, state, -x).sum(0), mask

    return lambda k: f(batch(k)[0])


@case()
def masks_as_indices(compiled):
    @compiled
    def f(x):
        x = x.clone()
        x[x < 0] = 0
        x[x > 1] = x.mean()
        x[x.sum(1) > 2] = -1.0
        return x

    return lambda k: f(batch(k)[0])


@case("a mask")
def masks_that_select(compiled):
    @compiled
    def f(x):
        x = x.clone()
        x[x > 0] *= 0.5
        return x

    return lambda k: f(batch(k)[0])


@case()
def changing_indices(compiled):
    table = torch.randn(7, 3, requires_grad=True)
    at = torch.tensor([0, 1])

    @compiled
    def f(index):
        table.grad = None
        z = (table[index] * table[at]).sum() + table[index, 1].sum()
        z.backward()
        return z.detach(), table.grad.index_select(0, index), F.one_hot(index, 7)

    def call(k):
        at.fill_(k)
        return f(torch.tensor([k, 6 - k]))

    return call


@case()
def an_index_that_is_a_number(compiled):
    x = torch.randn(6, 3)
    f = compiled(lambda i, flip: x[i].flip(0) if flip else x[i])
    return lambda k: f(k % 2, k > 3)


@case()
def detached_targets(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @compiled
    def step(x):
        optimizer.zero_grad()
        out = model(x)
        target = out.detach().softmax(1)
        target[target < 0.2] = 0
        loss = -(target * out.log_softmax(1)).sum()
        loss.backward()
        optimizer.step()
        return target, out.detach()

    return lambda k: step(batch(k)[0])


@case()
def nested(compiled):
    model = perceptron()
    inner = compiled(lambda x: model(x).softmax(1))
    outer = compiled(lambda x, y: -inner(x).log()[torch.arange(len(y)), y].mean())

    def call(k):
        model.zero_grad(set_to_none=k % 2 == 0)
        loss = outer(*batch(k))
        loss.backward()
        return loss.detach(), inner(batch(k)[0]).detach(), model

    return call


@case()
def compiled_model_in_an_eager_loop(compiled):
    model = perceptron(nn.Dropout(0.3))
    fast = compiled(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def call(k):
        x, y = batch(k)
        optimizer.zero_grad()
        out = fast(x)
        loss = F.cross_entropy(out, y) + 0.1 * out.norm()
        loss.backward()
        optimizer.step()
        if k == 3:
            model[0].weight.data.mul_(0.5)
        return loss.detach(), out.detach()

    return call


@case()
def zeroed_gradients(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @compiled
    def step(x, y):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    def call(k):
        step(*batch(k))
        if k == 3:
            optimizer.zero_grad()
        return [p.grad for p in model.parameters()]

    return call


@case()
def parameters_replaced(compiled):
    model = perceptron()
    step = compiled(lambda x: model(x).detach())

    def call(k):
        if k == 2:
            model[0].weight = nn.Parameter(torch.ones(5, 4))
        if k == 3:
            model[1] = nn.ReLU()
        if k == 4:
            del model[1]
        if k == 5:
            model.append(nn.Sigmoid())
        return step(batch(k)[0])

    return call


@case()
def hidden_state(compiled):
    cell, state = nn.GRUCell(4, 3), {"h": torch.zeros(6, 3)}

    @compiled
    def step(x, h):
        for _ in range(2):
            h = cell(x, h)
        return h.detach()

    def call(k):
        if k == 3:
            state["h"] = torch.zeros(6, 3)
        state["h"] = step(batch(k)[0], state["h"])
        return state["h"]

    return call


@case()
def state_kept_in_a_buffer(compiled):
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))
            self.register_buffer("count", torch.tensor(0))

        def forward(self, x):
            if self.training:
                self.count += 1
                self.seen.mul_(0.9).add_(0.1 * x.mean(0))
            return x - self.seen / self.count

    model = Running()
    fast = compiled(model)

    def call(k):
        model.train(k != 3)
        return fast(batch(k)[0]), model

    return call


@case("kept outside|changed inside")
def buffers_assigned(compiled):
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x):
            self.seen = 0.9 * self.seen + 0.1 * x.mean(0)
            return x - self.seen

    model = Running()
    fast = compiled(model)
    return lambda k: (fast(batch(k)[0]), model)


@case()
def batches_of_several_sizes(compiled):
    model = perceptron(nn.BatchNorm1d(5))
    step = compiled(trainer(model, torch.optim.Adam(model.parameters())))
    return lambda k: step(*batch(k, 6 if k % 3 else 4))


@case()
def grad_modes(compiled):
    model = perceptron()
    f = compiled(model)

    def call(k):
        with contextlib.nullcontext() if k % 2 else torch.no_grad():
            out = f(batch(k)[0])
        return out.requires_grad, out.detach()

    return call


@case()
def inputs_that_require_grad(compiled):
    model = perceptron()
    f = compiled(lambda x: model(x).square().sum())

    def call(k):
        x = batch(k)[0].requires_grad_(k % 2 == 0)
        f(x).backward()
        return x.grad, [p.grad for p in model.parameters()]

    return call


@case()
def gradients_of_arguments(compiled):
    model = perceptron()

    @compiled
    def attack(x, y, size):
        x = x.detach().clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
        return (x + size * g.sign()).detach().clamp(-1, 1)

    return lambda k: attack(*batch(k), [0.1, 0.2][k // 3])


@case()
def modules_in_a_list(compiled):
    blocks = [nn.Linear(4, 4), nn.Linear(4, 4)]

    @compiled
    def f(x):
        for block in blocks:
            x = block(x).relu()
        return x.detach()

    def call(k):
        if k == 2:
            blocks.append(nn.Linear(4, 2))
        if k == 4:
            blocks.pop(0)
        return f(batch(k)[0])

    return call


@case()
def lambdas_replaced(compiled):
    options = {"act": torch.relu}
    f = compiled(lambda x: options["act"](x))

    def call(k):
        options["act"] = [torch.relu, torch.tanh, lambda x: x * 2][k // 2]
        return f(batch(k)[0])

    return call


@case()
def stochastic_depth(compiled):
    model = perceptron()

    @compiled
    def f(x):
        keep = (torch.rand(len(x), 1) < 0.5).double()
        return model(x * keep).detach() * keep

    return lambda k: f(batch(k)[0])


@case("random")
def coin_of_python(compiled):
    @compiled
    def f(x):
        return x.flip(1) if random.random() < 0.5 else x

    return lambda k: f(batch(k)[0])


@case()
def coin_outside(compiled):
    coin = random.Random(1)
    f = compiled(lambda x, flip: x.flip(1) if flip else x)
    return lambda k: f(batch(k)[0], coin.random() < 0.5)


@case()
def one_loss_of_many_models(compiled):
    models = {name: perceptron() for name in "ab"}

    @compiled
    def f(name, x):
        return models[name](x).detach()

    def call(k):
        if k == 3:
            models["a"], models["b"] = models["b"], models["a"]
        return f("ab"[k % 2], batch(k)[0])

    return call


@case()
def a_model_as_argument(compiled):
    models = [perceptron(), perceptron(nn.ReLU())]
    f = compiled(lambda model, x: model(x).detach())

    def call(k):
        models[0].train(k < 4)
        return f(models[k % 2], batch(k)[0])

    return call


@case()
def weight_decay_by_hand(compiled):
    model = perceptron()
    decay = 0.1

    @compiled
    def step(x, y):
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss = loss + decay * sum(p.square().sum() for p in model.parameters() if p.ndim > 1)
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        return loss.detach()

    def call(k):
        nonlocal decay
        decay = 0.1 / (1 + k // 2)
        return step(*batch(k))

    return call


@case()
def data_assigned(compiled):
    w = torch.randn(4, requires_grad=True)

    @compiled
    def step(x):
        (x @ w).square().mean().backward()
        w.data -= 0.1 * w.grad.data
        w.grad = None

    def call(k):
        step(batch(k)[0])
        return w

    return call


@case()
def lbfgs_like_closure(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @compiled
    def step(x, y):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(closure).detach()

    return lambda k: step(*batch(k))


@case()
def checkpoints(compiled):
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    step = compiled(trainer(model, optimizer))
    saved = []

    def call(k):
        if k == 2:
            saved[:] = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
        if k == 4:
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
        return step(*batch(k)), model, optimizer

    return call


# ------------------------------------------------------------------------- short ones
only = torch.ones(1, dtype=torch.float64)


class Mode(enum.Enum):
    A = 1
    B = 2


class Items(list):
    """A list of the user's."""


@case("changed inside")
def own_lists_that_grow(compiled):
    items = Items([1.0])
    items.name = "mine"

    @compiled
    def f(x):
        items.append(1.0)
        return x * len(items)

    return lambda k: f(batch(k)[0])


@case()
def enums(compiled):
    cfg = types.SimpleNamespace(mode=Mode.A)
    f = compiled(lambda x: x * 2 if cfg.mode is Mode.A else x * 3)

    def call(k):
        cfg.mode = Mode.B if k > 2 else Mode.A
        return f(only)

    return call


@case()
def enum_arg(compiled):
    f = compiled(lambda x, m: x * m.value)
    return lambda k: f(only, list(Mode)[k % 2])


@case()
def lru(compiled):

    @functools.lru_cache
    def scale(k):
        return torch.full((1,), float(k))

    f = compiled(lambda x, k: x * scale(k))
    return lambda k: f(only, k % 2)


@case()
def lazily_cached_mask(compiled):

    class M(nn.Module):
        def __init__(s):
            super().__init__()
            s.mask = None

        def forward(s, x):
            if s.mask is None or s.mask.shape[0] != x.shape[0]:
                s.mask = torch.triu(torch.ones(x.shape[0], x.shape[0]))
            return s.mask @ x

    m = compiled(M())
    return lambda k: m(torch.randn(3 if k < 3 else 4, 2))


@case("seen is changed")
def hooks_with_state(compiled):
    seen = []
    m = nn.Linear(3, 3)
    m.register_forward_hook(lambda mod, i, o: seen.append(o.shape))
    f = compiled(m)

    def call(k):
        f(torch.ones(2, 3))
        return len(seen)

    return call


@case("kept outside")
def features_hook(compiled):
    feats = {}
    m = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    m[0].register_forward_hook(lambda mod, i, o: feats.__setitem__("h", o.detach()))
    f = compiled(m)

    def call(k):
        f(torch.full((2, 3), float(k)))
        return feats["h"]

    return call


@case()
def grad_hook(compiled):
    m = nn.Linear(3, 1)
    m.weight.register_hook(lambda g: g.clamp(-1, 1))

    @compiled
    def f(x):
        m.zero_grad()
        m(x).sum().backward()

    def call(k):
        f(torch.randn(4, 3))
        return m.weight.grad

    return call


@case()
def post_acc_hook(compiled):
    w = torch.ones(3, requires_grad=True)
    opt = torch.optim.SGD([w], lr=0.1)

    def h(p):
        opt.step()
        opt.zero_grad()

    w.register_post_accumulate_grad_hook(h)

    @compiled
    def f(x):
        (w * x).sum().backward()

    def call(k):
        f(torch.randn(3))
        return w

    return call


@case("set_state_bytes")
def random_state_fork(compiled):

    @compiled
    def f(x):
        with torch.random.fork_rng():
            return x * torch.rand(1)

    return lambda k: f(only)


@case()
def own_generator(compiled):
    g = torch.Generator().manual_seed(3)
    f = compiled(lambda x: x * torch.rand(1, generator=g))

    def call(k):
        if k == 3:
            g.manual_seed(9)
        return f(only)

    return call


@case("manual_seed")
def manual_seed_inside(compiled):

    def f(x):
        torch.manual_seed(0)
        return x * torch.rand(1)

    f = compiled(f)
    return lambda k: f(only)


@case()
def inplace_on_arg(compiled):
    f = compiled(lambda x: x.mul_(2).add_(1))

    def call(k):
        x = torch.ones(3) * k
        y = f(x)
        return (x, y, y is x)

    return call


@case()
def grad_of_arg_leaf(compiled):

    def f(x):
        (x * x).sum().backward()
        return x.grad

    f = compiled(f)

    def call(k):
        x = torch.full((2,), float(k), requires_grad=True)
        g = f(x)
        return (g, x.grad)

    return call


@case()
def varargs(compiled):

    def f(*xs, **kw):
        return sum(xs) * kw.get("s", 1)

    f = compiled(f)

    def call(k):
        return f(*[only] * (k % 3 + 1), **{"s": 2} if k > 3 else {})

    return call


@case()
def while_loop(compiled):
    st = {"n": 1}

    def f(x):
        n = st["n"]
        while n > 0:
            x = x * 2
            n -= 1
        return x

    f = compiled(f)

    def call(k):
        st["n"] = k // 2 + 1
        return f(only)

    return call


@case()
def walrus_global_list(compiled):
    L = [1.0, 2.0]
    f = compiled(lambda x: x * L[-1] + len(L))

    def call(k):
        if k == 2:
            L.append(3.0)
        if k == 4:
            L.sort(reverse=True)
        return f(only)

    return call


@case()
def dict_order(compiled):
    d = {"a": torch.ones(1), "b": torch.ones(1) * 2}
    f = compiled(lambda: [v * 2 for v in d.values()])

    def call(k):
        if k == 2:
            d["a"] = d.pop("a")
        if k == 4:
            d["b"] = torch.ones(1) * 7
        return f()

    return call


@case()
def numpy_array_arg(compiled):
    f = compiled(lambda x, a: x * torch.from_numpy(a))
    a = np.ones(2, np.float32)

    def call(k):
        a[0] = k
        return f(torch.ones(2), a)

    return call


@case()
def numpy_new_array_arg(compiled):
    f = compiled(lambda x, a: x * torch.tensor(a))
    return lambda k: f(torch.ones(2), np.full(2, k, np.float32))


@case()
def shape_attr_mod(compiled):
    m = nn.Dropout(0.5)
    f = compiled(m)

    def call(k):
        m.p = [0.5, 0.0, 1.0][k // 2]
        return f(torch.ones(8))

    return call


@case()
def bn_momentum(compiled):
    m = nn.BatchNorm1d(3)
    f = compiled(m)

    def call(k):
        m.momentum = 0.1 * (k // 2)
        if k == 4:
            m.track_running_stats = False
        return (f(torch.randn(4, 3)), m.running_mean, m.num_batches_tracked)

    return call


@case()
def optimizer_swapped(compiled):
    w = torch.ones(2, requires_grad=True)
    s = types.SimpleNamespace(opt=torch.optim.SGD([w], lr=0.1))

    @compiled
    def f():
        s.opt.zero_grad()
        (w * w).sum().backward()
        s.opt.step()

    def call(k):
        if k == 3:
            s.opt = torch.optim.Adam([w], lr=0.1)
        f()
        return w

    return call


@case()
def grads_edited_between(compiled):
    w = torch.ones(2, requires_grad=True)
    opt = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    b = compiled(lambda: (w * w).sum().backward())
    s = compiled(opt.step)

    def call(k):
        opt.zero_grad()
        b()
        if k == 2:
            w.grad = torch.ones(2)
        if k == 3:
            w.grad.mul_(0.1)
        if k == 4:
            w.grad = None
        s()
        return w

    return call


@case()
def momentum_buffer_reset(compiled):
    w = torch.ones(2, requires_grad=True)
    opt = torch.optim.SGD([w], lr=0.1, momentum=0.9)

    @compiled
    def f():
        opt.zero_grad()
        (w * w).sum().backward()
        opt.step()

    def call(k):
        if k == 3:
            opt.state[w]["momentum_buffer"] = torch.zeros(2)
        if k == 4:
            opt.state.pop(w)
        f()
        return w

    return call


@case()
def state_dict_inside(compiled):
    m = nn.Linear(2, 2)
    f = compiled(lambda x: {k: v * 1 for k, v in m.state_dict().items()})

    def call(k):
        with torch.no_grad():
            m.weight.add_(1)
        return f(only)

    return call


@case()
def exponential_avg_python_float(compiled):
    ema = types.SimpleNamespace(beta=0.9, value=torch.zeros(1))

    @compiled
    def f(x):
        ema.value.mul_(ema.beta).add_(x * (1 - ema.beta))
        return ema.value / 1

    def call(k):
        if k == 3:
            ema.beta = 0.5
        return f(only * k)

    return call


@case()
def returns_param(compiled):
    m = nn.Linear(2, 2)
    f = compiled(lambda x: (m.weight, m.weight.grad, m(x)))

    def call(k):
        m.zero_grad()
        a, b, y = f(torch.ones(1, 2))
        y.sum().backward()
        return (a is m.weight, b, m.weight.grad)

    return call


@case()
def detach_clone_history(compiled):
    w = torch.ones(2, requires_grad=True)
    hist = []
    f = compiled(lambda: (w * 2, w.detach(), w.detach().clone(), w.data))

    def call(k):
        with torch.no_grad():
            w.add_(1)
        r = f()
        hist.append(r)
        return [list(h) for h in hist]

    return call


@case()
def globals_deleted(compiled):
    sp = {"torch": torch, "s": 2.0}
    exec(
        "def f(x):\n    try:\n        return x*s\n    except NameError:\n        return x*10\n", sp
    )
    f = compiled(sp["f"])

    def call(k):
        if k == 3:
            del sp["s"]
        return f(only)

    return call


@case()
def class_patch(compiled):

    class A(nn.Module):
        def forward(s, x):
            return x * 2

    m = A()
    f = compiled(lambda x: m(x))

    def call(k):
        if k == 3:
            A.forward = lambda s, x: x * 5
        return f(only)

    return call


@case()
def module_call_patched(compiled):
    m = nn.Linear(1, 1)
    f = compiled(lambda x: m(x))

    def call(k):
        if k == 3:
            m.forward = lambda x: x * 5
        return f(only)

    return call


@case()
def default_dtype(compiled):
    f = compiled(lambda: torch.ones(2) * 0.1)

    def call(k):
        torch.set_default_dtype(torch.float64 if k > 2 else torch.float32)
        r = f()
        torch.set_default_dtype(torch.float32)
        return (r, str(r.dtype))

    return call


@case()
def checkpointing(compiled):
    m = nn.Sequential(nn.Linear(2, 2), nn.Tanh())

    @compiled
    def f(x):
        m.zero_grad()
        checkpoint(m, x, use_reentrant=False).sum().backward()

    def call(k):
        f(torch.full((1, 2), float(k)))
        return [p.grad for p in m.parameters()]

    return call


@case()
def parametrized_prune_mask(compiled):
    m = nn.Linear(3, 3)
    mask = torch.ones(3, 3)
    f = compiled(lambda x: F.linear(x, m.weight * mask, m.bias))

    def call(k):
        mask[k % 3] = 0
        return f(torch.ones(1, 3))

    return call


@case()
def requires_grad_toggle_inside(compiled):
    w = torch.ones(2)

    def f(x):
        w.requires_grad_(True)
        y = (w * x).sum()
        (g,) = torch.autograd.grad(y, w)
        w.requires_grad_(False)
        return g

    f = compiled(f)
    return lambda k: f(torch.ones(2) * k)


@case()
def teacher_forcing(compiled):
    cell = nn.LSTMCell(2, 3)

    @compiled
    def f(x, n):
        h = cc = torch.zeros(1, 3)
        out = []
        for t in range(n):
            h, cc = cell(x[t : t + 1], (h, cc))
            out.append(h)
        return torch.cat(out).detach()

    return lambda k: f(torch.ones(4, 2) * k, 2 + k % 2)


@case()
def property_state(compiled):

    class P:
        def __init__(s):
            s._k = 1.0

        @property
        def k(s):
            return s._k

        @k.setter
        def k(s, v):
            s._k = v * 2

    p = P()
    f = compiled(lambda x: x * p.k)

    def call(k):
        p.k = k // 2
        return f(only)

    return call


@case()
def getattr_dunder(compiled):

    class P:
        def __init__(s):
            s.d = {"k": 1.0}

        def __getattr__(s, n):
            try:
                return s.__dict__["d"][n]
            except KeyError:
                raise AttributeError(n)

    p = P()
    f = compiled(lambda x: x * p.k)

    def call(k):
        p.d["k"] = float(k // 2)
        return f(only)

    return call


@case()
def weakrefs(compiled):
    m = nn.Linear(1, 1)
    r = weakref.ref(m)
    f = compiled(lambda x: r()(x).detach())

    def call(k):
        with torch.no_grad():
            m.weight.fill_(k)
        return f(only)

    return call


@case()
def contextvar(compiled):
    v = contextvars.ContextVar("v", default=1.0)
    f = compiled(lambda x: x * v.get())

    def call(k):
        v.set(float(k // 2))
        return f(only)

    return call


@case()
def threadlocal(compiled):
    v = threading.local()
    v.k = 1.0
    f = compiled(lambda x: x * v.k)

    def call(k):
        v.k = float(k // 2)
        return f(only)

    return call


@case()
def user_closure_list_of_fns(compiled):
    fs = [torch.sin]
    f = compiled(lambda x: [g(x) for g in fs])

    def call(k):
        if k == 3:
            fs[0] = torch.cos
        return f(only)

    return call


@case()
def inference_mode(compiled):
    m = nn.Linear(2, 2)
    f = compiled(m)

    def call(k):
        with torch.inference_mode(k % 2 == 0):
            y = f(torch.ones(1, 2))
        return (y.requires_grad, y.detach())

    return call


@case()
def enable_grad_inside(compiled):
    w = torch.ones(2, requires_grad=True)

    def f(x):
        with torch.enable_grad():
            y = (w * x).sum()
            (g,) = torch.autograd.grad(y, w)
        return (g, y.detach())

    f = compiled(f)

    def call(k):
        with torch.no_grad():
            return f(torch.ones(2) * k)

    return call


@case()
def no_grad_decorated(compiled):
    w = torch.ones(2, requires_grad=True)
    f = compiled(torch.no_grad()(lambda x: w * x))
    return lambda k: f(torch.ones(2) * k)


@case()
def set_grad_enabled(compiled):
    w = torch.ones(2, requires_grad=True)

    def f(x, train):
        with torch.set_grad_enabled(train):
            return w * x

    f = compiled(f)
    return lambda k: f(torch.ones(2) * k, k % 2 == 0)


def check(make, refused=None):
    """Make a case's calls in eager mode and compiled: equal, or the second refused."""
    ends = []
    for compiled in (lambda f: f, torch.compile):
        random.seed(5)
        with setting("interpreted", "float64"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = make(compiled)
            found = []
            try:
                found = [reached([call(k)]) for k in range(CALLS)]
            except CaptureError as error:
                assert refused, error
                assert re.search(refused, str(error)), error
                assert os.path.basename(make.__code__.co_filename) + ":" in str(error)
                return
            ends.append([*found, reached(call), {"generator": np.array(torch.get_rng_state())}])
    assert not refused
    for a, b in zip(*ends, strict=True):
        same(a, b, TOLERANCE["float64"])


@pytest.mark.parametrize("name", CASES)
def test_programs(name):
    check(CASES[name], REFUSED.get(name))


def test_options_of_pytorch_change_nothing():
    f = torch.compile(lambda x: x + 1, mode="max-autotune", fullgraph=True, backend="inductor")
    g = torch.compile(dynamic=True, options={"trace": True})(lambda x: x + 1)
    x = torch.ones(3)
    assert f(x).tolist() == g(x).tolist() == [2.0, 2.0, 2.0]
    plain = lambda x: x
    assert torch.compile(plain, disable=True) is plain
