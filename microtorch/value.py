"""Value: the scalar node, with micrograd's API and a method for every row of the table.

A Value is a node of the same graph as Tensors and holds a Python float; derivatives are the
table's text evaluated on floats. Every Value keeps its gradient: `grad` is 0.0 at first and sums
up what the backward passes bring. A Tensor and a Value give a Tensor; the gradient flows through.
"""

import builtins
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .dtypes import get_default_dtype
from .functions.elementwise import FLOATS
from .functions.op import Rule
from .functions.row_op import evaluate
from .graph.hooks import live
from .graph.node import Node, mode, next_seq
from .kernels import cpu, text
from .table import ROWS, Row
from .tensor import Tensor, new, wrap

_DOUBLE = FLOATS[1]


def _where(condition: Any, a: float, b: float) -> float:
    return a if condition else b


def _kernel(name: str) -> Callable[..., float]:
    """A function of the table on floats, by its float64 kernel."""

    def apply(*operands: float) -> float:
        return float(cpu.ROW_KERNELS[name][_DOUBLE](*operands))

    return apply


_SCOPE = {
    **{n: _kernel(n) for n in ("sigmoid", "softplus", "maximum", "minimum")},
    **{n: getattr(math, n) for n in "exp expm1 log log1p log2 log10 sin cos tan asin acos atan"
       " acosh asinh atanh atan2 sinh cosh tanh erf erfc pow sqrt fabs copysign inf".split()},
    "floor": lambda x: float(math.floor(x)), "rint": lambda x: float(round(x)),
    "trunc": lambda x: float(math.trunc(x)), "where": _where, "__builtins__": {},
}  # fmt: skip


class ScalarOp:
    """A row on Python floats, `numbers` of whose operands are plain numbers.

    Where Python raises (overflow, division by zero), the float64 kernel answers with inf or nan,
    as it does for tensors.
    """

    __slots__ = ("_gradients", "forward", "push", "row", "saves_result", "symbol")

    def __init__(self, row: Row, numbers: int) -> None:
        self.row = row
        self.saves_result = False
        derivatives = (row.derivatives or ())[: len(row.operands) - numbers]
        operands = ", ".join(row.operands)
        gradients = ", ".join(text.chain(d) for d in derivatives)
        self.forward = eval(f"lambda {operands}: {row.formula}", _SCOPE)
        self._gradients = eval(f"lambda g, {operands}, z: ({gradients},)", _SCOPE)
        signs = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "pow_number": "**"}
        self.symbol = signs.get(row.name, row.name)
        self.push = self._compile_push

    def _compile_push(self, node: "Value") -> None:
        """Add g times the local derivatives to the parents' gradients; made at the first use."""
        row, count = self.row, len(node.parents)
        names, numbers = row.operands[:count], row.operands[count:]
        lines = [f"({''.join(f'p_{n}, ' for n in names)}) = node.parents"]
        lines += [f"{n} = p_{n}.data" for n in names]
        lines += [f"({', '.join(numbers)},) = node.numbers"] if numbers else []
        lines += ["g = node.grad", "z = node.data"]
        pairs = list(zip(names, row.derivatives or (), strict=False))
        lines += [f"d_{n} = {text.chain(d)}" for n, d in pairs]
        lines += [f"p_{n}.grad += d_{n}" for n in names]
        scope = dict(_SCOPE)
        exec("def push(node):\n    " + "\n    ".join(lines), scope)
        self.push = scope["push"]
        self.push(node)

    def exactly(self, *operands: float) -> float:
        """The value, by the float64 kernel."""
        return float(cpu.kernels_of(self.row)[_DOUBLE](*operands))

    def gradients(self, g: float, node: "Value") -> tuple[float, ...]:
        """g times the local derivatives."""
        try:
            return self._gradients(g, *[p.data for p in node.parents], *node.numbers, node.data)  # type: ignore[no-any-return]
        except (ArithmeticError, ValueError):
            return self._exact_gradients(g, node)

    def _exact_gradients(self, g: float, node: "Value") -> tuple[float, ...]:
        operands = [*(p.data for p in node.parents), *node.numbers, node.data]
        arrays = [wrap(np.array(v, _DOUBLE)) for v in operands]
        values = dict(zip((*self.row.operands, "z"), arrays, strict=True))
        derivatives = (self.row.derivatives or ())[: len(node.parents)]
        return tuple(g * float(evaluate(d, values, arrays[0])) for d in derivatives)

    def backward(self, node: "Value", g: Any) -> tuple[Any, ...]:
        """g times the local derivatives, as NumPy's numbers: these can be added to the gradients
        that come from tensors."""
        return tuple(map(_DOUBLE.type, self.gradients(float(g), node)))

    @staticmethod
    def keep(node: "Value", g: Any) -> None:
        """Add g to the node's gradient, when the backward pass has succeeded."""
        node.grad += float(g)

    def differentiate(self, node: "Value", g: Tensor) -> Any:
        """Values have first derivatives only."""
        raise NotImplementedError(
            "create_graph=True does not go through Value nodes: use 0-d Tensors for higher "
            "derivatives"
        )


class _Leaf:
    """The op of a Value that no operation made."""

    @staticmethod
    def push(node: "Value") -> None:
        """Nothing: there are no parents."""

    symbol = ""
    saves_result = False

    def backward(self, node: "Value", g: Any) -> tuple[float, ...]:
        """Nothing: there are no parents."""
        return ()

    differentiate = backward
    keep = staticmethod(ScalarOp.keep)


_LEAF = _Leaf()


class Value(Node):
    """A number that can be differentiated: `data`, `grad`, and `backward()`."""

    __slots__ = ("data", "grad", "label", "numbers")

    data: float
    grad: float
    # Nothing is saved: a Value's parents hold their data.
    saved = ()
    const = None

    def __init__(self, data: float, _children: Any = (), _op: str = "", label: str = "") -> None:
        self.data = float(data)
        self.grad = 0.0
        self.op = _LEAF
        self.seq = next_seq()
        self.parents = ()
        self.numbers = ()
        self.label = label

    @property
    def _op(self) -> str:
        return self.op.symbol  # type: ignore[no-any-return]

    @property
    def _prev(self) -> set["Value"]:
        return set(self.parents)

    def backward(self) -> None:
        """Add d self / d node to the gradient of every node that self depends on."""
        _run(self)

    def as_tensor(self, like: Any = None) -> Tensor:
        """A 0-d tensor through which gradients flow back, of the floating dtype of `like`."""
        floating = isinstance(like, Tensor) and like.is_floating_point()
        dtype = like.dtype if floating else get_default_dtype()
        z = wrap(np.array(self.data, dtype.numpy))
        return _linked(z, self)

    def item(self) -> float:
        """The number."""
        return self.data

    def __float__(self) -> float:
        return float(self.data)

    def __repr__(self) -> str:
        return f"Value(data={self.data}, grad={self.grad})"


def _linked(z: Tensor, value: Value) -> Tensor:
    """z, with its gradient going to the Value."""
    if mode.enabled:
        # From now on the engine asks ops whether they keep gradients.
        live["Value"] = None
        z._node = node = new(Node)
        node.op = _TO_TENSOR
        node.seq = next_seq()
        node.parents = (value,)
        node.saved = ()
        node.const = None
    return z


def _scalar_graph(root: Value) -> list[Any]:
    """All nodes with parents that root depends on, oldest first."""
    order: list[Any] = [root]
    seen = {root}
    see, push = seen.add, order.append
    # The list grows while it is walked.
    for node in order:
        for parent in node.parents:
            if parent not in seen:
                see(parent)
                if parent.parents:
                    push(parent)
    order.sort(key=_seq, reverse=True)
    return order


_seq = operator.attrgetter("seq")


def _run(root: Value) -> None:
    """Backward through Values alone: the engine without its bookkeeping.

    A node's own gradient holds this pass's sum while the pass runs; what earlier passes left is
    put aside and added at the end.
    """
    order = _scalar_graph(root)
    earlier = [(node, node.grad) for node in order if node.parents and node.grad]
    for node, _ in earlier:
        node.grad = 0.0
    root.grad += 1.0
    while order:
        node = order.pop()
        try:
            node.op.push(node)
        except (ArithmeticError, ValueError):
            for parent, d in zip(node.parents, node.op.gradients(node.grad, node), strict=True):
                parent.grad += d
    for node, grad in earlier:
        node.grad += grad


def _method(row: Row) -> Callable[..., Any]:
    """A row as a method: of one Value and numbers, or of two Values."""
    with_numbers = ScalarOp(row, len(row.operands) - 1)
    forward = with_numbers.forward

    def unary(self: Value, *numbers: float) -> Value:
        z = new(Value)
        try:
            z.data = forward(self.data, *numbers)
        except (ArithmeticError, ValueError):
            z.data = with_numbers.exactly(self.data, *numbers)
        z.grad = 0.0
        z.op = with_numbers
        z.seq = next_seq()
        z.parents = (self,)
        z.numbers = numbers
        return z  # type: ignore[no-any-return]

    if len(row.inputs) == 1:
        return unary
    # The formula stands in the method itself: a call of it would take a sixth of the time.
    scope = {
        "Value": Value, "new": new, "next_seq": next_seq, "unary": unary,
        "op": ScalarOp(row, len(row.params)),
        "NUMBERS": (int, float, np.generic), **_SCOPE, "__builtins__": builtins,
    }  # fmt: skip
    params = "".join(f", {name}" for name in row.params)
    numbers = "".join(f"{name}, " for name in row.params)
    exec(_BINARY.format(formula=row.formula, params=params, numbers=f"({numbers})"), scope)
    return scope["binary"]


_BINARY = """
def binary(self, other{params}):
    if other.__class__ is not Value:
        if isinstance(other, NUMBERS):
            if other.__class__ is not float:
                other = other * 1.0 if other.__class__ is int else float(other)
            return unary(self, other{params})
        return NotImplemented
    z = new(Value)
    try:
        x = self.data
        y = other.data
        z.data = {formula}
    except (ArithmeticError, ValueError):
        z.data = op.exactly(x, y{params})
    z.grad = 0.0
    z.op = op
    z.seq = next_seq()
    z.parents = (self, other)
    z.numbers = {numbers}
    return z
"""


def _reflect(method: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: Value, other: Any) -> Any:
        if not isinstance(other, (int, float, np.generic)):
            return NotImplemented
        return method(Value(other), self)  # type: ignore[arg-type]

    return apply


class _Later:
    """A method that is made when it is first asked for: compiling all rows takes 5 ms."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.__doc__ = row.doc

    def __get__(self, instance: Any, owner: Any) -> Any:
        """The method of the row, bound."""
        method = _method(self.row)
        method.__name__ = method.__qualname__ = self.row.name
        method.__doc__ = self.row.doc
        setattr(Value, self.row.name, method)
        return method.__get__(instance, owner)


def _attach() -> None:
    for name, row in ROWS.items():
        if row.derivatives is not None:
            setattr(Value, name, _Later(row))
    for name, sign in (("add", "add"), ("sub", "sub"), ("mul", "mul"), ("div", "truediv"),
                       ("pow", "pow")):  # fmt: skip
        method = getattr(Value, name)
        setattr(Value, f"__{sign}__", method)
        setattr(Value, f"__r{sign}__", method if name in ("add", "mul") else _reflect(method))
    general = Value.pow  # type: ignore[attr-defined]
    number = Value.pow_number  # type: ignore[attr-defined]

    def power(self: Value, other: Any) -> Any:
        """self to the power of a number or a Value."""
        return number(self, other) if isinstance(other, (int, float)) else general(self, other)

    Value.pow = Value.__pow__ = power  # type: ignore[attr-defined,method-assign,operator]
    Value.__neg__ = Value.neg  # type: ignore[attr-defined,operator]


_attach()


# The edge from a Tensor to the Value it was made from; its gradient is a number.
class _ToTensor(Rule):
    """Gradients reach a Value in double precision, whatever tensors they come through."""

    __slots__ = ()

    def backward(self, node: Node, g: Any) -> tuple[Any, ...]:
        return (g.astype(_DOUBLE),)


_TO_TENSOR = _ToTensor("ValueBackward0", lambda F, g, const: (g,))
