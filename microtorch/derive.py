"""Derivatives of a row's formula, derived from its text.

The rules of calculus for `+ - * /`, for choices, and the chain rule; the derivative of a function
of the vocabulary is that of the row that is the function itself.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

from .table import ROWS, VOCABULARY

_TWO = ("atan2", "pow", "copysign", "maximum", "minimum")
ARITY = {name: 1 for name in VOCABULARY - {"inf"}} | {name: 2 for name in _TWO} | {"where": 3}
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
# The derivatives of each function in its arguments x and y; z is its value.
RULES: dict[str, tuple[str, ...]] = {
    "copysign": ("where(x > 0, copysign(1, y), where(x < 0, -copysign(1, y), 0))", "0"),
    "rint": ("0",),
    "trunc": ("0",),
}
for _row in ROWS.values():
    _called = re.fullmatch(r"(\w+)\(x(, y)?\)", _row.formula)
    _function = _called[1] if _called else _row.name
    if (
        _row.derivatives is not None
        and not _row.params
        and ARITY.get(_function) == len(_row.inputs)
    ):
        RULES.setdefault(_function, tuple(_row.derivatives))


def parse(formula: str, names: Iterable[str]) -> ast.expr:
    """The tree of a formula of the table's grammar over these names.

    Raises:
        ValueError: naming what does not belong to the grammar.
    """
    try:
        tree = ast.parse(formula.strip(), mode="eval").body
    except (SyntaxError, TypeError):
        raise ValueError(f"the formula {formula!r} is no expression") from None
    nodes = list(ast.walk(tree))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    known = set(names) | {"inf"}
    for node in nodes:
        if id(node) not in called:
            _check(node, formula, known)
    return tree


def _check(node: ast.AST, formula: str, known: set[str]) -> None:
    wrong = None
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name not in ARITY:
            wrong = f"calls unknown {name}"
        elif node.keywords or len(node.args) != ARITY[name]:
            given = len(node.args) + len(node.keywords)
            wrong = f"calls {name} with {given} arguments, not {ARITY[name]}"
    elif isinstance(node, ast.Name):
        if node.id not in known:
            wrong = f"names unknown {node.id}"
    elif isinstance(node, ast.Constant):
        if type(node.value) not in (int, float):
            wrong = f"holds {node.value!r}, which is no number"
    elif isinstance(node, ast.Compare):
        if len(node.ops) != 1 or type(node.ops[0]) not in _COMPARISONS:
            wrong = f"compares in a way that kernels cannot: {ast.unparse(node)}"
    elif isinstance(node, ast.BinOp):
        if type(node.op) not in _OPERATORS:
            wrong = f"has an operator other than + - * / in {ast.unparse(node)}"
    elif isinstance(node, ast.UnaryOp):
        if not isinstance(node.op, (ast.USub, ast.UAdd)):
            wrong = f"has an operator other than - in {ast.unparse(node)}"
    elif isinstance(node, ast.expr):
        wrong = f"holds {ast.unparse(node)}, which is not of its grammar"
    if wrong:
        raise ValueError(f"the formula {formula!r} {wrong}")


def derivatives(formula: str, inputs: Iterable[str], others: Iterable[str] = ()) -> tuple[str, ...]:
    """The local derivative in each input, as a row has them; `z` is the formula's value."""
    inputs = tuple(inputs)
    tree = _simple(parse(formula, (*inputs, *others)))
    found = []
    for name in inputs:
        d = _derivative(tree, name)
        if not isinstance(tree, (ast.Name, ast.Constant)):
            d = _Replace({ast.dump(tree): ast.Name("z")}).visit(d)
        found.append(ast.unparse(d))
    return tuple(found)


class _Replace(ast.NodeTransformer):
    """Exchanges whole subtrees."""

    def __init__(self, table: dict[str, ast.expr]) -> None:
        self.table = table

    def visit(self, node: ast.AST) -> Any:
        """The subtree, or what stands for it."""
        found = self.table.get(ast.dump(node))
        # Visiting changes a tree in place, and parts of it are shared.
        return found if found is not None else self.generic_visit(_copied(node))


def _copied(node: ast.AST) -> ast.AST:
    fields = {k: list(v) if isinstance(v, list) else v for k, v in ast.iter_fields(node)}
    return type(node)(**fields)


def _derivative(tree: ast.expr, name: str) -> ast.expr:
    if isinstance(tree, ast.Name):
        return _number(1 if tree.id == name else 0)
    if isinstance(tree, ast.UnaryOp):
        d = _derivative(tree.operand, name)
        return _neg(d) if isinstance(tree.op, ast.USub) else d
    if isinstance(tree, ast.BinOp):
        u, v = tree.left, tree.right
        du, dv = _derivative(u, name), _derivative(v, name)
        if isinstance(tree.op, (ast.Add, ast.Sub)):
            return _binary(tree.op, du, dv)
        if isinstance(tree.op, ast.Mult):
            return _add(_mul(du, v), _mul(u, dv))
        return _div(_sub(du, _mul(tree, dv)), v)
    if isinstance(tree, ast.Call):
        return _of_call(tree, name)
    # Numbers and comparisons.
    return _number(0)


def _of_call(tree: ast.Call, name: str) -> ast.expr:
    function = ast.unparse(tree.func)
    if function == "where":
        return _where(tree.args[0], *(_derivative(a, name) for a in tree.args[1:]))
    total: ast.expr = _number(0)
    for rule, argument in zip(RULES[function], tree.args, strict=True):
        d = _derivative(argument, name)
        if _value(d) != 0:
            total = _add(total, _mul(_filled(rule, tree), d))
    return total


def _filled(rule: str, call: ast.Call) -> ast.expr:
    """A rule of x, y and z with a call's arguments and the call itself in their places."""
    places = dict(zip(("x", "y"), call.args, strict=False)) | {"z": call}
    table = {ast.dump(ast.parse(n, mode="eval").body): t for n, t in places.items()}
    return _simple(_Replace(table).visit(ast.parse(rule, mode="eval").body))


def _simple(tree: ast.expr) -> ast.expr:
    """The tree with what is known of its numbers worked out."""
    if isinstance(tree, ast.BinOp):
        return _binary(tree.op, _simple(tree.left), _simple(tree.right))
    if isinstance(tree, ast.UnaryOp):
        return _neg(_simple(tree.operand)) if isinstance(tree.op, ast.USub) else tree
    if isinstance(tree, ast.Compare):
        left, right = _simple(tree.left), _simple(tree.comparators[0])
        a, b = _value(left), _value(right)
        if a is not None and b is not None:
            return _number(int(_COMPARISONS[type(tree.ops[0])](a, b)))
        return ast.Compare(left, tree.ops, [right])
    if isinstance(tree, ast.Call):
        return _call(tree.func, [_simple(a) for a in tree.args])
    return tree


def _call(function: ast.expr, arguments: list[ast.expr]) -> ast.expr:
    name = ast.unparse(function)
    if name == "where":
        return _where(*arguments)
    values = [_value(a) for a in arguments]
    if name == "pow" and values[1] == 1:
        return arguments[0]
    if name == "pow" and values[1] == 0:
        return _number(1)
    found = None
    if all(v is not None for v in values) and hasattr(math, name):
        try:
            found = float(getattr(math, name)(*values))
        except (ArithmeticError, ValueError):
            pass
    return ast.Call(function, arguments, []) if found is None else _number(found)


# ------------------------------------------------------------------- trees, simplified a little
def _value(tree: ast.expr) -> Any:
    """The number that a tree is, or None."""
    if isinstance(tree, ast.Constant):
        return tree.value
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.operand, ast.Constant):
        return -tree.operand.value  # type: ignore[operator]
    return None


def _number(value: float) -> ast.expr:
    return ast.UnaryOp(ast.USub(), ast.Constant(-value)) if value < 0 else ast.Constant(value)


def _neg(u: ast.expr) -> ast.expr:
    if _value(u) is not None:
        return _number(-_value(u))
    if isinstance(u, ast.UnaryOp) and isinstance(u.op, ast.USub):
        return u.operand
    return ast.UnaryOp(ast.USub(), u)


def _binary(op: ast.operator, u: ast.expr, v: ast.expr) -> ast.expr:
    simplest = {ast.Add: _add, ast.Sub: _sub, ast.Mult: _mul, ast.Div: _div}[type(op)]  # type: ignore[index]
    return simplest(u, v)


def _made(op: ast.operator, u: ast.expr, v: ast.expr) -> ast.expr:
    a, b = _value(u), _value(v)
    if a is not None and b is not None and not (isinstance(op, ast.Div) and b == 0):
        found = _OPERATORS[type(op)](a, b)
        if math.isfinite(found):
            return _number(found)
    return ast.BinOp(u, op, v)


def _add(u: ast.expr, v: ast.expr) -> ast.expr:
    if _value(u) == 0:
        return v
    return u if _value(v) == 0 else _made(ast.Add(), u, v)


def _sub(u: ast.expr, v: ast.expr) -> ast.expr:
    if _value(u) == 0:
        return _neg(v)
    return u if _value(v) == 0 else _made(ast.Sub(), u, v)


def _mul(u: ast.expr, v: ast.expr) -> ast.expr:
    for a, b in ((u, v), (v, u)):
        if _value(a) == 0:
            return _number(0)
        if _value(a) == 1:
            return b
        if _value(a) == -1:
            return _neg(b)
        if isinstance(a, ast.UnaryOp) and _value(a) is None:
            return _neg(_mul(a.operand, b))
        if _chooses(a):
            # A factor where the other one is not wanted, such as inf, must not meet a 0.
            condition, yes, no = a.args  # type: ignore[attr-defined]
            return _where(condition, _mul(yes, b), _mul(no, b))
    return _made(ast.Mult(), u, v)


def _div(u: ast.expr, v: ast.expr) -> ast.expr:
    if _value(u) == 0:
        return _number(0)
    return u if _value(v) == 1 else _made(ast.Div(), u, v)


def _where(condition: ast.expr, yes: ast.expr, no: ast.expr) -> ast.expr:
    known = _value(condition)
    if known is not None:
        return yes if known else no
    if ast.dump(yes) == ast.dump(no):
        return yes
    return ast.Call(ast.Name("where"), [condition, yes, no], [])


def _chooses(tree: ast.expr) -> bool:
    """Whether a tree is a choice among numbers."""
    if not isinstance(tree, ast.Call) or ast.unparse(tree.func) != "where":
        return False
    return all(_value(a) is not None or _chooses(a) for a in tree.args[1:])
