"""Sums of products over named dimensions: einsum and tensordot.

Operands are joined two at a time: dimensions that both have and that are needed no more become the
inner dimension of a (batched) matrix product; everything else is permute, reshape and sum.
"""

import math
from collections.abc import Sequence
from typing import Any

from ..errors import argument_error
from ..tensor import Tensor, normal_dim
from .arguments import ints_of, is_int, need_tensor
from .elementwise import FUNCTIONS
from .names import function
from .op import deliver
from .product import matmul
from .reduce import sum as sum_
from .strided import diagonal
from .view import permute, reshape, squeeze, unsqueeze

# A letter, a number of the list form, or, counted from the right, -1, -2 ... for dimensions that
# an ellipsis covers. While parsing, `...` is the ellipsis itself.
Label = Any
NOTHING = (
    "einsum(): must specify the equation string and at least one operand, or at least one operand "
    "and its subscripts list"
)


@function()
def einsum(*args: Any) -> Tensor:
    """Sum of products by Einstein's notation: `einsum("ij,jk->ik", a, b)`.

    Letters name dimensions; those not in the output are summed, a letter twice in an operand takes
    its diagonal, `...` stands for dimensions that broadcast. Without `->` the output has the
    letters that occur once, in alphabetical order. `einsum(a, [0, 1], b, [1, 2], [0, 2])` is the
    form with numbers for letters.

    Raises:
        RuntimeError: for a malformed equation, or operands that do not fit it.
        ValueError: without operands.
    """
    terms, output, operands = _parsed(args)
    for x in operands:
        if not isinstance(x, Tensor):
            raise argument_error("einsum", "operands", 2, "tuple of Tensors", x)
    if len(terms) != len(operands):
        less = "fewer" if len(operands) < len(terms) else "more"
        raise RuntimeError(
            f"einsum(): {less} operands were provided than specified in the equation"
        )
    covered = [_covered(k, t, x) for k, (t, x) in enumerate(zip(terms, operands, strict=True))]
    rank = max(covered)
    named = [_spread(term, r) for term, r in zip(terms, covered, strict=True)]
    wanted = _implicit(named, rank) if output is None else _spread(output, rank)
    _check_output(wanted, named)
    prepared = _prepared(operands, named)
    result, labels = prepared[0]
    for k, (y, y_labels) in enumerate(prepared[1:], 2):
        later = {label for _, names in prepared[k:] for label in names}
        result, labels = _joined(result, labels, y, y_labels, wanted, later)
    result, labels = _summed(result, labels, wanted)
    return permute(result, [labels.index(label) for label in wanted])


def _parsed(args: tuple[Any, ...]) -> tuple[list[list[Label]], list[Label] | None, tuple[Any, ...]]:
    """The labels of each operand and of the output, if it is given, and the operands."""
    if len(args) < 2:
        raise ValueError(NOTHING)
    if not isinstance(args[0], str):
        pairs = len(args) // 2
        terms = [_checked(term) for term in args[1 : 2 * pairs : 2]]
        output = _checked(args[-1]) if len(args) % 2 else None
        return terms, output, args[: 2 * pairs : 2]
    operands = args[1:]
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    left, arrow, right = args[0].partition("->")
    letters, place = [], 0
    for k, term in enumerate(left.split(",")):
        letters.append(_letters(term, place, f"operand {k}"))
        place += len(term) + 1
    return letters, _letters(right, place + 1, "the output") if arrow else None, operands


def _checked(term: Any) -> list[Label]:
    for label in term:
        if label is not ... and not (is_int(label) and 0 <= label < 52):
            raise ValueError(
                "einsum(): expected subscripts to be integers in [0, 52) or Ellipsis, but got "
                f"{label}"
            )
    return list(term)


def _letters(term: str, place: int, where: str) -> list[Label]:
    labels: list[Label] = []
    k = 0
    while k < len(term):
        if term[k] == ".":
            if term[k : k + 3] != "..." or ... in labels:
                raise RuntimeError(
                    f"einsum(): found '.' for {where} that is not part of any ellipsis"
                )
            labels.append(...)
            k += 3
            continue
        if term[k] != " ":
            if not (term[k].isascii() and term[k].isalpha()):
                raise RuntimeError(
                    f"einsum(): invalid subscript given at index {place + k} in the equation "
                    "string, subscripts must be in [a-zA-Z]"
                )
            labels.append(term[k])
        k += 1
    return labels


def _covered(k: int, term: list[Label], x: Tensor) -> int:
    """How many dimensions of an operand its ellipsis covers."""
    named = len(term) - (... in term)
    if named > x.ndim or (named < x.ndim and ... not in term):
        no = "" if ... in term else " and no ellipsis was given"
        raise RuntimeError(
            f"einsum(): the number of subscripts in the equation ({named}) does not match the "
            f"number of dimensions ({x.ndim}) for operand {k}{no}"
        )
    return x.ndim - named


def _spread(term: list[Label], rank: int) -> list[Label]:
    """A term whose ellipsis is replaced by the labels of the dimensions that it covers."""
    return [found for label in term for found in (range(-rank, 0) if label is ... else (label,))]


def _implicit(terms: list[list[Label]], rank: int) -> list[Label]:
    """Broadcast dimensions, then the labels that occur once, in order."""
    every = [label for term in terms for label in term]
    once = [label for label in every if every.count(label) == 1 and label not in range(-rank, 0)]
    return [*range(-rank, 0), *sorted(once)]


def _check_output(wanted: list[Label], named: list[list[Label]]) -> None:
    for label in wanted:
        if wanted.count(label) > 1:
            raise RuntimeError(
                f"einsum(): output subscript {label} appears more than once in the output"
            )
        if not any(label in term for term in named):
            raise RuntimeError(
                f"einsum(): output subscript {label} does not appear in the equation for any input "
                "operand"
            )


def _prepared(
    operands: Sequence[Tensor], terms: list[list[Label]]
) -> list[tuple[Tensor, list[Label]]]:
    """Operands with each label once, without dimensions of length 1 that broadcast."""
    sizes: dict[Label, int] = {}
    found = []
    for k, (x, term) in enumerate(zip(operands, terms, strict=True)):
        x, labels = _diagonals(k, x, term)
        for label, n in zip(labels, x._array.shape, strict=True):
            known = sizes.get(label, 1)
            if n != known and 1 not in (n, known):
                raise RuntimeError(
                    f"einsum(): subscript {label} has size {n} for operand {k} which does not "
                    f"broadcast with previously seen size {known}"
                )
            sizes[label] = n if known == 1 else known
        found.append((x, labels))
    return [_without_ones(x, labels, sizes) for x, labels in found]


def _diagonals(k: int, x: Tensor, term: list[Label]) -> tuple[Tensor, list[Label]]:
    labels = list(term)
    for label in dict.fromkeys(term):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            n, m = x._array.shape[first], x._array.shape[second]
            if n != m:
                raise RuntimeError(
                    f"einsum(): subscript {label} is repeated for operand {k} but the sizes don't "
                    f"match, {m} != {n}"
                )
            x = diagonal(x, 0, first, second)
            labels = [*(name for j, name in enumerate(labels) if j not in (first, second)), label]
    return x, labels


def _without_ones(
    x: Tensor, labels: list[Label], sizes: dict[Label, int]
) -> tuple[Tensor, list[Label]]:
    shape = x._array.shape
    ones = [d for d, label in enumerate(labels) if shape[d] == 1 != sizes[label]]
    if not ones:
        return x, labels
    return squeeze(x, tuple(ones)), [name for d, name in enumerate(labels) if d not in ones]


def _summed(x: Tensor, labels: list[Label], keep: Any) -> tuple[Tensor, list[Label]]:
    """Without the dimensions that are not kept."""
    dims = [d for d, label in enumerate(labels) if label not in keep]
    if not dims:
        return x, labels
    return sum_(x, dims), [label for label in labels if label in keep]


def _joined(
    x: Tensor, x_labels: list[Label], y: Tensor, y_labels: list[Label], wanted: list[Label],
    later: set[Label],
) -> tuple[Tensor, list[Label]]:  # fmt: skip
    """The product of two operands, summed over what is needed no more."""
    keep = later.union(wanted)
    x, x_labels = _summed(x, x_labels, keep.union(y_labels))
    y, y_labels = _summed(y, y_labels, keep.union(x_labels))
    inner = [label for label in x_labels if label in y_labels and label not in keep]
    every = [*wanted, *sorted(later.difference(wanted), key=str)]
    order = [label for label in every if label in x_labels or label in y_labels]
    if not inner:
        product = FUNCTIONS["mul"](_aligned(x, x_labels, order), _aligned(y, y_labels, order))
        return product, order
    if order and order[-1] not in y_labels:
        # So that the product lies in memory in the order of the output.
        x, x_labels, y, y_labels = y, y_labels, x, x_labels
    batch = [label for label in order if label in x_labels and label in y_labels]
    rows = [label for label in order if label not in y_labels]
    columns = [label for label in order if label not in x_labels]
    a = _matrices(x, x_labels, batch, rows, inner)
    b = _matrices(y, y_labels, batch, inner, columns)
    sizes = dict(zip(x_labels, x._array.shape, strict=True))
    sizes.update(zip(y_labels, y._array.shape, strict=True))
    labels = batch + rows + columns
    return reshape(matmul(a, b), [sizes[label] for label in labels]), labels


def _aligned(x: Tensor, labels: list[Label], order: list[Label]) -> Tensor:
    """x with its dimensions in a given order, of length 1 where it has none."""
    x = permute(x, [labels.index(label) for label in order if label in labels])
    for k, label in enumerate(order):
        if label not in labels:
            x = unsqueeze(x, k)
    return x


def _matrices(
    x: Tensor, labels: list[Label], batch: list[Label], rows: list[Label], columns: list[Label]
) -> Tensor:
    """x as a matrix or a stack of matrices."""
    order = [labels.index(label) for label in batch + rows + columns]
    x = permute(x, order)
    shape = x._array.shape
    n, m = len(batch), len(batch) + len(rows)
    lead = (math.prod(shape[:n]),) if batch else ()
    return reshape(x, (*lead, math.prod(shape[n:m]), math.prod(shape[m:])))


@function()
def tensordot(a: Tensor, b: Tensor, dims: Any = 2, out: Tensor | None = None) -> Tensor:
    """Products summed over pairs of dimensions: the last of a and first of b, or two lists.

    Raises:
        RuntimeError: for lists of different lengths, or dimensions of different lengths.
    """
    need_tensor("tensordot", a, "a")
    need_tensor("tensordot", b, "b", 2)
    if is_int(dims):
        count = int(dims)
        if count < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={count}")
        if count > min(a.ndim, b.ndim):
            raise RuntimeError(f"tensordot expects dims < ndim_a or ndim_b, but got dims={count}")
        of_a, of_b = tuple(range(-count, 0)), tuple(range(count))
    else:
        of_a, of_b = (ints_of("tensordot", d, "dims", 3, one=True) for d in dims)
    if len(of_a) != len(of_b):
        raise RuntimeError("both dimension lists should have same length")
    x_dims = [normal_dim(d, a.ndim) for d in of_a]
    y_dims = [normal_dim(d, b.ndim) for d in of_b]
    for d, e, shown, other in zip(x_dims, y_dims, of_a, of_b, strict=True):
        n, m = a._array.shape[d], b._array.shape[e]
        if n == m:
            continue
        if n == 1:
            b = sum_(b, e, keepdim=True)
        elif m == 1:
            a = sum_(a, d, keepdim=True)
        else:
            raise RuntimeError(
                f"contracted dimensions need to match, but first has size {n} in dim {shown} and "
                f"second has size {m} in dim {other}"
            )
    rows = [d for d in range(a.ndim) if d not in x_dims]
    columns = [d for d in range(b.ndim) if d not in y_dims]
    product = matmul(
        _matrices(a, list(range(a.ndim)), [], rows, x_dims),
        _matrices(b, list(range(b.ndim)), [], y_dims, columns),
    )
    shape = [a._array.shape[d] for d in rows] + [b._array.shape[d] for d in columns]
    return deliver(reshape(product, shape), out)
