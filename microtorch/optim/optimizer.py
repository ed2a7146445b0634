"""Optimizer: parameter groups, state, and one compiled call for all parameters of a group."""

import array
import ctypes
import functools
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.modes import enable_grad
from ..functions.overlap import check_repeated
from ..graph.node import clock, next_change
from ..kernels import cpu
from ..table import STEPS
from ..tensor import Tensor, changed, wrap


@functools.cache
def _pointer_offset() -> int:
    """Where an ndarray object keeps the address of its elements.

    Reading `x.ctypes.data` takes 0.8 us, more than the update of a small parameter; kernels read
    the pointer themselves. The place is a part of NumPy's ABI, and is looked for, not assumed.
    """
    probe = np.empty(1)
    wanted = probe.ctypes.data
    for offset in range(0, 64, 8):
        if ctypes.c_int64.from_address(id(probe) + offset).value == wanted:
            return offset
    raise RuntimeError("microtorch's optimizers need CPython's layout of NumPy arrays")


class State(dict[str, Any]):
    """The state of one parameter; programs compiled for other members are checked again."""

    __slots__ = ()

    def __setitem__(self, name: str, value: Any) -> None:
        clock.epoch += 1
        dict.__setitem__(self, name, value)


class Optimizer:
    """Base class: `param_groups`, `state`, `step`, `zero_grad`.

    params: an iterable of Tensors, of (name, Tensor) pairs, or of dicts with 'params' and options.

    Raises:
        TypeError, ValueError: for anything that cannot be optimized, as PyTorch.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, "
                f"but got {params.type()}"
            )
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(State)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params = param_group["params"]
        if isinstance(params, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the "
                "ordering of tensors in sets will change between runs. Please use a list instead."
            )
        params = [params] if isinstance(params, Tensor) else list(params)
        params = [p[1] if isinstance(p, tuple) and len(p) == 2 else p for p in params]
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, but one of the params is "
                    + type(p).__name__
                )
            if not p.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        if len(set(params)) != len(params):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; in future, this "
                "will cause an error; see github.com/pytorch/pytorch/issues/40967 for more "
                "information",
                stacklevel=4,
            )
        known = {p for group in self.param_groups for p in group["params"]}
        if not known.isdisjoint(params):
            raise ValueError("some parameters appear in more than one parameter group")
        group = {**param_group, "params": params}
        for name, value in self.defaults.items():
            group.setdefault(name, value)
        self.check(group)
        self.param_groups.append(group)
        clock.epoch += 1

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options that make no sense."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p._grad = None
                elif p._grad is not None:
                    p._grad.detach_().zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; returns what closure returns."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p._grad is not None]
            if params:
                self.update(params, group)
        return loss

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters that have gradients; every optimizer overrides this."""
        raise NotImplementedError

    @staticmethod
    def steps_made(count: Any) -> float:
        """How many steps a parameter has made, from the array in its state."""
        return float(count)

    # --------------------------------------------------------------------------- state
    def state_dict(self) -> dict[str, Any]:
        """State and options, with parameters as numbers."""
        numbers: dict[Any, int] = {}
        for group in self.param_groups:
            for p in group["params"]:
                numbers.setdefault(p, len(numbers))
        groups = [
            {
                **{k: v for k, v in group.items() if k != "params"},
                "params": [numbers[p] for p in group["params"]],
            }
            for group in self.param_groups
        ]
        state = {numbers[p]: dict(values) for p, values in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state; all is checked before any is changed.

        Raises:
            ValueError: if the groups do not have the same parameters.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        lengths = [len(g["params"]) for g in groups]
        if lengths != [len(g["params"]) for g in self.param_groups]:
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                "optimizer's group"
            )
        numbers = [n for g in groups for n in g["params"]]
        params = [p for g in self.param_groups for p in g["params"]]
        by_number = dict(zip(numbers, params, strict=True))
        state: defaultdict[Any, dict[str, Any]] = defaultdict(State)
        for number, values in state_dict["state"].items():
            p = by_number[number]
            state[p] = State(
                (key, _owned(value, p) if isinstance(value, Tensor) else value)
                for key, value in values.items()
            )
            for key, value in state[p].items():
                if key != "step" and isinstance(value, Tensor):
                    if value._array.shape != p._array.shape:
                        raise ValueError(
                            f"loaded state dict has {key} of shape {value.shape} for a parameter "
                            f"of shape {p.shape}"
                        )
        self.state = state
        clock.epoch += 1
        for group, loaded in zip(self.param_groups, groups, strict=True):
            group.update({k: v for k, v in loaded.items() if k != "params"})

    def __repr__(self) -> str:
        lines = [type(self).__name__ + " ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {k}: {group[k]}" for k in sorted(group) if k != "params"]
            lines.append("")
        return "\n".join(lines[:-1]) + "\n)"


def _owned(value: Tensor, p: Tensor) -> Tensor:
    """A copy of loaded state; all but 0-d values have the parameter's dtype."""
    dtype = p._array.dtype if value._array.ndim else value._array.dtype
    return wrap(value._array.astype(dtype, copy=True))


class Update:
    """The compiled update of a step row."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._kernels = cpu.step(name)
        self._arrays = len(STEPS[name].arrays)

    def __call__(self, lines: list[tuple[Any, ...]], numbers: tuple[float, ...]) -> None:
        """Update parameters: a line is (parameter, gradient, state ...), of one length."""
        offset = _pointer_offset()
        dtype = lines[0][0]._array.dtype
        words: list[int] = []
        for line in lines:
            size = line[0]._array.size
            for tensor in line:
                a = tensor._array
                if (
                    (a.dtype is not dtype and a.dtype != dtype)
                    or a.size != size
                    or not a.flags.c_contiguous
                ):
                    self._in_turn(lines, numbers)
                    return
                words.append(id(a) + offset)
            words.append(size)
        table = array.array("q", words)
        h = array.array("d", numbers)
        self._kernels[dtype](table.buffer_info()[0], len(lines), h.buffer_info()[0], 0)
        for line in lines:
            p = line[0]
            if p._base is None:
                p._changes = next_change(p._changes)
            else:
                changed(p)

    def _in_turn(self, lines: list[tuple[Any, ...]], numbers: tuple[float, ...]) -> None:
        """The same, a parameter at a time, by copies of what has gaps or another dtype."""
        for line in lines:
            shape = line[0]._array.shape
            for tensor in line:
                if tensor._array.shape != shape:
                    raise RuntimeError(
                        f"a parameter of shape {list(shape)} cannot be updated with a gradient or "
                        f"state of shape {list(tensor._array.shape)}"
                    )
            check_repeated(line[0]._array)
        for line in lines:
            dtype = line[0]._array.dtype
            copies = [wrap(np.asarray(t._array, dtype, order="C")) for t in line]
            self([tuple(copies)], numbers)
            for tensor, copied in zip(line, copies, strict=True):
                if tensor is not line[1] and copied._array is not tensor._array:
                    tensor._array[...] = copied._array
            changed(line[0])
