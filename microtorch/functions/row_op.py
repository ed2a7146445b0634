"""How a row of the table differentiates: its kernels on arrays, its text on Tensors."""

import ast
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..graph.node import Node
from ..kernels import cpu, text
from ..table import FOLDS, VOCABULARY, Row, names_in
from ..tensor import TENSORS, Tensor, wrap
from .op import Array, Rule, record, saved_tensors, tensors

# The vocabulary of formulas, on Tensors; `elementwise` enters the rows.
WORDS: dict[str, Any] = {}
# Rows with a derivative that is constant between kinks, whose own derivative PyTorch gives as
# zeros, not as none.
_PIECEWISE = {"relu", "abs", "leaky_relu", "hardtanh", "threshold", "l1_loss"}


def _piecewise_rule(F: Any, g: Any, shapes: Any) -> tuple[Any, ...]:
    return (g, *[F.sum_to(F.zeros_of(g), shape) for shape in shapes])


PIECEWISE = Rule("PiecewiseBackward0", _piecewise_rule)


class RowOp:
    """A row of the table with a gradient for the inputs marked in `needed`.

    A node saves what the derivatives mention, in the order of `names`. `backward(node, g)` is a
    closure made for this row: it runs once a node of every backward pass.
    """

    __slots__ = ("backward", "kind", "names", "needed", "row", "saves", "saves_result")

    def __init__(self, row: Row, needed: tuple[bool, ...]) -> None:
        self.row = row
        self.needed = needed
        self.kind = row.node
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
            return _one_of_one(fused, cpu.backward(self.row, self.needed, True), len(self.names))
        if sum(self.needed) == 1:
            place = self.needed.index(True)
            return _one_of_two(fused, lambda: self._summed(place), len(self.names), place)
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
        """Kernels of the sum of a gradient over all elements, for which one value is saved."""
        assert self.row.derivatives is not None
        gradient = text.chain(self.row.derivatives[place])
        operands = f"g {self.names[0]}".replace("z", "y")
        row = Row(self.row.name + "_sum", operands, gradient.replace("z", "y"), doc="")
        return cpu.fold(FOLDS["sum"], row, total=True)

    def differentiate(self, node: Node, g: Tensor) -> tuple[Any, ...]:
        """The derivatives' text, evaluated on Tensors."""
        values = {**dict(zip(self.names, saved_tensors(node), strict=True)), "g": g}
        found = [
            evaluate(text.chain(d), values, g) if on else None
            for d, on in zip(self.row.derivatives or (), self.needed, strict=True)
        ]
        if self.row.name in _PIECEWISE:
            inputs = tuple(v for n, v in values.items() if n != "g" and v._node is not None)
            shapes = tuple(v._array.shape for v in inputs)
            found = [
                d if d is None else record(PIECEWISE, d._array, (d, *inputs), const=shapes)
                for d in found
            ]
        return (
            tuple(found)
            if node.const.__class__ is not tuple
            else unbroadcast(tensors, found, node.const)
        )


def arrays(saved: Any) -> list[Array]:
    """Saved values as arrays."""
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


def _one_of_one(
    kernels: Any, in_place: Any, saved: int
) -> Callable[[Node, Array], tuple[Any, ...]]:
    def backward(node: Node, g: Array) -> tuple[Any, ...]:
        return (kernels[g.dtype](g, *arrays(node.saved)),)

    def backward_of_one(node: Node, g: Array) -> tuple[Any, ...]:
        (s,) = node.saved  # type: ignore[misc]
        a = s._array if s.__class__ in TENSORS else s
        if g.size > cpu.LARGE and g.base is None and sys.getrefcount(g) <= cpu.ALONE:
            # Nothing else refers to the incoming gradient: its memory is used again.
            return (in_place[g.dtype](g, a, g),)
        return (kernels[g.dtype](g, a),)

    return backward_of_one if saved == 1 else backward


def _one_of_two(
    kernels: Any, summed: Any, saved: int, place: int
) -> Callable[[Node, Array], tuple[Any, ...]]:
    """The gradient of one of two inputs; `summed` gives the kernels of its sum."""
    sums: Any = None

    def backward(node: Node, g: Array) -> tuple[Any, ...]:
        d = kernels[g.dtype](g, *arrays(node.saved))
        if node.const.__class__ is tuple:
            d = cpu.sum_to(d, node.const[place])
        return (None, d) if place else (d, None)

    def backward_of_one(node: Node, g: Array) -> tuple[Any, ...]:
        nonlocal sums
        (s,) = node.saved  # type: ignore[misc]
        if s.__class__ in TENSORS:
            s = s._array
        shapes = node.const
        if shapes.__class__ is not tuple:
            d = kernels[g.dtype](g, s)
        elif s.shape == g.shape and math.prod(shapes[place]) == 1:
            sums = sums or summed()
            d = sums[g.dtype](g, s)
            if shapes[place] != (1,):
                d = d.reshape(shapes[place])
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
        saved = arrays(node.saved)
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
        if condition._array.ndim == 0 and type(condition._array) is np.ndarray:
            # A choice by a parameter is made at once; by what is recorded, it cannot be.
            chosen = a if condition._array else b
            if isinstance(chosen, Tensor) and chosen._array.shape == like._array.shape:
                return chosen
        choices = [v if isinstance(v, Tensor) else number(v) for v in (a, b)]
        return tensors.where(condition, *choices)  # type: ignore[no-any-return]

    names = {**WORDS, "where": where, "F": number, **values}
    return eval(code, {"__builtins__": {}}, names)


def _compile(formula: str) -> Any:
    """The code of a formula; its numbers are Tensors if a function is called with numbers alone."""
    calls = [ast.unparse(c) for c in ast.walk(ast.parse(formula)) if isinstance(c, ast.Call)]
    if any(not names_in(call) - VOCABULARY for call in calls):
        formula = text.typed(formula)
    return compile(formula, "<row>", "eval")
