"""Averages of weights beside PyTorch's."""

import importlib

import numpy as np
import pytest

LIBRARIES = ["microtorch", "torch"]


def both(run):
    """What `run` gives with microtorch and with PyTorch."""
    pytest.importorskip("torch", reason="parity needs PyTorch")
    return [run(importlib.import_module(name)) for name in LIBRARIES]


def model_of(torch):
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()


def states(module):
    return {k: v.tolist() for k, v in module.state_dict().items()}


def same(a, b):
    if isinstance(b, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(b, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == (
            b if isinstance(b, (str, bool, type(None))) else pytest.approx(b, 1e-10, 1e-12)
        )


AVERAGES = {
    "mean": lambda S: {},
    "ema": lambda S: {"avg_fn": S.get_ema_avg_fn(0.7)},
    "ema of all": lambda S: {"multi_avg_fn": S.get_ema_multi_avg_fn(0.7)},
    "mean, alone": lambda S: {"avg_fn": S.get_swa_avg_fn()},
    "own": lambda S: {"avg_fn": lambda a, p, n: a * 0.5 + p * 0.5 + n},
}


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("name", AVERAGES)
def test_averaged_model(name, use_buffers):
    def run(torch):
        utils = importlib.import_module(torch.__name__ + ".optim.swa_utils")
        model = model_of(torch)
        averaged = utils.AveragedModel(model, use_buffers=use_buffers, **AVERAGES[name](utils))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(6, 4, dtype=torch.float64)
        seen = [repr(averaged)]
        for _ in range(4):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            averaged.update_parameters(model)
            seen.append(states(averaged))
        other = utils.AveragedModel(model_of(torch))
        other.load_state_dict(averaged.state_dict())
        return seen, averaged.eval()(x).tolist(), states(other), averaged.training

    same(*both(run))


@pytest.mark.parametrize("batches", ["tensors", "pairs", "none"])
def test_update_bn(batches):
    def run(torch):
        utils = importlib.import_module(torch.__name__ + ".optim.swa_utils")
        model = model_of(torch).eval()
        model(torch.randn(3, 4, dtype=torch.float64))
        data = [torch.randn(5, 4, dtype=torch.float64) for _ in range(3 * (batches != "none"))]
        utils.update_bn([(x, 1) for x in data] if batches == "pairs" else data, model)
        utils.update_bn(data, model[0])
        return states(model), model.training, model[1].training, model[1].momentum

    same(*both(run))


@pytest.mark.parametrize("rates", [0.05, [0.05, 0.7]], ids=str)
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_swalr(epochs, strategy, rates):
    def run(torch):
        utils = importlib.import_module(torch.__name__ + ".optim.swa_utils")
        p = [torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)]
        optimizer = torch.optim.SGD([{"params": p[:1]}, {"params": p[1:], "lr": 0.3}], lr=0.1)
        schedule = utils.SWALR(optimizer, rates, epochs, strategy)
        other = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        seen = []
        for k in range(7):
            optimizer.step()
            schedule.step()
            if k > 4:
                other.step()
            seen.append([g["lr"] for g in optimizer.param_groups])
        state = schedule.state_dict()
        return (
            seen,
            list(optimizer.param_groups[0]),
            {k: state[k] for k in ("_anneal_strategy", "anneal_epochs", "base_lrs", "last_epoch")},
        )

    same(*both(run))


ERRORS = """
AveragedModel(model, avg_fn=get_ema_avg_fn(), multi_avg_fn=get_ema_multi_avg_fn())
get_ema_avg_fn(-1)
get_ema_multi_avg_fn(1.5)
SWALR(sgd, 0.1, anneal_strategy="sin")
SWALR(sgd, 0.1, anneal_epochs=-1)
SWALR(sgd, 0.1, anneal_epochs=1.5)
SWALR(sgd, [0.1, 0.2])
""".strip().splitlines()


@pytest.mark.parametrize("code", ERRORS)
def test_errors(code):
    def run(torch):
        model = model_of(torch)
        names = vars(importlib.import_module(torch.__name__ + ".optim.swa_utils"))
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises((ValueError, AssertionError)) as caught:
            eval(code, {**names, "model": model, "sgd": sgd})
        return type(caught.value).__name__, str(caught.value)

    same(*both(run))


def test_a_failing_loader_leaves_the_momentum():
    import microtorch as torch
    from microtorch.optim.swa_utils import update_bn

    model = model_of(torch).eval()

    def broken():
        yield torch.tensor(np.ones((2, 4)))
        raise OSError

    with pytest.raises(OSError):
        update_bn(broken(), model)
    assert model[1].momentum == 0.1 and not model.training
