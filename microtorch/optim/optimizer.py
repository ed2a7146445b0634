"""Optimizer: parameter groups, state, and one compiled call for all parameters of a group."""

import array
import ctypes
import functools
import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..autograd.modes import enable_grad
from ..errors import DIFFERENT_DEVICES, kind_of
from ..functions.overlap import check_repeated
from ..graph.node import clock
from ..kernels import cpu
from ..tensor import Tensor, changed, wrap
from .hooks import Hooked, hooked


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


class States(defaultdict[Any, dict[str, Any]]):
    """The states of all parameters, likewise."""


def _counted(method: Any) -> Any:
    def change(self: Any, *args: Any) -> Any:
        clock.epoch += 1
        return method(self, *args)

    return change


for _kind in (State, States):
    for _name in ("__setitem__", "__delitem__", "clear", "pop", "popitem"):
        setattr(_kind, _name, _counted(getattr(dict, _name)))


class Optimizer(Hooked):
    """Base class: `param_groups`, `state`, `step`, `zero_grad`.

    params: an iterable of Tensors, of (name, Tensor) pairs, or of dicts with 'params' and options.

    Raises:
        TypeError, ValueError: for anything that cannot be optimized, as PyTorch.
    """

    # Whether it has a scheduler, and has made a step since.
    _scheduled = False
    _stepped = True
    # What a state has besides tensors of the parameter's shape.
    _apart = frozenset({"step"})

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, "
                f"but got {params.type()}"
            )
        self.defaults = defaults
        self.state = States(State)
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
        param_group = {**param_group, "params": params}
        if any(isinstance(p, tuple) for p in params):
            _take_names(param_group)
            params = param_group["params"]
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, but one of the params is " + kind_of(p)
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
        group = param_group
        for name, value in self.defaults.items():
            group.setdefault(name, value)
        if self.param_groups and ("param_names" in group) != (
            "param_names" in self.param_groups[0]
        ):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group "
                f"{'with' if 'param_names' in group else 'without'} names to the optimizer"
            )
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

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; returns what closure returns."""
        self._stepped = True
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        found = [[p for p in group["params"] if p._grad is not None] for group in self.param_groups]
        if len(found) > 1:
            # An error in one group leaves the others as they are.
            for p in itertools.chain(*found):
                check_shapes((p, p._grad, *self._elementwise(self.state.get(p, {})).values()))
        for params, group in zip(found, self.param_groups, strict=True):
            if params:
                self.update(params, group)
        return loss

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters that have gradients; every optimizer overrides this."""
        raise NotImplementedError

    def keep(self, states: Mapping[Any, dict[str, Any]]) -> None:
        """Enter the states of parameters that have made a step, and count it."""
        self.state.update(states)
        for state in states.values():
            count = state["step"]._array
            count += 1

    @staticmethod
    def steps_made(count: Any) -> float:
        """How many steps a parameter has made with this one, from the array in its state."""
        return float(count) + 1

    @staticmethod
    def number(value: Any) -> float:
        """A number of a parameter's state, from an array."""
        return float(value)

    # --------------------------------------------------------------------------- state
    def _elementwise(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """The part of a state that lies beside the parameter, element by element."""
        return {k: v for k, v in state.items() if k not in self._apart and isinstance(v, Tensor)}

    def state_dict(self) -> dict[str, Any]:
        """State and options, with parameters as numbers."""
        for hook in self._hooks_of("state_pre"):
            hook(self)
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
        found: dict[str, Any] = {"state": state, "param_groups": groups}
        for hook in self._hooks_of("state"):
            other = hook(self, found)
            found = found if other is None else other
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state; all is checked before any is changed.

        Raises:
            ValueError: if the groups do not have the same parameters.
        """
        state_dict = dict(state_dict)
        for hook in self._hooks_of("load_pre"):
            other = hook(self, state_dict)
            state_dict = state_dict if other is None else other
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
        state = States(State)
        for number, values in state_dict["state"].items():
            p = by_number[number]
            state[p] = State((key, _owned(value, p)) for key, value in values.items())
            for key, value in self._elementwise(state[p]).items():
                if value._array.shape != p._array.shape:
                    raise ValueError(
                        f"loaded state dict has {key} of shape {value.shape} for a parameter "
                        f"of shape {p.shape}"
                    )
        self.state = state
        clock.epoch += 1
        for group, loaded in zip(self.param_groups, groups, strict=True):
            group.update({k: v for k, v in loaded.items() if k != "params"})
        for hook in self._hooks_of("load"):
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_hooks"}

    def __repr__(self) -> str:
        lines = [type(self).__name__ + " ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {k}: {group[k]}" for k in sorted(group) if k != "params"]
            lines.append("")
        return "\n".join(lines[:-1]) + "\n)"


def _take_names(group: dict[str, Any]) -> None:
    """Take the parameters of a group apart where they are given as (name, parameter).

    Raises:
        ValueError: if only some are.
    """
    pairs = group["params"]
    if not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are missing"
        )
    group["params"] = [p for _, p in pairs]
    group["param_names"] = [name for name, _ in pairs]


def _owned(value: Any, p: Tensor) -> Any:
    """A copy of loaded state; all but 0-d tensors have the parameter's dtype and device."""
    if isinstance(value, list):
        return [_owned(v, p) for v in value]
    if not isinstance(value, Tensor):
        return value
    a = value._array
    if not a.ndim:
        return wrap(a.copy())
    moved = a if value.device is p.device else cpu.move(a, p.device)
    return wrap(moved.astype(p._array.dtype, copy=moved is a))


def check_shapes(line: tuple[Any, ...]) -> None:
    """Refuse a gradient or state of another shape than its parameter's."""
    shape = line[0]._array.shape
    for tensor in line:
        if isinstance(tensor, Tensor) and tensor._array.shape != shape:
            raise RuntimeError(
                f"a parameter of shape {list(shape)} cannot be updated with a gradient or "
                f"state of shape {list(tensor._array.shape)}"
            )


class Update:
    """The compiled update of a step row."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._kernels = cpu.step(name)

    def __call__(self, lines: list[tuple[Any, ...]], numbers: tuple[float, ...]) -> None:
        """Update parameters: a line is (parameter, gradient, state ...), of one length."""
        arrays = [tensor._array for line in lines for tensor in line]
        large, small = self._kernels[arrays[0].dtype]
        try:
            packed = _packed(numbers)
        except TypeError:
            numbers = tuple(map(float, numbers))
            packed = _packed(numbers)
        if not small(packed, *arrays) and not self._by_table(large, lines, numbers, arrays[0]):
            self._in_turn(lines, numbers)
            return
        for line in lines:
            changed(line[0])

    def _by_table(
        self, kernel: Any, lines: list[tuple[Any, ...]], numbers: tuple[float, ...], first: Any
    ) -> bool:
        """The update of many or large parameters; False if one has gaps or another dtype."""
        offset = _pointer_offset()
        dtype = lines[0][0]._array.dtype
        words: list[int] = []
        for line in lines:
            size = line[0]._array.size
            for tensor in line:
                a = tensor._array
                if (
                    type(a) is not type(first)
                    or a.dtype != dtype
                    or a.size != size
                    or not a.flags.c_contiguous
                ):
                    return False
                words.append(id(a) + offset)
            words.append(size)
        if type(first) is not np.ndarray:
            first.update(self.name, [[t._array for t in line] for line in lines], numbers)
            return True
        table = array.array("q", words)
        h = array.array("d", numbers)
        kernel(table.buffer_info()[0], len(lines), h.buffer_info()[0], 0)
        return True

    def each(self, calls: Sequence[tuple[list[Any], tuple[float, ...]]]) -> None:
        """Several updates; an error in one leaves all parameters as they are."""
        if len(calls) == 1:
            self(*calls[0])
            return
        for lines, _ in calls:
            for line in lines:
                check_shapes(line)
        for lines, numbers in calls:
            self(lines, numbers)

    def _in_turn(self, lines: list[tuple[Any, ...]], numbers: tuple[float, ...]) -> None:
        """The same, a parameter at a time, by copies of what has gaps or another dtype."""
        for line in lines:
            check_shapes(line)
            check_repeated(line[0]._array)
            if len({t.device for t in line}) > 1:
                raise RuntimeError(DIFFERENT_DEVICES)
        for line in lines:
            dtype = line[0]._array.dtype
            copies = [wrap(np.asarray(t._array, dtype, order="C")) for t in line]
            self([tuple(copies)], numbers)
            for tensor, copied in zip(line, copies, strict=True):
                if tensor is not line[1] and copied._array is not tensor._array:
                    tensor._array[...] = copied._array
            changed(line[0])


@functools.lru_cache(maxsize=64)
def _packed(numbers: tuple[float, ...]) -> bytes:
    # A tensor's number may change.
    if not all(isinstance(n, (int, float)) for n in numbers):
        raise TypeError("numbers alone")
    return array.array("d", numbers).tobytes()
