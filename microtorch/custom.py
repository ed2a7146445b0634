"""`register`: an elementwise function of one's own, from a row of text.

    softsquare = microtorch.register("softsquare", "x", "x * x / (1 + fabs(x))")

The function works on Tensors and on Values, with kernels and derivatives of all orders, as the
rows of the table do.
"""

import keyword
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from . import derive
from .errors import argument_error, broadcast_error, kind_of
from .functions.elementwise import make, prepare
from .functions.names import PUBLIC
from .functions.op import record, saved_tensors, tensors
from .functions.row_op import RowOp, arrays, evaluate
from .graph.node import Node, mode, next_seq
from .kernels import cpu
from .table import ROWS, VOCABULARY, Row
from .tensor import Tensor, new
from .value import ScalarOp, Value

Array = np.ndarray[Any, Any]
# name -> the row as it was registered, and its function.
_registered: dict[str, tuple[tuple[Any, ...], Callable[..., Any]]] = {}


def register(
    name: str,
    inputs: str,
    formula: str,
    derivatives: str | None = None,
    *,
    domain: str = "-4 4",
    params: str = "",
    doc: str = "",
) -> Callable[..., Any]:
    """A function `name(*inputs, *params)` of Tensors and Values, computed by `formula`.

    inputs, params: names, separated by spaces; params are numbers without gradient. formula: an
    expression of `+ - * /`, comparisons, numbers, the names, and the functions of
    `table.VOCABULARY`. derivatives: one an input, separated by semicolons, in which `z` is the
    result; derived from the formula if not given. domain: an interval an input, or one for all,
    on which the formula is meant. The same row once more gives the same function.

    Raises:
        TypeError: for a formula that is no string.
        ValueError: for a name that is taken, names that are unknown, functions called with a
            wrong number of arguments, and derivatives or domains that do not fit the inputs.
            Nothing is registered then.
    """
    if not isinstance(formula, str):
        raise TypeError(
            f'register(): the formula must be a string, such as "x * x", not {kind_of(formula)}'
        )
    given = (inputs, formula, derivatives, domain, params)
    if name in _registered:
        earlier, function = _registered[name]
        if earlier == given:
            return function
        raise ValueError(f"{name} is registered already, with the formula {earlier[1]!r}")
    function = _function(_row(name, *given, doc))
    _registered[name] = (given, function)
    return function


def _row(
    name: str,
    inputs: str,
    formula: str,
    derivatives: str | None,
    domain: str,
    params: str,
    doc: str,
) -> Row:
    """The row, checked. Its operands are called x, y, x2, x3 ... and p0, p1 ...: any other name
    might be one that kernels use themselves."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name of a function")
    if name in ROWS or name in PUBLIC or name in VOCABULARY:
        raise ValueError(f"{name} exists already")
    names, numbers = inputs.split(), params.split()
    operands = names + numbers
    if not names:
        raise ValueError(f"{name} has no inputs")
    for operand in operands:
        if not operand.isidentifier() or keyword.iskeyword(operand):
            raise ValueError(f"{name}: {operand!r} is no name of an operand")
        if operand in VOCABULARY or operand in ("z", "g"):
            raise ValueError(f"{name}: {operand} means something else in a formula")
        if operands.count(operand) > 1:
            raise ValueError(f"{name}: {operand} is there twice")
    short = [*("x", "y")[: len(names)], *(f"x{k}" for k in range(2, len(names)))]
    short += [f"p{k}" for k in range(len(numbers))]
    renamed = dict(zip(operands, short, strict=True))
    derive.parse(formula, operands)
    if derivatives is None:
        found = derive.derivatives(formula, names, numbers)
    else:
        found = tuple(d.strip() for d in derivatives.split(";"))
        if len(found) != len(names):
            raise ValueError(f"{name}: {len(found)} derivatives for {len(names)} inputs")
        for d in found:
            derive.parse(d, (*operands, "z"))
    _check_domain(name, domain, len(names))
    return Row(
        name,
        " ".join(short[: len(names)]),
        _in_other_names(formula, renamed),
        "; ".join(_in_other_names(d, renamed) for d in found),
        domain=domain,
        params=" ".join(short[len(names) :]),
        doc=doc or f"{name}({', '.join(operands)}) = {formula}",
    )


def _check_domain(name: str, domain: str, count: int) -> None:
    intervals = [interval.split() for interval in domain.split(";")]
    if len(intervals) not in (1, count):
        raise ValueError(f"{name}: {len(intervals)} domains for {count} inputs")
    for interval in intervals:
        try:
            low, high = map(float, interval)
        except ValueError:
            raise ValueError(f"{name}: {' '.join(interval)!r} is no domain") from None
        if not low < high:
            raise ValueError(f"{name}: the domain {low} {high} is empty")


def _in_other_names(formula: str, names: dict[str, str]) -> str:
    return re.sub(r"(?<![\w.])[A-Za-z_]\w*", lambda m: names.get(m[0], m[0]), formula.strip())


class _GeneralOp(RowOp):
    """A row of any number of inputs; a node's const is their shapes."""

    __slots__ = ()

    def _backward(self) -> Callable[[Node, Array], tuple[Any, ...]]:
        kernels = cpu.backward(self.row, self.needed)
        needed = self.needed

        def backward(node: Node, g: Array) -> tuple[Any, ...]:
            found = kernels[g.dtype](g, *arrays(node.saved))
            gradients = iter(found if isinstance(found, tuple) else (found,))
            return tuple(
                [
                    cpu.sum_to(next(gradients), shape) if on else None
                    for shape, on in zip(node.const, needed, strict=True)
                ]
            )

        return backward

    def differentiate(self, node: Node, g: Tensor) -> tuple[Any, ...]:
        """The derivatives' text, evaluated on Tensors."""
        values = dict(zip(self.names, saved_tensors(node), strict=True))
        derivatives = self.row.derivatives or ()
        return tuple(
            tensors.sum_to(g * evaluate(d, values, g), shape) if on else None
            for d, shape, on in zip(derivatives, node.const, self.needed, strict=True)
        )


def general(row: Row) -> Callable[..., Tensor]:
    """A row of any number of inputs and params on Tensors."""
    kernels = cpu.kernels_of(row)
    ops: dict[tuple[bool, ...], _GeneralOp] = {}
    count = len(row.inputs)

    def apply(*operands: Any) -> Tensor:
        for k, x in enumerate(operands):
            if not isinstance(x, (Tensor, bool, int, float, np.generic)):
                raise argument_error(row.name, f"operand {k}", k + 1, "Tensor", x)
        xs = prepare(row, operands[:count])
        dtype = xs[0]._array.dtype
        numbers = [cpu.constant(p, dtype) for p in operands[count:]]
        arrays = [x._array for x in xs]
        try:
            array = kernels[dtype](*arrays, *numbers)
        except ValueError:
            shapes = [a.shape for a in arrays]
            for k, shape in enumerate(shapes[1:]):
                for other in shapes[: k + 1]:
                    _check_shapes(other, shape)
            raise
        needed = tuple([x._node is not None for x in xs])
        if not (any(needed) and mode.enabled):
            return record(None, array, ())
        op = ops.get(needed)
        if op is None:
            op = ops[needed] = _GeneralOp(row, needed)
        values = (*xs, *numbers, ...)
        saved = tuple([v for v, on in zip(values, op.saves, strict=True) if on])
        return record(op, array, tuple(xs), saved, tuple([a.shape for a in arrays]))

    return apply


def _check_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        raise broadcast_error(a, b) from None


def _function(row: Row) -> Callable[..., Any]:
    """The row as a function of Tensors, of Values, and of both."""
    simple = len(row.operands) == 1 or (len(row.inputs) == 2 and not row.params)
    of_tensors = make(row) if simple else general(row)
    of_values = _of_values(row)
    count = len(row.operands)

    def unary(input: Any) -> Any:
        return of_values(input) if isinstance(input, Value) else of_tensors(input)

    def several(*operands: Any) -> Any:
        if len(operands) != count:
            raise TypeError(f"{row.name}() takes {count} arguments, but {len(operands)} were given")
        if not any(isinstance(x, Value) for x in operands):
            return of_tensors(*operands)
        like = next((x for x in operands if isinstance(x, Tensor)), None)
        if like is None:
            return of_values(*operands)
        return of_tensors(*[x.as_tensor(like) if isinstance(x, Value) else x for x in operands])

    function = unary if count == 1 else several
    function.__name__ = function.__qualname__ = row.name
    function.__doc__ = row.doc
    return function


def _of_values(row: Row) -> Callable[..., Value]:
    """A row on Values, with numbers among the inputs."""
    op = ScalarOp(row, len(row.params))
    count = len(row.inputs)

    def apply(*operands: Any) -> Value:
        parents = tuple([x if isinstance(x, Value) else Value(x) for x in operands[:count]])
        numbers = tuple([float(p) for p in operands[count:]])
        data = [p.data for p in parents]
        z = new(Value)
        try:
            z.data = op.forward(*data, *numbers)
        except (ArithmeticError, ValueError):
            z.data = op.exactly(*data, *numbers)
        z.grad = 0.0
        z.op = op
        z.seq = next_seq()
        z.parents = parents
        z.numbers = numbers
        return z  # type: ignore[no-any-return]

    return apply
