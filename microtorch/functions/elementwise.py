"""Every row of the table as a function of Tensors.

The path from a call to its result is the hot path of eager mode: it holds no loop, no star
arguments and no isinstance; whatever is not two tensors of one dtype, or a tensor and a number
that needs no promotion, leaves it through `prepare`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, broadcast_error, combination_error, refuse_foreign
from ..graph.node import LEAF, Node, mode, next_seq
from ..kernels import cpu
from ..table import ROWS, Row
from ..tensor import TENSORS, Tensor, edge, new, wrap
from .op import Array, deliver, tensors
from .refusals import check_dtype
from .row_op import WORDS, RowOp

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def prepare(row: Row, operands: tuple[Any, ...]) -> list[Tensor]:
    """Operands as Tensors of the dtype that the op computes in."""
    kinds = []
    for k, x in enumerate(operands):
        if isinstance(x, Tensor):
            kinds.append((x.dtype, 2 if x._array.ndim else 1))
        elif isinstance(x, (bool, int, float, np.generic)):
            kinds.append((dtypes.of_number(x), 0))
        else:
            name = ("input", "other", "other")[k]
            raise argument_error(row.name, name, k + 1, "Tensor", x)
    if row.types == "bool" and not isinstance(operands[0], Tensor):
        raise combination_error(row.name, *operands)
    result = dtypes.result_type(kinds)
    if row.types == "float" and not result.is_floating_point:
        result = dtypes.get_default_dtype()
    bools = sum(isinstance(x, Tensor) and x.dtype is dtypes.bool for x in operands)
    result = check_dtype(row, result, bools)
    return [
        tensors.cast(x, result) if isinstance(x, Tensor) else wrap(cpu.constant(x, result.numpy))
        for x in operands
    ]


def _unary(row: Row) -> Callable[..., Tensor]:
    kernels = cpu.kernels_of(row)
    ready: dict[Any, Any] = {}
    differentiable = row.derivatives is not None
    op: Any = None
    save_x = save_z = False

    def prepare_gradient() -> None:
        nonlocal op, save_x, save_z
        made = RowOp(row, (True,))
        save_x, save_z = made.saves[0], made.saves[-1]
        op = made

    def apply(input: Tensor, *, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return deliver(apply(input), out)
        try:
            a = input._array
        except AttributeError:
            raise argument_error(row.name, "input", 1, "Tensor", input) from None
        kernel = ready.get(a.dtype)
        if kernel is None:
            input = prepare(row, (input,))[0]
            a = input._array
            kernel = ready_for(a.dtype)
        z = new(Tensor)
        z._array = array = kernel(a)
        parent = input._node
        if parent is not None and differentiable and mode.enabled:
            if op is None:
                prepare_gradient()
            z._node = node = new(Node)
            node.op = op
            node.seq = next_seq()
            node.parents = (input if parent is LEAF else parent,)
            node.saved = (
                (array,)
                if save_z and not save_x
                else (input,)
                if not save_z and save_x
                else (input, array)
                if save_x
                else ()
            )
            node.const = None
        else:
            z._node = None
        return z  # type: ignore[no-any-return]

    def ready_for(dtype: Any) -> Any:
        kernel = kernels[dtype]
        if row.types != "float" or dtype in FLOATS:
            ready[dtype] = kernel
        return kernel

    return apply


def operand(x: Any, other: Any) -> Any:
    """What an operator accepts beside tensors and numbers; None for anything else."""
    if isinstance(x, (Tensor, bool, int, float, np.generic)):
        return x
    if isinstance(x, np.ndarray):
        return wrap(dtypes.native(x))
    if isinstance(x, Node):
        # A Value is a node that can stand for a tensor; this module knows no Values.
        return x.as_tensor(other)  # type: ignore[attr-defined]
    refuse_foreign(x)
    return None


def _binary(row: Row, operator: bool = False) -> Callable[..., Tensor]:
    """A row of two inputs; as an operator it leaves what it does not know to the other side."""
    kernels = cpu.kernels_of(row)
    # Kernels that a call may use at once, and the 0-d arrays of numbers for float dtypes.
    ready: dict[Any, Any] = {}
    numbers: dict[Any, dict[Any, Array]] = {}
    differentiable = row.derivatives is not None
    # The op that differentiates by x, by y, by both, with what it saves; made at first use.
    by_x: Any = None
    by_y: Any = None
    by_both: Any = None

    def prepare_gradient(x_on: bool, y_on: bool) -> tuple[RowOp, int]:
        nonlocal by_x, by_y, by_both
        made = RowOp(row, (x_on, y_on))
        # Which of x, y, z are saved, as bits.
        chosen = made, sum(bit for bit, on in zip((1, 2, 4), made.saves, strict=True) if on)
        if x_on and y_on:
            by_both = chosen
        elif x_on:
            by_x = chosen
        else:
            by_y = chosen
        return chosen

    def apply(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return deliver(apply(input, other), out)
        kind = other.__class__
        if kind is not Tensor and kind not in TENSORS:
            if kind is float or kind is int:
                return with_number(input, other)
            return slow(input, other)
        if not operator and input.__class__ not in TENSORS:
            return slow(input, other)
        a, b = input._array, other._array
        dtype = a.dtype
        if dtype is not b.dtype:
            return slow(input, other)
        shapes = None
        if a.shape != b.shape:
            shapes = (a.shape, b.shape)
        z = new(Tensor)
        try:
            z._array = array = ready[dtype](a, b)
        except KeyError:
            return slow(input, other)
        except ValueError:
            raise broadcast_error(*shapes) from None  # type: ignore[misc]
        x_parent = input._node
        y_parent = other._node
        if x_parent is None:
            if y_parent is None:
                z._node = None
                return z  # type: ignore[no-any-return]
            chosen = by_y
        else:
            chosen = by_x if y_parent is None else by_both
        if chosen is None or not mode.enabled:
            if not differentiable or not mode.enabled:
                z._node = None
                return z  # type: ignore[no-any-return]
            chosen = prepare_gradient(x_parent is not None, y_parent is not None)
        op, saves = chosen
        z._node = node = new(Node)
        node.op = op
        node.seq = next_seq()
        node.parents = (
            input if x_parent is LEAF else x_parent,
            other if y_parent is LEAF else y_parent,
        )
        node.const = shapes
        if not saves:
            node.saved = ()
        elif saves == 3:
            node.saved = (input, other)
        elif saves == 2:
            node.saved = (other,)
        elif saves == 1:
            node.saved = (input,)
        else:
            node.saved = tuple(
                [v for bit, v in ((1, input), (2, other), (4, array)) if saves & bit]
            )
        return z  # type: ignore[no-any-return]

    def with_number(input: Any, other: Any) -> Tensor:
        if not operator and input.__class__ not in TENSORS:
            return slow(input, other)
        a = input._array
        dtype = a.dtype
        known = numbers.get(dtype)
        if known is None:
            return slow(input, other)
        b = known.get(other)
        if b is None:
            b = cpu.constant(other, dtype)
        z = new(Tensor)
        z._array = array = ready[dtype](a, b)
        parent = input._node
        if parent is None or not differentiable or not mode.enabled:
            z._node = None
            return z  # type: ignore[no-any-return]
        op, saves = by_x or prepare_gradient(True, False)
        z._node = node = new(Node)
        node.op = op
        node.seq = next_seq()
        node.parents = (input if parent is LEAF else parent,)
        if saves == 2:
            node.saved = (b,)
        elif saves:
            node.saved = tuple([v for bit, v in ((1, input), (2, b), (4, array)) if saves & bit])
        else:
            node.saved = ()
        node.const = None
        return z  # type: ignore[no-any-return]

    def slow(input: Any, other: Any) -> Tensor:
        if operator:
            input, other = operand(input, other), operand(other, input)
            if input is None or other is None:
                return NotImplemented
        x, y = prepare(row, (input, other))
        dtype = x._array.dtype
        if dtype not in ready:
            ready[dtype] = kernels[dtype]
            if dtype in FLOATS:
                numbers[dtype] = cpu.constants.setdefault(dtype, {})
        return apply(x, y)

    apply.with_number = with_number  # type: ignore[attr-defined]
    return apply


def _with_params(row: Row) -> Callable[..., Tensor]:
    """Rows that take numbers after their one or two inputs."""
    kernels = cpu.kernels_of(row)
    count = len(row.inputs)
    ops: dict[tuple[bool, ...], RowOp] = {}

    def apply(*operands: Any, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return deliver(apply(*operands), out)
        params = operands[count:]
        if not isinstance(operands[0], Tensor):
            raise argument_error(row.name, "input", 1, "Tensor", operands[0])
        for position, (name, p) in enumerate(zip(row.params, params, strict=True), count + 1):
            if not isinstance(p, (bool, int, float, np.generic)):
                raise argument_error(row.name, name, position, "Number", p)
        inputs = prepare(row, operands if row.types == "any" else operands[:count])[:count]
        dtype = inputs[0]._array.dtype
        numbers = [cpu.constant(p, dtype) for p in params]
        arrays = [x._array for x in inputs]
        try:
            z = wrap(kernels[dtype](*arrays, *numbers))
        except ValueError:
            raise broadcast_error(arrays[0].shape, arrays[-1].shape) from None
        needed = tuple(x._node is not None for x in inputs)
        if any(needed) and mode.enabled:
            op = ops.get(needed)
            if op is None:
                op = ops[needed] = RowOp(row, needed)
            z._node = node = new(Node)
            node.op = op
            node.seq = next_seq()
            node.parents = tuple(edge(x) for x in inputs)
            values = (*inputs, *numbers, z._array)
            node.saved = tuple(v for v, on in zip(values, op.saves, strict=True) if on)
            shapes = tuple(a.shape for a in arrays)
            node.const = None if len(set(shapes)) == 1 else shapes
        return z

    return apply


def make(row: Row) -> Callable[..., Tensor]:
    """The function of a row, under its name and with its documentation."""
    build = _with_params if row.params else _unary if len(row.inputs) == 1 else _binary
    function = build(row)
    function.__name__ = function.__qualname__ = row.name
    function.__doc__ = row.doc
    function.__module__ = "microtorch"
    return function


FUNCTIONS: dict[str, Callable[..., Any]] = {name: make(row) for name, row in ROWS.items()}
WORDS.update({
    **FUNCTIONS, "fabs": FUNCTIONS["abs"], "rint": FUNCTIONS["round"], "inf": float("inf"),
    "INF": float("inf"),
})  # fmt: skip
OPERATORS = {
    name: _binary(ROWS[name], True)
    for name in ("add", "sub", "rsub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")
}
