"""Optimizers take PyTorch's steps and keep PyTorch's state."""

import copy

import numpy as np
import pytest

import microtorch
import microtorch.capture.tape

OPTIMIZERS = """
SGD(p, 0.1)
SGD(p, 0.1, momentum=0.9, weight_decay=0.01)
SGD(p, 0.1, momentum=0.9, nesterov=True)
SGD(p, 0.001, momentum=0.9, dampening=0.5, maximize=True)
Adam(p, 0.01)
Adam(p, 0.01, amsgrad=True, weight_decay=0.1)
AdamW(p, 0.01)
RMSprop(p)
RMSprop(p, 0.01, 0.9, weight_decay=0.1)
RMSprop(p, 0.01, momentum=0.9)
RMSprop(p, 0.01, centered=True)
RMSprop(p, 0.01, centered=True, momentum=0.5, maximize=True)
Adagrad(p)
Adagrad(p, 0.1, 0.05, 0.01, 0.5)
Adamax(p)
Adamax(p, 0.01, (0.8, 0.99), 1e-6, 0.1, maximize=True)
NAdam(p)
NAdam(p, 0.01, weight_decay=0.1, momentum_decay=0.01)
NAdam(p, 0.01, weight_decay=0.1, decoupled_weight_decay=True, maximize=True)
Adadelta(p)
Adadelta(p, 0.5, 0.8, 1e-5, 0.1, maximize=True)
RAdam(p)
RAdam(p, 0.1, (0.5, 0.9), weight_decay=0.1, maximize=True)
RAdam(p, 0.1, (0.5, 0.6), 1e-4, 0.1, True)
Rprop(p)
Rprop(p, 0.1, (0.3, 1.5), (0.001, 0.2), maximize=True)
ASGD(p)
ASGD(p, 0.01, 0.01, 0.9, 4, 0.1, maximize=True)
Adafactor(p)
Adafactor(p, 0.1, -0.5, (1e-4, 0.1), 1.5, 0.5, maximize=True)
""".strip().splitlines()
ERRORS = """
RMSprop(p, -1)
RMSprop(p, alpha=-1)
RMSprop(p, momentum=-0.5)
Adagrad(p, -1)
Adagrad(p, lr_decay=-1)
Adagrad(p, eps=-1)
Adamax(p, -1)
Adamax(p, betas=(0.5, 1.0))
NAdam(p, momentum_decay=-1)
NAdam(p, eps=-1)
Adadelta(p, rho=2)
Adadelta(p, weight_decay=-1)
RAdam(p, -1)
RAdam(p, betas=(1.0, 0.5))
RAdam(p, weight_decay=-1)
Rprop(p, -1)
Rprop(p, etas=(0, 1.2))
Rprop(p, etas=(0.5, 1))
ASGD(p, -1)
ASGD(p, weight_decay=-1)
Adafactor(p, -1)
Adafactor(p, beta2_decay=1)
Adafactor(p, eps=(-1, 1))
Adafactor(p, eps=(None, -1))
Adafactor(p, d=0.5)
Adafactor(p, weight_decay=-1)
LBFGS(p, -1)
LBFGS([{"params": p[:1]}, {"params": p[1:]}])
""".strip().splitlines()


def steps(torch, code, dtype, place="cpu"):
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    p = [
        torch.randn(3, 4, dtype=kind).to(place).requires_grad_(),
        torch.randn(5, dtype=kind).to(place).requires_grad_(),
    ]
    x = torch.randn(4, dtype=kind).to(place)
    optimizer = eval(code, {"p": p, **vars(torch.optim)})
    for _ in range(20):
        optimizer.zero_grad()
        ((p[0] @ x).sin().sum() + (p[1] ** 2).sum() * (p[0] ** 2).mean()).backward()
        optimizer.step()
    state = optimizer.state_dict()
    values = [q.tolist() for q in p]
    for number, entry in sorted(state["state"].items()):
        values += [[number, k, v if v is None else v.tolist()] for k, v in sorted(entry.items())]
    return values, [sorted(g) for g in state["param_groups"]], repr(optimizer)


def flat(values):
    for v in values:
        if isinstance(v, list):
            yield from flat(v)
        else:
            yield v


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("code", OPTIMIZERS)
def test_steps_beside_pytorch(code, dtype):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    mine, theirs = (steps(module, code, dtype) for module in (microtorch, torch))
    tolerance = 2e-5 if dtype == "float32" else 1e-11
    for a, b in zip(flat(mine[0]), flat(theirs[0]), strict=True):
        assert a == (
            b
            if isinstance(b, (str, type(None)))
            else pytest.approx(b, tolerance, tolerance, nan_ok=True)
        )
    if not code.startswith(("SGD(", "Adam(", "AdamW(")):
        assert mine[1:] == theirs[1:]


@pytest.mark.parametrize("code", ERRORS)
def test_errors_beside_pytorch(code):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    words = []
    for module in (microtorch, torch):
        with pytest.raises(ValueError) as caught:
            steps(module, code, "float32")
        words.append(str(caught.value))
    assert words[0] == words[1]


STATEFUL = [
    "SGD(p, 0.1, momentum=0.9)",
    "Adam(p)",
    "AdamW(p)",
    "RMSprop(p)",
    "Adagrad(p)",
    "Adamax(p)",
    "NAdam(p)",
    "Adadelta(p)",
    "RAdam(p)",
    "Rprop(p)",
    "ASGD(p)",
    "Adafactor(p)",
]


def values(optimizer):
    return [
        {k: v.tolist() if hasattr(v, "tolist") else v for k, v in state.items()}
        for state in optimizer.state_dict()["state"].values()
    ] + [p.tolist() for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("code", STATEFUL)
def test_a_step_that_fails_changes_nothing(code, groups):
    tensors = [microtorch.ones(n, requires_grad=True) for n in (2, 3)]
    p = tensors if groups == 1 else [{"params": [t]} for t in tensors]
    optimizer = eval(code, {**vars(microtorch.optim), "p": p})
    for t in tensors:
        t.grad = microtorch.ones(len(t))
    optimizer.step()
    # The second parameter has made fewer steps: it is updated by another call.
    if code != "Adagrad(p)":
        optimizer.state.pop(tensors[1])
    tensors[1].data = microtorch.zeros(2)
    before = values(optimizer)
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert values(optimizer) == before


@pytest.mark.parametrize("code", STATEFUL)
def test_a_state_continues_elsewhere(code):
    def made():
        p = [microtorch.ones(2, 3, requires_grad=True)]
        return p[0], eval(code, {**vars(microtorch.optim), "p": p})

    (p, optimizer), (q, other) = made(), made()
    p.grad = q.grad = microtorch.full((2, 3), 0.5)
    optimizer.step()
    other.load_state_dict(optimizer.state_dict())
    q.data = p.data.clone()
    optimizer.step()
    other.step()
    assert values(other) == values(optimizer)


@pytest.mark.parametrize("name", ["microtorch", "torch"])
def test_amsgrad_switched_on_later(name):
    torch = pytest.importorskip(name)
    p = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.Adam([p])
    p.grad = torch.ones(2)
    optimizer.step()
    before = values(optimizer)
    optimizer.param_groups[0]["amsgrad"] = True
    with pytest.raises(KeyError, match="max_exp_avg_sq"):
        optimizer.step()
    assert values(optimizer) == before


def test_a_rate_that_is_no_number_changes_nothing():
    p = microtorch.ones(2, requires_grad=True)
    optimizer = microtorch.optim.Adam([p])
    p.grad = microtorch.ones(2)
    optimizer.param_groups[0]["betas"] = (0.9, "x")
    with pytest.raises(TypeError):
        optimizer.step()
    assert values(optimizer) == [[1, 1]]


NAMED = """
SGD([("a", a), ("b", b)])
SGD([{"params": [("a", a)], "lr": 1}, {"params": iter([("b", b)])}])
Adam([("a", a), ("b", b)])
SGD([("a", a), b])
SGD([a, ("b", b)])
SGD([{"params": [("a", a)]}, {"params": [b]}])
SGD([{"params": [a]}, {"params": [("b", b)]}])
""".strip().splitlines()


@pytest.mark.parametrize("code", NAMED)
def test_named_parameters(code):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def result(torch):
        a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        names = {**vars(torch.optim), "a": a, "b": b}
        try:
            optimizer = eval(code, names)
        except ValueError as error:
            return str(error)
        order = [list(g) for g in optimizer.param_groups]
        shown = repr(optimizer.state_dict()["param_groups"])
        other = torch.optim.SGD([a, b])
        if len(optimizer.param_groups) == 1 and code.startswith("SGD"):
            other.load_state_dict(optimizer.state_dict())
            optimizer.load_state_dict(torch.optim.SGD([a, b], lr=3).state_dict())
        return (
            repr(optimizer),
            order,
            shown,
            other.param_groups[0].get("param_names"),
        )

    assert result(microtorch) == result(pytorch)


# ------------------------------------------------------------------------- across libraries
def numbers(value):
    """What tensors hold, anywhere in a state."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [numbers(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


def converted(value, torch):
    """A state with tensors of another library."""
    if isinstance(value, dict):
        return {k: converted(v, torch) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(converted(v, torch) for v in value)
    return torch.asarray(value.detach().numpy().copy()) if hasattr(value, "numpy") else value


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("forth", [True, False], ids=["from PyTorch", "to PyTorch"])
@pytest.mark.parametrize("code", [*STATEFUL, "LBFGS(p, 0.5, 3)"])
def test_a_state_of_pytorch_continues(code, forth):
    """Two groups, of which one has a rate of its own; a schedule for both."""
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")
    one_group = code.startswith("LBFGS")

    def made(torch, start):
        p = [torch.asarray(a.copy()).requires_grad_() for a in start]
        groups = p if one_group else [{"params": p[:1]}, {"params": p[1:], "lr": 0.05}]
        optimizer = eval(code, {**vars(torch.optim), "p": groups})
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

        def closure():
            optimizer.zero_grad()
            loss = (p[0] * p[1]).sum().sin() + (p[0] ** 2).sum() + ((p[1] - 1) ** 4).sum()
            loss.backward()
            return loss

        def run(steps):
            for _ in range(steps):
                optimizer.step(closure)
                schedule.step()
            return numbers([p, optimizer.state_dict()])

        return p, optimizer, schedule, run

    generator = np.random.default_rng(2)
    start = [generator.normal(size=(2, 3)), generator.normal(size=3)]
    first, second = (pytorch, microtorch) if forth else (microtorch, pytorch)
    p, optimizer, schedule, run = made(first, start)
    run(3)
    found = [q.detach().numpy() for q in p]
    _, other, its_schedule, go_on = made(second, found)
    other.load_state_dict(converted(optimizer.state_dict(), second))
    its_schedule.load_state_dict(schedule.state_dict())
    a, b = run(5), go_on(5)
    assert [list(g) for g in a[1]["param_groups"]] == [list(g) for g in b[1]["param_groups"]]
    assert [set(s) for s in a[1]["state"].values()] == [set(s) for s in b[1]["state"].values()]
    for x, y in zip(flat([a[0]]), flat([b[0]]), strict=True):
        assert x == pytest.approx(y, 1e-9, 1e-11)


# ------------------------------------------------------------------------------------ L-BFGS
LBFGS = [
    {"line_search_fn": "strong_wolfe"},
    {"lr": 0.001, "max_iter": 3},
    {"lr": 0.001, "max_iter": 9, "line_search_fn": "strong_wolfe", "history_size": 2},
    {"lr": 20, "max_iter": 5, "line_search_fn": "strong_wolfe", "tolerance_change": 1e-3},
    {"max_iter": 6, "max_eval": 3, "line_search_fn": "strong_wolfe"},
    {"max_iter": 1, "lr": 0.01, "max_eval": 1},
    {"tolerance_grad": 1e6},
]


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("options", LBFGS, ids=str)
def test_lbfgs_beside_pytorch(options):
    """The same points are evaluated, the valley of Rosenbrock's function down."""
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def run(torch):
        torch.manual_seed(0)
        x = torch.randn(4, dtype=torch.float64).requires_grad_()
        idle = torch.ones(2, dtype=torch.float64).requires_grad_()
        optimizer = torch.optim.LBFGS([x, idle], **options)
        seen = []

        def closure():
            optimizer.zero_grad()
            loss = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
            loss.backward()
            seen.append([float(loss), *x.tolist()])
            return loss

        losses = [float(optimizer.step(closure)) for _ in range(3)]
        state = optimizer.state_dict()["state"][0]
        counts = state["func_evals"], state["n_iter"], {k for k in state if k != "al"}
        return [losses, seen], counts, repr(optimizer)

    mine, theirs = run(microtorch), run(pytorch)
    assert mine[1:] == theirs[1:]
    for a, b in zip(flat(mine[0]), flat(theirs[0]), strict=True):
        assert a == pytest.approx(b, 1e-6, 1e-9)


def test_lbfgs_knows_one_line_search():
    p = microtorch.ones(2, requires_grad=True)
    optimizer = microtorch.optim.LBFGS([p], line_search_fn="wolfe")

    def closure():
        optimizer.zero_grad()
        (p * p).sum().backward()
        return (p * p).sum()

    with pytest.raises(RuntimeError, match="^only 'strong_wolfe' is supported$"):
        optimizer.step(closure)
    with pytest.raises(TypeError):
        optimizer.step()


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_in_a_compiled_function(search):
    """It reads the loss, so it is refused, and runs as it is where that is asked for."""

    def made(compile):
        p = microtorch.tensor([1.0, -2.0], requires_grad=True)
        optimizer = microtorch.optim.LBFGS([p], 0.1, 4, line_search_fn=search)

        def closure():
            optimizer.zero_grad()
            loss = ((p - 3) ** 4).sum()
            loss.backward()
            return loss

        return p, optimizer, compile(lambda: optimizer.step(closure))

    p, optimizer, step = made(microtorch.compile)
    with pytest.raises(microtorch.capture.tape.CaptureError, match=r"float\(\)|read"):
        step()
    assert p.tolist() == [1, -2] and p.grad is None and not optimizer.state
    q, _, plain = made(lambda f: f)
    p, _, step = made(lambda f: microtorch.compile(f, fallback="eager"))
    with pytest.warns(UserWarning):
        losses = [float(step()) for _ in range(5)]
    assert losses == [float(plain()) for _ in range(5)] and p.tolist() == q.tolist()


def test_lbfgs_calls_a_compiled_closure():
    def run(compile):
        microtorch.manual_seed(0)
        model, x = microtorch.nn.Linear(3, 2).double(), microtorch.rand(7, 3).double()
        optimizer = microtorch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")

        @compile
        def closure():
            optimizer.zero_grad()
            loss = (model(x).sin() - x[:, :2]).square().mean()
            loss.backward()
            return loss

        losses = [float(optimizer.step(closure).detach()) for _ in range(4)]
        return losses + numbers(model.weight)[0]

    assert run(microtorch.compile) == pytest.approx(run(lambda f: f), 1e-6)


@pytest.mark.parametrize("code", ["RAdam(p)", "Rprop(p)", "ASGD(p)", "Adafactor(p)"])
def test_gradients_that_are_zero_huge_or_no_number(code):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def run(torch):
        p = torch.ones(5, requires_grad=True)
        optimizer = eval(code, {**vars(torch.optim), "p": [p]})
        found = []
        for gradient in ([1, 0, np.nan, 1e15, -0.0], [-1, 0, 1, 1, 1], [1e-30, 2, -1, 0, 1]):
            p.grad = torch.tensor(gradient, dtype=torch.float32)
            optimizer.step()
            found += [numbers(p), numbers(optimizer.state_dict()["state"])]
        return found

    mine, theirs = ([x for v in run(t) for x in flat(list_of(v))] for t in (microtorch, pytorch))
    assert mine == pytest.approx(theirs, 2e-5, 1e-12, nan_ok=True)


def list_of(value):
    return [list_of(v) for v in value.values()] if isinstance(value, dict) else value


@pytest.mark.parametrize("name", ["microtorch", "torch"])
def test_a_schedule_before_the_first_step_is_warned_of(name):
    torch = pytest.importorskip(name)
    for kind in (torch.optim.SGD, torch.optim.LBFGS):
        optimizer = kind([torch.ones(2, requires_grad=True)])
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        with pytest.warns(UserWarning, match="before `optimizer.step"):
            schedule.step()


# ------------------------------------------------------------------------------------- hooks
def test_hooks_beside_pytorch():
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def run(torch):
        seen = []
        p = torch.ones(1, requires_grad=True)
        p.grad = torch.ones(1)
        optimizer = torch.optim.SGD([p], lr=0.1)

        def closure():
            return torch.tensor(3.0)

        def noting(name):
            def hook(optimizer, *rest):
                shown = [[len(r), sorted(map(str, r))[-1:]] if type(r) is dict else len(r)
                         for r in rest]  # fmt: skip
                seen.append([name, type(optimizer).__name__, shown, p.tolist()])

            return hook

        handles = [optimizer.register_step_pre_hook(noting("before"))]
        handles.append(optimizer.register_step_post_hook(noting("after")))
        seen += [optimizer.step(), float(optimizer.step(closure))]
        seen.append(float(optimizer.step(closure=closure)))
        for handle in handles:
            handle.remove()
        with optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, closure), {})):
            seen.append(float(optimizer.step()))
        with optimizer.register_step_pre_hook(lambda o, args, kwargs: 3):
            with pytest.raises(RuntimeError, match="must return None or a tuple of"):
                optimizer.step()
        optimizer.register_state_dict_pre_hook(noting("before state"))
        optimizer.register_state_dict_post_hook(noting("second"))
        optimizer.register_state_dict_post_hook(lambda o, found: {**found, "x": 1}, prepend=True)
        optimizer.register_load_state_dict_pre_hook(noting("before load"))
        optimizer.register_load_state_dict_pre_hook(
            lambda o, found: {**found, "param_groups": [{**found["param_groups"][0], "lr": 7}]}
        )
        optimizer.register_load_state_dict_post_hook(noting("loaded"))
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        seen += [sorted(state), optimizer.param_groups[0]["lr"], state["param_groups"][0]["lr"]]
        seen.append(copy.deepcopy(optimizer).state_dict()["param_groups"][0]["lr"])
        return seen

    assert run(microtorch) == run(pytorch)


def test_a_hook_of_a_step_is_refused_by_compile():
    p = microtorch.ones(2, requires_grad=True)
    p.grad = microtorch.ones(2)
    optimizer = microtorch.optim.SGD([p], lr=0.5)
    step = microtorch.compile(lambda: optimizer.step())
    eager = microtorch.compile(lambda: optimizer.step(), fallback="eager")
    for run in (step, step, eager, eager):
        run()
    assert p.tolist() == [-1, -1]
    seen = []
    handle = optimizer.register_step_post_hook(lambda *_: seen.append(p.tolist()))
    with pytest.raises(microtorch.capture.tape.CaptureError, match="hooks of its step"):
        step()
    assert p.tolist() == [-1, -1] and not seen
    with pytest.warns(UserWarning, match="hooks of its step"):
        eager()
    eager()
    assert seen == [[-1.5, -1.5], [-2, -2]]
    handle.remove()
    step()
    assert p.tolist() == [-2.5, -2.5] and len(seen) == 2
