"""Recurrent layers and their cells: compositions of linear maps and activations."""

import math
import warnings
from typing import Any

from ..errors import argument_error
from ..functions.cat import cat
from ..functions.creation import empty, zeros
from ..functions.op import need_tensor
from ..tensor import Tensor
from . import functional as F
from .init import uniform_
from .module import Module
from .parameter import Parameter
from .recurrence import BLOCKS, STEPS, State, along_layer


def _parts(name: str, hx: Any, lstm: bool) -> tuple[Any, ...] | None:
    """A state as a tuple: (h, c) of an LSTM, (h,) of others."""
    if hx is None:
        return None
    if isinstance(hx, Tensor) == lstm or (lstm and len(hx) != 2):
        wanted, got = ("tuple of Tensors (h, c)", hx) if lstm else ("Tensor", hx)
        raise argument_error(name, "hx", 2, wanted, got)
    return tuple(hx) if lstm else (hx,)


class RNNBase(Module):
    """Layers of cells that go along a sequence (T, N, input_size), or (N, T, input_size).

    The parameters of layer k are `weight_ih_lk`, `weight_hh_lk`, `bias_ih_lk` and `bias_hh_lk`,
    those of the other direction end in `_reverse`.

    Raises:
        TypeError, ValueError: for sizes that make no sense.
    """

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1,
        bias: bool = True, batch_first: bool = False, dropout: float = 0.0,
        bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_options(input_size, hidden_size, num_layers, bias, batch_first, dropout, proj_size)
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        # The names of the parameters of each layer and direction.
        self._names: list[list[str]] = []
        rows = BLOCKS[mode] * hidden_size
        given = proj_size or hidden_size
        for layer in range(num_layers):
            columns = given * (1 + bidirectional) if layer else input_size
            for suffix in ("", "_reverse")[: 1 + bidirectional]:
                shapes: dict[str, Any] = {"weight_ih": (rows, columns), "weight_hh": (rows, given)}
                if bias:
                    shapes |= {"bias_ih": rows, "bias_hh": rows}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                names = {f"{name}_l{layer}{suffix}": shape for name, shape in shapes.items()}
                for name, shape in names.items():
                    setattr(self, name, Parameter(empty(shape, device=device, dtype=dtype)))
                self._names.append(list(names))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters uniformly, up to 1 / sqrt(hidden_size)."""
        _reset(self, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Nothing: that is for GPUs."""

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._names]

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        shown = [str(self.input_size), str(self.hidden_size)]
        usual = {
            "proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0,
            "bidirectional": False,
        }  # fmt: skip
        shown += [f"{k}={getattr(self, k)}" for k, v in usual.items() if getattr(self, k) != v]
        return ", ".join(shown)

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """The outputs of the last layer at each step, and the last state of each layer.

        Raises:
            ValueError, RuntimeError: for shapes and dtypes that do not fit.
        """
        name, lstm = self.mode.partition("_")[0], self.mode == "LSTM"
        need_tensor(name.lower(), "input", 1, input)
        rank = input.ndim
        if rank in (2, 3) and not input.shape[1 if self.batch_first and rank == 3 else 0]:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if rank not in (2, 3):
            end = "D tensor instead" if name == "RNN" else "D instead"
            raise ValueError(f"{name}: Expected input to be 2D or 3D, got {rank}{end}")
        state = _parts(type(self).__name__, hx, lstm)
        if state is not None:
            _check_ranks(state, rank)
        along = 1 if self.batch_first and rank == 3 else 0
        x = input.unsqueeze(1) if rank == 2 else input.transpose(0, 1) if along else input
        if state is not None and rank == 2:
            state = tuple(s.unsqueeze(1) for s in state)
        self._check_input(x)
        sizes = [self.proj_size or self.hidden_size] + [self.hidden_size] * lstm
        shapes = [(len(self._names), x.shape[1], size) for size in sizes]
        if state is None:
            made = {shape: zeros(shape, dtype=x.dtype, device=x.device) for shape in set(shapes)}
            state = tuple(made[shape] for shape in shapes)
        for k, (s, shape) in enumerate(zip(state, shapes, strict=True)):
            if tuple(s.shape) != shape:
                what = f"hidden[{k}]" if lstm else "hidden"
                raise RuntimeError(f"Expected {what} size {shape}, got {list(s.shape)}")
        output, last = self._layers(x, state)
        if rank == 2:
            output, last = output.squeeze(1), tuple(s.squeeze(1) for s in last)
        elif along:
            output = output.transpose(0, 1)
        return output, last if lstm else last[0]

    def _check_input(self, x: Tensor) -> None:
        dtype = getattr(self, self._names[0][0]).dtype
        if x.dtype is not dtype:
            raise ValueError(
                f"RNN input dtype ({x.dtype}) does not match weight dtype ({dtype}). Convert "
                f"input: input.to({dtype}), or convert model: model.to({x.dtype})"
            )
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. Expected "
                f"{self.input_size}, got {x.shape[-1]}"
            )

    def _layers(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        directions = 1 + self.bidirectional
        # A state (1, N, ...) for each layer and direction.
        starts = [state]
        if len(self._names) > 1:
            starts = list(zip(*(s.split(1) for s in state), strict=True))
        ends: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                number = layer * directions + direction
                weights = [getattr(self, name) for name in self._names[number]]
                if not self.bias:
                    weights[2:2] = [None, None]
                found, end = along_layer(self.mode, bool(direction), x, starts[number], *weights)
                outputs.append(found)
                ends.append(end)
            x = outputs[0] if directions == 1 else cat(outputs, -1)
            if layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        if len(ends) == 1:
            return x, ends[0]
        return x, tuple(cat(states) for states in zip(*ends, strict=True))


def _check_options(
    input_size: Any, hidden_size: Any, num_layers: Any, bias: Any, batch_first: Any, dropout: Any,
    proj_size: Any,
) -> None:  # fmt: skip
    number = isinstance(dropout, (int, float)) and not isinstance(dropout, bool)
    if not number or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element "
            "being zeroed"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout "
            f"expects num_layers greater than 1, but got dropout={dropout} and "
            f"num_layers={num_layers}",
            stacklevel=4,
        )
    kinds = (
        ("bias", bias, bool),
        ("batch_first", batch_first, bool),
        ("input_size", input_size, int),
        ("hidden_size", hidden_size, int),
    )
    for name, value, kind in kinds:
        if not isinstance(value, kind):
            got = type(value).__name__
            raise TypeError(f"{name} should be of type {kind.__name__}, got: {got}")
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size),
                        ("num_layers", num_layers)):  # fmt: skip
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")


def _check_ranks(state: State, rank: int) -> None:
    """Refuse a state with more or fewer dimensions than the input."""
    if all(s.ndim == rank for s in state):
        return
    kind = "batched 3-D" if rank == 3 else "unbatched 2-D"
    if len(state) == 1:
        raise RuntimeError(
            f"For {kind} input, hx should also be {rank}-D but got {state[0].ndim}-D tensor"
        )
    got = ", ".join(f"{s.ndim}-D" for s in state)
    raise RuntimeError(
        f"For {kind} input, hx and cx should also be {rank}-D but got ({got}) tensors"
    )


def _reset(module: Module, hidden_size: int) -> None:
    bound = 1 / math.sqrt(hidden_size) if hidden_size > 0 else 0
    for parameter in module.parameters():
        uniform_(parameter, -bound, bound)


class RNN(RNNBase):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of that."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if len(args) > 3:
            chosen, args = args[3], args[:3] + args[4:]
        else:
            chosen = kwargs.pop("nonlinearity", "tanh")
        if chosen not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{chosen}'. Select from 'tanh' or 'relu'.")
        super().__init__("RNN_" + chosen.upper(), *args, **kwargs)
        self.nonlinearity = chosen


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter & Schmidhuber 1997); the state is (h, c)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(RNNBase):
    """Gated recurrent units (arXiv:1406.1078)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **kwargs)


class RNNCellBase(Module):
    """One step of a recurrent layer: input (N, input_size) or (input_size)."""

    _mode = ""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        for name, shape in (("weight_ih", (rows, input_size)), ("weight_hh", (rows, hidden_size)),
                            ("bias_ih", (rows,)), ("bias_hh", (rows,))):  # fmt: skip
            if bias or name.startswith("weight"):
                setattr(self, name, Parameter(empty(shape, device=device, dtype=dtype)))
            else:
                self.register_parameter(name, None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters uniformly, up to 1 / sqrt(hidden_size)."""
        _reset(self, self.hidden_size)

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        shown = f"{self.input_size}, {self.hidden_size}"
        return shown if self.bias is True else f"{shown}, bias={self.bias}"

    def _next(self, input: Tensor, state: State | None) -> State:
        name = type(self).__name__
        need_tensor(name, "input", 1, input)
        _check_cell_rank(name, "input", input)
        for k, s in enumerate(state or ()):
            _check_cell_rank(name, f"hx[{k}]" if self._mode == "LSTM" else "hidden", s)
        x = input if input.ndim == 2 else input.unsqueeze(0)
        if x.shape[1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {x.shape[1]} expected {self.input_size}"
            )
        if state is None:
            shape = (x.shape[0], self.hidden_size)
            state = (zeros(shape, dtype=x.dtype, device=x.device),) * (1 + (self._mode == "LSTM"))
        else:
            state = tuple(s if s.ndim == 2 else s.unsqueeze(0) for s in state)
        for k, s in enumerate(state):
            if s.shape[0] != x.shape[0]:
                raise RuntimeError(
                    f"Input batch size {x.shape[0]} doesn't match hidden{k} batch size {s.shape[0]}"
                )
            if s.shape[1] != self.hidden_size:
                raise RuntimeError(
                    f"hidden{k} has inconsistent hidden_size: got {s.shape[1]}, expected "
                    f"{self.hidden_size}"
                )
        found = STEPS[self._mode](
            F.linear(x, self.weight_ih, self.bias_ih), self.weight_hh, self.bias_hh, state
        )
        return found if input.ndim == 2 else tuple(s.squeeze(0) for s in found)


def _check_cell_rank(name: str, what: str, x: Tensor) -> None:
    if x.ndim not in (1, 2):
        raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {x.ndim}D instead")


class RNNCell(RNNCellBase):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of that."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh",
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state.

        Raises:
            RuntimeError: for an unknown nonlinearity.
        """
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        self._mode = "RNN_" + self.nonlinearity.upper()
        return self._next(input, _parts(type(self).__name__, hx, False))[0]

    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        shown = super().extra_repr()
        return (
            shown if self.nonlinearity == "tanh" else f"{shown}, nonlinearity={self.nonlinearity}"
        )


class LSTMCell(RNNCellBase):
    """One step of a long short-term memory; the state is (h, c)."""

    _mode = "LSTM"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: Any = None) -> State:
        """The next h and c."""
        return self._next(input, _parts("LSTMCell", hx, True))


class GRUCell(RNNCellBase):
    """One step of gated recurrent units."""

    _mode = "GRU"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state."""
        return self._next(input, _parts(type(self).__name__, hx, False))[0]
