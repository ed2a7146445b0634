"""Every row of the table as a function of Tensors.

The path from a call to its result is the hot path of eager mode: it holds no loop, no star
arguments and no isinstance; whatever is not two tensors of one dtype, or a tensor and a number
that needs no promotion, leaves it through `_prepare`.
"""

import ast
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, broadcast_error, combination_error
from ..graph.node import LEAF, Node, mode, next_seq, node_class
from ..kernels import cpu, text
from ..table import FOLDS, ROWS, VOCABULARY, Row, names_in
from ..tensor import TENSORS, Tensor, edge, new, wrap
from .op import Array, deliver, saved_tensors, tensors
from .refusals import check_dtype

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class RowOp:
    """A row of the table with a gradient for the inputs marked in `needed`.

    A node saves what the derivatives mention, in the order of `names`. `backward(node, g)` is a
    closure made for this row: it runs once a node of every backward pass.
    """

    __slots__ = ("backward", "kind", "names", "needed", "row", "saves", "saves_result")

    def __init__(self, row: Row, needed: tuple[bool, ...]) -> None:
        self.row = row
        self.needed = needed
        self.kind = node_class(row.node)
        self.names = text.backward_operands(row, needed)
        self.saves = tuple(name in self.names for name in (*row.operands, "z"))
        self.saves_result = "z" in self.names
        self.backward = self._backward()

    def _backward(self) -> Callable[[Node, Array], tuple[Any, ...]]:
        derivatives = self.row.derivatives or ()
        # Where every local derivative is 1 the gradient passes through as it is.
        if all(d == "1" for d, on in zip(derivatives, self.needed, strict=True) if on):
            return _pass_through(self.needed)
        fused = cpu.backward(self.row, self.needed)
        if len(self.needed) == 1:
            return _one_of_one(fused, len(self.names))
        if sum(self.needed) == 1:
            place = self.needed.index(True)
            return _one_of_two(fused, self._summed(place), len(self.names), place)
        alone = [tuple(j == k for j in range(len(self.needed))) for k in range(len(self.needed))]
        places = [
            [self.names.index(n) for n in text.backward_operands(self.row, one)] for one in alone
        ]
        single = [
            None if d == "1" else cpu.backward(self.row, one)
            for d, one in zip(derivatives, alone, strict=True)
        ]
        return _both(fused, single, places)

    def _summed(self, place: int) -> Any:
        """Kernels of the sum of a gradient over all elements, if one value is saved for it."""
        if len(self.names) != 1 or self.row.derivatives is None:
            return None
        gradient = text.chain(self.row.derivatives[place])
        operands = f"g {self.names[0]}".replace("z", "y")
        row = Row(self.row.name + "_sum", operands, gradient.replace("z", "y"), doc="")
        return cpu.fold(FOLDS["sum"], row)

    def differentiate(self, node: Node, g: Tensor) -> tuple[Any, ...]:
        """The derivatives' text, evaluated on Tensors."""
        values = {**dict(zip(self.names, saved_tensors(node), strict=True)), "g": g}
        found = [
            evaluate(text.chain(d), values, g) if on else None
            for d, on in zip(self.row.derivatives or (), self.needed, strict=True)
        ]
        return (
            tuple(found)
            if node.const.__class__ is not tuple
            else unbroadcast(tensors, found, node.const)
        )


def _arrays(saved: Any) -> list[Array]:
    return [s._array if s.__class__ in TENSORS else s for s in saved]


def _pass_through(needed: tuple[bool, ...]) -> Callable[[Node, Array], tuple[Any, ...]]:
    x_on, y_on = (*needed, False)[:2]

    def backward(node: Node, g: Array) -> tuple[Any, ...]:
        shapes = node.const
        if shapes is None:
            return (g if x_on else None, g if y_on else None)
        return (
            cpu.sum_to(g, shapes[0]) if x_on else None,
            cpu.sum_to(g, shapes[1]) if y_on else None,
        )

    return backward


def _one_of_one(kernels: Any, saved: int) -> Callable[[Node, Array], tuple[Any, ...]]:
    def backward(node: Node, g: Array) -> tuple[Any, ...]:
        return (kernels[g.dtype](g, *_arrays(node.saved)),)

    def backward_of_one(node: Node, g: Array) -> tuple[Any, ...]:
        (s,) = node.saved  # type: ignore[misc]
        return (kernels[g.dtype](g, s._array if s.__class__ in TENSORS else s),)

    return backward_of_one if saved == 1 else backward


def _one_of_two(
    kernels: Any, summed: Any, saved: int, place: int
) -> Callable[[Node, Array], tuple[Any, ...]]:
    """The gradient of one of two inputs; `summed` are kernels of its sum over all elements."""

    def backward(node: Node, g: Array) -> tuple[Any, ...]:
        d = kernels[g.dtype](g, *_arrays(node.saved))
        if node.const.__class__ is tuple:
            d = cpu.sum_to(d, node.const[place])
        return (None, d) if place else (d, None)

    def backward_of_one(node: Node, g: Array) -> tuple[Any, ...]:
        (s,) = node.saved  # type: ignore[misc]
        if s.__class__ in TENSORS:
            s = s._array
        shapes = node.const
        if shapes.__class__ is not tuple:
            d = kernels[g.dtype](g, s)
        elif s.shape == g.shape and math.prod(shapes[place]) == 1:
            d = summed[g.dtype](g.ravel(), s.ravel()).reshape(shapes[place])
        else:
            d = cpu.sum_to(kernels[g.dtype](g, s), shapes[place])
        return (None, d) if place else (d, None)

    def backward_of_none(node: Node, g: Array) -> tuple[Any, ...]:
        d = kernels[g.dtype](g)
        if node.const.__class__ is tuple:
            d = cpu.sum_to(d, node.const[place])
        return (None, d) if place else (d, None)

    return (backward_of_none, backward_of_one, backward)[min(saved, 2)]


def _both(
    fused: Any, single: list[Any], places: list[list[int]]
) -> Callable[[Node, Array], tuple[Any, ...]]:
    """Two gradients. NumPy calls a kernel of one result three times faster than one of two, so
    small gradients are computed one by one."""

    def small(saved: list[Array], g: Array) -> tuple[Any, ...]:
        dtype = g.dtype
        return tuple(
            [
                g if kernels is None else kernels[dtype](g, *[saved[p] for p in of])
                for kernels, of in zip(single, places, strict=True)
            ]
        )

    by_one = None
    if all(
        kernels is not None and len(of) == 1 for kernels, of in zip(single, places, strict=True)
    ):
        (dx, dy), ((x_at,), (y_at,)) = single, places

        def backward_by_one(node: Node, g: Array) -> tuple[Any, ...]:
            if g.size > cpu.LARGE:
                return backward(node, g)
            dtype = g.dtype
            x, y = node.saved[x_at], node.saved[y_at]  # type: ignore[index]
            x = x._array if x.__class__ in TENSORS else x
            y = y._array if y.__class__ in TENSORS else y
            if node.const.__class__ is not tuple:
                return dx[dtype](g, x), dy[dtype](g, y)
            found = dx[dtype](g, x), dy[dtype](g, y)
            return unbroadcast(cpu, found, node.const)

        by_one = backward_by_one

    def backward(node: Node, g: Array) -> tuple[Any, ...]:
        saved = _arrays(node.saved)
        found = fused[g.dtype](g, *saved) if g.size > cpu.LARGE else small(saved, g)
        return found if node.const.__class__ is not tuple else unbroadcast(cpu, found, node.const)

    return backward if by_one is None else by_one


def unbroadcast(primitives: Any, gradients: Sequence[Any], shapes: Any) -> tuple[Any, ...]:
    """Two gradients, summed to the shapes that their inputs had before broadcasting."""
    dx, dy = gradients
    return (
        None if dx is None else primitives.sum_to(dx, shapes[0]),
        None if dy is None else primitives.sum_to(dy, shapes[1]),
    )


_code: dict[str, Any] = {}


def evaluate(formula: str, values: dict[str, Any], like: Tensor) -> Any:
    """A formula of the table on Tensors; numbers among choices get the dtype of `like`."""
    code = _code.get(formula)
    if code is None:
        code = _code[formula] = _compile(formula)
    dtype = like.dtype

    def number(v: Any) -> Tensor:
        return wrap(cpu.constant(v, dtype.numpy))

    def where(condition: Tensor, a: Any, b: Any) -> Tensor:
        choices = [v if isinstance(v, Tensor) else number(v) for v in (a, b)]
        return tensors.where(condition, *choices)  # type: ignore[no-any-return]

    names = {**_WORDS, "where": where, "F": number, **values}
    return eval(code, {"__builtins__": {}}, names)


def _compile(formula: str) -> Any:
    """The code of a formula; its numbers are Tensors if a function is called with numbers alone."""
    calls = [ast.unparse(c) for c in ast.walk(ast.parse(formula)) if isinstance(c, ast.Call)]
    if any(not names_in(call) - VOCABULARY for call in calls):
        formula = text.typed(formula)
    return compile(formula, "<row>", "eval")


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
    op: Any = RowOp(row, (True,)) if differentiable else None
    save_x, save_z = (op.saves[0], op.saves[-1]) if differentiable else (False, False)
    kind = op.kind if op else Node

    def apply(input: Tensor, *, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return deliver(apply(input), out)
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
        z._array = array = kernel(a)
        parent = input._node
        if parent is not None and differentiable and mode.enabled:
            z._node = node = new(kind)
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
        return wrap(x)
    # A Value is a node that can stand for a tensor; this module knows no Values.
    return x.as_tensor(other) if isinstance(x, Node) else None  # type: ignore[attr-defined]


def _binary(row: Row, operator: bool = False) -> Callable[..., Tensor]:
    """A row of two inputs; as an operator it leaves what it does not know to the other side."""
    kernels = cpu.kernels_of(row)
    # Kernels that a call may use at once, and the 0-d arrays of numbers for float dtypes.
    ready: dict[Any, Any] = {}
    numbers: dict[Any, dict[Any, Array]] = {}
    differentiable = row.derivatives is not None
    # ops[x needs][y needs], with what each saves.
    table: Any = [[None, None], [None, None]]
    if differentiable:
        for x_on, y_on in ((True, False), (False, True), (True, True)):
            made = RowOp(row, (x_on, y_on))
            # Which of x, y, z are saved, as bits.
            code = sum(bit for bit, on in zip((1, 2, 4), made.saves, strict=True) if on)
            table[x_on][y_on] = (made, made.kind, code)
    by_number, by_other, by_both = table[True][False], table[False][True], table[True][True]
    number_op, number_kind, number_saves = by_number or (None, Node, 0)

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
            chosen = by_other
        else:
            chosen = by_number if y_parent is None else by_both
        if chosen is None or not mode.enabled:
            z._node = None
            return z  # type: ignore[no-any-return]
        op, op_kind, saves = chosen
        z._node = node = new(op_kind)
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
        z._node = node = new(number_kind)
        node.op = number_op
        node.seq = next_seq()
        node.parents = (input if parent is LEAF else parent,)
        if number_saves == 2:
            node.saved = (b,)
        elif number_saves:
            node.saved = tuple(
                [v for bit, v in ((1, input), (2, b), (4, array)) if number_saves & bit]
            )
        else:
            node.saved = ()
        node.const = None
        return z  # type: ignore[no-any-return]

    def slow(input: Any, other: Any) -> Tensor:
        if operator:
            input, other = operand(input, other), operand(other, input)
            if input is None or other is None:
                return NotImplemented
        x, y = _prepare(row, (input, other))
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
    ops = {
        needed: RowOp(row, needed)
        for needed in itertools.product((False, True), repeat=count)
        if any(needed)
    }

    def apply(*operands: Any, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return deliver(apply(*operands), out)
        params = operands[count:]
        if not isinstance(operands[0], Tensor):
            raise argument_error(row.name, "input", 1, "Tensor", operands[0])
        for position, (name, p) in enumerate(zip(row.params, params, strict=True), count + 1):
            if not isinstance(p, (bool, int, float, np.generic)):
                raise argument_error(row.name, name, position, "Number", p)
        inputs = _prepare(row, operands if row.types == "any" else operands[:count])[:count]
        dtype = inputs[0]._array.dtype
        numbers = [cpu.constant(p, dtype) for p in params]
        arrays = [x._array for x in inputs]
        try:
            z = wrap(kernels[dtype](*arrays, *numbers))
        except ValueError:
            raise broadcast_error(arrays[0].shape, arrays[-1].shape) from None
        needed = tuple(x._node is not None for x in inputs)
        if any(needed) and mode.enabled:
            op = ops[needed]
            z._node = node = new(op.kind)
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
# The vocabulary of formulas, on Tensors.
_WORDS: dict[str, Any] = {
    **FUNCTIONS, "fabs": FUNCTIONS["abs"], "rint": FUNCTIONS["round"], "inf": float("inf"),
    "INF": float("inf"),
}  # fmt: skip
OPERATORS = {
    name: _binary(ROWS[name], True)
    for name in ("add", "sub", "rsub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")
}
