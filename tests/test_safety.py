"""What one part of a program changes in place must not reach another one unseen."""

import threading

import numpy as np
import pytest

import microtorch as torch
from microtorch.nn import functional as F

MODIFIED = "has been modified by an inplace operation"


def test_hooks_cannot_change_the_library_s_constants():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    y.register_hook(lambda g: g.mul_(2))
    y.backward()
    assert x.grad.tolist() == [4, 8]
    kept = []
    a = torch.tensor(3.0, requires_grad=True) * 2
    a.register_hook(kept.append)
    a.backward()
    kept[0].zero_()
    assert (torch.tensor([3.0]) * 1).tolist() == [3]
    z = torch.tensor(2.0, requires_grad=True)
    (z * 5).backward()
    assert z.grad.item() == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD([p], lr=1.0),
        lambda p: torch.optim.SGD([p], lr=1.0, momentum=0.9),
        lambda p: torch.optim.Adam([p]),
    ],
)
def test_steps_stay_inside_the_parameter(make):
    p = torch.ones(4, requires_grad=True)
    optimizer = make(p)
    p.grad = torch.ones(4)
    optimizer.step()
    big = torch.zeros(6)
    p.data = big[:2]
    with pytest.raises(RuntimeError, match=r"\[2\].*\[4\]"):
        optimizer.step()
    assert big.tolist() == [0] * 6


def test_steps_are_noticed_by_what_saved_the_memory():
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    p = y.detach().requires_grad_()
    p.grad = torch.ones(3)
    torch.optim.SGD([p], lr=1.0).step()
    with pytest.raises(RuntimeError, match=MODIFIED):
        y.sum().backward()


def test_accumulation_is_noticed_by_what_saved_the_memory():
    flat = torch.zeros(6)
    p = torch.ones(3, requires_grad=True)
    p.grad = flat[:3]
    w = torch.ones(6, requires_grad=True)
    y = (flat * w).sum()
    (p * 2).sum().backward()
    with pytest.raises(RuntimeError, match=MODIFIED):
        y.backward()


@pytest.mark.parametrize(
    "code",
    [
        "x[i]",
        "x[[i]]",
        "x.gather(0, i)",
        "x.index_select(0, i)",
        "x.take(i)",
        "x.scatter(0, i, x[:2] * 1)",
        "x.scatter_add(0, i, x[:2])",
        "x.scatter_reduce(0, i, x[:2], 'sum')",
        "x.scatter_reduce(0, i, x[:2], 'amax')",
        "(x + 1).scatter_reduce(0, i, x[:2] + 1, 'prod')",
        "x.index_add(0, i, x[:2])",
        "x.index_copy(0, i, x[:2])",
        "x.index_fill(0, i, 2.0)",
        "(x * 1).index_add_(0, i, x[:2])",
        "(x * 1).put_(i, x[:2])",
        "(x * 1).put_(i, x[:2], accumulate=True)",
        "x.index_put((i,), x[:2])",
        "x.index_put((i,), x[:2], accumulate=True)",
        "F.embedding(i, x.reshape(4, 1))",
        "F.embedding(i, x.reshape(4, 1), padding_idx=1)",
        "F.nll_loss(x.reshape(2, 2), i)",
        "F.cross_entropy(x.reshape(2, 2), i)",
        "F.cross_entropy(x.reshape(2, 2), i, label_smoothing=0.1)",
    ],
)
def test_a_changed_index_is_noticed(code):
    x = torch.arange(4.0).requires_grad_()
    i = torch.tensor([0, 1])
    y = eval(code)
    i[0] = 3
    with pytest.raises(RuntimeError, match=MODIFIED):
        y.sum().backward()


def test_a_changed_weight_of_classes_is_noticed():
    x = torch.ones(2, 2, requires_grad=True)
    weight = torch.ones(2)
    y = F.nll_loss(x, torch.tensor([0, 1]), weight)
    weight.mul_(2)
    with pytest.raises(RuntimeError, match=MODIFIED):
        y.backward()


def fail(_):
    raise ValueError("on purpose")


def test_a_pass_that_fails_changes_no_gradient():
    x = torch.ones(2, requires_grad=True)
    w = torch.ones(2, requires_grad=True)
    a = torch.Value(2.0)
    early = x * 1
    early.register_hook(fail)
    y = early * a
    y.retain_grad()
    with pytest.raises(ValueError):
        (y * w).sum().backward()
    assert y.grad is None and x.grad is None and w.grad is None and a.grad == 0
    assert torch.autograd.grad(y.sum() * 1, y)[0].tolist() == [1, 1]


def test_a_leaf_s_hook_that_fails_changes_no_gradient():
    x, w = (torch.ones(2, requires_grad=True) for _ in range(2))
    a = torch.Value(2.0)
    y = (x * w * a).sum()
    handle = x.register_hook(fail)
    for _ in range(2):
        with pytest.raises(ValueError):
            y.backward(retain_graph=True)
    assert x.grad is None and w.grad is None and a.grad == 0
    handle.remove()
    y.backward()
    assert (x.grad.tolist(), w.grad.tolist(), a.grad) == ([2, 2], [2, 2], 2)


@pytest.mark.parametrize("plain", [True, False])
def test_views_made_under_no_grad_refuse_where_their_base_got_a_history(plain):
    w = torch.ones(4, requires_grad=True)
    base = torch.zeros(4) if plain else w * 2
    with torch.no_grad():
        v = base[:2]
    u = v[:1]
    base.add_(w)
    for view in (v, u):
        with pytest.raises(RuntimeError, match="its base or another view of its base has been"):
            (view * 3).sum().backward()
    assert w.grad is None


@pytest.mark.parametrize("code", ["x[m]", "x.masked_select(m)", "x.masked_fill(m, 0.0)"])
def test_a_changed_mask_is_noticed(code):
    x = torch.arange(4.0).requires_grad_()
    m = torch.tensor([True, False, True, False])
    y = eval(code)
    m[1] = True
    with pytest.raises(RuntimeError, match=MODIFIED):
        y.sum().backward()


@pytest.mark.parametrize("write", ["y.zero_()", "y.fill_(1)", "y.copy_(torch.ones(2))"])
def test_what_was_overwritten_gets_no_gradient(write):
    x = torch.ones(2, requires_grad=True)
    y = x * 1
    eval(write)
    (y * torch.tensor([float("inf"), 1.0])).sum().backward()
    assert x.grad.tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore:The given NumPy array")
def test_a_read_only_gradient_is_copied():
    def hook(g):
        a = np.ones(4, np.float32)
        a.setflags(write=False)
        return torch.from_numpy(a)

    x = torch.ones(4, requires_grad=True)
    x.register_hook(hook)
    x.sum().backward()
    x.sum().backward()
    assert x.grad.tolist() == [2] * 4


def test_two_threads_accumulate_into_one_leaf():
    x = torch.ones(100_000, requires_grad=True)
    x.grad = torch.zeros(100_000)

    def work():
        for _ in range(100):
            (x * 1.0).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert float(x.grad.min()) == 200
