"""A compiled step is the eager step: workloads, demos, modules, optimizers and random programs.

A case makes a step from a seed. Twenty eager steps and twenty compiled ones from the same start must
give the same results and leave the same behind: everything that can be reached from the step, with
gradients, states of optimizers, buffers, versions and the generator.

Most cases run their recordings by `interpreter.py`, because a program takes a second to compile;
`MICROTORCH_FUZZ=1000 pytest tests/test_capture_equality.py` compiles them all, and tries so many
random programs (a third of them compiled).
"""

import ast
import contextlib
import os
import sys
import types
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_functions
import test_fuzz
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from interpreter import Interpreter
from test_nn_modules import MODULES, RECURRENT, drawn

import microtorch as torch
from microtorch import nn
from microtorch.capture import kept
from microtorch.capture.program import Compiled, CompiledModule
from microtorch.capture.tape import CaptureError
from microtorch.func import functional_call
from microtorch.optim import lr_scheduler

# Last, so that the package is the installed one.
sys.path.append(str(Path(__file__).parent.parent))
COMPILED, WORKLOADS = import_module("bench.compiled").COMPILED, import_module("bench").WORKLOADS

# Recurrent layers are long programs, which are compiled all the same.
pytestmark = pytest.mark.filterwarnings("ignore:a compiled function has become")

F = nn.functional
STEPS = 20
THOROUGH = "MICROTORCH_FUZZ" in os.environ
PROGRAMS = int(os.environ.get("MICROTORCH_FUZZ", "16"))
EXECUTORS = ["interpreted", "compiled"] if THOROUGH else ["interpreted"]
TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


# ------------------------------------------------------------------------------ what is compared
def reached(root):
    """All arrays and numbers that can be reached from a step or its results, by their path."""
    found: dict[str, Any] = {}
    seen: dict[int, Any] = {}

    def visit(path, x):
        if isinstance(x, (bool, int, float, np.ndarray)):
            found[path] = np.array(x)
        if id(x) in seen:
            return
        seen[id(x)] = x
        if isinstance(x, Compiled):
            visit(path, x.function)
        elif isinstance(x, types.FunctionType):
            for name, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True):
                visit(f"{path}.{name}", cell.cell_contents)
        elif isinstance(x, torch.Tensor):
            found[path] = np.array(x.detach())
            # Results are no views of what they come from; a gradient may be made anew.
            version = None if path.endswith(".grad") or path[:6] == "result" else x._version
            found[f"{path} flags"] = x.requires_grad, x.is_leaf, version
            if x.is_leaf:
                visit(f"{path}.grad", x.grad)
        elif isinstance(x, CompiledModule):
            visit(path, x._orig_mod)
        elif isinstance(x, nn.Module):
            for name, t in [*x.named_parameters(), *x.named_buffers()]:
                visit(f"{path}.{name}", t)
        elif isinstance(x, torch.optim.Optimizer):
            for k, group in enumerate(x.param_groups):
                visit(f"{path}[{k}]", group)
                for j, p in enumerate(group["params"]):
                    visit(f"{path}[{k}][{j}]", dict(x.state[p]))
        elif isinstance(x, torch.Value):
            found[path] = np.array([x.data, x.grad])
        elif isinstance(x, (list, tuple)):
            for k, value in enumerate(x):
                visit(f"{path}[{k}]", value)
        elif isinstance(x, dict):
            for k, value in x.items():
                visit(f"{path}[{k!r}]", value)
        elif hasattr(x, "__dict__") and not isinstance(x, (type, types.ModuleType)):
            visit(path, vars(x))

    visit("step" if callable(root) else "result", root)
    return found


def same(wanted, found, tolerance):
    """Assert that all numbers are equal, floats but for rounding."""
    assert list(wanted) == list(found)
    for path, a in wanted.items():
        b = found[path]
        if not isinstance(a, np.ndarray):
            assert a == b, (path, a, b)
            continue
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        if a.dtype.kind != "f":
            assert np.array_equal(a, b), (path, a, b)
            continue
        # Gradients that would be 0 without rounding are noise.
        noisy = path.endswith((".grad", "['momentum_buffer']"))
        wanted_of_dtype = max(tolerance, 1e-6 if a.dtype == np.float32 else 0)
        scale = wanted_of_dtype * np.abs(a[np.isfinite(a)]).max(initial=0.1 if noisy else 1e-30)
        assert np.allclose(b, a, rtol=0, atol=scale, equal_nan=True), (path, a, b)


@contextlib.contextmanager
def setting(executor="compiled", dtype="float32"):
    """A fresh start: seed, default dtype, and what runs recordings."""
    build, before = kept.build, torch.get_default_dtype()
    kept.build = Interpreter if executor == "interpreted" else build
    torch.set_default_dtype(DTYPES[dtype])
    torch.manual_seed(3)
    try:
        yield
    finally:
        kept.build = build
        torch.set_default_dtype(before)


def run(make, steps, between=None):
    """The results of all steps, and what they leave."""
    step = make()
    results = []
    for k in range(steps):
        results.append(reached([step()]))
        if between:
            between(k, step)
    return step, results, {**reached(step), "generator": np.array(torch.get_rng_state())}


def check(make, dtype="float32", executor="compiled", steps=STEPS, between=None, tolerance=None):
    """Twenty compiled steps are twenty eager ones, and most of them ran as a program."""
    tolerance = tolerance or TOLERANCE[dtype]
    with setting(executor, dtype):
        _, results, left = run(make, steps, between)
        torch.manual_seed(3)
        step, others, remains = run(lambda: torch.compile(make()), steps, between)
    for a, b in zip(results, others, strict=True):
        same(a, b, tolerance)
    same(left, remains, tolerance)
    assert not step.eager and sum(map(len, step.programs.values())) <= 2
    assert step.latest.uses >= steps - 3


# ----------------------------------------------------------------------------- workloads and demos
READS = {
    "two_layer": "reads its loss",
    "indexing_20": "the shape of what a mask takes depends on values",
    "indexing_1000": "the shape of what a mask takes depends on values",
}
LARGE = ("1e7", "2000x1000", "1e5", "conv2d", "mlp_adam", "1e6")
STEPS_OF = {w.name: w.makers["microtorch"] for w in WORKLOADS if w.name not in READS}
STEPS_OF |= {w.name: w.makers[next(n for n in w.makers if n in ("torch", "micrograd"))]
             for w in COMPILED}  # fmt: skip


WORKS = [(n, d, e) for n in STEPS_OF for d in DTYPES for e in ("interpreted", "compiled")
         if (d == "float64" or "value" not in n) and (e == "compiled" or "chain1e" not in n)
         and (THOROUGH or d == ("float32" if n.startswith("compiled") else "float64"))
         and (THOROUGH or (e == "compiled") == n.startswith("compiled"))]  # fmt: skip


@pytest.mark.parametrize("name, dtype, executor", WORKS)
def test_workloads(name, dtype, executor):
    few = not THOROUGH and name.endswith(LARGE)
    check(partial(STEPS_OF[name], torch), dtype, executor, steps=4 if few else STEPS)


@pytest.mark.parametrize("name", READS)
def test_workloads_that_read_are_refused(name):
    make = next(w.makers["microtorch"] for w in WORKLOADS if w.name == name)
    with pytest.raises(CaptureError, match="workloads.py:"):
        torch.compile(make(torch))()


DEMOS = ("linear_regression", "logistic_regression", "two_layer_net", "micrograd_moons")


class Found(Exception):
    """Ends a demo as soon as its step is there."""


@pytest.mark.parametrize("name", DEMOS)
def test_demos(name, monkeypatch):
    pytest.importorskip("matplotlib", reason="the demos need matplotlib: pip install '.[demos]'")
    pytest.importorskip("PIL", reason="the demos need pillow: pip install '.[demos]'")
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "demos"))
    demo = import_module(name)

    def found(args, step):
        raise Found(step)

    def make():
        with pytest.raises(Found) as caught:
            demo.main([])
        return caught.value.args[0]

    monkeypatch.setattr(demo, "compiled", found)
    if name == "micrograd_moons" and not THOROUGH:
        monkeypatch.setattr(demo, "N", 10)
    check(make)


# ------------------------------------------------------------------------------------- modules
# Modules that have no sample in test_nn_modules.py; the second half are other losses.
MORE = """
ReLU() | 3,4
ReLU(inplace=True) | 3,4
ReLU6() | 3,4
LeakyReLU(0.2) | 3,4
ELU(0.5) | 3,4
SELU() | 3,4
CELU(0.5) | 3,4
SiLU() | 3,4
Mish() | 3,4
Sigmoid() | 3,4
Tanh() | 3,4
Hardtanh(-0.5, 1) | 3,4
Hardswish() | 3,4
Hardsigmoid() | 3,4
GELU() | 3,4
GELU(approximate="tanh") | 3,4
Softsign() | 3,4
Softshrink(0.3) | 3,4
Softmax2d() | 2,3,4,4
PixelUnshuffle(2) | 2,2,6,6
Softplus(2, 3) | 3,4
LogSigmoid() | 3,4
Dropout(0.5, inplace=True) | 5,4
Dropout(1.0) | 5,4
NLLLoss(weight=torch.rand(4), ignore_index=1) | 5,4 i5
NLLLoss(reduction="none") | 5,4,3 i5,3
NLLLoss(reduction="sum") | 2,3,4,2 i2,4,2
CrossEntropyLoss(weight=torch.rand(4), ignore_index=2, label_smoothing=0.2) | 5,4 i5
CrossEntropyLoss(reduction="none") | 5,4 p5,4
CrossEntropyLoss(reduction="sum") | 5,4,3 i5,3
BCELoss(weight=torch.rand(5), reduction="none") | p5 p5
BCEWithLogitsLoss(pos_weight=torch.rand(3), reduction="sum") | 5,3 p5,3
MSELoss(reduction="none") | 3,4 3,4
L1Loss(reduction="sum") | 3,4 3,4
KLDivLoss(reduction="sum") | 3,4 p3,4
CosineEmbeddingLoss(reduction="none") | 3,4 3,4 s3
""".strip().splitlines()
CONTAINERS = """Module ModuleDict ModuleList ParameterDict ParameterList"""
REFUSED = len(RECURRENT) - next(k for k, line in enumerate(RECURRENT) if line.endswith("5,2,2"))
SAMPLES = [tuple(part.strip() for part in line.split("|")) for line in MORE]
SAMPLES = [*MODULES, *SAMPLES,
           *(tuple(p.strip() for p in line.split("|")) for line in RECURRENT[:-REFUSED])]  # fmt: skip


def test_every_module_has_a_sample():
    text = " ".join(f"nn.{constructor}" for constructor, _ in SAMPLES)
    modules = {n for n, v in vars(nn).items() if isinstance(v, type) and issubclass(v, nn.Module)}
    modules |= {n for n in dir(nn) if n[0].isupper() and isinstance(getattr(nn, n), type)
                and issubclass(getattr(nn, n), nn.Module)}  # fmt: skip
    assert not [n for n in modules - set(CONTAINERS.split()) if f"nn.{n}(" not in text]


def flat(value):
    """Tensors in nested tuples."""
    return [t for v in value for t in flat(v)] if isinstance(value, tuple) else [value]


def module_step(constructor, shapes, dtype, mode):
    """A training step of a module on inputs that differ from step to step."""
    module = eval(f"nn.{constructor}", {"nn": nn, "torch": torch})
    module.train(mode == "train")
    random = np.random.default_rng(7)
    kinds = shapes.split()
    inputs = []
    for k, text in enumerate(kinds):
        x = torch.tensor(drawn(text, random))
        if x.is_floating_point():
            x = x.to(DTYPES[dtype]).requires_grad_("Loss" not in constructor or not k)
        inputs.append(x)
    parameters = [*module.parameters()]
    optimizer = parameters and torch.optim.SGD(parameters, lr=0.02, momentum=0.9)

    def step():
        if optimizer:
            optimizer.zero_grad()
        for x in inputs:
            x.grad = None
        given = [x * 1 for x in inputs] if "inplace" in constructor else inputs
        if "LSTM" in constructor and len(given) > 1:
            out = module(given[0], (given[1], given[2]))
        else:
            out = module(*given)
        outputs = flat(out)
        terms = [(z * z * torch.linspace(1, 2, z.numel()).view(z.shape)).mean()
                 for z in outputs if z.requires_grad]  # fmt: skip
        loss = sum(terms) if terms else None
        if terms:
            loss.backward()
        if optimizer:
            optimizer.step()
        return outputs, loss

    def other_inputs(k):
        for x, text in zip(inputs, kinds, strict=True):
            with torch.no_grad():
                x.copy_(torch.tensor(drawn(text, random)))

    step.other_inputs = other_inputs
    return step


@pytest.mark.filterwarnings("ignore:dropout option", "ignore:LSTM with", "ignore:reduction")
@pytest.mark.parametrize("mode", ["train", "eval"] if THOROUGH else ["train"])
@pytest.mark.parametrize("dtype", DTYPES if THOROUGH else list(DTYPES)[:1])
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("constructor, shapes", SAMPLES, ids=[" ".join(s) for s in SAMPLES])
def test_modules(constructor, shapes, executor, dtype, mode):
    make = partial(module_step, constructor, shapes, dtype, mode)
    check(make, dtype, executor, between=lambda k, step: step.other_inputs(k))


# --------------------------------------------------------------------------------- functions
class Operands(ast.NodeTransformer):
    """Takes what makes operands out of a sample: `x(2, 3)` becomes a name."""

    def __init__(self):
        self.made: dict[str, str] = {}

    def visit_Call(self, node):
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id not in "xnib":
            return node
        name = f"operand{len(self.made)}"
        self.made[name] = ast.unparse(node)
        return ast.copy_location(ast.Name(name, ast.Load()), node)


def sample_step(code, dtype):
    """A step that evaluates a sample and the gradients of what it gives."""
    operands = Operands()
    text = ast.unparse(operands.visit(ast.parse(code, mode="eval")))
    makers = test_functions.Operands(torch, dtype).names
    made = {name: eval(maker, dict(makers)) for name, maker in operands.made.items()}
    scope = {**makers, **made, "__name__": "sample"}
    exec(compile(f"def sample():\n    return {text}", "<sample>", "exec"), scope)
    sample = scope["sample"]
    leaves = [t for t in made.values() if t.requires_grad]

    def step():
        results = test_functions.flat(torch, sample())
        terms = [(r * torch.linspace(0.5, 1.5, r.numel(), dtype=r.dtype).view(r.shape)).sum()
                 for r in results if isinstance(r, torch.Tensor) and r.requires_grad]  # fmt: skip
        if not terms or not leaves:
            return results
        return results, torch.autograd.grad(sum(terms), leaves, allow_unused=True)

    def other_values(k):
        with torch.no_grad():
            for t in made.values():
                if t.is_floating_point():
                    t.mul_(0.75)

    step.other_values = other_values
    return step


# Functions that look at values for the shape of a result, or to give it to Python: refused.
READING = set(
    """allclose apply_ argwhere bincount data equal floor_divide histc index_put masked_scatter
masked_select nn.init.trunc_normal_ nonzero remainder reshape unique unique_consecutive where
""".split()
)
REFUSALS = (
    "the shape of a result depends on values",
    "a value is read in Python (repr)",
    "a tensor gets memory of another shape",
    "a tensor from outside gets a history",
    "the generator's manual_seed is called",
)
# Of slogdet's sign, which no gradient comes from, nobody sees whether it requires grad.
CODES = [s for s in test_functions.SAMPLES if s.kind != "!" and s.name != "linalg.slogdet"]
# Samples that were once wrong.
FOUND = """
torch.kthvalue(T([5, 3, 9, 1]), 3)
torch.masked_fill(x(3, 4), b(3, 4), 5.0)
torch.scatter_add(x(3, 4), 1, i(3, 4, hi=3), x(3, 4))
torch.split(x(5), 2)
torch.cumprod(x(), 0)
torch.tanh(x(0, 3)).reshape(-1)
x().clone()
torch.median(x(7))
torch.logdet(x(3, 3))
x(3, 4)[T(1):T(3)]
""".strip().splitlines()
FOUND = [test_functions.Sample("found", "", code) for code in FOUND]


def sample_outcome(sample, dtype):
    """How compiled calls of a sample end: '', or why they are refused."""
    ends = []
    for compiled in (False, True):
        with setting("interpreted", dtype), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step = sample_step(sample.code, dtype)
            call = torch.compile(step) if compiled else step
            found = []
            for k in range(3):
                try:
                    found.append(reached([call()]))
                except CaptureError as error:
                    return str(error).split(": ", 1)[-1]
                except Exception as error:
                    found.append({"error": f"{type(error).__name__}: {error}"})
                step.other_values(k)
            ends.append([*found, reached(step)])
    for a, b in zip(*ends, strict=True):
        same(a, b, 1e-9)
    return ""


@pytest.mark.parametrize(
    "sample", FOUND + (CODES if THOROUGH else CODES[::40]), ids=lambda s: f"{s.name}: {s.code}"[:90]
)
def test_functions_one_by_one(sample):
    refused = sample_outcome(sample, "float64")
    assert not refused or sample.name in READING or refused.startswith(REFUSALS)


# What is done between forward and backward of a result in the graph, and to what.
BETWEEN = {
    "nothing": lambda w, scale: None,
    "buffer": lambda w, scale: scale.mul_(2),
    "unused": lambda w, scale: w.detach().mul_(2),
    "replaced": lambda w, scale: setattr(scale, "data", torch.zeros(3)),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_changes_before_backward(name):
    def ends(compiled):
        w, scale = torch.tensor([1.0, 2, 3], requires_grad=True), torch.ones(3)
        call = torch.compile(lambda: (w * scale).sum()) if compiled else lambda: (w * scale).sum()
        found = []
        for _ in range(2):
            z = call()
            BETWEEN[name](w, scale)
            try:
                z.backward()
            except RuntimeError as error:
                found.append(str(error)[:60])
            found.append(None if w.grad is None else w.grad.tolist())
        return found

    with setting("interpreted"):
        assert ends(True) == ends(False)


# ----------------------------------------------------------------------------------- training
def perceptron():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def training(make_optimizer, make_model=perceptron, shape=(8, 4), after=None, schedule=None):
    """Steps of a classifier; `after` runs between backward and the update."""

    def make():
        x, y = torch.randn(*shape), torch.randint(0, 3, shape[:1])
        model = make_model()
        optimizer = make_optimizer(model.parameters())
        schedules = [s(optimizer) for s in schedule or ()]

        def step():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            found = after and after(model)
            optimizer.step()
            return loss, found

        step.schedules = schedules
        return step

    return make


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def grouped(parameters):
    first, *rest = parameters
    groups = [{"params": [first], "lr": 0.01, "weight_decay": 0.1}, {"params": rest}]
    return torch.optim.Adam(groups, lr=0.02)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD, weight_decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "SGD, dampening": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01
    ),
    "SGD, nesterov": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, nesterov=True, maximize=True
    ),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam, options": lambda p: torch.optim.Adam(
        p, 0.01, (0.8, 0.99), 1e-6, 0.1, True, maximize=True
    ),
    "Adam, decoupled": lambda p: torch.optim.Adam(
        p, 0.01, weight_decay=0.1, decoupled_weight_decay=True
    ),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "AdamW, amsgrad": lambda p: torch.optim.AdamW(p, 0.01, (0.5, 0.9), amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01),
    "RMSprop, options": lambda p: torch.optim.RMSprop(
        p, 0.01, 0.9, 1e-6, 0.1, 0.9, centered=True, maximize=True
    ),
    "RMSprop, momentum": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.1),
    "Adagrad, options": lambda p: torch.optim.Adagrad(p, 0.1, 0.1, 0.1, 0.2, 1e-6, maximize=True),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "Adamax, options": lambda p: torch.optim.Adamax(p, 0.01, (0.8, 0.99), 1e-6, 0.1, maximize=True),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
    "NAdam, options": lambda p: torch.optim.NAdam(
        p, 0.01, (0.8, 0.99), 1e-6, 0.1, 0.01, maximize=True
    ),
    "NAdam, decoupled": lambda p: torch.optim.NAdam(
        p, 0.01, weight_decay=0.1, decoupled_weight_decay=True
    ),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adadelta, options": lambda p: torch.optim.Adadelta(p, 0.5, 0.8, 1e-5, 0.1, maximize=True),
    "RAdam": lambda p: torch.optim.RAdam(p),
    "RAdam, options": lambda p: torch.optim.RAdam(
        p, 0.1, (0.5, 0.6), 1e-4, 0.1, True, maximize=True
    ),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "Rprop, options": lambda p: torch.optim.Rprop(p, 0.1, (0.3, 1.5), (1e-3, 0.2), maximize=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p),
    "Adafactor, options": lambda p: torch.optim.Adafactor(
        p, 0.05, -0.5, (1e-4, 0.1), 1.5, 0.5, maximize=True
    ),
    "ASGD": lambda p: torch.optim.ASGD(p),
    "ASGD, options": lambda p: torch.optim.ASGD(p, 0.1, 0.01, 0.9, 4, 0.1, maximize=True),
    "groups": grouped,
}
SCHEDULES = {
    "StepLR": [lambda o: lr_scheduler.StepLR(o, 3)],
    "MultiStepLR": [lambda o: lr_scheduler.MultiStepLR(o, [4, 9])],
    "ExponentialLR": [lambda o: lr_scheduler.ExponentialLR(o, 0.8)],
    "ConstantLR": [lambda o: lr_scheduler.ConstantLR(o, 0.5, 4)],
    "LinearLR": [lambda o: lr_scheduler.LinearLR(o)],
    "PolynomialLR": [lambda o: lr_scheduler.PolynomialLR(o, 12, 2)],
    "LambdaLR": [lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 / (k + 1))],
    "MultiplicativeLR": [lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.9)],
    "CosineAnnealingLR": [lambda o: lr_scheduler.CosineAnnealingLR(o, 7)],
    "CosineAnnealingWarmRestarts": [lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6)],
    "OneCycleLR": [lambda o: lr_scheduler.OneCycleLR(o, 0.1, 25)],
    "two": [lambda o: lr_scheduler.StepLR(o, 2), lambda o: lr_scheduler.ExponentialLR(o, 0.9)],
}


def clipped(*args, **options):
    return lambda model: nn.utils.clip_grad_norm_(model.parameters(), *args, **options)


def accumulation():
    model, data = perceptron(), [(torch.randn(5, 4), torch.randint(0, 3, (5,))) for _ in range(2)]
    optimizer = sgd(model.parameters())

    def step():
        optimizer.zero_grad(set_to_none=False)
        for x, y in data:
            (F.cross_entropy(model(x), y) / 2).backward()
        optimizer.step()

    return step


def never_cleared():
    model, x = perceptron(), torch.randn(5, 4)
    optimizer = torch.optim.Adam(model.parameters())

    def step():
        model(x).square().mean().backward()
        optimizer.step()

    return step


def penalty():
    critic, x = perceptron(), torch.randn(6, 4)
    optimizer = torch.optim.Adam(critic.parameters(), betas=(0.5, 0.9))

    def step():
        optimizer.zero_grad()
        given = x.detach().clone().requires_grad_()
        score = critic(given).sum(1)
        (slope,) = torch.autograd.grad(score.sum(), given, create_graph=True)
        loss = score.mean() + 10 * ((slope.norm(2, dim=1) - 1) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss, slope

    return step


def adversarial():
    generator = nn.Sequential(nn.Linear(2, 6), nn.LeakyReLU(0.2), nn.Linear(6, 3))
    critic = nn.Sequential(nn.Linear(3, 6), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(6, 1))
    real = torch.randn(8, 3) + 2
    first = torch.optim.Adam(generator.parameters(), 0.01, (0.5, 0.999))
    second = torch.optim.RMSprop(critic.parameters(), 0.01)

    def step():
        fake = generator(torch.randn(8, 2))
        second.zero_grad()
        right = F.binary_cross_entropy_with_logits(critic(real), torch.ones(8, 1))
        wrong = F.binary_cross_entropy_with_logits(critic(fake.detach()), torch.zeros(8, 1))
        (right + wrong).backward()
        second.step()
        first.zero_grad()
        loss = F.binary_cross_entropy_with_logits(critic(fake), torch.ones(8, 1))
        loss.backward()
        first.step()
        return loss, right, wrong, fake.detach()

    return step


def frozen_layer():
    model, x, y = perceptron(), torch.randn(5, 4), torch.randint(0, 3, (5,))
    model[0].requires_grad_(False)
    optimizer = sgd([p for p in model.parameters() if p.requires_grad])

    def step():
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def average():
    """A second model follows the first one; targets come from it under no_grad."""
    model, teacher, x = perceptron(), perceptron(), torch.randn(5, 4)
    optimizer = sgd(model.parameters())

    def step():
        with torch.no_grad():
            target = torch.softmax(teacher(x), 1)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(model.parameters(), teacher.parameters(), strict=True):
                q.mul_(0.9).add_(p, alpha=0.1)
        return loss, target

    return step


def image_model():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout2d(0.2), nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(5, 3),
    )  # fmt: skip


def words(kind):
    """A language model: embedding, recurrence, and the same weights at the end."""

    def make():
        text = torch.randint(0, 7, (4, 6))
        embedding, head = nn.Embedding(7, 5), nn.Linear(5, 7)
        recurrent = getattr(nn, kind)(5, 5, 2, batch_first=True, dropout=0.2)
        head.weight = embedding.weight
        every = nn.ModuleList([embedding, recurrent, head])
        optimizer = torch.optim.Adam(every.parameters(), 0.01)

        def step():
            optimizer.zero_grad()
            out, state = recurrent(embedding(text[:, :-1]))
            loss = F.cross_entropy(head(out).reshape(-1, 7), text[:, 1:].reshape(-1))
            loss.backward()
            nn.utils.clip_grad_norm_(every.parameters(), 0.5)
            optimizer.step()
            return loss, out, state

        return step

    return make


def attention():
    """A transformer's block with a causal mask."""
    x = torch.randn(2, 5, 8)
    project, out, norm = nn.Linear(8, 24, bias=False), nn.Linear(8, 8), nn.LayerNorm(8)
    feed = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    every = nn.ModuleList([project, out, norm, feed])
    optimizer = torch.optim.AdamW(every.parameters(), 0.01)

    def step():
        optimizer.zero_grad()
        q, k, v = (t.reshape(2, 5, 2, 4).transpose(1, 2) for t in project(norm(x)).chunk(3, -1))
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1, is_causal=True)
        z = x + out(seen.transpose(1, 2).reshape(2, 5, 8))
        loss = (z + feed(z) - 2).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def transformer():
    """A whole transformer, with a causal mask and one of what is padding."""
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = torch.randn(4, 6, 8), torch.randn(4, 5, 8)
    mask = model.generate_square_subsequent_mask(5, dtype=y.dtype)
    padding = torch.arange(6) >= torch.tensor([[6], [4], [5], [6]])

    def step():
        optimizer.zero_grad()
        out = model(
            x, y, None, mask, None, padding, None, padding, tgt_is_causal=True
        )  # fmt: skip
        loss = (out - y).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def by_hand():
    """Attention written out, with a mask that is made inside."""
    x, w = torch.randn(5, 4), [torch.randn(4, 4, requires_grad=True) for _ in range(3)]

    def step():
        q, k, v = (x @ m for m in w)
        scores = (q @ k.T) / 2
        hidden = torch.triu(torch.ones(5, 5), 1) > 0
        weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), -1)
        loss = (weights @ v - x).pow(2).sum()
        for g, m in zip(torch.autograd.grad(loss, w), w, strict=True):
            with torch.no_grad():
                m -= 0.01 * g
        return loss, weights

    return step


def closures():
    """Optimizers that call the loss themselves."""
    model, x = perceptron(), torch.randn(5, 4)
    optimizer = sgd(model.parameters())

    def loss():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    return lambda: optimizer.step(loss)


def inner_steps():
    """A step of a step: gradients through an update, by `functional_call`."""
    model, x, y = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), torch.randn(8, 4), 0.5
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def step():
        optimizer.zero_grad()
        own = dict(model.named_parameters())
        inner = (functional_call(model, own, x[:4]) - y).square().mean()
        grads = torch.autograd.grad(inner, list(own.values()), create_graph=True)
        moved = {k: p - 0.1 * g for (k, p), g in zip(own.items(), grads, strict=True)}
        loss = (functional_call(model, moved, (x[4:],)) - y).square().mean()
        loss.backward()
        optimizer.step()
        return loss, inner

    return step


CASES = {
    **{f"optimizer {k}": training(v) for k, v in OPTIMIZERS.items()},
    "norm 2": training(sgd, after=clipped(0.1)),
    "norm 1": training(sgd, after=clipped(0.5, norm_type=1)),
    "norm inf": training(sgd, after=clipped(0.05, norm_type=float("inf"))),
    "norm 3": training(sgd, after=clipped(0.05, norm_type=3.0)),
    "large norm": training(sgd, after=clipped(1e3)),
    "values": training(
        sgd, after=lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.01)
    ),
    "functional_call": inner_steps,
    "accumulation": accumulation,
    "never cleared": never_cleared,
    "penalty": penalty,
    "adversarial": adversarial,
    "frozen": frozen_layer,
    "average": average,
    "images": training(sgd, image_model, (4, 2, 8, 8)),
    "LSTM": words("LSTM"),
    "GRU": words("GRU"),
    "attention": attention,
    "transformer": transformer,
    "attention by hand": by_hand,
    "closure": closures,
}


@pytest.mark.parametrize("dtype", DTYPES if THOROUGH else ["float64"])
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", CASES)
def test_training(name, executor, dtype):
    check(CASES[name], dtype, executor)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name, executor):
    make = training(sgd, schedule=SCHEDULES[name])
    check(make, "float64", executor, between=lambda k, step: [s.step() for s in step.schedules])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_schedule_that_looks_at_losses(executor):
    losses = iter([3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0] * 4)
    make = training(sgd, schedule=[lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1)])

    def between(k, step):
        step.schedules[0].step(next(losses))

    check(make, "float64", executor, between=between)


# ---------------------------------------------------------------------------- random programs
CALLS = 4


def function_of(lines, leaves, arguments):
    """A function that runs lines and gives all variables; leaves are its arguments or globals."""
    names = sorted({line.split(" = ")[0].removeprefix("with torch.no_grad(): ") for line in lines
                    if line.removeprefix("with torch.no_grad(): ")[:1] == "v"
                    and " = " in line and line.split(" = ")[0].split()[-1][1:].isdigit()})  # fmt: skip
    first = [] if arguments else [f"global {', '.join(leaves)}"]
    last = [f"return ({''.join(f'{n}, ' for n in (*names, 'loss'))})"]
    body = "\n    ".join([*first, *lines, *last])
    return f"def program({', '.join(leaves) if arguments else ''}):\n    {body}\n"


def program_of(shapes, genes, twice, arguments, clear):
    """The lines that make leaves, and the text of a function on them; None without gradients."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = len(shapes)
        lines = test_fuzz.whole(torch, shapes, genes, twice)
        names = test_fuzz.names_of(torch)
        works = [line for line in lines if test_fuzz.run_line(line, names) is None]
    if "loss" not in names:
        return None
    if lines[-1] != works[-1]:
        return None
    leaves = "abc"[:count]
    update = ["with torch.no_grad():"]
    for x in leaves:
        # An operand that was written in place may be a leaf no more.
        if names[x].is_leaf and names[x].requires_grad and names[x].grad is not None:
            update.append(f"    {x} -= 0.05 * torch.tanh({x}.grad)")
            if clear:
                update.append(f"    {x}.grad = None" if clear == 1 else f"    {x}.grad.zero_()")
    if len(update) == 1:
        return None
    body = [*works[count:], *update]
    return (
        lines[:count],
        leaves,
        function_of("\n".join(body).replace("\n", "\n    ").split("\n    "), leaves, arguments),
    )


def outcome(start, leaves, text, arguments, executor):
    """What calls give and leave, or how they end; an executor of None is eager mode."""
    with setting(executor or "compiled"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"torch": torch, "__name__": "program"}
        for line in start:
            exec(line, names)
        exec(compile(text, "<program>", "exec"), names)
        call = torch.compile(names["program"]) if executor else names["program"]
        found = []
        for k in range(CALLS):
            given = [names[x] for x in leaves] if arguments else []
            try:
                results = reached([call(*given)])
            except CaptureError as error:
                return str(error), found
            except Exception as error:
                results = {"error": f"{type(error).__name__}: {error}"}
            found.append(results | reached([[names[x] for x in leaves]]))
            if k == 1:
                # Between calls the caller changes what the program reads.
                with torch.no_grad():
                    names["a"].mul_(0.75)
        uses = call.latest.uses if executor and call.latest else 0
        return uses, found


genes = st.tuples(
    st.lists(st.integers(0, 13), min_size=1, max_size=3),
    st.lists(test_fuzz.gene, min_size=1, max_size=12),
    st.booleans(), st.booleans(), st.integers(0, 2),
)  # fmt: skip
COUNTS: dict[str, int] = {}


def random_programs(count, executor):
    """A test of `count` programs."""

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=not THOROUGH,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
    )
    @given(drawn=genes)
    def test(drawn):
        made = program_of(*drawn)
        if made is None:
            return
        start, leaves, text = made
        _, wanted = outcome(start, leaves, text, drawn[3], None)
        uses, found = outcome(start, leaves, text, drawn[3], executor)
        kind = uses.split(": ", 1)[-1] if isinstance(uses, str) else "run" if uses else "never run"
        COUNTS[f"{executor}, {kind}"] = COUNTS.get(f"{executor}, {kind}", 0) + 1
        try:
            for a, b in zip(wanted, found, strict=False):
                if any(np.abs(v).max(initial=0) > 100 for v in a.values() if type(v) is np.ndarray):
                    break
                same(a, b, 1e-9)
            if isinstance(uses, str):
                # No other one should be refused.
                assert "program>:" in uses and "a tensor from outside gets a history" in uses
        except AssertionError as error:
            raise AssertionError("\n".join(["", *start, text, str(error)])) from None

    return test


@pytest.mark.parametrize("executor", ["interpreted", "compiled"])
def test_random_programs(executor):
    try:
        random_programs(PROGRAMS if executor == "interpreted" else -(-PROGRAMS // 3), executor)()
    finally:
        # What became of them; pytest -s shows it.
        print(*(f"{n:6} {kind}" for kind, n in sorted(COUNTS.items())), sep="\n")
