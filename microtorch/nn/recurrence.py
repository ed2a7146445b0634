"""Steps of recurrent cells: one on Tensors, and all of a layer as one node of the graph.

A layer in one direction goes through its steps on arrays, one matrix product and one or two kernels
each, and keeps what belongs to them in buffers (T, N, ...) in the order of the steps. So what does
not depend on the step before is one product for all steps: the part of the gates that is linear in
x, and the gradients of the weights.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..autograd.backward import grad
from ..autograd.function import Function, Parts
from ..custom import general
from ..functions.cat import stack
from ..functions.elementwise import FLOATS
from ..functions.op import Array
from ..graph.node import Node, next_seq
from ..graph.node import mode as grad_mode
from ..kernels import cpu, gemm
from ..table import CELLS, ROWS
from ..tensor import Tensor, edge, new, wrap
from . import functional as F

# The state of a cell: (h,), or (h, c) of an LSTM.
State = tuple[Tensor, ...]
# How many blocks of hidden_size rows the weights of a cell have.
BLOCKS = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}

_FUNCTIONS = {name: general(row) for name, row in CELLS.items()}
_FORWARD = {name: cpu.forward(row) for name, row in CELLS.items()} | {
    f"RNN_{name.upper()}": cpu.ROW_KERNELS[name] for name in ("tanh", "relu")
}
# Of a GRU's reset and update gates the parts of x and of h have one gradient.
_BACKWARD = {
    "lstm_cell": cpu.backward(CELLS["lstm_cell"], (True,) * 4),
    "lstm_output": cpu.backward(CELLS["lstm_output"], (True,) * 2),
    "gru_cell": cpu.backward(CELLS["gru_cell"], (True, True, True, False, False, True, True)),
    "RNN_TANH": cpu.backward(ROWS["tanh"], (True,)),
    "RNN_RELU": cpu.backward(ROWS["relu"], (True,)),
}


# ---------------------------------------------------------------------------- on Tensors
def _rnn(activation: Callable[[Tensor], Tensor], x: Tensor, w_hh: Any, b_hh: Any, h: Any) -> State:
    return (activation(x + F.linear(h[0], w_hh, b_hh)),)


def _lstm(x: Tensor, w_hh: Any, b_hh: Any, state: State) -> State:
    i, f, w, o = (x + F.linear(state[0], w_hh, b_hh)).chunk(4, -1)
    c = _FUNCTIONS["lstm_cell"](i, f, w, state[1])
    return _FUNCTIONS["lstm_output"](o, c), c


def _gru(x: Tensor, w_hh: Any, b_hh: Any, state: State) -> State:
    (h,) = state
    return (_FUNCTIONS["gru_cell"](*x.chunk(3, -1), *F.linear(h, w_hh, b_hh).chunk(3, -1), h),)


# (x W_ih^T + b_ih, W_hh, b_hh, state) -> the next state.
STEPS: dict[str, Callable[..., State]] = {
    "RNN_TANH": lambda *args: _rnn(F.tanh, *args),
    "RNN_RELU": lambda *args: _rnn(F.relu, *args),
    "LSTM": _lstm,
    "GRU": _gru,
}


class _Unbind(Function):
    """The slices along the first dimension: `unbind`, whose backward would add up as many tensors
    of the whole size as there are slices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        """The slices, as views."""
        return x.unbind(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Their gradients, stacked."""
        return stack(gradients)


def _composed(
    mode: str, backwards: bool, x: Tensor, h: Tensor, c: Tensor | None, w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None, b_hh: Tensor | None, w_hr: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The outputs and the last state (1, N, ...) of a layer, as operations on Tensors."""
    state = tuple(s.squeeze(0) for s in (h, c) if s is not None)
    inputs = _Unbind.apply(F.linear(x, w_ih, b_ih))
    outputs = []
    for part in reversed(inputs) if backwards else inputs:
        state = STEPS[mode](part, w_hh, b_hh, state)
        if w_hr is not None:
            state = (F.linear(state[0], w_hr), *state[1:])
        outputs.append(state[0])
    ends = [s.unsqueeze(0) for s in state]
    return stack(outputs[::-1] if backwards else outputs), *ends


# ----------------------------------------------------------------------------- on arrays
class _Buffers(NamedTuple):
    """What the steps leave for backward.

    gates: before activation; those of a GRU only the part of x. hidden: a GRU's part of h. states,
    cells: h and c before each step and after the last. outputs: h before a projection.
    """

    gates: Array
    states: Array
    hidden: Any = None
    cells: Any = None
    outputs: Any = None


class _Gradients(NamedTuple):
    """Of the gates, of their part that is linear in h, of the first h and c, of the projections."""

    gates: Array
    hidden: Array
    h: Array
    c: Any = None
    projected: Any = None


def _parts(x: Array, count: int) -> list[Array]:
    """Equal parts of the last dimension, as views."""
    size = x.shape[-1] // count
    return [x[..., k * size : (k + 1) * size] for k in range(count)]


def _around(states: Array) -> tuple[list[Array], list[Array]]:
    """The states before each step, and after it."""
    found = list(states)
    return found[:-1], found[1:]


def _back(*arrays: Any) -> Any:
    """The steps of arrays or lists, the last one first."""
    return zip(*[a[::-1] for a in arrays], strict=True)


def _like(x: Array, *shape: int) -> Array:
    """An array of a shape, by default that of x."""
    return np.empty(shape or x.shape, x.dtype, like=x)


def _rnn_forward(mode: str, b: _Buffers, w_hh: Array, b_hh: Any, w_hr: Any) -> None:
    activation, into = _FORWARD[mode][w_hh.dtype], cpu.IN_PLACE["add"][w_hh.dtype]
    product, turned = _like(b.gates, *b.gates.shape[1:]), w_hh.T.copy()
    multiply = gemm.into[w_hh.dtype]
    for gate, h, next_h in zip(b.gates, *_around(b.states), strict=True):
        multiply(h, turned, product)
        into(gate, product, gate)
        activation(gate, next_h)


def _rnn_backward(
    mode: str, b: _Buffers, g: Array, dh: Array, _: Any, w_hh: Array, w_hr: Any
) -> _Gradients:
    activation, add = _BACKWARD[mode][w_hh.dtype], cpu.ROW_KERNELS["add"][w_hh.dtype]
    gates, multiply = _like(b.gates), gemm.into[w_hh.dtype]
    for d_gate, d, next_h in _back(gates, g, b.states[1:]):
        activation(add(d, dh), next_h, d_gate)
        multiply(d_gate, w_hh, dh)
    return _Gradients(gates, gates, dh)


def _lstm_forward(mode: str, b: _Buffers, w_hh: Array, b_hh: Any, w_hr: Any) -> None:
    dtype = w_hh.dtype
    cell, output = _FORWARD["lstm_cell"][dtype], _FORWARD["lstm_output"][dtype]
    into, product = cpu.IN_PLACE["add"][dtype], _like(b.gates, *b.gates.shape[1:])
    states, turned, multiply = _around(b.states), w_hh.T.copy(), gemm.into[dtype]
    outputs = states[1] if w_hr is None else b.outputs
    for gate, i, f, w, o, h, next_h, c, next_c, out in zip(
        b.gates, *_parts(b.gates, 4), *states, *_around(b.cells), outputs, strict=True
    ):
        multiply(h, turned, product)
        into(gate, product, gate)
        cell(i, f, w, c, next_c)
        output(o, next_c, out)
        if w_hr is not None:
            multiply(out, w_hr.T, next_h)


def _lstm_backward(
    mode: str, b: _Buffers, g: Array, dh: Array, dc: Array, w_hh: Array, w_hr: Any
) -> _Gradients:
    dtype = w_hh.dtype
    cell, output = _BACKWARD["lstm_cell"][dtype], _BACKWARD["lstm_output"][dtype]
    add, into = cpu.ROW_KERNELS["add"][dtype], cpu.IN_PLACE["add"][dtype]
    gates, projected, through_h = _like(b.gates), [], _like(dc)
    multiply = gemm.into[dtype]
    for d_gate, di, df, dw, do, i, f, w, o, c, next_c, d in _back(
        gates, *_parts(gates, 4), *_parts(b.gates, 4), *_around(b.cells), g
    ):
        d = add(d, dh)
        if w_hr is not None:
            projected.append(d)
            d = np.dot(d, w_hr)
        output(d, o, next_c, do, through_h)
        into(through_h, dc, through_h)
        cell(through_h, i, f, w, c, di, df, dw, dc)
        multiply(d_gate, w_hh, dh)
    return _Gradients(gates, gates, dh, dc, np.stack(projected[::-1]) if projected else None)


def _gru_forward(mode: str, b: _Buffers, w_hh: Array, b_hh: Any, w_hr: Any) -> None:
    cell, into = _FORWARD["gru_cell"][w_hh.dtype], cpu.IN_PLACE["add"][w_hh.dtype]
    turned, multiply = w_hh.T.copy(), gemm.into[w_hh.dtype]
    for r, u, w, hidden, p, q, v, h, next_h in zip(
        *_parts(b.gates, 3), b.hidden, *_parts(b.hidden, 3), *_around(b.states), strict=True
    ):
        multiply(h, turned, hidden)
        if b_hh is not None:
            into(hidden, b_hh, hidden)
        cell(r, u, w, p, q, v, h, next_h)


def _gru_backward(
    mode: str, b: _Buffers, g: Array, dh: Array, _: Any, w_hh: Array, w_hr: Any
) -> _Gradients:
    dtype = w_hh.dtype
    cell, add, into = (
        _BACKWARD["gru_cell"][dtype],
        cpu.ROW_KERNELS["add"][dtype],
        cpu.IN_PLACE["add"][dtype],
    )
    gates, hidden, product = _like(b.gates), _like(b.hidden), _like(dh)
    multiply = gemm.into[dtype]
    for d_hidden, dr, du, dv, dw, r, u, w, p, q, v, h, d in _back(
        hidden, *_parts(hidden, 3), _parts(gates, 3)[2], *_parts(b.gates, 3),
        *_parts(b.hidden, 3), b.states[:-1], g,
    ):  # fmt: skip
        cell(add(d, dh), r, u, w, p, q, v, h, dr, du, dw, dv, dh)
        multiply(d_hidden, w_hh, product)
        into(dh, product, dh)
    # Reset and update depend on the sum of both parts, which have one gradient.
    for x, y in zip(_parts(gates, 3)[:2], _parts(hidden, 3), strict=False):
        x[...] = y
    return _Gradients(gates, hidden, dh)


_LOOPS: dict[str, tuple[Callable[..., None], Callable[..., _Gradients]]] = {
    "RNN_TANH": (_rnn_forward, _rnn_backward),
    "RNN_RELU": (_rnn_forward, _rnn_backward),
    "LSTM": (_lstm_forward, _lstm_backward),
    "GRU": (_gru_forward, _gru_backward),
}


def _rows(x: Array) -> Array:
    """A matrix of the last dimension."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _arrays(saved: Iterable[Any]) -> list[Any]:
    return [s._array if isinstance(s, Tensor) else s for s in saved]


def _forward(
    mode: str, backwards: bool, x: Array, h: Array, c: Any, w_ih: Array, w_hh: Array, b_ih: Any,
    b_hh: Any, w_hr: Any,
) -> tuple[list[Array], _Buffers]:  # fmt: skip
    """What `_composed` gives, as arrays, and what backward needs."""
    (steps, batch, _), (rows, given) = x.shape, w_hh.shape
    gates = np.dot(_rows(x[::-1] if backwards else x), w_ih.T)
    if b_ih is not None:
        # A GRU needs its part of h apart.
        gates = cpu.add_into(gates, b_ih if mode == "GRU" else cpu.add(b_ih, b_hh))
    states = _like(x, steps + 1, batch, given)
    states[0] = h[0]
    hidden = cells = outputs = None
    if mode == "GRU":
        hidden = _like(x, steps, batch, rows)
    if c is not None:
        cells = _like(x, steps + 1, batch, rows // 4)
        cells[0] = c[0]
        outputs = None if w_hr is None else _like(x, steps, batch, rows // 4)
    b = _Buffers(gates.reshape(steps, batch, rows), states, hidden, cells, outputs)
    _LOOPS[mode][0](mode, b, w_hh, b_hh, w_hr)
    # In-place changes of the results change nothing that is kept.
    results = [(states[:0:-1] if backwards else states[1:]).copy(), states[-1:].copy()]
    return results if c is None else [*results, cells[-1:].copy()], b  # type: ignore[index]


def _backward(node: Node, given: list[Any]) -> tuple[Any, ...]:
    """Gradients of the inputs that have an edge, from those of the results or None."""
    mode, backwards = node.const
    x, h, c, w_ih, w_hh, b_ih, _, w_hr, *kept = _arrays(node.saved)  # type: ignore[arg-type]
    b = _Buffers(*kept)
    g, dh, dc = (*given, None)[:3]
    g = cpu.zeros_of(b.states[1:]) if g is None else g[::-1] if backwards else g
    found = _LOOPS[mode][1](
        mode,
        b,
        g,
        cpu.zeros_of(b.states[0]) if dh is None else dh[0].copy(),
        None if c is None else cpu.zeros_of(b.cells[0]) if dc is None else dc[0].copy(),
        w_hh,
        w_hr,
    )
    gates, hidden = _rows(found.gates), _rows(found.hidden)
    dx, dw_ih, dw_hh, db_ih, db_hh, dw_hr = (None,) * 6
    of_x, _, _, of_w_ih, of_w_hh, *_ = node.parents
    if of_x is not None:
        dx = np.dot(gates, w_ih).reshape(x.shape)
        dx = dx[::-1] if backwards else dx
    if of_w_ih is not None:
        dw_ih = np.dot(gates.T, _rows(x[::-1] if backwards else x))
    if of_w_hh is not None:
        dw_hh = np.dot(hidden.T, _rows(b.states[:-1]))
    if b_ih is not None:
        db_ih = cpu.reduce("sum", gates, (0,))
        db_hh = cpu.reduce("sum", hidden, (0,)) if mode == "GRU" else db_ih
    if w_hr is not None:
        dw_hr = np.dot(_rows(found.projected).T, _rows(b.outputs))
    dc = None if c is None else found.c.reshape(c.shape)
    return dx, found.h.reshape(h.shape), dc, dw_ih, dw_hh, db_ih, db_hh, dw_hr


# ----------------------------------------------------------------------------- in the graph
class _Layer:
    """The op of a node that saves the inputs of `_composed` and the buffers; it is given the
    gradients of the results by number."""

    kind = "StackBackward0"
    saves_result = False

    def backward(self, node: Node, g: Parts) -> tuple[Any, ...]:
        """Gradients of the inputs, as arrays."""
        return _backward(node, [g.get(k) for k in range(3)])

    def differentiate(self, node: Node, g: Parts) -> tuple[Any, ...]:
        """Gradients of the inputs, as Tensors: those of the composed operations."""
        inputs: Any = node.saved[:8]  # type: ignore[index]
        needed = [edge is not None for edge in node.parents]
        # Views: an input may depend on another one.
        own = [x.view_as(x) if on else x for x, on in zip(inputs, needed, strict=True)]
        results = _composed(*node.const, *own)
        wanted = [x for x, on in zip(own, needed, strict=True) if on]
        of = [results[k] for k in g]
        found = iter(grad(of, wanted, list(g.values()), create_graph=True, allow_unused=True))
        return tuple([next(found) if on else None for on in needed])


class _Output:
    """The op of the node of one result: it hands its gradient to the layer's node."""

    kind = "StackBackward0"
    saves_result = False

    def backward(self, node: Node, g: Any) -> tuple[Parts]:
        """The gradient with the number of the result."""
        return (Parts({node.const: g}),)

    differentiate = backward


_LAYER, _OUTPUT = _Layer(), _Output()


def _node(op: Any, parents: Iterable[Any], saved: tuple[Any, ...], const: Any) -> Node:
    node: Node = new(Node)
    node.op, node.seq, node.parents = op, next_seq(), tuple(parents)
    node.saved, node.const = saved, const
    return node


def along_layer(
    mode: str, backwards: bool, x: Tensor, state: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None = None, b_hh: Tensor | None = None, w_hr: Tensor | None = None,
) -> tuple[Tensor, State]:  # fmt: skip
    """The outputs of a layer in one direction for x (T, N, I), and its last state; states are
    (1, N, ...)."""
    h, c = (*state, None)[:2]
    inputs: Any = (x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr)
    if not _fits(BLOCKS[mode], *inputs):
        out, *ends = _composed(mode, backwards, *inputs)
        return out, tuple(ends)
    arrays, buffers = _forward(mode, backwards, *_arrays(inputs))
    out, *ends = results = [wrap(a) for a in arrays]
    edges = [None if t is None else edge(t) for t in inputs]
    if grad_mode.enabled and any(e is not None for e in edges):
        node = _node(_LAYER, edges, (*inputs, *buffers), (mode, backwards))
        for k, z in enumerate(results):
            z._node = _node(_OUTPUT, (node,), (), k)
    return out, tuple(ends)


def _fits(
    blocks: int, x: Tensor, h: Tensor, c: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any,
    w_hr: Any,
) -> bool:  # fmt: skip
    """Whether all are of one dtype and device, and weights of the right shapes: for others the
    operations on Tensors have the messages."""
    given = h._array.shape[-1]
    size = given if c is None else c._array.shape[-1]
    rows = blocks * size
    shapes = ((rows, x._array.shape[-1]), (rows, given), (rows,), (rows,), (given, size))
    dtype, device = x._array.dtype, x.device
    weights = (w_ih, w_hh, b_ih, b_hh, w_hr)
    return (
        dtype in FLOATS
        and all(t is None or t._array.shape == s for t, s in zip(weights, shapes, strict=True))
        and all(
            t is None or (t._array.dtype is dtype and t.device is device) for t in (h, c, *weights)
        )
    )
