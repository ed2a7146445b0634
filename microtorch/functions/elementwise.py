"""Every row of the table as a function of Tensors.

The path from a call to its result is the hot path of eager mode: it holds no loop, no star
arguments and no isinstance; whatever is not two tensors of one dtype, or a tensor and a number
that needs no promotion, leaves it through `_prepare`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, broadcast_error
from ..graph.node import LEAF, Node, mode, next_seq, node_class
from ..kernels import cpu, text
from ..table import ROWS, Row
from ..tensor import TENSORS, Tensor, changed, check_in_place, edge, new, wrap
from .op import Array, saved_tensors, tensors

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class RowOp:
    """A row of the table with a gradient for the inputs marked in `needed`."""

    __slots__ = ("_fused", "kind", "needed", "row", "saves", "saves_result", "_single", "_trivial")

    def __init__(self, row: Row, needed: tuple[bool, ...]) -> None:
        self.row = row
        self.needed = needed
        self.kind = node_class(row.node)
        saved = row.saved(needed)
        self.saves = tuple(name in saved for name in (*row.operands, "z"))
        self.saves_result = "z" in saved
        derivatives = row.derivatives or ()
        # Where every local derivative is 1 the gradient passes through as it is.
        wanted = [d for d, on in zip(derivatives, needed, strict=True) if on]
        self._trivial = all(d == "1" for d in wanted)
        self._fused = None if self._trivial else cpu.backward(row, needed)
        # NumPy calls a kernel of one result three times faster than one of two, so small
        # gradients are computed one by one.
        self._single = []
        if sum(needed) > 1 and not self._trivial:
            for k in range(len(needed)):
                alone = tuple(j == k for j in range(len(needed)))
                names = text.backward_operands(row, alone)
                every = text.backward_operands(row, needed)
                places = [every.index(n) for n in names]
                passes = derivatives[k] == "1"
                self._single.append((None if passes else cpu.backward(row, alone), places))

    def backward(self, node: Node, g: Array) -> tuple[Any, ...]:
        """Gradients of the inputs, as arrays."""
        if self._trivial:
            found: list[Any] = [g if on else None for on in self.needed]
        else:
            arguments = [
                s._array if s.__class__ in TENSORS or isinstance(s, Tensor) else s
                for s in node.saved or ()
                if s is not None
            ]
            if len(self.needed) == 1:
                return (self._fused[g.dtype](g, *arguments, out=...),)  # type: ignore[index]
            if self._single and g.size < 8192:
                found = [
                    g if kernel is None else kernel[g.dtype](g, *[arguments[p] for p in places], out=...)
                    for kernel, places in self._single
                ]
            else:
                made = self._fused[g.dtype](g, *arguments, out=...)  # type: ignore[index]
                results = iter(made if isinstance(made, tuple) else (made,))
                found = [next(results) if on else None for on in self.needed]
        return tuple(found) if node.const is None else unbroadcast(cpu, found, node.const)

    def differentiate(self, node: Node, g: Tensor) -> tuple[Any, ...]:
        """The derivatives' text, evaluated on Tensors."""
        values = dict(zip((*self.row.operands, "z"), saved_tensors(node), strict=False))
        found = [
            g if d == "1" else -g if d == "-1" else g * evaluate(d, values) if on else None
            for d, on in zip(self.row.derivatives or (), self.needed, strict=True)
        ]
        found = [d if on else None for d, on in zip(found, self.needed, strict=True)]
        return tuple(found) if node.const is None else unbroadcast(tensors, found, node.const)


def unbroadcast(primitives: Any, gradients: list[Any], shapes: Any) -> tuple[Any, ...]:
    """Gradients summed to the shapes that their inputs had before broadcasting."""
    return tuple(
        d if d is None else primitives.sum_to(d, shape)
        for d, shape in zip(gradients, shapes, strict=False)
    )


_code: dict[str, Any] = {}


def evaluate(formula: str, values: dict[str, Any]) -> Any:
    """A formula of the table on Tensors."""
    code = _code.get(formula)
    if code is None:
        code = _code[formula] = compile(formula, "<row>", "eval")
    dtype = next(v.dtype for v in values.values() if v is not None)

    def where(condition: Tensor, a: Any, b: Any) -> Tensor:
        numbers = [v if isinstance(v, Tensor) else wrap(cpu.constant(v, dtype.numpy)) for v in (a, b)]
        return tensors.where(condition, *numbers)  # type: ignore[no-any-return]

    names = {**FUNCTIONS, "fabs": FUNCTIONS["abs"], "where": where, "inf": float("inf"), **values}
    return eval(code, {"__builtins__": {}}, names)


def _prepare(row: Row, operands: tuple[Any, ...]) -> list[Tensor]:
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
    result = dtypes.result_type(kinds)
    if row.types == "float" and not result.is_floating_point:
        result = dtypes.get_default_dtype()
    if result.numpy == np.float16:
        raise NotImplementedError(f'"{row.name}_cpu" not implemented for \'Half\'')
    if result is dtypes.bool and row.name in ("sub", "neg"):
        sign = "Subtraction, the" if row.name == "sub" else "Negation, the"
        many = " with two bool tensors" if row.name == "sub" else " on a bool tensor"
        raise RuntimeError(
            f"{sign} `-` operator,{many} is not supported. "
            "If you are trying to invert a mask, use the `~` or `logical_not()` operator instead."
        )
    return [
        tensors.cast(x, result)
        if isinstance(x, Tensor)
        else wrap(cpu.constant(x, result.numpy))
        for x in operands
    ]


def _check_broadcast(arrays: list[Array]) -> None:
    for a in arrays[1:]:
        try:
            np.broadcast_shapes(arrays[0].shape, a.shape)
        except ValueError:
            raise broadcast_error(arrays[0].shape, a.shape) from None


def _unary(row: Row) -> Callable[..., Tensor]:
    kernels = cpu.ROW_KERNELS[row.name]
    ready: dict[Any, Any] = {}
    differentiable = row.derivatives is not None
    op: Any = RowOp(row, (True,)) if differentiable else None
    save_x, save_z = (op.saves[0], op.saves[-1]) if differentiable else (False, False)
    kind = op.kind if op else Node

    def apply(input: Tensor) -> Tensor:
        try:
            a = input._array
        except AttributeError:
            raise argument_error(row.name, "input", 1, "Tensor", input) from None
        kernel = ready.get(a.dtype)
        if kernel is None:
            input = _prepare(row, (input,))[0]
            a = input._array
            kernel = ready_for(a.dtype)
        z = new(Tensor)
        z._array = array = kernel(a, out=...)
        z._grad = z._base = z._changes = None
        parent = input._node
        if parent is not None and differentiable and mode.enabled:
            z._node = node = new(kind)
            node.op = op
            node.seq = next_seq()
            node.parents = (input if parent is LEAF else parent,)
            node.saved = (
                (input if save_x else None, array if save_z else None) if save_x or save_z else ()
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


def _operand(x: Any) -> Any:
    """What an operator accepts beside tensors and numbers; None for anything else."""
    if isinstance(x, (Tensor, bool, int, float, np.generic)):
        return x
    if isinstance(x, np.ndarray):
        return wrap(x)
    return x.as_tensor() if isinstance(x, Node) else None


def _binary(row: Row, operator: bool = False) -> Callable[..., Tensor]:
    """A row of two inputs; as an operator it leaves what it does not know to the other side."""
    kernels = cpu.ROW_KERNELS[row.name]
    ready: dict[Any, Any] = {}
    differentiable = row.derivatives is not None
    # ops[x needs][y needs], with what each saves.
    table: Any = [[None, None], [None, None]]
    if differentiable:
        for x_on, y_on in ((True, False), (False, True), (True, True)):
            made = RowOp(row, (x_on, y_on))
            table[x_on][y_on] = (made, made.kind, *made.saves, any(made.saves))
    constant = cpu.constant

    def apply(input: Any, other: Any) -> Tensor:
        kind = other.__class__
        if kind in TENSORS and input.__class__ in TENSORS:
            a, b = input._array, other._array
            kernel = ready.get(a.dtype)
            if kernel is None or a.dtype is not b.dtype:
                return slow(input, other)
            y_parent = other._node
        elif (kind is float or kind is int) and input.__class__ in TENSORS:
            a = input._array
            kernel = ready.get(a.dtype)
            if kernel is None or (kind is float and a.dtype not in FLOATS):
                return slow(input, other)
            other = b = constant(other, a.dtype)
            y_parent = None
        else:
            return slow(input, other)
        try:
            array = kernel(a, b, out=...)
        except ValueError:
            raise broadcast_error(a.shape, b.shape) from None
        z = new(Tensor)
        z._array = array
        z._grad = z._base = z._changes = None
        x_parent = input._node
        if (x_parent is None and y_parent is None) or not differentiable or not mode.enabled:
            z._node = None
            return z  # type: ignore[no-any-return]
        op, op_kind, save_x, save_y, save_z, saves = table[x_parent is not None][y_parent is not None]
        z._node = node = new(op_kind)
        node.op = op
        node.seq = next_seq()
        node.parents = (
            input if x_parent is LEAF else x_parent,
            other if y_parent is LEAF else y_parent,
        )
        if saves:
            node.saved = (
                input if save_x else None,
                other if save_y else None,
                array if save_z else None,
            )
        else:
            node.saved = ()
        x_shape, y_shape = a.shape, b.shape
        node.const = (
            None if x_shape == y_shape or b is other else (x_shape, y_shape)
        )
        return z  # type: ignore[no-any-return]

    def slow(input: Any, other: Any) -> Tensor:
        if operator:
            input, other = _operand(input), _operand(other)
            if input is None or other is None:
                return NotImplemented
        x, y = _prepare(row, (input, other))
        dtype = x._array.dtype
        if dtype not in ready:
            ready[dtype] = kernels[dtype]
        return apply(x, y)

    return apply


def _with_params(row: Row) -> Callable[..., Tensor]:
    """Rows of one input that take numbers."""
    kernels = cpu.ROW_KERNELS[row.name]
    op = RowOp(row, (True,))

    def apply(input: Any, *params: Any) -> Tensor:
        x = _prepare(row, (input, *(p for p in params if row.types == "any")))[0]
        a = x._array
        numbers = [cpu.constant(p, a.dtype) for p in params]
        z = wrap(kernels[a.dtype](a, *numbers, out=...))
        if x._node is not None and mode.enabled:
            node = new(op.kind)
            node.op = op
            node.seq = next_seq()
            node.parents = (edge(x),)
            values = (x, *numbers, z._array)
            node.saved = tuple(v if on else None for v, on in zip(values, op.saves, strict=True))
            node.const = None
            z._node = node
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


def in_place(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`x.name_(...)`: the result is written into x, which takes over its history."""
    kernels = cpu.IN_PLACE.get(name)

    def apply(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check_in_place(input)
        a = input._array
        if kernels is not None and len(args) == 1 and not kwargs and _silent(input, args[0]):
            b = args[0]
            kernels[a.dtype](a, b._array if isinstance(b, Tensor) else cpu.constant(b, a.dtype), a)
        else:
            write(input, function(input, *args, **kwargs))
        changed(input)
        return input

    apply.__name__ = apply.__qualname__ = name + "_"
    apply.__doc__ = f"In-place form of `{name}`."
    return apply


def _silent(x: Tensor, y: Any) -> bool:
    """Whether x op= y needs neither graph nor promotion nor a larger x."""
    a = x._array
    if a.dtype not in FLOATS:
        return False
    if isinstance(y, Tensor):
        if mode.enabled and (x._node is not None or y._node is not None):
            return False
        return y._array.dtype == a.dtype and y._array.shape in ((), a.shape)
    return isinstance(y, (int, float)) and not (mode.enabled and x._node is not None)


def write(x: Tensor, z: Tensor) -> None:
    """Copy a result into x and give x its history.

    Raises:
        RuntimeError: if the result has another shape, or a dtype of a higher category.
    """
    a, result = x._array, z._array
    if result.shape != a.shape:
        raise RuntimeError(
            f"output with shape {list(a.shape)} doesn't match the broadcast shape "
            f"{list(result.shape)}"
        )
    if z.dtype.category > x.dtype.category:
        raise RuntimeError(
            f"result type {z.dtype.short} can't be cast to the desired output type {x.dtype.short}"
        )
    np.copyto(a, result, casting="unsafe")
    if z._node is not None:
        x._node = z._node


FUNCTIONS: dict[str, Callable[..., Any]] = {name: make(row) for name, row in ROWS.items()}
OPERATORS = {
    name: _binary(ROWS[name], True)
    for name in ("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")
}
