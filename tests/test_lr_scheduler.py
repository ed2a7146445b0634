"""Learning-rate schedules give PyTorch's rates."""

import copy
import re
import warnings

import pytest

import microtorch

SCHEDULES = """
s.StepLR(o, 3, 0.5)
s.MultiStepLR(o, [2, 5, 5, 9], 0.3)
s.ExponentialLR(o, 0.9)
s.LambdaLR(o, lambda k: 0.95 ** k)
s.LambdaLR(o, [lambda k: 1 / (k + 1), lambda k: k])
s.MultiplicativeLR(o, lambda k: 0.8)
s.ConstantLR(o, 0.5, 4)
s.LinearLR(o, 0.1, 0.9, 6)
s.PolynomialLR(o, 6, 2.0)
s.CosineAnnealingLR(o, 5, 0.01)
s.CosineAnnealingWarmRestarts(o, 4)
s.CosineAnnealingWarmRestarts(o, 3, 2, 0.01)
s.OneCycleLR(o, 0.3, total_steps=20)
s.OneCycleLR(o, [0.3, 0.1], epochs=4, steps_per_epoch=5, anneal_strategy="linear", cycle_momentum=False)
s.OneCycleLR(o, 0.3, 20, three_phase=True)
s.CyclicLR(o, 0.01, 0.3, 4)
s.CyclicLR(o, [0.01, 0.02], [0.3, 0.2], 4, 3, "triangular2")
s.CyclicLR(o, 0.01, 0.3, 4, mode="exp_range", gamma=0.95)
s.CyclicLR(o, 0.01, 0.3, 4, scale_fn=lambda k: 1 / (k + 1), scale_mode="iterations", cycle_momentum=False)
s.SequentialLR(o, [s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], [4])
s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=3), s.CosineAnnealingLR(o, 5)], [3])
s.SequentialLR(o, [s.StepLR(o, 2), s.PolynomialLR(o, 4), s.MultiStepLR(o, [2, 3])], [3, 9])
s.SequentialLR(o, [s.ExponentialLR(o, 0.9), s.CosineAnnealingWarmRestarts(o, 3)], [0])
s.ChainedScheduler([s.LinearLR(o, 0.5, 0.2, 3), s.CosineAnnealingLR(o, 7), s.LambdaLR(o, lambda k: 0.9**k)])
s.SequentialLR(o, [s.ChainedScheduler([s.StepLR(o, 2), s.ExponentialLR(o, 0.8)]), s.StepLR(o, 3)], [4])
s.ReduceLROnPlateau(o, patience=2, cooldown=1)
s.ReduceLROnPlateau(o, "max", 0.5, 1, threshold_mode="abs", min_lr=[0.01, 0.02])
""".strip().splitlines()
ERRORS = """
s.StepLR(1, 2)
s.LambdaLR(o, [lambda k: 1])
s.LinearLR(o, 0)
s.CosineAnnealingWarmRestarts(o, 0)
s.CosineAnnealingWarmRestarts(o, 2, 0)
s.CosineAnnealingWarmRestarts(o, 2, 2, "a")
s.ConstantLR(o, 2)
s.OneCycleLR(o, 1)
s.OneCycleLR(o, 1, 5, pct_start=2)
s.ReduceLROnPlateau(o, "up")
s.ReduceLROnPlateau(o, factor=1)
s.SequentialLR(o, [s.ConstantLR(o)], [1])
s.SequentialLR(o, [], [])
s.SequentialLR(o, [s.ReduceLROnPlateau(o)], [])
s.SequentialLR(o, [1], [])
s.ChainedScheduler([])
s.ChainedScheduler([s.StepLR(o, 2), s.ReduceLROnPlateau(o)])
s.SequentialLR(o, [s.StepLR(o, 2)], []).step(1)
s.CyclicLR(o, 0.1, 0.2, mode="up")
s.CyclicLR(o, [0.1], 0.2)
s.CyclicLR(1, 0.1, 0.2)
s.MultiplicativeLR(o, 0.5)
s.ReduceLROnPlateau(o, min_lr=[0.1])
""".strip().splitlines()


def scene(torch):
    import importlib

    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    groups = [{"params": [x]}, {"params": [y], "lr": 0.05}]
    optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9)
    return {"o": optimizer, "s": importlib.import_module(torch.__name__ + ".optim.lr_scheduler")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", SCHEDULES)
def test_rates_beside_pytorch(code):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    rates = []
    for module in (microtorch, torch):
        names = scene(module)
        scheduler = eval(code, names)
        found = [scheduler.get_last_lr()]
        for k in range(18):
            names["o"].step()
            scheduler.step(*([[3.0, 2.0, 2.5][k % 3]] if "Plateau" in code else []))
            found.append(list(scheduler.get_last_lr()))
            found.append([g["lr"] for g in names["o"].param_groups])
            found.append([g["momentum"] for g in names["o"].param_groups])
        rates.append(found)
    for mine, theirs in zip(*rates):
        assert mine == pytest.approx(theirs, rel=1e-12, abs=1e-15)


CLOSED = [code for code in SCHEDULES if not re.search("Sequential|Chained|Plateau", code)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", CLOSED)
def test_rates_of_given_steps_beside_pytorch(code):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    rates = []
    for module in (microtorch, torch):
        names = scene(module)
        scheduler = eval(code, names)
        found = []
        for step in (3, None, 0, 7, None, None, 12, 1, 1):
            names["o"].step()
            scheduler.step(step)
            found.append([*scheduler.get_last_lr(), scheduler.last_epoch])
        rates.append(found)
    for mine, theirs in zip(*rates):
        assert mine == pytest.approx(theirs, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("s", ["Detected call of `lr_scheduler.step()` before `optimizer.step()`"]),
        ("o s o s", []),
        ("o s s", []),
        ("o e", ["The epoch parameter in `scheduler.step()` was not necessary"]),
    ],
)
def test_warnings_beside_pytorch(steps, words):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    for module in (microtorch, torch):
        names = scene(module)
        scheduler = eval("s.StepLR(o, 2)", names)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in steps.split():
                if step == "o":
                    names["o"].step()
                else:
                    scheduler.step(*([2] if step == "e" else []))
        texts = [str(w.message) for w in caught]
        assert len(texts) == len(words), texts
        assert all(t.startswith(w) for t, w in zip(texts, words))
        assert all(w.filename == __file__ for w in caught)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", [c for c in SCHEDULES if re.search("Sequential|Chained", c)])
def test_combined_schedules_go_on_from_a_state(code):
    rates = []
    names = scene(microtorch)
    scheduler = eval(code, names)
    for _ in range(5):
        scheduler.step()
    again_names = scene(microtorch)
    again = eval(code, again_names)
    again.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    again_names["o"].load_state_dict(names["o"].state_dict())
    for which in (scheduler, again):
        rates.append([which.step() or which.get_last_lr() for _ in range(8)])
    assert rates[0] == rates[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", [c for c in SCHEDULES if "Plateau" not in c])
def test_states_are_exchanged_with_pytorch(code):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    for one, other in ((microtorch, torch), (torch, microtorch)):
        rates = []
        first, second = scene(one), scene(other)
        scheduler, again = eval(code, first), eval(code, second)
        for _ in range(5):
            scheduler.step()
        again.load_state_dict(scheduler.state_dict())
        for mine, theirs in zip(first["o"].param_groups, second["o"].param_groups):
            theirs["lr"], theirs["momentum"] = mine["lr"], mine["momentum"]
        for which in (scheduler, again):
            found = [which.step() or list(which.get_last_lr()) for _ in range(8)]
            rates.append([lr for step in found for lr in step])
        assert rates[0] == pytest.approx(rates[1], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("code", ERRORS)
def test_errors_beside_pytorch(code):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    kinds = []
    for module in (microtorch, torch):
        names = scene(module)
        with pytest.raises(Exception) as caught:
            eval(code, names)
        kinds.append(type(caught.value))
    assert kinds[0] is kinds[1], caught.value


@pytest.mark.filterwarnings("ignore")
def test_rates_fall_and_go_on_from_a_state():
    names = scene(microtorch)
    scheduler = eval("s.StepLR(o, 2, 0.5)", names)
    for _ in range(3):
        scheduler.step()
    assert scheduler.get_last_lr() == [0.1, 0.025]
    again = eval("s.StepLR(o, 2, 0.5)", scene(microtorch))
    again.load_state_dict(scheduler.state_dict())
    assert again.last_epoch == 3


@pytest.mark.parametrize("mult", [1, 2])
def test_warm_restarts_at_given_epochs(mult):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def rates(library):
        names = scene(library)
        schedule = names["s"].CosineAnnealingWarmRestarts(names["o"], 3, mult)
        found = []
        for epoch in (0.5, 2.9, 3, 7.25, 20, None, None, 1):
            schedule.step(epoch)
            found.append((schedule.get_last_lr(), schedule.T_cur, schedule.T_i))
        return found

    assert rates(microtorch) == rates(torch)
