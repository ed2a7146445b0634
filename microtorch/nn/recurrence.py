"""Steps of recurrent cells: one on Tensors, and all of a layer as one node of the graph.

A layer in one direction goes through its steps on arrays, one matrix product and one or two kernels
each, and keeps what belongs to them in buffers (T, N, ...) in the order of the steps. So what does
not depend on the step before is one product for all steps: the part of the gates that is linear in
x, and the gradients of the weights.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..autograd.backward import grad
from ..autograd.function import Function
from ..custom import general
from ..functions.cat import stack
from ..functions.elementwise import FLOATS
from ..functions.op import Array
from ..graph.node import mode as grad_mode
from ..kernels import cpu
from ..table import CELLS, ROWS
from ..tensor import Tensor, wrap
from . import functional as F

# The state of a cell: (h,), or (h, c) of an LSTM.
State = tuple[Tensor, ...]
# How many blocks of hidden_size rows the weights of a cell have.
BLOCKS = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}

_FUNCTIONS = {name: general(row) for name, row in CELLS.items()}
_FORWARD = {name: cpu.forward(row) for name, row in CELLS.items()} | {
    f"RNN_{name.upper()}": cpu.ROW_KERNELS[name] for name in ("tanh", "relu")
}
# The gates of a GRU have one gradient for their part of x and that of h, but the new one.
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
    """What `_Layer` gives, as operations on Tensors."""
    state: State = (h,) if c is None else (h, c)
    inputs = _Unbind.apply(F.linear(x, w_ih, b_ih))
    outputs = []
    for part in reversed(inputs) if backwards else inputs:
        state = STEPS[mode](part, w_hh, b_hh, state)
        if w_hr is not None:
            state = (F.linear(state[0], w_hr), *state[1:])
        outputs.append(state[0])
    return stack(outputs[::-1] if backwards else outputs), *state[1:]


# ----------------------------------------------------------------------------- on arrays
class _Buffers(NamedTuple):
    """What the steps leave for backward.

    gates: before activation; those of a GRU only the part of x. hidden: a GRU's part of h. states,
    cells: h and c before each step and after the last. outputs: h before a projection.
    """

    gates: Array
    states: Array
    hidden: Array | None = None
    cells: Array | None = None
    outputs: Array | None = None


def _parts(x: Array, count: int) -> list[Array]:
    """Equal parts of the last dimension, as views."""
    size = x.shape[-1] // count
    return [x[..., k * size : (k + 1) * size] for k in range(count)]


def _back(*arrays: Array) -> Any:
    """The steps of the arrays, the last one first."""
    return zip(*(a[::-1] for a in arrays), strict=True)


def _like(x: Array, *shape: int) -> Array:
    return np.empty(shape, x.dtype, like=x)


def _rnn_forward(mode: str, b: _Buffers, w_hh: Array, b_hh: Any, w_hr: Any) -> None:
    activation, into = _FORWARD[mode][w_hh.dtype], cpu.IN_PLACE["add"][w_hh.dtype]
    product = _like(b.gates, *b.gates.shape[1:])
    for gate, h, next_h in zip(b.gates, b.states[:-1], b.states[1:], strict=True):
        np.dot(h, w_hh.T, out=product)
        into(gate, product, gate)
        activation(gate, next_h)


def _rnn_backward(
    mode: str, b: _Buffers, g: Array, _: Any, w_hh: Array, w_hr: Any
) -> tuple[Any, ...]:
    activation, add = _BACKWARD[mode][w_hh.dtype], cpu.ROW_KERNELS["add"][w_hh.dtype]
    gates, dh = np.empty_like(b.gates), cpu.zeros_of(b.states[0])
    for gate, d, next_h in _back(gates, g, b.states[1:]):
        activation(add(d, dh), next_h, gate)
        np.dot(gate, w_hh, out=dh)
    return gates, gates, dh, None, None


def _lstm_forward(mode: str, b: _Buffers, w_hh: Array, b_hh: Any, w_hr: Any) -> None:
    assert b.cells is not None and b.outputs is not None
    dtype = w_hh.dtype
    cell, output = _FORWARD["lstm_cell"][dtype], _FORWARD["lstm_output"][dtype]
    into, product = cpu.IN_PLACE["add"][dtype], _like(b.gates, *b.gates.shape[1:])
    for gate, i, f, w, o, h, c, next_c, out, next_h in zip(
        b.gates, *_parts(b.gates, 4), b.states[:-1], b.cells[:-1], b.cells[1:], b.outputs,
        b.states[1:], strict=True,
    ):  # fmt: skip
        np.dot(h, w_hh.T, out=product)
        into(gate, product, gate)
        cell(i, f, w, c, next_c)
        output(o, next_c, out)
        if w_hr is not None:
            np.dot(out, w_hr.T, out=next_h)


def _lstm_backward(
    mode: str, b: _Buffers, g: Array, dc: Array, w_hh: Array, w_hr: Any
) -> tuple[Any, ...]:
    assert b.cells is not None
    dtype = w_hh.dtype
    cell, output = _BACKWARD["lstm_cell"][dtype], _BACKWARD["lstm_output"][dtype]
    add, into = cpu.ROW_KERNELS["add"][dtype], cpu.IN_PLACE["add"][dtype]
    gates, dh, here = np.empty_like(b.gates), cpu.zeros_of(b.states[0]), np.empty_like(b.cells[0])
    dc = dc.copy()
    projected = None if w_hr is None else _like(g, *g.shape)
    for gate, di, df, dw, do, i, f, w, o, c, next_c, d, p in _back(
        gates, *_parts(gates, 4), *_parts(b.gates, 4), b.cells[:-1], b.cells[1:], g,
        g if projected is None else projected,
    ):  # fmt: skip
        if w_hr is None:
            d = add(d, dh)
        else:
            add(d, dh, p)
            d = np.dot(p, w_hr)
        output(d, o, next_c, do, here)
        into(here, dc, here)
        cell(here, i, f, w, c, di, df, dw, dc)
        np.dot(gate, w_hh, out=dh)
    return gates, gates, dh, dc, projected


def _gru_forward(mode: str, b: _Buffers, w_hh: Array, b_hh: Any, w_hr: Any) -> None:
    assert b.hidden is not None
    cell, into = _FORWARD["gru_cell"][w_hh.dtype], cpu.IN_PLACE["add"][w_hh.dtype]
    for r, u, w, hidden, p, q, v, h, next_h in zip(
        *_parts(b.gates, 3), b.hidden, *_parts(b.hidden, 3), b.states[:-1], b.states[1:],
        strict=True,
    ):  # fmt: skip
        np.dot(h, w_hh.T, out=hidden)
        if b_hh is not None:
            into(hidden, b_hh, hidden)
        cell(r, u, w, p, q, v, h, next_h)


def _gru_backward(
    mode: str, b: _Buffers, g: Array, _: Any, w_hh: Array, w_hr: Any
) -> tuple[Any, ...]:
    assert b.hidden is not None
    cell, add = _BACKWARD["gru_cell"][w_hh.dtype], cpu.ROW_KERNELS["add"][w_hh.dtype]
    into = cpu.IN_PLACE["add"][w_hh.dtype]
    gates, hidden = np.empty_like(b.gates), np.empty_like(b.hidden)
    dh = cpu.zeros_of(b.states[0])
    product, (*_, dw) = np.empty_like(dh), _parts(gates, 3)
    for part, dr, du, dv, dw_, r, u, w, p, q, v, h, d in _back(
        hidden, *_parts(hidden, 3), dw, *_parts(b.gates, 3), *_parts(b.hidden, 3), b.states[:-1], g
    ):
        cell(add(d, dh), r, u, w, p, q, v, h, dr, du, dw_, dv, dh)
        np.dot(part, w_hh, out=product)
        into(dh, product, dh)
    same = 2 * h.shape[-1]
    gates[..., :same] = hidden[..., :same]
    return gates, hidden, dh, None, None


_LOOPS: dict[str, tuple[Callable[..., None], Callable[..., tuple[Any, ...]]]] = {
    "RNN_TANH": (_rnn_forward, _rnn_backward),
    "RNN_RELU": (_rnn_forward, _rnn_backward),
    "LSTM": (_lstm_forward, _lstm_backward),
    "GRU": (_gru_forward, _gru_backward),
}


def _rows(x: Array) -> Array:
    """A matrix of the last dimension."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class _Layer(Function):
    """All steps of a layer in one direction: their outputs, and the last c of an LSTM."""

    @staticmethod
    def forward(ctx: Any, mode: str, backwards: bool, *inputs: Any) -> Any:
        """The arguments are those of `_composed`."""
        arrays = [None if x is None else x._array for x in inputs]
        x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr = arrays
        order = slice(None, None, -1 if backwards else 1)
        (steps, batch, _), (rows, given) = x.shape, w_hh.shape
        gates = np.dot(_rows(x[order]), w_ih.T)
        if b_ih is not None:
            # A GRU needs the part of h alone.
            cpu.add_into(gates, b_ih if mode == "GRU" else cpu.add(b_ih, b_hh))
        states = _like(x, steps + 1, batch, given)
        states[0] = h
        hidden = cells = outputs = None
        if mode == "GRU":
            hidden = _like(x, steps, batch, rows)
        if c is not None:
            cells = _like(x, steps + 1, *c.shape)
            cells[0] = c
            outputs = states[1:] if w_hr is None else _like(x, steps, *c.shape)
        b = _Buffers(gates.reshape(steps, batch, rows), states, hidden, cells, outputs)
        _LOOPS[mode][0](mode, b, w_hh, b_hh, w_hr)
        ctx.options = mode, backwards
        ctx.save_for_backward(*inputs, *(None if a is None else wrap(a) for a in b))
        # Changes of the results change nothing that is kept.
        out = wrap(states[1:][order].copy())
        return out if cells is None else (out, wrap(cells[-1].copy()))

    @staticmethod
    def backward(ctx: Any, g: Tensor, dc: Any = None) -> Any:
        """Gradients of the inputs; those that have a graph are of the composed operations."""
        inputs, kept = ctx.saved_tensors[:8], ctx.saved_tensors[8:]
        if grad_mode.enabled:
            return None, None, *_composed_gradients(ctx, inputs, (g, dc))
        (mode, backwards), needed = ctx.options, ctx.needs_input_grad[2:]
        x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr = (t if t is None else t._array for t in inputs)
        b = _Buffers(*(t if t is None else t._array for t in kept))
        order = slice(None, None, -1 if backwards else 1)
        gates, hidden, dh, dc, projected = _LOOPS[mode][1](
            mode, b, g._array[order], None if dc is None else dc._array, w_hh, w_hr
        )
        of_x, of_h = _rows(gates), _rows(hidden)
        made = (
            lambda: np.dot(of_x, w_ih).reshape(x.shape)[order],
            lambda: dh,
            lambda: dc,
            lambda: np.dot(of_x.T, _rows(x[order])),
            lambda: np.dot(of_h.T, _rows(b.states[:-1])),
            lambda: cpu.reduce("sum", of_x, (0,)),
            lambda: cpu.reduce("sum", of_h, (0,)),
            lambda: np.dot(_rows(projected).T, _rows(b.outputs)),
        )
        return (
            None,
            None,
            *(wrap(make()) if on else None for make, on in zip(made, needed, strict=True)),
        )


def _composed_gradients(ctx: Any, inputs: Sequence[Any], given: tuple[Any, ...]) -> list[Any]:
    """Gradients that can be differentiated again."""
    needed = ctx.needs_input_grad[2:]
    # Views: an input may depend on another one.
    own = [x.view_as(x) if on else x for x, on in zip(inputs, needed, strict=True)]
    results = _composed(*ctx.options, *own)
    wanted = [x for x, on in zip(own, needed, strict=True) if on]
    found = iter(grad(results, wanted, given[: len(results)], create_graph=True, allow_unused=True))
    return [next(found) if on else None for on in needed]


def along_layer(
    mode: str, backwards: bool, x: Tensor, state: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None = None, b_hh: Tensor | None = None, w_hr: Tensor | None = None,
) -> tuple[Tensor, State]:  # fmt: skip
    """The outputs of a layer in one direction for x (T, N, I), and its last state."""
    h, c = (*state, None)[:2]
    inputs = (x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr)
    fits = _fits(BLOCKS[mode], *inputs)
    found = _Layer.apply(mode, backwards, *inputs) if fits else _composed(mode, backwards, *inputs)
    out, *rest = found if isinstance(found, tuple) else (found,)
    return out, (out[0 if backwards else -1], *rest)


def _fits(
    blocks: int, x: Tensor, h: Tensor, c: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any,
    w_hr: Any,
) -> bool:  # fmt: skip
    """Whether all are of one dtype and device, and weights of the right shapes: for others the
    operations on Tensors have the messages."""
    size, given = (h if c is None else c).shape[-1], h.shape[-1]
    shapes = (
        (w_ih, (blocks * size, x.shape[-1])), (w_hh, (blocks * size, given)), (h, h.shape),
        (c, h.shape[:-1] + (size,)), (b_ih, (blocks * size,)), (b_hh, (blocks * size,)),
        (w_hr, (given, size)),
    )  # fmt: skip
    dtype, device = x._array.dtype, x.device
    return dtype in FLOATS and all(
        t is None or (t._array.shape == shape and t._array.dtype == dtype and t.device is device)
        for t, shape in shapes
    )
