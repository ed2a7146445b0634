"""Optimizers take PyTorch's steps and keep PyTorch's state."""

import pytest

import microtorch

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
