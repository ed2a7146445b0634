"""A refused call has done nothing to tensors; its message says where and what to do instead."""

import inspect
import os
import pathlib
import random
import re
import secrets
import time
import types
import warnings

import numpy as np
import pytest
from interpreter import Interpreter

import microtorch as torch
from microtorch import nn, optim
from microtorch.capture import kept
from microtorch.capture.tape import CaptureError

F = nn.functional


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(kept, "build", Interpreter)


class Training:
    """A model, an optimizer and averages of the parameters, as after some steps."""

    def __init__(self, make_optimizer, steps):
        torch.manual_seed(0)
        layers = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 3)
        self.model = nn.Sequential(*layers)
        self.optimizer = make_optimizer(self.model.parameters())
        self.averages = [p.detach().clone() for p in self.model.parameters()]
        self.x, self.y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
        for _ in range(steps):
            self.step()

    def step(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)
        loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for average, p in zip(self.averages, self.model.parameters()):
                average.mul_(0.9).add_(p, alpha=0.1)
            self.model[0].weight.data = self.model[0].weight * 0.5
        return loss

    def everything(self):
        parameters = list(self.model.parameters())
        tensors = [*self.model.state_dict().values(), *self.averages, self.x]
        state = self.optimizer.state_dict()["state"]
        entries = [(n, k, v) for n, held in state.items() for k, v in held.items()]
        return (
            [t.tolist() for t in tensors],
            [None if p.grad is None else p.grad.tolist() for p in parameters],
            [(t._version, t.requires_grad) for t in (*parameters, *tensors)],
            [(n, k, v.tolist() if isinstance(v, torch.Tensor) else v) for n, k, v in entries],
            torch.get_rng_state().tolist(),
        )


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: optim.Adam(p, lr=0.01),
}
count = ""


def counted():
    global count
    count += "1"


# What is refused after the step, and at which call.
LATE = {
    "item": (lambda loss: loss.item(), 1),
    "if": (lambda loss: 1 if loss > 1 else 2, 1),
    "print": (lambda loss: print(end=""), 1),
    "global": (lambda loss: counted(), 3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("what", LATE)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_refused_step_leaves_all_as_it_was(name, what, steps, set_to_none):
    t = Training(OPTIMIZERS[name], steps)
    refused, call = LATE[what]

    @torch.compile
    def step():
        loss = t.step(set_to_none)
        refused(loss)
        return loss.detach()

    for _ in range(call - 1):
        step()
    before = t.everything()
    with pytest.raises(CaptureError):
        step()
    assert t.everything() == before
    # And training goes on.
    t.step(set_to_none)
    other = Training(OPTIMIZERS[name], steps)
    for _ in range(call):
        other.step(set_to_none)
    assert t.everything()[0] == other.everything()[0]


def test_a_tensor_that_only_stops_to_require_grad():
    w, x = torch.ones(2, requires_grad=True), torch.ones(2)

    @torch.compile
    def f(read):
        w.requires_grad_(False)
        return float(x.sum()) if read else x * 2

    for _ in range(3):
        with pytest.raises(CaptureError):
            f(True)
        assert w.requires_grad
    for _ in range(3):
        f(False)
        assert not w.requires_grad
        w.requires_grad_(True)


def test_an_argument_that_only_begins_to_require_grad():
    x = torch.ones(2)
    with pytest.raises(CaptureError, match="requires_grad of an argument"):
        torch.compile(lambda x: x.requires_grad_() * 2)(x)
    assert not x.requires_grad


def test_arguments_and_their_views_are_put_back():
    x = torch.arange(4.0)
    half = x[1:3]

    @torch.compile
    def f(x, half):
        half.mul_(2)
        x.add_(1)
        half.add_(1)
        return x.sum().item()

    with pytest.raises(CaptureError):
        f(x, half)
    assert x.tolist() == [0, 1, 2, 3] and x._version == 0


def test_a_refusal_that_the_function_answers_with_another_error():
    w = torch.ones(2)

    @torch.compile
    def f():
        w.mul_(2)
        try:
            return w.sum().item()
        except RuntimeError:
            raise ValueError("no number") from None

    with pytest.raises(ValueError, match="no number"):
        f()
    assert w.tolist() == [1, 1]


def test_a_refusal_beside_programs_that_exist():
    w = torch.ones(2, requires_grad=True)
    inner = torch.compile(lambda x: x.sum().item())

    @torch.compile
    def step(x):
        w.grad = None
        (w * x).sum().backward()
        with torch.no_grad():
            w.sub_(w.grad)
        if x.shape[0] == 1:
            inner(x)
        return w.sum()

    for _ in range(2):
        step(torch.ones(2))
    gradient, before = w.grad, (w.tolist(), w.grad.tolist(), w._version)
    with pytest.raises(CaptureError):
        step(torch.ones(1))
    assert w.grad is gradient and (w.tolist(), w.grad.tolist(), w._version) == before
    assert step(torch.ones(2)).item() == -4


def test_errors_after_a_refusal_with_a_fallback():
    w = torch.ones(1)

    @torch.compile(fallback="eager")
    def step(x):
        w.add_(x)
        raise KeyError(x.sum().item())

    with pytest.warns(UserWarning, match="runs eagerly"), pytest.raises(KeyError):
        step(torch.ones(1))
    with pytest.raises(KeyError):
        step(torch.ones(1))
    assert w.item() == 3


def test_errors_of_the_users_leave_what_eager_mode_leaves():
    w = torch.ones(2)

    @torch.compile
    def f(x):
        w.mul_(2)
        return x @ torch.ones(3, 3)

    with pytest.raises(RuntimeError) as error:
        f(torch.ones(2))
    assert not isinstance(error.value, CaptureError)
    assert w.tolist() == [2, 2]


def refused_in_between(w, parts):
    """Memory that is shared in part cannot be recorded."""
    w.add_(1)
    parts[0].add_(1)
    parts[1].add_(1)


def read_in_between(w, parts):
    w.add_(1)
    return w.sum().item()


@pytest.mark.parametrize("step", [refused_in_between, read_in_between])
def test_with_a_fallback_a_step_is_done_once(step):
    def memory():
        array = np.zeros(24, np.uint8)
        parts = array[:16].view(np.float32), array[8:].view(np.float64)
        return torch.ones(2), [torch.from_numpy(a) for a in parts]

    w, parts = memory()
    compiled = torch.compile(lambda: step(w, parts), fallback="eager")
    with pytest.warns(UserWarning, match="runs eagerly from now on"):
        compiled()
    other = memory()
    step(*other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled()
    step(*other)
    assert [w.tolist(), *[t.tolist() for t in parts]] == [
        other[0].tolist(), *[t.tolist() for t in other[1]]
    ]  # fmt: skip


# ---------------------------------------------------------------------------- where, and what to do
RETURN, CHOICE = "Return the tensor and read it after", "Use torch.where for the choice"
log, numbers, settings = [], (k for k in range(9)), types.SimpleNamespace(n="")
now = time.perf_counter
layer = nn.Linear(2, 2)
layer.calls = ""
rng = np.random.default_rng(0)
weight = torch.ones(2, requires_grad=True)
rate = optim.SGD([weight], lr=0.1)
schedule = optim.lr_scheduler.StepLR(rate, 2)
checkpoint, array_file = "checkpoint.pt", "array.npy"


def choice(x):
    y = x * 2
    if y.sum() > 0:  # here
        y = y + 1
    return y


def loop(x):
    while x.sum() < 9:  # here
        x = x * 2
    return x


def asserted(x):
    assert (x > 0).all()  # here
    return x * 2


def larger(x):
    y = x * 2
    return max(y[0], y[1])  # here


def number(x):
    n = x.sum().item()  # here
    return x * n


def of_float(x):
    n = float(x.sum())  # here
    return x * n


def text(x):
    t = f"{x.sum()}"  # here
    return x * len(t)


def array(x):
    y = (x * 2).numpy()  # here
    return torch.from_numpy(y)


def helped(x):
    return x * number(x)


def printed(x):
    y = x * 2
    print(y)  # here
    return y


def grown(x):
    y = x * 2
    log.append(1)  # here
    return y


def global_(x):
    global count
    y = x * 2
    count += "1"  # here
    return y


def attribute(x):
    y = x * 2
    settings.n += "1"  # here
    return y


def of_layer(x):
    y = layer(x)
    layer.calls += "1"  # here
    return y


def iterator(x):
    y = x * 2
    return y * next(numbers)  # here


def clock(x):
    y = x * 2
    return y * now()  # here


def drawn(x):
    y = x * 2
    return y * random.random()  # here


def own_drawn(x):
    y = x * 2
    return y * rng.random()  # here


def scheduled(x):
    rate.zero_grad()
    (weight * x).sum().backward()
    rate.step()
    schedule.step()  # here
    return x * 2


def asked_for(x):
    x.requires_grad = True  # here
    return x * 2


def saved(x):
    y = x * 2
    torch.save(y, os.devnull)  # here
    return y


def loaded(x):
    return x * torch.load(checkpoint)["w"]  # here


def read_by_numpy(x):
    return x * float(np.load(array_file))  # here


def read_by_path(x):
    return x * len(pathlib.Path(__file__).read_text())  # here


def default(x, seen=[]):  # noqa: B006
    y = x * 2
    seen.append(1)  # here
    return y


def result(x):
    y = x * 2
    return types.SimpleNamespace(y=y)  # here


MESSAGES = {
    choice: (r"\(bool\)", CHOICE), loop: (r"\(bool\)", CHOICE), asserted: (r"\(bool\)", CHOICE),
    larger: (r"\(bool\)", CHOICE), number: (r"\(item\)", RETURN), of_float: (r"\(float\)", RETURN),
    text: (r"\(format\)", RETURN), array: (r"\(numpy\)", RETURN), helped: (r"\(item\)", RETURN),
    printed: (r"print\(\) is called inside a compiled function", "outside"),
    grown: ("the global log is changed", "outside"),
    global_: ("the global count is changed", "outside"),
    attribute: (r"SimpleNamespace\.n is changed", "outside"),
    of_layer: ("an attribute of Linear is changed", "outside"),
    iterator: ("a generator is used", "outside"), clock: (r"perf_counter\(\) is called", "outside"),
    drawn: ("random numbers", "torch.rand"), own_drawn: ("random numbers", "torch.rand"),
    scheduled: ("an attribute of StepLR is changed", "outside"),
    default: ("the default of seen is changed", "outside"),
    saved: (r"torch\.save\(\) is called", "outside"), loaded: ("a file is opened", "outside"),
    read_by_numpy: ("a file is opened", "outside"), read_by_path: ("a file is opened", "outside"),
    asked_for: ("requires_grad of an argument is changed", "before the call"),
    result: ("an object of type SimpleNamespace is returned", "tuples"),
}  # fmt: skip


def line_in(f):
    """The line of a function that is marked."""
    lines, first = inspect.getsourcelines(f)
    marked = (first + k for k, line in enumerate(lines) if line.endswith("# here\n"))
    return next(marked, None)


@pytest.mark.parametrize("f", MESSAGES, ids=lambda f: f.__name__)
def test_a_refusal_names_the_line_and_what_to_do(f, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2)}, checkpoint)
    np.save(array_file, np.ones(1)[0])
    what, remedy = MESSAGES[f]
    compiled = torch.compile(f)
    at = line_in(f) or line_in(number)
    with pytest.raises(CaptureError) as error:
        for _ in range(3):
            compiled(torch.ones(2))
    assert re.search(rf"test_capture_refused\.py:{at}: .*{what}.*{remedy}", str(error.value))
    assert (remedy == CHOICE) == ("torch.where" in str(error.value))


def test_warnings_point_at_the_users_line():
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_forward_hook(lambda module, args, out: out.sum().item() and None)
    calls = [
        torch.compile(number, fallback="eager"),
        torch.compile(model, fallback="eager"),
        torch.compile(grown, fallback="eager"),
    ]
    many = torch.compile(lambda x: x * 2)
    for f in calls:
        with pytest.warns(UserWarning, match="runs eagerly") as found:
            for _ in range(3):
                f(torch.ones(1, 2))
        assert [w.filename for w in found] == [__file__]
    with pytest.warns(UserWarning, match="more than 8 signatures") as found:
        for n in range(1, 11):
            many(torch.ones(n))
    assert [w.filename for w in found] == [__file__]


def test_anomaly_detection_is_not_recorded():
    f = torch.compile(lambda x: (x * 2).sum())
    with torch.autograd.set_detect_anomaly(True), pytest.raises(CaptureError, match="anomaly"):
        f(torch.ones(2, requires_grad=True))
    for _ in range(2):
        assert f(torch.ones(2, requires_grad=True)).item() == 4
    # A program would look for nothing.
    with torch.autograd.set_detect_anomaly(True), pytest.raises(CaptureError, match="anomaly"):
        f(torch.ones(2, requires_grad=True))


SYSTEM = random.SystemRandom()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: SYSTEM.random(),
        lambda: random.SystemRandom().random(),
        lambda: secrets.randbelow(5),
        lambda: len(secrets.token_urlsafe()),
    ],
)
def test_random_numbers_of_the_system_are_refused(draw):
    with pytest.raises(CaptureError, match="inside a compiled function"):
        torch.compile(lambda x: x * draw())(torch.ones(2))
