"""Compiled steps on the GPU equal eager steps on the CPU; test_cuda.py runs this."""

import pytest

import microtorch as torch
from microtorch import nn


def hinge(found, wanted):
    return (1 - wanted * found).relu().mean()


def numbers(*shape):
    return torch.randn(*shape)


STEPS = {
    "logistic": (
        lambda: nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()),
        lambda: (numbers(6, 3), numbers(6, 1).sigmoid()), nn.BCELoss(),
    ),
    "classes": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)),
        lambda: (numbers(5, 3), torch.tensor([0, 1, 2, 3, 1])), nn.CrossEntropyLoss(),
    ),
    "hinge": (
        lambda: nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1)),
        lambda: (numbers(5, 2), numbers(5, 1).sign()), hinge,
    ),
    "normalized": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.LogSoftmax(1)),
        lambda: (numbers(3, 3), torch.tensor([0, 3, 1])), nn.NLLLoss(),
    ),
    "buffers": (
        lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)),
        lambda: (numbers(4, 3), numbers(4, 1)), nn.MSELoss(),
    ),
    "images": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        lambda: (numbers(2, 1, 4, 4), torch.tensor([0, 1])), nn.CrossEntropyLoss(),
    ),
    "words": (
        lambda: nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 1)),
        lambda: (torch.tensor([[0, 1], [2, 2], [4, 0]]), numbers(3, 1)), nn.L1Loss(),
    ),
}  # fmt: skip
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.AdamW(p, lr=0.05),
}
OTHERS = {
    "radam": lambda p: torch.optim.RAdam(p, betas=(0.5, 0.6)),
    "rprop": lambda p: torch.optim.Rprop(p),
    "asgd": lambda p: torch.optim.ASGD(p, lambd=0.1, t0=1),
    "adafactor": lambda p: torch.optim.Adafactor(p, weight_decay=0.1),
}


def trained(name, optimizer, device, compiled):
    """What four steps leave, the rate changed in between."""
    make, data, criterion = STEPS[name]
    torch.manual_seed(0)
    model, (x, y) = make().to(device), data()
    x, y = x.to(device), y.to(device)
    made = (OPTIMIZERS | OTHERS)[optimizer](model.parameters())

    def step(x, y):
        made.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        made.step()
        return loss

    run = torch.compile(step) if compiled else step
    losses = []
    for k in range(4):
        made.param_groups[0]["lr"] = 0.05 if k == 3 else 0.1
        losses.append(run(x, y).item())
    kept = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    return losses, [t.detach().cpu() for t in kept], run


@pytest.mark.parametrize(
    "name, optimizer",
    [(n, o) for n in STEPS for o in OPTIMIZERS] + [("hinge", o) for o in OTHERS],
)
def test_step(name, optimizer):
    losses, kept, _ = trained(name, optimizer, "cpu", False)
    found, there, run = trained(name, optimizer, "cuda", True)
    # Updates of many parameters are one kernel.
    of_rows = name == "hinge" and optimizer != "adafactor"
    assert not of_rows or run.source.count("table = i64_at(a_table)") == 1
    assert found == pytest.approx(losses, rel=1e-5)
    for ours, theirs in zip(there, kept, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert len(run.programs) == 1
    assert "def kernel(" in run.source
    assert "one launch a call" in run.explain()


def test_inference_and_arguments_of_another_place():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to("cuda")
    run = torch.compile(model)
    with torch.no_grad():
        for seed in range(4):
            torch.manual_seed(seed)
            x = torch.randn(2, 3)
            torch.testing.assert_close(run(x.cuda()), model(x.cuda()), rtol=1e-5, atol=1e-6)
            assert run(x.cuda()).device.type == "cuda"


def test_a_result_has_gradients():
    w = torch.ones(3, device="cuda", requires_grad=True)
    run = torch.compile(lambda x: (w * x).exp().sum())
    for k in range(3):
        w.grad = None
        x = torch.arange(3.0, device="cuda") + k
        run(x).backward()
        torch.testing.assert_close(w.grad, x * (w.detach() * x).exp())


def test_a_chain_is_two_kernels():
    x = torch.randn(40).to("cuda").requires_grad_()

    @torch.compile
    def step():
        x.grad = None
        loss = (x.tanh() * x.exp()).sum()
        loss.backward()
        return loss

    for _ in range(3):
        step()
    assert step.source.count("def kernel(") <= 2
    a = x.detach().cpu().requires_grad_()
    (a.tanh() * a.exp()).sum().backward()
    torch.testing.assert_close(x.grad.cpu(), a.grad)


def test_random_numbers_are_drawn_anew():
    x = torch.ones(40, device="cuda")
    run = torch.compile(lambda x: nn.functional.dropout(x, 0.5))
    torch.manual_seed(0)
    found = [run(x).tolist() for _ in range(3)]
    torch.manual_seed(0)
    assert found == [nn.functional.dropout(x, 0.5).tolist() for _ in range(3)]


def test_folds_of_one_kernel_share_memory():
    parts = [torch.full((5,), k + 1.0, device="cuda") for k in range(30)]
    run = torch.compile(lambda: sum((p * p).sum() for p in parts))
    assert [run().item() for _ in range(2)] == [5 * sum(k * k for k in range(1, 31))] * 2
    assert run.source.count("shared(") == 1


def test_memory_of_a_graph_stays_its_own():
    x, y = torch.randn(3, 4).cuda(), torch.randn(4, 5).cuda()
    run = torch.compile(lambda x, y: (x @ y).sum(0) - (x.exp() @ y).sum(0))
    wanted = run(x, y)
    torch.cuda.empty_cache()
    others = [torch.full((n,), torch.nan, device="cuda") for n in range(1, 20)]
    torch.testing.assert_close(run(x, y), wanted)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.testing.assert_close(run(x, y), wanted)
    del run, others
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() >= torch.cuda.memory_allocated()


def test_a_row_of_ones_own_runs_on_the_gpu():
    squash = torch.register("squash_there", "x", "x / (1 + fabs(x))")
    x = torch.tensor([-2.0, 0.5, 3.0], requires_grad=True)
    y = x.detach().cuda().requires_grad_()
    squash(x).sum().backward()
    squash(y).sum().backward()
    torch.testing.assert_close(squash(y).cpu(), squash(x))
    torch.testing.assert_close(y.grad.cpu(), x.grad)
    run = torch.compile(lambda v: squash(v) * 2)
    for _ in range(3):
        torch.testing.assert_close(run(y.detach()).cpu(), squash(x).detach() * 2)


def test_one_function_on_two_devices():
    f = torch.compile(lambda x: (x * 2).relu().mean(0))
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    for device in ("cpu", "cpu", "cuda", "cuda", "cpu", "cuda"):
        found = f(x.to(device))
        assert found.device.type == device
        assert found.tolist() == [4.0, 4.0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_moving_inside_is_refused(device):
    other = "cuda" if device == "cpu" else "cpu"
    f = torch.compile(lambda x: x.to(other) * 2)
    with pytest.raises(RuntimeError, match="moved to another device inside a compiled function"):
        f(torch.ones(3, device=device))


def test_parameters_of_one_shape_are_several_kernels():
    def trained(device):
        ps = [torch.nn.Parameter(torch.full((2,), 1.0 + k, device=device)) for k in range(40)]
        made = torch.optim.SGD(ps, lr=0.1, momentum=0.9)

        @torch.compile
        def step():
            made.zero_grad()
            loss = sum((p * p).sum() for p in ps)
            loss.backward()
            made.step()
            return loss

        losses = [step().item() for _ in range(4)]
        return losses, [p.tolist() for p in ps], step

    found, (*wanted, _) = trained("cuda"), trained("cpu")
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(wanted[0]))
    assert torch.allclose(torch.tensor(found[1]), torch.tensor(wanted[1]))
    lines = [line for line in found[2].source.splitlines() if line.startswith("def kernel")]
    # Two words an array, and one for the number of positions; results between kernels may come on top.
    assert len(lines) > 2 and max(line.count(",") for line in lines) < 300


def test_the_default_device_is_compared():
    run = torch.compile(lambda: torch.zeros(2) + 1)
    for name in ("cpu", "cuda", "cpu", "cuda"):
        with torch.device(name):
            assert run().device.type == name
