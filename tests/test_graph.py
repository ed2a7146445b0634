"""The engine, the grad modes and the version counters: what holds for every op.

Gradients of single ops are checked elsewhere; here the ops are simple and the graphs are not.
"""

import gc
import sys
import threading
import tracemalloc
import warnings
import weakref

import numpy as np
import pytest

import microtorch as torch
from microtorch import Value, nn
from microtorch.graph.node import Node, mode, next_seq

SECOND = "backward through the graph a second time"
IN_PLACE = "modified by an inplace operation"


def leaf(*values):
    return torch.tensor(list(values), requires_grad=True)


def scalar(value):
    return torch.tensor(float(value), requires_grad=True)


def twice(x, change):
    """x after an in-place change that was made on a copy with a history."""
    y = x * 1
    change(y)
    return y


# --------------------------------------------------------------------------- long graphs
def test_a_million_nodes_need_no_recursion_and_leave_no_memory():
    x = scalar(1.0)
    y = x * 1
    (x + y).backward()
    y = x * 1
    before = sys.getallocatedblocks()
    for _ in range(1_000_000):
        y = y + x
    during = sys.getallocatedblocks()
    y.backward()
    del y
    assert x.grad.item() == 1_000_003
    assert during - before > 2_000_000
    assert sys.getallocatedblocks() - before < 10_000


def test_a_long_chain_that_is_never_differentiated_is_freed_without_recursion():
    y = scalar(1.0)
    for _ in range(200_000):
        y = -y
    watch = weakref.ref(y.grad_fn)
    del y
    assert watch() is None


def test_a_long_chain_of_values():
    x = Value(1.0)
    y = x
    for _ in range(200_000):
        y = y + x
    y.backward()
    assert x.grad == 200_001.0
    watch = weakref.ref(y)
    del y
    assert watch() is None


def test_a_wide_graph():
    x = scalar(2.0)
    sum([x * (k % 8) for k in range(20_000)]).backward()
    assert x.grad.item() == sum(k % 8 for k in range(20_000))


# -------------------------------------------------------------------------------- memory
class GarbageOff:
    """Nothing but reference counts frees memory inside; what they left over is counted."""

    def __enter__(self):
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        return self

    def __exit__(self, *_):
        gc.collect()
        gc.set_debug(0)
        self.left = [o for o in gc.garbage if issubclass(type(o), (Node, torch.Tensor))]
        gc.garbage.clear()
        gc.enable()


def training():
    """A function that makes one training step of a small network."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    loss_fn = nn.MSELoss()

    def step():
        optimizer.zero_grad()
        loss = loss_fn(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def test_ten_thousand_steps_do_not_grow_memory():
    step = training()
    with GarbageOff() as garbage:
        first = step().item()
        for _ in range(100):
            step()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(10_000):
                last = step()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert garbage.left == []
    assert last.item() < first
    assert after - before < 20_000


CYCLES = {
    "retain_grad": lambda x: (y := x * 2, y.retain_grad(), (y * y).sum().backward()),
    "retain_graph": lambda x: (x * x).sum().backward(retain_graph=True),
    "never run": lambda x: (x * x).exp().sum(),
    "grad": lambda x: torch.autograd.grad((x * x).sum(), x),
    "second order": lambda x: torch.autograd.grad(
        torch.autograd.grad((x**3).sum(), x, create_graph=True)[0].sum(), x
    ),
    "graph of a gradient": lambda x: torch.autograd.grad((x.exp()).sum(), x, create_graph=True),
    "view": lambda x: (x * 1).view(1, 2)[0].sum().backward(),
    "in place": lambda x: (y := x * 1, y.mul_(2), y.add_(x), y.sum().backward()),
    "saved result": lambda x: (x.exp().tanh().sigmoid()).sum().backward(),
    "no_grad": lambda x: torch.no_grad()(lambda: x * x)(),
    "error": lambda x: pytest.raises(RuntimeError, (x * 2).backward),
    "value": lambda x: (v := Value(2.0), (v * v * x).sum().backward()),
    "detach": lambda x: (x * 2).detach() + x,
}


@pytest.mark.parametrize("name", CYCLES)
def test_reference_counts_alone_free_everything(name):
    x = leaf(1.0, 2.0)
    CYCLES[name](x)
    with GarbageOff() as garbage:
        CYCLES[name](x)
    assert garbage.left == []


def test_backward_frees_what_nodes_saved():
    x = leaf(1.0, 2.0)
    square = x * 3
    watch = weakref.ref(square)
    y = (square * square).sum()
    del square
    assert watch() is not None
    y.backward()
    assert watch() is None


# ------------------------------------------------------------- owned buffers, no aliases
ALIASES = {
    "sum of leaves": lambda x, w: x + w,
    "difference": lambda x, w: x - w,
    "views": lambda x, w: x.view(2, 1).view(2) + w.reshape(1, 2)[0],
    "clones": lambda x, w: x.clone() + w.clone(),
    "twice the same": lambda x, w: x + x + w + w,
    "product by one": lambda x, w: (x + w) * 1,
    "chain of sums": lambda x, w: ((x + w) + w) + x,
    "stack": lambda x, w: torch.stack([x, w]).sum(0),
    "cat": lambda x, w: torch.cat([x, w])[:2] + torch.cat([w, x])[:2],
    "expand": lambda x, w: x.expand(2, 2)[0] + w.expand(2, 2)[1],
    "relu": lambda x, w: x.relu() + w.relu(),
    "negative": lambda x, w: -(-x) - (-w),
    "cast": lambda x, w: x.double().float() + w.to(torch.float32),
    "contiguous": lambda x, w: x.contiguous() + w.contiguous(),
    "transpose": lambda x, w: (x.view(1, 2).t() + w.view(2, 1)).view(2),
}


@pytest.mark.parametrize("name", ALIASES)
def test_gradients_share_no_memory(name):
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    given = torch.tensor([5.0, 7.0])
    y = ALIASES[name](x, w)
    y.backward(given, retain_graph=True)
    expected = (x.grad.tolist(), w.grad.tolist())
    arrays = [t.numpy() for t in (x.grad, w.grad, given, x.detach(), w.detach(), y.detach())]
    for k, one in enumerate(arrays[:2]):
        assert one.flags.writeable and one.flags.c_contiguous
        assert not any(np.shares_memory(one, two) for j, two in enumerate(arrays) if j != k)
    x.grad.mul_(100)
    assert given.tolist() == [5.0, 7.0]
    assert w.grad.tolist() == expected[1]
    x.grad = w.grad = None
    y.backward(given)
    assert (x.grad.tolist(), w.grad.tolist()) == expected


def test_gradient_argument_given_to_a_leaf_is_copied():
    x, given = leaf(1.0, 2.0), torch.ones(2)
    x.backward(given)
    x.grad.mul_(3)
    assert given.tolist() == [1.0, 1.0]
    array = np.ones(2, np.float32)
    x.grad = None
    x.backward(torch.from_numpy(array))
    x.grad.mul_(3)
    assert array.tolist() == [1.0, 1.0]


def test_scalar_roots_do_not_share_their_one():
    x, y = scalar(1.0), scalar(1.0)
    x.backward()
    (y + 0).backward()
    x.grad.mul_(5)
    y.grad.mul_(7)
    z = scalar(1.0)
    (z + 0).backward()
    z.backward()
    assert (x.grad.item(), y.grad.item(), z.grad.item()) == (5.0, 7.0, 2.0)


def test_results_of_grad_share_no_memory():
    x, w, given = leaf(1.0, 2.0), leaf(3.0, 4.0), torch.ones(2)
    y = x + w
    found = torch.autograd.grad(y, [x, w, x, y], given)
    arrays = [g.numpy() for g in found] + [given.numpy()]
    for k, one in enumerate(arrays):
        assert not any(np.shares_memory(one, two) for two in arrays[:k])


def test_kept_gradients_of_non_leaves_are_their_own():
    x = leaf(1.0, 2.0)
    y = x + 0
    z = y + 0
    y.retain_grad()
    z.retain_grad()
    given = torch.ones(2)
    z.backward(given)
    arrays = [t.numpy() for t in (x.grad, y.grad, z.grad, given)]
    for k, one in enumerate(arrays):
        assert not any(np.shares_memory(one, two) for two in arrays[:k])


def test_a_gradient_that_the_user_holds_survives_zeroing_to_none():
    x = leaf(1.0, 2.0)
    (x * 2).sum().backward()
    held = x.grad
    x.grad = None
    (x * 5).sum().backward()
    assert (held.tolist(), x.grad.tolist()) == ([2.0, 2.0], [5.0, 5.0])


# -------------------------------------------------------------------------- accumulation
def test_accumulation_keeps_the_identity_of_grad():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    first, memory = x.grad, x.grad.data_ptr()
    (x * 3).sum().backward()
    assert x.grad is first
    assert x.grad.data_ptr() == memory
    assert first.tolist() == [5.0, 7.0]
    assert not first.requires_grad


def test_assigned_grad_is_accumulated_into():
    x = leaf(1.0, 2.0)
    x.grad = given = torch.tensor([10.0, 20.0])
    (x * x).sum().backward()
    assert x.grad is given
    assert given.tolist() == [12.0, 24.0]


def test_grad_of_a_non_contiguous_leaf_is_right():
    x = torch.arange(6.0).view(2, 3).t().requires_grad_()
    weights = torch.arange(6.0).view(3, 2)
    for k in (1, 2):
        (x * weights).sum().backward()
        assert x.grad.tolist() == (weights * k).tolist()


def test_accumulation_counts_as_a_change_of_grad():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    w = leaf(1.0, 1.0)
    y = (w * x.grad).sum()
    (x * x).sum().backward()
    with pytest.raises(RuntimeError, match=IN_PLACE):
        y.backward()


# ------------------------------------------------------------------------ diamonds, order
def test_diamonds():
    x = scalar(3.0)
    a = x * 2
    b, c = a * a, a + 1
    (b * c + a).backward()
    # (4 x^2)(2 x + 1) + 2 x
    assert x.grad.item() == 24 * 9 + 8 * 3 + 2


def test_stacked_diamonds_cost_no_more_than_their_nodes():
    x = scalar(1.0)
    y = x
    for _ in range(100):
        y = (y + y) * 0.5
    y.backward()
    assert x.grad.item() == 1.0


def test_old_and_new_nodes_meet():
    x = scalar(2.0)
    old = x * x
    late = scalar(5.0)
    new = late * x
    (old * new + new + old).backward()
    assert x.grad.item() == 3 * 4 * 5 + 5 + 4
    assert late.grad.item() == 8 + 2


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_against_forward_differences(seed):
    """A polynomial graph on integers, where dual numbers are exact."""
    rng = np.random.default_rng(seed)
    x = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    tensors, duals = [x, x * 1], [(2, 1), (2, 1)]
    for _ in range(25):
        i, j = rng.integers(max(0, len(tensors) - 4), len(tensors), 2)
        (a, da), (b, db) = duals[i], duals[j]
        kind = rng.integers(3) if abs(a * b) < 1e6 and abs(da * b + a * db) < 1e12 else 0
        if kind == 0:
            tensors.append(tensors[i] - tensors[j])
            duals.append((a - b, da - db))
        elif kind == 1:
            tensors.append(tensors[i] + tensors[j])
            duals.append((a + b, da + db))
        else:
            tensors.append(tensors[i] * tensors[j])
            duals.append((a * b, da * b + a * db))
    total = sum(tensors[2:], tensors[1])
    total.backward()
    assert total.item() == sum(v for v, _ in duals[1:])
    assert x.grad.item() == sum(d for _, d in duals[1:])


def test_numbers_of_nodes_count_down():
    x = scalar(1.0)
    y = x * 2
    z = y * 2
    assert next_seq() < z.grad_fn.seq < y.grad_fn.seq < 0
    y.add_(z)
    assert y.grad_fn.seq < z.grad_fn.seq
    assert [n.name() for n, _ in y.grad_fn.next_functions] == ["MulBackward0", "MulBackward0"]


def test_in_place_results_run_before_what_they_overwrote():
    x = leaf(1.0, 2.0)
    y = x * 3
    z = y * 2
    y.add_(z)
    y.mul_(2)
    (y + z).sum().backward()
    assert x.grad.tolist() == [24.0, 24.0]


# -------------------------------------------------------------------------- retain_graph
def test_second_backward_raises_where_something_was_saved():
    x = scalar(3.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match=SECOND):
        y.backward()
    assert x.grad.item() == 6.0


def test_second_backward_works_where_nothing_was_saved():
    x = leaf(1.0, 2.0)
    y = (x + 1).sum()
    y.backward()
    y.backward()
    assert x.grad.tolist() == [2.0, 2.0]


def test_retain_graph_allows_any_number_of_passes():
    x = scalar(3.0)
    y = (x * x).exp().log()
    for k in range(1, 4):
        y.backward(retain_graph=True)
        assert x.grad.item() == pytest.approx(6.0 * k)
    y.backward()
    with pytest.raises(RuntimeError, match=SECOND):
        y.backward()


def test_freed_part_of_a_graph_is_noticed_from_elsewhere():
    x = scalar(3.0)
    shared = x * x
    a, b = shared + 1, shared + 2
    a.backward()
    with pytest.raises(RuntimeError, match=SECOND):
        b.backward()


def test_grad_frees_the_graph_too():
    x = scalar(3.0)
    y = x * x
    torch.autograd.grad(y, x)
    with pytest.raises(RuntimeError, match=SECOND):
        torch.autograd.grad(y, x)


# --------------------------------------------------------------------------- retain_grad
def test_retain_grad_keeps_the_gradient_of_a_non_leaf():
    x = scalar(3.0)
    y = x * x
    y.retain_grad()
    assert y.retains_grad and y.grad is None
    (y * 2 + y).backward()
    assert (y.grad.item(), x.grad.item()) == (3.0, 18.0)


def test_retain_grad_accumulates():
    x = scalar(3.0)
    y = x * x
    y.retain_grad()
    z = y * 2
    z.backward(retain_graph=True)
    z.backward()
    assert (y.grad.item(), x.grad.item()) == (4.0, 24.0)


def test_retain_grad_of_the_root_and_of_a_leaf():
    x = scalar(3.0)
    x.retain_grad()
    assert not x.retains_grad
    y = x * x
    y.retain_grad()
    y.retain_grad()
    y.backward()
    assert (y.grad.item(), x.grad.item()) == (1.0, 6.0)


def test_retain_grad_works_with_grad_and_with_create_graph():
    x = scalar(3.0)
    y = x * x
    y.retain_grad()
    (g,) = torch.autograd.grad(y * y, x, create_graph=True)
    assert y.grad.item() == 18.0
    assert y.grad.requires_grad
    (second,) = torch.autograd.grad(g, x)
    assert second.item() == 12 * 9.0


def test_retain_grad_is_refused_without_requires_grad():
    with pytest.raises(RuntimeError, match="can't retain_grad on Tensor that has requires_grad"):
        torch.ones(2).retain_grad()


def test_grad_of_a_non_leaf_warns_and_is_none():
    y = scalar(3.0) * 2
    with pytest.warns(UserWarning, match="not a leaf Tensor is being accessed"):
        assert y.grad is None


# -------------------------------------------------------------------------------- inputs
def test_inputs_restrict_accumulation():
    x, w = scalar(3.0), scalar(4.0)
    (x * w).backward(inputs=[w])
    assert x.grad is None
    assert w.grad.item() == 3.0
    (x * w).backward(inputs=x)
    assert (x.grad.item(), w.grad.item()) == (4.0, 3.0)


def test_inputs_may_be_non_leaves():
    x = scalar(3.0)
    y = x * x
    (y * 5).backward(inputs=[y])
    assert y._grad.item() == 5.0
    assert x.grad is None


def test_inputs_that_are_not_reached_stay_without_grad():
    x, w = scalar(3.0), scalar(4.0)
    (x * x).backward(inputs=[w])
    assert x.grad is None and w.grad is None


def test_inputs_may_not_be_empty():
    with pytest.raises(RuntimeError, match="argument to `backward\\(\\)` cannot be empty"):
        (scalar(3.0) * 2).backward(inputs=[])


def test_only_nodes_towards_the_inputs_run():
    x, w = scalar(3.0), scalar(4.0)
    left, right = x * x, w * w
    (left + right).backward(inputs=[x])
    right.backward()
    with pytest.raises(RuntimeError, match=SECOND):
        left.backward()


# ---------------------------------------------------------------------------------- grad
def test_grad_of_non_leaf_inputs():
    x = scalar(3.0)
    y = x * x
    z = y * y
    found = torch.autograd.grad(z, [x, y, z])
    assert [g.item() for g in found] == [108.0, 18.0, 1.0]
    assert x.grad is None


def test_grad_of_an_input_above_another():
    x = scalar(2.0)
    a = x * 3
    b = a * a
    c = b * a
    found = torch.autograd.grad(c, [b, a])
    assert [g.item() for g in found] == [6.0, 108.0]


def test_grad_of_several_outputs_and_repeated_inputs():
    x = leaf(1.0, 2.0)
    y, z = x * x, x * 3
    found = torch.autograd.grad([y, z.sum()], [x, x], [torch.tensor([1.0, 10.0]), None])
    assert [g.tolist() for g in found] == [[5.0, 43.0]] * 2
    (g,) = torch.autograd.grad(x.sum(), x)
    assert g.tolist() == [1.0, 1.0]


def test_grad_of_unused_inputs():
    x, w = scalar(3.0), leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="index 1 appears to not have been used in the graph"):
        torch.autograd.grad(x * 2, [x, w])
    assert torch.autograd.grad(x * 2, [x, w], allow_unused=True)[1] is None
    (_, zeros) = torch.autograd.grad(x * 2, [x, w], materialize_grads=True)
    assert zeros.tolist() == [0.0, 0.0]


def test_grad_of_an_input_without_requires_grad():
    with pytest.raises(RuntimeError, match="One of the differentiated Tensors does not require"):
        torch.autograd.grad(scalar(1.0) * 2, torch.ones(1))


def test_roots_may_repeat_and_contain_each_other():
    x = leaf(2.0, 1.0)
    y = x.sum()
    torch.autograd.backward([y, y * y, y])
    assert x.grad.tolist() == [8.0, 8.0]


# -------------------------------------------------------------------------- create_graph
def test_third_order():
    x = scalar(2.0)
    y = x**5 * 3
    orders = []
    for _ in range(3):
        (y,) = torch.autograd.grad(y, x, create_graph=True)
        orders.append(y.item())
    assert orders == pytest.approx([15 * 16.0, 60 * 8.0, 180 * 4.0])
    y.backward()
    assert x.grad.item() == pytest.approx(360 * 2.0)


def test_third_order_of_a_saved_result():
    x = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y = x.tanh()
    for _ in range(3):
        (y,) = torch.autograd.grad(y, x, create_graph=True)
    t = np.tanh(0.3)
    assert y.item() == pytest.approx((1 - t * t) * (6 * t * t - 2), rel=1e-12)


def test_mixed_second_derivatives_agree():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (gx,) = torch.autograd.grad((x * x * w).exp().log().sum(), x, create_graph=True)
    (first,) = torch.autograd.grad(gx.sum(), w)
    (gw,) = torch.autograd.grad((x * x * w).exp().log().sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(gw.sum(), x)
    assert first.tolist() == pytest.approx([2.0, 4.0], rel=1e-5)
    assert second.tolist() == pytest.approx([2.0, 4.0], rel=1e-5)


def test_create_graph_keeps_the_graph():
    x = scalar(2.0)
    y = x * x
    torch.autograd.grad(y, x, create_graph=True)
    y.backward()
    assert x.grad.item() == 4.0


def test_gradients_without_create_graph_have_no_history():
    x = scalar(2.0)
    (g,) = torch.autograd.grad(x * x, x)
    assert not g.requires_grad and g.grad_fn is None


def test_gradient_penalty():
    x = leaf(1.0, 2.0)
    w = scalar(3.0)
    (g,) = torch.autograd.grad((w * x * x).sum(), x, create_graph=True)
    (g * g).sum().backward()
    # sum (2 w x)^2 by w: 8 w sum x^2; by x: 8 w^2 x
    assert w.grad.item() == 8 * 3 * 5.0
    assert x.grad.tolist() == [72.0, 144.0]


def test_backward_with_create_graph_warns_of_its_cycle_and_gives_a_history():
    x = scalar(2.0)
    with pytest.warns(UserWarning, match="create a reference cycle"):
        (x**3).backward(create_graph=True)
    g, x.grad = x.grad, None
    assert g.item() == 12.0
    g.backward()
    assert x.grad.item() == 12.0


# -------------------------------------------------------------- versions, in-place changes
@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("input of a product", lambda x, y: y * y),
        ("other input", lambda x, y: x * y),
        ("result of exp", lambda x, y: y),
        ("result, used further", lambda x, y: y * 2),
        ("input of a power", lambda x, y: y**2),
        ("exponent", lambda x, y: x**y),
        ("view", lambda x, y: y.view(2, 1) * y.view(2, 1)),
        ("input of sin", lambda x, y: y.sin()),
    ],
)
@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.add_(1),
        lambda y: y.mul_(2),
        lambda y: y.detach().add_(1),
        lambda y: y.view(2, 1).add_(1),
        lambda y: y.__setitem__(0, 5.0),
        lambda y: torch.no_grad()(lambda: y.zero_())(),
        lambda y: torch.no_grad()(lambda: y.copy_(torch.ones(2)))(),
    ],
    ids="add_ mul_ detach view setitem zero_ copy_".split(),
)
def test_changed_saved_value_is_noticed(name, save, change):
    x = leaf(1.0, 2.0)
    y = x.exp()
    z = save(x, y)
    change(y)
    with pytest.raises(RuntimeError, match=IN_PLACE):
        z.sum().backward()
    assert x.grad is None


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.data.add_(1),
        lambda y: y.detach().numpy().__iadd__(1),
    ],
    ids=["data", "numpy"],
)
def test_changes_behind_autograds_back_are_not_noticed(change):
    x = leaf(1.0, 2.0)
    y = x * 1
    z = (x * y).sum()
    change(y)
    z.backward()
    assert x.grad.tolist() == [3.0, 5.0]


def test_change_that_no_gradient_depends_on_is_allowed():
    x = leaf(1.0, 2.0)
    y = x * 3
    z = (y + 1).sum() + y.sum()
    y.mul_(5)
    z.backward()
    assert x.grad.tolist() == [6.0, 6.0]


def test_change_before_use_is_allowed():
    x = leaf(1.0, 2.0)
    y = x * 3
    y.mul_(5)
    y.add_(x)
    (y * y).sum().backward()
    assert x.grad.tolist() == [2 * 16 * 16.0, 2 * 16 * 32.0]


def test_change_of_a_parameter_between_forward_and_backward_is_noticed():
    x = leaf(1.0, 2.0)
    optimizer = torch.optim.SGD([x], lr=0.1)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match=f"{IN_PLACE}.*is at version 1; expected version 0"):
        y.backward()


def test_version_counts_changes_of_a_storage():
    x = torch.zeros(4)
    view = x.view(2, 2)
    versions = [x._version]
    for change in (
        lambda: x.add_(1), lambda: x.__setitem__(0, 3.0), lambda: x.zero_(),
        lambda: view.mul_(2), lambda: x.detach().fill_(2), lambda: x.copy_(torch.ones(4)),
        lambda: x[1:].add_(1), lambda: x.data.add_(1),
    ):  # fmt: skip
        change()
        versions.append(x._version)
    assert versions == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert view._version == 7


def test_many_changes_are_counted_right():
    x = leaf(1.0, 2.0)
    w = torch.ones(2)
    for _ in range(100):
        w.add_(1)
    y = (x * w).sum()
    w.add_(1)
    with pytest.raises(RuntimeError, match="is at version 101; expected version 100"):
        y.backward()


IN_PLACE_METHODS = {
    "exp_": np.exp, "sigmoid_": lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2,
    "tanh_": lambda x: 1 - np.tanh(x) ** 2, "sqrt_": lambda x: 0.5 / np.sqrt(x),
    "relu_": lambda x: x * 0 + 1, "reciprocal_": lambda x: -1 / x**2, "sin_": np.cos,
    "square_": lambda x: 2 * x, "neg_": lambda x: x * 0 - 1, "log_": lambda x: 1 / x,
    "abs_": np.sign,
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PLACE_METHODS)
def test_in_place_method_is_differentiated(name):
    x = leaf(0.5, 2.0)
    y = x * 1
    assert getattr(y, name)() is y
    y.sum().backward()
    assert x.grad.tolist() == pytest.approx(IN_PLACE_METHODS[name](x.detach().numpy()), rel=1e-5)


def test_augmented_assignments_are_differentiated():
    x = leaf(1.0, 2.0)
    y = x * 3
    y *= 2
    y -= x
    y /= 5
    y += 1
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


VIEWS = {
    "slice, then base": lambda x: twice(x, lambda y: y[0:1].mul_(5)),
    "view, then base": lambda x: twice(x, lambda y: y.view(2, 1).mul_(5)),
    "row, then base": lambda x: twice(x, lambda y: y[1].add_(x[0])),
    "zeroed slice": lambda x: twice(x, lambda y: y[0:1].zero_()),
    "filled slice": lambda x: twice(x, lambda y: y[0:1].fill_(3)),
    "setitem": lambda x: twice(x, lambda y: y.__setitem__(0, x[1] * 3)),
    "augmented item": lambda x: twice(x, lambda y: y.__setitem__(0, y[0] * 3)),
    "view of a view": lambda x: twice(x, lambda y: y.view(2, 1)[0:1].mul_(7)),
    "base, then view": lambda x: (y := x * 1, v := y[0:1], y.mul_(5), v)[-1],
    "view, then another view": lambda x: (
        y := x * 1, v := y.view(2, 1), w := y.view(1, 2), v.mul_(5), w
    )[-1],
    "view of plain zeros": lambda x: (y := torch.zeros(2), y[0:1].add_(x[1:]), y)[-1],
    "copied into a slice": lambda x: (y := torch.zeros(2), y[1:].copy_(x[:1]), y)[-1],
    "copied into plain zeros": lambda x: (y := torch.zeros(2), y.copy_(x), y)[-1],
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_in_place_changes_through_views_are_differentiated(name):
    """The oracle: every change here is affine, so differences of the values are exact."""
    at = np.array([1.0, 2.0])
    x = torch.tensor(at, requires_grad=True)
    y = VIEWS[name](x)
    weights = torch.arange(1.0, 1.0 + y.numel(), dtype=y.dtype).view(y.shape)
    (y * weights).sum().backward()

    def value(point):
        return (VIEWS[name](torch.tensor(point)).detach() * weights).sum().item()

    expected = [value(at + step) - value(at) for step in np.eye(2)]
    assert x.grad.tolist() == pytest.approx(expected, abs=1e-6)


def test_in_place_change_of_a_leaf_is_refused():
    x = leaf(1.0, 2.0)
    for change in (x.add_, x.mul_):
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used"):
            change(1)
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad"):
        x.view(2, 1).add_(1)
    with torch.no_grad():
        x.add_(1)
    assert x.tolist() == [2.0, 3.0]


# -------------------------------------------------------------------------------- errors
def test_error_in_the_middle_of_backward_leaves_grad_untouched():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    x.grad, w.grad = torch.ones(2), torch.ones(2)
    deep = x.exp()
    z = (w * 2 + deep * 3).sum()
    with torch.no_grad():
        deep.add_(1)
    with pytest.raises(RuntimeError, match=IN_PLACE):
        z.backward()
    assert x.grad.tolist() == w.grad.tolist() == [1.0, 1.0]
    assert torch.is_grad_enabled()


def test_error_in_the_middle_of_create_graph_restores_the_grad_mode():
    x = leaf(1.0, 2.0)
    deep = x.exp()
    z = (deep * 3).sum()
    with torch.no_grad():
        deep.add_(1)
        with pytest.raises(RuntimeError, match=IN_PLACE):
            torch.autograd.grad(z, x, create_graph=True)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_backward_works_inside_no_grad():
    x = scalar(3.0)
    y = x * x
    with torch.no_grad():
        y.backward()
        assert not torch.is_grad_enabled()
    assert x.grad.item() == 6.0


def test_what_backward_refuses():
    x = leaf(1.0, 2.0)
    y = x * 2
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar"):
        y.backward()
    with pytest.raises(RuntimeError, match="Mismatch in shape: grad_output\\[0\\]"):
        y.backward(torch.ones(3))
    with pytest.raises(RuntimeError, match="element 0 of tensors does not require grad"):
        torch.ones(1).backward()
    with pytest.raises(TypeError, match="gradients can be either Tensors or None"):
        y.backward([1.0, 2.0])
    with pytest.raises(RuntimeError, match="got 1 tensors and 2 gradients"):
        torch.autograd.backward([y], [torch.ones(2), torch.ones(2)])
    assert x.grad is None


# ---------------------------------------------------------------------------- grad modes
MODES = {
    "no_grad": (torch.no_grad, False),
    "enable_grad": (torch.enable_grad, True),
    "inference_mode": (torch.inference_mode, False),
    "set_grad_enabled(False)": (lambda: torch.set_grad_enabled(False), False),
    "set_grad_enabled(True)": (lambda: torch.set_grad_enabled(True), True),
}


@pytest.fixture(params=[True, False], ids=["grad on", "grad off"], autouse=False)
def outside(request):
    """The mode around the test."""
    before = mode.enabled
    mode.enabled = request.param
    yield request.param
    mode.enabled = before


@pytest.mark.parametrize("name", MODES)
def test_mode_as_context(name, outside):
    make, inside = MODES[name]
    x = leaf(1.0)
    with make():
        assert torch.is_grad_enabled() == inside
        assert (x * 2).requires_grad == inside
    assert torch.is_grad_enabled() == outside
    assert (x * 2).requires_grad == outside


@pytest.mark.parametrize("name", MODES)
def test_mode_as_decorator(name, outside):
    make, inside = MODES[name]

    @make()
    def look(depth=0):
        """What it says."""
        seen = [torch.is_grad_enabled()]
        return seen + (look(depth - 1) if depth else [])

    assert torch.is_grad_enabled() == outside
    assert look(3) == [inside] * 4
    assert torch.is_grad_enabled() == outside
    assert (look.__name__, look.__doc__) == ("look", "What it says.")


@pytest.mark.parametrize("make", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_mode_as_decorator_without_parentheses(make):
    @make
    def look():
        return torch.is_grad_enabled()

    with torch.set_grad_enabled(make is not torch.enable_grad):
        assert look() == (make is torch.enable_grad)


@pytest.mark.parametrize("name", MODES)
def test_mode_is_restored_after_an_error(name, outside):
    make, _ = MODES[name]

    @make()
    def fail():
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.is_grad_enabled() == outside
    with pytest.raises(KeyError), make(), make():
        raise KeyError
    assert torch.is_grad_enabled() == outside


def test_modes_nest():
    seen = []
    with torch.no_grad():
        with torch.enable_grad():
            seen.append(torch.is_grad_enabled())
            with torch.inference_mode():
                seen.append(torch.is_grad_enabled())
            seen.append(torch.is_grad_enabled())
        seen.append(torch.is_grad_enabled())
    seen.append(torch.is_grad_enabled())
    assert seen == [True, False, True, False, True]


def test_one_switch_may_be_entered_twice():
    switch = torch.no_grad()
    with switch:
        with switch:
            assert not torch.is_grad_enabled()
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_decorated_generator_switches_while_it_runs_only():
    @torch.no_grad()
    def look():
        yield torch.is_grad_enabled()
        yield torch.is_grad_enabled()

    assert [(inner, torch.is_grad_enabled()) for inner in look()] == [(False, True)] * 2


def test_set_grad_enabled_acts_at_once():
    try:
        torch.set_grad_enabled(False)
        assert not torch.is_grad_enabled()
        with torch.set_grad_enabled(True):
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


def test_modes_of_threads_are_their_own():
    seen = []
    with torch.no_grad():
        thread = threading.Thread(target=lambda: seen.append(torch.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_leaves_made_without_grad_may_still_require_it():
    with torch.no_grad():
        x = torch.ones(2, requires_grad=True)
        assert x.requires_grad and x.is_leaf
        assert not (x * 2).requires_grad
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


# ---------------------------------------------------------------------- beside PyTorch
def test_inference_mode_as_in_pytorch():
    def look(library):
        seen = []
        with library.no_grad(), library.inference_mode(False):
            seen.append(library.is_grad_enabled())
        with library.inference_mode():
            seen.append((library.is_grad_enabled(), library.is_inference_mode_enabled()))
            with library.inference_mode(False):
                seen.append((library.is_grad_enabled(), library.is_inference_mode_enabled()))
        seen.append((library.is_grad_enabled(), library.is_inference_mode_enabled()))
        return seen

    # PyTorch 2.13; compared with it where it is installed.
    expected = [True, (False, True), (True, False), (True, False)]
    assert look(torch) == expected
    assert look(pytest.importorskip("torch", reason="pip install torch")) == expected


def test_messages_of_changed_values_as_in_pytorch():
    def message(library):
        x = library.ones(2, requires_grad=True)
        w = library.ones(2)
        y = (x * w).sum()
        w.add_(1)
        with pytest.raises(RuntimeError) as caught:
            y.backward()
        return str(caught.value).partition(" Hint:")[0]

    expected = (
        "one of the variables needed for gradient computation has been modified by an inplace "
        "operation: [torch.FloatTensor [2]] is at version 1; expected version 0 instead."
    )
    assert message(torch) == expected
    assert message(pytest.importorskip("torch", reason="pip install torch")) == expected


def test_no_warning_from_any_of_this():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = leaf(1.0, 2.0)
        y = (x / 0).log().exp()
        y.sum().backward()
