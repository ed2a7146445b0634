"""Modules, optimizers and what programs do with devices, on the simulated GPU beside the CPU;
test_cuda.py runs this.
"""

import copy
import inspect
import math

import numpy as np
import pytest
from test_nn_modules import MODULES
from test_nn_modules import run as run_module
from test_nn_modules import same as same_module
from test_optim import OPTIMIZERS, flat, steps

import microtorch as torch
from microtorch import nn
from microtorch.nn import functional as F

DIFFERENT = "Expected all tensors to be on the same device, but found at least two devices"
RECURRENT = """
RNN(3, 4) | 2,1,3
GRU(3, 4, num_layers=2, batch_first=True) | 2,2,3
LSTM(3, 4, bidirectional=True) | 2,2,3
""".strip().splitlines()


def near(a, b):
    """Assert that two tensors are equal, wherever they are."""
    a, b = (v.detach().numpy(force=True) for v in (a, b))
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------- modules
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("constructor, shapes", MODULES, ids=[c for c, _ in MODULES])
def test_module(constructor, shapes):
    ours = run_module(torch, constructor, shapes)
    gpu = run_module(torch, constructor, shapes, "cuda")
    for part, value in ours.items():
        # The GPU has random numbers of its own.
        if not (ours["train draws"] and part.startswith("train")):
            same_module(gpu[part], value, part)


@pytest.mark.parametrize("line", RECURRENT)
def test_recurrent(line):
    constructor, shape = line.split(" | ")
    torch.manual_seed(0)
    module = eval(f"nn.{constructor}")
    x = torch.randn(*map(int, shape.split(",")), requires_grad=True)
    results = []
    for place in ("cpu", "cuda"):
        mine, y = copy.deepcopy(module).to(place), x.detach().to(place).requires_grad_()
        out, hidden = mine(y)
        last = hidden[-1] if isinstance(hidden, tuple) else hidden
        (out.square().sum() + last.sum()).backward()
        results.append([out, last, y.grad, *(p.grad for p in mine.parameters())])
    for a, b in zip(*results, strict=True):
        assert b.is_cuda
        near(a, b)


@pytest.mark.parametrize("constructor", [c for c, _ in MODULES if c[:4] not in ("Drop", "Sequ")])
def test_device_of_a_new_module(constructor):
    if "device" not in inspect.signature(getattr(nn, constructor.partition("(")[0])).parameters:
        return
    ours, gpu = (
        eval(f"nn.{constructor[:-1]}, device='{place}')".replace("(,", "(")).state_dict()
        for place in ("cpu", "cuda")
    )
    for key, value in ours.items():
        assert gpu[key].is_cuda and gpu[key].shape == value.shape and gpu[key].dtype == value.dtype
        assert gpu[key].isfinite().all()


def test_modules_move():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    model(x).sum().backward()
    before = copy.deepcopy(model)
    names = list(model.state_dict())
    assert model.cuda() is model
    assert all(p.is_cuda and p.grad.is_cuda and p.is_leaf for p in model.parameters())
    assert all(b.is_cuda for b in model.buffers())
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        near(p.grad, q.grad)
    model.double()
    assert model[0].weight.dtype is torch.float64 and model[0].weight.is_cuda
    model(x.cuda().double()).sum().backward()
    model.float().cpu()
    assert not model[0].weight.is_cuda and not model[1].running_mean.is_cuda
    assert list(model.state_dict()) == names
    with pytest.raises(RuntimeError, match=DIFFERENT):
        model(x.cuda())
    copied = copy.deepcopy(model.to(device="cuda"))
    assert copied[0].weight.is_cuda and copied[0].weight is not model[0].weight
    near(copied[0].weight, model[0].weight)


def test_states_cross_devices():
    torch.manual_seed(0)
    cpu, gpu = nn.BatchNorm1d(3), nn.BatchNorm1d(3, device="cuda")
    cpu(torch.randn(4, 3))
    gpu.load_state_dict(cpu.state_dict())
    assert gpu.running_mean.is_cuda and int(gpu.num_batches_tracked) == 1
    near(gpu.running_var, cpu.running_var)
    gpu(torch.randn(4, 3, device="cuda"))
    cpu.load_state_dict(gpu.state_dict())
    assert not cpu.running_mean.is_cuda
    near(gpu.running_mean, cpu.running_mean)
    for name in ("SGD(p, 0.1, momentum=0.9)", "Adam(p, 0.1)"):
        states = []
        for place in ("cpu", "cuda"):
            p = [torch.ones(3, device=place, requires_grad=True)]
            optimizer = eval(name, {"p": p, **vars(torch.optim)})
            if states:
                optimizer.load_state_dict(states[0][1])
            for _ in range(2):
                p[0].grad = torch.tensor([1.0, -2.0, 3.0], device=place)
                optimizer.step()
            states.append((p[0], optimizer.state_dict()))
        moment = states[1][1]["state"][0]["momentum_buffer" if "SGD" in name else "exp_avg"]
        assert moment.is_cuda


# ------------------------------------------------------------------------------- training
@pytest.mark.parametrize("code", OPTIMIZERS)
def test_optimizer(code):
    ours = steps(torch, code, "float32")
    gpu = steps(torch, code, "float32", "cuda")
    for a, b in zip(flat(ours[0]), flat(gpu[0]), strict=True):
        assert a == (b if isinstance(b, (str, type(None))) else pytest.approx(b, 2e-5, 2e-5))
    assert ours[1:] == gpu[1:]


def test_training_with_batches_and_clipping():
    from microtorch.utils.data import DataLoader, TensorDataset

    curves = []
    for place in ("cpu", "cuda"):
        torch.manual_seed(1)
        data = DataLoader(TensorDataset(torch.randn(12, 3), torch.randn(12, 1)), batch_size=4,
                          shuffle=True)  # fmt: skip
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).to(place)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for x, y in data:
            loss = F.mse_loss(model(x.to(place)), y.to(place))
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses += [loss.item(), float(norm)]
        curves.append(losses)
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_programs_that_name_the_gpu():
    """Two of the documents' programs, smaller: with `.to(device)`, and with `model.cuda()`."""
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    assert device.type == "cuda"
    curves = []
    for place in (torch.device("cpu"), device):
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        model.to(place)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        x = np.arange(11, dtype=np.float32).reshape(-1, 1)
        losses = []
        for _ in range(5):
            inputs, labels = (torch.from_numpy(v).to(place) for v in (x, 2 * x + 1))
            optimizer.zero_grad()
            loss = nn.MSELoss()(model(inputs), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        X, y = torch.randn(6, 20), torch.randn(6, 3)
        model = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))
        if place is device:
            model, X, y = model.cuda(), X.cuda(), y.cuda()
        for _ in range(5):
            loss = nn.MSELoss(reduction="sum")(model(X), y)
            losses.append(loss.item())
            loss.backward()
            with torch.no_grad():
                for param in model.parameters():
                    param -= 1e-2 * param.grad
            model.zero_grad()
        curves.append(losses)
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_optimizer_of_two_devices():
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], 0.1)
    p.sum().backward()
    p.data = p.data.cuda()
    assert p.is_cuda and not p.grad.is_cuda
    with pytest.raises(RuntimeError, match=DIFFERENT):
        optimizer.step()
    p.grad = None
    p.sum().backward()
    optimizer.step()
    near(p, torch.full((3,), 0.9))


# -------------------------------------------------------------------------------- devices
def test_printing():
    x = torch.tensor([1.0, 2.5], device="cuda")
    assert repr(x) == "tensor([1.0000, 2.5000], device='cuda:0')"
    y = x.double().requires_grad_()
    assert repr(y) == (
        "tensor([1.0000, 2.5000], device='cuda:0', dtype=torch.float64,\n       requires_grad=True)"
    )
    assert repr(x.requires_grad_() * 2) == (
        "tensor([2., 5.], device='cuda:0', grad_fn=<MulBackward0>)"
    )
    assert repr(torch.empty(0, 3, device="cuda")) == "tensor([], device='cuda:0', size=(0, 3))"
    assert repr(nn.Parameter(x.detach())).startswith("Parameter containing:\ntensor([1.0000, 2.")
    assert f"{x[1]:.2f}" == "2.50" and str(x.device) == "cuda:0"
    with torch.device("cuda"):
        assert repr(torch.ones(1)) == "tensor([1.], device='cuda:0')"


def test_values_come_to_python():
    x = torch.tensor([[1, 2], [3, 4]], device="cuda")
    assert x.tolist() == [[1, 2], [3, 4]] and x[1, 0].item() == 3 and int(x[0, 1]) == 2
    assert [row.tolist() for row in x] == [[1, 2], [3, 4]] and len(x) == 2
    assert bool(x[0, 0]) and 4 in x and 5 not in x and list(range(4))[x[0, 1]] == 2
    assert math.sqrt(x[1, 1]) == 2 and float(x[0, 1].float()) == 2.0
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy. Use "):
        x.numpy()
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy. Use "):
        np.asarray(x)
    assert x.cpu().numpy().sum() == 10 and x.numpy(force=True).sum() == 10


def test_views_and_indices():
    host = torch.arange(12.0).reshape(3, 4)
    for change in (
        lambda x: x[1].add_(1),
        lambda x: x.t()[1:3].mul_(2),
        lambda x: x[:, ::2].zero_(),
        lambda x: x.view(-1)[3:5].copy_(torch.tensor([7.0, 8.0])),
        lambda x: x.diagonal().fill_(-1),
        lambda x: x[torch.tensor([0, 2])].sum(),
        lambda x: x.__setitem__((torch.tensor([0, 2]), 1), 5.0),
        lambda x: x.__setitem__(x > 4, 0.0),
        lambda x: x.masked_fill_(x < 3, 9.0),
        lambda x: x.__setitem__(slice(0, 2), torch.ones(4)),
        lambda x: x[[True, False, True]].sum(0),
        lambda x: x[..., -1].unsqueeze(0).expand(2, 3),
    ):
        x, y = host.clone(), host.cuda()
        a, b = change(x), change(y)
        near(x, y)
        if isinstance(a, torch.Tensor):
            assert b.is_cuda
            near(a, b)
    with pytest.raises(RuntimeError):
        host[torch.tensor([0], device="cuda")]


def test_devices_mix_as_in_pytorch():
    x, y = torch.ones(3), torch.ones(3, device="cuda")
    number = torch.tensor(2.0)
    assert (y * number).is_cuda and (number + y).tolist() == [3.0] * 3
    assert torch.where(y > 0, y, number).is_cuda
    y.add_(number)
    gradients = number.requires_grad_()
    (y * gradients).sum().backward()
    assert not gradients.grad.is_cuda and gradients.grad.item() == 9
    for wrong in (
        lambda: x + y,
        lambda: y.add_(x),
        lambda: x.mul_(y),
        lambda: torch.cat([x, y]),
        lambda: y @ x,
        lambda: torch.where(y > 0, x, y),
        lambda: F.linear(y, torch.ones(2, 3)),
        lambda: F.mse_loss(y, x),
        lambda: y.lerp(x, 0.5),
    ):
        with pytest.raises(RuntimeError, match=DIFFERENT):
            wrong()
    assert x.tolist() == [1.0] * 3 and y.tolist() == [3.0] * 3
    with pytest.raises(RuntimeError, match="attempting to assign a gradient with device type 'cpu' "
                                           "to a tensor with device type 'cuda'"):  # fmt: skip
        y.grad = x
    assert y.copy_(x).tolist() == [1.0] * 3 and not x.copy_(y).is_cuda


def test_where_tensors_are_made():
    assert torch.get_default_device() == torch.device("cpu")
    with torch.device("cuda"):
        made = [torch.ones(2), torch.tensor([1]), torch.arange(3), torch.randn(2), torch.eye(2),
                torch.full((2,), 3), torch.linspace(0, 1, 3), torch.randperm(4),
                nn.Linear(2, 2).weight, torch.as_tensor([1.0])]  # fmt: skip
        assert all(x.is_cuda for x in made) and torch.get_default_device().type == "cuda"
        assert not torch.ones(2, device="cpu").is_cuda
        assert not torch.from_numpy(np.ones(2)).is_cuda
    assert not torch.ones(2).is_cuda
    torch.set_default_device("cuda")
    try:
        assert torch.zeros(2).is_cuda
    finally:
        torch.set_default_device(None)
    x = torch.ones(2, 3, device="cuda")
    likes = [torch.zeros_like(x), torch.rand_like(x), torch.full_like(x, 2), x.new_zeros(2),
             x.new_tensor([1]), x.new_full((2,), 1), torch.empty_like(x), torch.randn_like(x),
             x.clone(), x.detach(), x.to(torch.float64), x.long(), torch.tensor(x.tolist()).to(x),
             torch.multinomial(x, 2), torch.bernoulli(x), x.nonzero(), torch.empty(3).to(x),
             F.one_hot(x.long()), F.dropout(x), x.sort().values, x.unique()]  # fmt: skip
    assert all(v.is_cuda for v in likes)
    assert x.cuda() is x and x.to("cuda:0") is x and x.cpu().cpu() is not x
    assert x.type() == "torch.cuda.FloatTensor" and torch.ones(1).type_as(x).is_cuda
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.ones(1, device="cuda:7")


# ---------------------------------------------------------------------------- the same bits
def test_results_are_the_same_bits_every_time():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6, device="cuda", requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, device="cuda", requires_grad=True)
    table = torch.randn(5, 3, device="cuda", requires_grad=True)
    places = torch.randint(0, 5, (20,), device="cuda")
    values = torch.randn(20, device="cuda")

    def all_bits():
        found = [x.sum(), x.sum((0, 2)), x.mean(1), torch.zeros(5, device="cuda").scatter_add(
            0, places, values), torch.zeros(5, device="cuda").index_add(0, places, values)]  # fmt: skip
        loss = F.conv2d(x, weight, padding=1).square().sum()
        loss = loss + (F.embedding(places, table) * values[:, None]).sum()
        found += torch.autograd.grad(loss, (x, weight, table))
        return [v.detach().cpu().numpy().tobytes() for v in found]

    assert all_bits() == all_bits()
