"""What someone replaces in the package, or in another library, after a recording is noticed."""

import builtins
import math
import sys
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


class Own(nn.Linear):
    pass


LAYER = nn.Linear(3, 3)
OWN = Own(3, 3)
NESTED = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
PARAMETER = nn.Parameter(torch.ones(3))
relu = F.relu


def tripled(*args):
    return args[-1] * 3


sys.modules["of_mine"] = types.ModuleType("of_mine")
sys.modules["of_mine"].factor = 2.0


class Kind(type):
    @property
    def factor(cls):
        return 2.0


class Made(metaclass=Kind):
    pass


def imported(x):
    import of_mine

    return x * of_mine.factor


def scaled(x):
    y = x + 1
    y *= 4
    return y


# What is replaced, by what, and a function that uses it.
REPLACED = {
    "function": (F, "relu", tripled, lambda x: F.relu(x)),
    "function in full": (F, "relu", tripled, lambda x: torch.nn.functional.relu(x)),
    "function of the package": (torch, "exp", tripled, lambda x: torch.exp(x)),
    "module": (torch, "nn", None, lambda x: F.relu(x) if torch.nn else x),
    "forward": (nn.Linear, "forward", tripled, lambda x: LAYER(x)),
    "forward of a layer inside": (nn.Linear, "forward", tripled, lambda x: NESTED(x)),
    "forward of the class above": (nn.Linear, "forward", tripled, lambda x: OWN(x)),
    "forward that was inherited": (Own, "forward", tripled, lambda x: OWN(x)),
    "call": (nn.Module, "__call__", tripled, lambda x: NESTED(x)),
    "call that was inherited": (nn.ReLU, "__call__", tripled, lambda x: NESTED(x)),
    "method": (torch.Tensor, "exp", tripled, lambda x: x.exp()),
    "method of parameters": (nn.Parameter, "exp", tripled, lambda x: x * PARAMETER.exp()),
    "operator": (torch.Tensor, "__add__", lambda a, b: a * b, lambda x: x + 5),
    "operator from the right": (torch.Tensor, "__rsub__", lambda a, b: a * b, lambda x: 5 - x),
    "operator in place": (torch.Tensor, "__imul__", lambda a, b: a + b, lambda x: scaled(x)),
    "operator of places": (torch.Tensor, "__getitem__", lambda a, k: a * 3, lambda x: x[:]),
    "of the class of a class": (
        Kind,
        "factor",
        property(lambda cls: 9.0),
        lambda x: x * Made.factor,
    ),
    "of builtins": (builtins, "abs", tripled, lambda x: abs(x)),
    "module in sys.modules": (
        sys.modules,
        "of_mine",
        types.SimpleNamespace(factor=7.0, __name__="of_mine"),
        imported,
    ),
    "of Python": (math, "sqrt", tripled, lambda x: x * math.sqrt(2)),
    "number": (np, "pi", 3.0, lambda x: x * np.pi),
}


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced_in_a_library_is_noticed(name, monkeypatch):
    owner, attribute, mine, f = REPLACED[name]
    compiled, x = torch.compile(f), torch.tensor([-1.0, 2.0, 3.0])
    for _ in range(3):
        assert compiled(x).tolist() == pytest.approx(f(x).tolist())
    before = f(x).tolist()
    if owner is sys.modules:
        monkeypatch.setitem(owner, attribute, mine)
    else:
        monkeypatch.setattr(owner, attribute, mine)
    assert f(x).tolist() != before
    for _ in range(3):
        assert compiled(x).tolist() == pytest.approx(f(x).tolist())
    monkeypatch.undo()
    assert compiled(x).tolist() == pytest.approx(before)


def test_what_a_replacement_reads_is_compared(monkeypatch):
    factor = [2.0]
    monkeypatch.setattr(F, "relu", lambda x: x * factor[0])
    compiled = torch.compile(lambda x: F.relu(x))
    assert [compiled(torch.ones(1)).item() for _ in range(2)] == [2, 2]
    factor[0] = 5.0
    assert compiled(torch.ones(1)).item() == 5


def test_a_name_of_the_users_stays_the_function_that_it_was(monkeypatch):
    compiled = torch.compile(lambda x: relu(x))
    compiled(torch.ones(1))
    monkeypatch.setattr(F, "relu", tripled)
    assert compiled(torch.ones(1)).item() == 1
    assert len(compiled.programs) == 1


def test_who_shows_tensors_otherwise_may_compile(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__repr__", lambda self: "a tensor")
    f = torch.compile(lambda x: x * 2)
    assert [f(torch.ones(1)).item() for _ in range(3)] == [2, 2, 2]
    assert repr(torch.ones(1)) == "a tensor"
    with pytest.raises(CaptureError, match="read in Python"):
        torch.compile(lambda x: (repr(x), x)[1])(torch.ones(1))


def test_a_method_of_a_class_of_optimizers_is_noticed(monkeypatch):
    w = torch.ones(1, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.5)

    @torch.compile
    def step():
        optimizer.zero_grad()
        w.sum().backward()
        optimizer.step()
        return w.detach().clone()

    assert [step().item() for _ in range(2)] == [0.5, 0]
    with monkeypatch.context() as patch:
        patch.setattr(optim.SGD, "step", lambda self: w.data.add_(3))
        assert [step().item() for _ in range(2)] == [3, 6]
    assert step().item() == 5.5
    # What recordings themselves put something else in the place of is refused.
    with monkeypatch.context() as patch:
        patch.setattr(optim.Optimizer, "step", lambda self: w.data.add_(3))
        with pytest.raises(CaptureError, match=r"Optimizer\.step is not the package's own"):
            step()
    assert [step().item() for _ in range(2)] == [5, 4.5]


SCALE = 2.0


class Scaled:
    """An object whose `__init__` reads a global."""

    def __init__(self, x):
        self.value = x * SCALE
        self.steps = 0

    def again(self, x):
        return type(self)(x).value

    def as_class(self, x):
        return self.__class__(x).value

    @classmethod
    def made(cls, x):
        return cls(x).value

    def by_method(self, x):
        return self.made(x)

    def counted(self, x):
        return x + self.value


class Fixed(Scaled):
    """Its objects are made elsewhere."""


@pytest.mark.parametrize("name", ["again", "as_class", "made", "by_method"])
def test_what_init_reads_where_objects_are_made(name, monkeypatch):
    one, x = Fixed(torch.ones(2)), torch.ones(2)
    compiled = torch.compile(getattr(one, name))
    for _ in range(4):
        assert compiled(x).tolist() == [2.0, 2.0]
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert compiled(x).tolist() == [3.0, 3.0]


def test_what_only_init_names_is_not_compared(monkeypatch):
    one, x = Fixed(torch.ones(2)), torch.ones(2)
    compiled = torch.compile(one.counted)
    for _ in range(4):
        assert compiled(x).tolist() == [3.0, 3.0]
        one.steps += 1
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert compiled(x).tolist() == [3.0, 3.0]
    assert sum(map(len, compiled.programs.values())) == 1
    one.value = torch.zeros(2)
    assert compiled(x).tolist() == [1.0, 1.0]


class Reset(Scaled):
    def reset(self, x):
        self.__init__(x)
        return self.value

    def by_name(self, x, kind=type):
        return kind(self)(x).value


@pytest.mark.parametrize("name", ["reset", "by_name"])
def test_what_init_reads_where_it_is_called(name, monkeypatch):
    one, x = Reset(torch.ones(2)), torch.ones(2)
    compiled = torch.compile(getattr(one, name), fallback="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(4):
            assert compiled(x).tolist() == [2.0, 2.0]
        monkeypatch.setitem(globals(), "SCALE", 3.0)
        assert compiled(x).tolist() == [3.0, 3.0]
