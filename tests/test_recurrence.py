"""A layer as one node against the same layer of composed operations: values, gradients of all
orders, and what of the results is used."""

import numpy as np
import pytest

import microtorch as torch
from microtorch import nn
from microtorch.autograd import gradcheck, gradgradcheck
from microtorch.kernels import cpu, gemm
from microtorch.nn import recurrence
from microtorch.table import CELLS

F4 = np.dtype("f4")
MODES = list(recurrence.BLOCKS)
T, N, D, H, P = 4, 3, 5, 6, 2


def inputs(mode, dtype=torch.float64, bias=True, projected=False, grad=True):
    """The arguments of a layer after mode and direction."""
    torch.manual_seed(0)
    rows, given = recurrence.BLOCKS[mode] * H, P if projected else H

    def made(*shape):
        return torch.randn(*shape, dtype=dtype).requires_grad_(grad)

    state = [made(1, N, given)] + [made(1, N, H)] * (mode == "LSTM")
    weights = [made(rows, D), made(rows, given)]
    weights += [made(rows), made(rows)] if bias else [None, None]
    return [made(T, N, D), state, *weights, made(P, H) if projected else None]


def flat(args):
    x, state, *weights = args
    return [t for t in (x, *state, *weights) if t is not None]


def node(mode, backwards, args):
    out, ends = recurrence.along_layer(mode, backwards, *args)
    return [out, *ends]


def composed(mode, backwards, args):
    x, state, *weights = args
    h, c = (*state, None)[:2]
    return list(recurrence._composed(mode, backwards, x, h, c, *weights))


CASES = [(m, b, r, False) for m in MODES for b in (True, False) for r in (True, False)]
CASES += [("LSTM", True, r, True) for r in (True, False)]


@pytest.mark.parametrize("mode, bias, backwards, projected", CASES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_results_and_gradients(mode, bias, backwards, projected, dtype, tolerance):
    args = inputs(mode, dtype, bias, projected)
    mine, expected = node(mode, backwards, args), composed(mode, backwards, args)
    given = [torch.randn(*z.shape, dtype=dtype) for z in expected]
    found = torch.autograd.grad(mine, flat(args), given)
    wanted = torch.autograd.grad(expected, flat(args), given)
    for a, b in zip([*mine, *found], [*expected, *wanted], strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("used", [[0], [1], [2], [0, 2], [1, 2]])
def test_results_used_in_part(mode, used):
    used = [k for k in used if k < 2 or mode == "LSTM"]
    if not used:
        return
    args = inputs(mode)
    mine, expected = node(mode, True, args), composed(mode, True, args)
    found, wanted = (
        torch.autograd.grad(sum((z[k] ** 2).sum() for k in used), flat(args), allow_unused=True)
        for z in (mine, expected)
    )
    for a, b in zip(found, wanted, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(zero if a is None else a + 0, zero if b is None else b + 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("projected", [False, True])
def test_derivatives_of_the_second_order(mode, projected):
    if projected and mode != "LSTM":
        return
    args = inputs(mode, projected=projected)
    tensors = flat(args)
    count = len(args[1])

    def layer(x, *rest):
        state, weights = rest[:count], rest[count:]
        return tuple(node(mode, False, [x, state, *weights]))

    assert gradcheck(layer, tensors)
    assert gradgradcheck(layer, tensors)


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_third_order_is_that_of_composed_operations(mode):
    found = []
    for run in (node, composed):
        args = inputs(mode)
        x, w = args[0], args[3]
        z = run(mode, False, args)[0].sum()
        for _ in range(2):
            gx, gw = torch.autograd.grad(z, [x, w], create_graph=True)
            z = (gx**2).sum() + (gw**3).sum()
        found.append(torch.autograd.grad(z, flat(args), allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("create_graph", [False, True])
def test_inputs_that_depend_on_each_other(create_graph):
    found = []
    for run in (node, composed):
        x, (h,), w_ih, w_hh, *rest = inputs("GRU")
        h = x[:1, :, :1] * h
        out, end = run("GRU", False, [x, [h], w_ih, w_hh * w_ih.sum(), *rest])
        z = out.sum() + (end**2).sum()
        found.append(torch.autograd.grad(z, [x, w_ih, w_hh], create_graph=create_graph))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_some_inputs_without_gradient():
    for place in range(6):
        args = inputs("LSTM", grad=False)
        leaf = [args[0], args[1][0], *args[2:6]][place].requires_grad_()
        pairs = [(r("LSTM", False, args)[0] ** 2).sum() for r in (node, composed)]
        a, b = (torch.autograd.grad(z, leaf)[0] for z in pairs)
        torch.testing.assert_close(a, b)


def test_nothing_is_kept_without_grad():
    args = inputs("LSTM")
    with torch.no_grad():
        assert not any(z.requires_grad for z in node("LSTM", False, args))
    assert not any(z.requires_grad for z in node("LSTM", False, inputs("LSTM", grad=False)))


def test_memory_is_freed_and_the_graph_kept_if_asked():
    net, x = nn.LSTM(D, H), torch.randn(T, N, D)
    out, _ = net(x)
    out.sum().backward(retain_graph=True)
    first = [p.grad.clone() for p in net.parameters()]
    out.sum().backward()
    for p, g in zip(net.parameters(), first, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()


def test_changes_in_place():
    net, x = nn.GRU(D, H), torch.randn(T, N, D)
    out, end = net(x)
    expected = torch.autograd.grad(out.sum() + end.sum(), net.weight_hh_l0, retain_graph=True)
    end *= 2
    out += 1
    found = torch.autograd.grad(out.sum() + end.sum() / 2, net.weight_hh_l0)
    torch.testing.assert_close(found, expected)
    out, _ = net(x)
    with torch.no_grad():
        net.weight_hh_l0 += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_weight_that_is_shared():
    net, x = nn.LSTM(H, H), torch.randn(T, N, H)
    net.weight_hh_l0 = net.weight_ih_l0
    seen = []
    net.weight_ih_l0.register_hook(lambda g: seen.append(g.clone()))
    net(x)[0].sum().backward()
    other = nn.LSTM(H, H)
    other.load_state_dict(net.state_dict())
    other(x)[0].sum().backward()
    both = other.weight_ih_l0.grad + other.weight_hh_l0.grad
    torch.testing.assert_close(net.weight_ih_l0.grad, both)
    torch.testing.assert_close(sum(seen), both)


@pytest.mark.parametrize("change", ["state", "weight"])
def test_what_does_not_fit_is_refused(change):
    net, x = nn.GRU(D, H), torch.randn(T, N, D)
    h = torch.zeros(1, N, H, dtype=torch.float64) if change == "state" else None
    if change == "weight":
        net.weight_hh_l0 = nn.Parameter(torch.randn(3 * H, H + 1))
    with pytest.raises(RuntimeError, match="same dtype|cannot be multiplied"):
        net(x, h)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_are_the_steps_of_layers(name):
    torch.manual_seed(1)
    cell, layer = getattr(nn, name)(D, H), getattr(nn, name[:-4])(D, H)
    layer.load_state_dict({k + "_l0": v for k, v in cell.state_dict().items()})
    x, state = torch.randn(T, N, D), None
    for part in x:
        state = cell(part, state)
    (state[0] if isinstance(state, tuple) else state).sum().backward()
    layer(x)[0][-1].sum().backward()
    for a, b in zip(cell.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# ------------------------------------------------------------------------------- kernels
def test_parts_of_columns_as_operands_and_results():
    rng = np.random.default_rng(0)
    whole, made = rng.standard_normal((2, 7, 20)).astype(F4)
    parts, targets = ([a[:, 4 * k : 4 * k + 4] for k in range(5)] for a in (whole, made))
    c = rng.standard_normal((7, 4)).astype(F4)
    row = CELLS["lstm_cell"]
    kernel = cpu.backward(row, (True,) * 4)[F4]
    expected = kernel(c, *(np.ascontiguousarray(p) for p in parts[:3]), c)
    last = made[:, 16:].copy()
    assert kernel(c, *parts[:3], c, *targets[:4]) is None
    for a, b in zip(targets, expected, strict=False):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(made[:, 16:], last)
    # A result that overlaps an operand otherwise than element by element.
    x = np.arange(40, dtype=F4).reshape(4, 10)
    expected = x[:, :8] + x[:, 1:9]
    cpu.ROW_KERNELS["add"][F4](x[:, :8], x[:, 1:9], x[:, 2:])
    np.testing.assert_array_equal(x[:, 2:], expected)


def test_a_vector_beside_a_matrix():
    x, b = np.arange(40, dtype=F4).reshape(4, 10), np.arange(10, dtype=F4)
    add, into = cpu.ROW_KERNELS["add"][F4], cpu.IN_PLACE["add"][F4]
    for a, v in ((x, b), (x[:, 3:7], b[:4]), (x[:, :1], b[:1]), (x[:0], b)):
        expected = a + v
        np.testing.assert_array_equal(add(a, v), expected)
        np.testing.assert_array_equal(into(a, v, a), expected)
        np.testing.assert_array_equal(a, expected)
    with pytest.raises(ValueError):
        add(x, b[:4])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n, k, m", [(1, 3, 4), (4, 1, 1), (5, 7, 9), (32, 32, 128), (90, 80, 70)])
def test_products_into_memory(dtype, n, k, m):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((n, k), (k, m)))
    multiply, tolerance = gemm.into[a.dtype], 1e-4 if dtype == "f4" else 1e-12
    for x in (a, a.T.copy().T, np.repeat(a, 2, 1)[:, ::2], a[::-1].copy()[::-1]):
        for y in (b, b.T.copy().T, np.repeat(b, 2, 0)[::2]):
            out = np.full((n, m), np.nan, dtype)
            assert multiply(x, y, out) is None
            np.testing.assert_allclose(out, a @ b, rtol=0, atol=tolerance)
    with pytest.raises(ValueError):
        multiply(a, b, np.empty((n, m + 1), dtype))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_recording_is_of_kernels_and_products(name):
    # A program has the lines of each step, so two steps compile in half the time of four.
    net, x = getattr(nn, name)(D, H, bidirectional=True), torch.randn(2, N, D)

    def step(x):
        net.zero_grad()
        out, _ = net(x)
        (out**2).sum().backward()
        return out

    compiled = torch.compile(step)
    for _ in range(3):
        found, expected = compiled(x), step(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    kinds = {line.split()[0] for line in compiled.explain().splitlines()[1:] if line}
    assert kinds & {"loop", "product"} and "call" not in kinds


def test_results_are_shown_under_pytorch_s_names():
    x = torch.ones(2, 3)
    h, c = nn.LSTMCell(3, 4)(x)
    assert "MulBackward0" in repr(h) and "AddBackward0" in repr(c)
    assert "AddBackward0" in repr(nn.GRUCell(3, 4)(x))
    assert all("StackBackward0" in repr(t) for t in nn.GRU(3, 4)(x[None]))
