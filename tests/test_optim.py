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
""".strip().splitlines()
ERRORS = """
RMSprop(p, -1)
RMSprop(p, alpha=-1)
RMSprop(p, momentum=-0.5)
Adagrad(p, -1)
Adagrad(p, lr_decay=-1)
Adagrad(p, eps=-1)
""".strip().splitlines()


def steps(torch, code, dtype):
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    p = [
        torch.randn(3, 4, dtype=kind).requires_grad_(),
        torch.randn(5, dtype=kind).requires_grad_(),
    ]
    x = torch.randn(4, dtype=kind)
    optimizer = eval(code, {"p": p, **vars(torch.optim)})
    for _ in range(12):
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
    if "RMSprop" in code or "Adagrad" in code:
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
