"""Losses: a row of the table and its reduction in one kernel, one node."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import broadcast_error, refuse_foreign
from ..graph.node import Node, mode, next_seq
from ..kernels import cpu
from ..table import FOLDS, ROWS, Row
from ..tensor import Tensor, edge, new, wrap
from .elementwise import FLOATS, FUNCTIONS
from .index import open_grid
from .normalization import log_softmax
from .op import Rule, need_tensor, record, tensors
from .row_op import RowOp


class ReducedOp(RowOp):
    """A row whose results are summed or averaged; const is the size averaged over, or None."""

    __slots__ = ()

    def __init__(self, row: Row, needed: tuple[bool, ...], name: str) -> None:
        super().__init__(row, needed)
        self.kind = name
        # The row's own gradients, with g shared by all elements.
        of_row = self.backward

        def backward(node: Node, g: Any) -> tuple[Any, ...]:
            if node.const is not None:
                g = _DIV[g.dtype](g, cpu.constant(node.const, g.dtype))
            return of_row(node, g)

        self.backward = backward

    def differentiate(self, node: Node, g: Any) -> tuple[Any, ...]:
        """The same on Tensors."""
        return super().differentiate(node, g if node.const is None else g / node.const)


_DIV = cpu.ROW_KERNELS["div"]


def check_reduction(reduction: str) -> None:
    """Refuse what is no reduction."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")


class _ReducedOps(dict[tuple[bool, bool], ReducedOp]):
    """Which inputs need gradients -> op, made at first use."""

    def __init__(self, row: Row, node: str) -> None:
        super().__init__()
        self._made_of = row, node

    def __missing__(self, needed: tuple[bool, bool]) -> ReducedOp:
        row, node = self._made_of
        self[needed] = found = ReducedOp(row, needed, node)
        return found


class RowLoss:
    """The loss of a row under every reduction."""

    def __init__(self, row: Row, node: str, formula: str = "{}", **others: str) -> None:
        value = Row(
            row.name, " ".join(row.inputs), formula.format(row.formula),
            params=" ".join(row.params), doc=row.doc,
        )  # fmt: skip
        self.kernels = {kind: cpu.fold(FOLDS[kind], value) for kind in ("mean", "sum")}
        self.each = cpu.forward(value)
        shared = _ReducedOps(row, node)
        self.ops = {
            kind: _ReducedOps(row, others[kind]) if kind in others else shared
            for kind in ("mean", "sum", "none")
        }

    def __call__(self, x: Tensor, y: Tensor, reduction: str, *params: float) -> Tensor:
        """The loss of two tensors of one shape and floating dtype."""
        a, b = x._array, y._array
        numbers = tuple([cpu.constant(p, a.dtype) for p in params]) if params else ()
        if reduction == "none":
            array = self.each[a.dtype](a, b, *numbers)
        else:
            if a.ndim != 1:
                a, b = a.reshape(-1), b.reshape(-1)
            rows = [cpu.spread(p, a.shape) for p in numbers] if numbers else ()
            array = self.kernels[reduction][a.dtype](a, b, *rows)
        z = new(Tensor)
        z._array = array
        z._node = None
        from_x, from_y = edge(x), edge(y)
        if mode.enabled and (from_x is not None or from_y is not None):
            op = self.ops[reduction][from_x is not None, from_y is not None]
            z._node = node = new(Node)
            node.op = op
            node.seq = next_seq()
            node.parents = (from_x, from_y)
            save_x, save_y = op.saves[:2]
            node.saved = (x, y) if save_x and save_y else (x,) if save_x else (y,) * save_y
            if numbers:
                node.saved += tuple(
                    [p for p, on in zip(numbers, op.saves[2:-1], strict=True) if on]
                )
            node.const = a.size if reduction == "mean" else None
        return z  # type: ignore[no-any-return]


def matched(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Operands broadcast to one shape, with PyTorch's warning, and promoted to one dtype."""
    refuse_foreign(input)
    refuse_foreign(target)
    if input._array.shape != target._array.shape:
        warnings.warn(
            f"Using a target size ({target.shape}) that is different to the input size "
            f"({input.shape}). This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=4,
        )
    return broadcast(name, input, target)


def broadcast(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Operands broadcast to one shape and promoted to one dtype."""
    if input._array.shape != target._array.shape:
        try:
            shape = np.broadcast_shapes(input._array.shape, target._array.shape)
        except ValueError:
            raise broadcast_error(input._array.shape, target._array.shape) from None
        input, target = (tensors.expand(t, shape) for t in (input, target))
    if input._array.dtype is not target._array.dtype:
        input, target = tensors.same_dtype(input, target)
    if input._array.dtype not in FLOATS:
        raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{input.dtype.short}'")
    return input, target


def old_reduction(size_average: Any, reduce: Any, reduction: str) -> str:
    """The reduction that PyTorch's two old flags ask for."""
    if size_average is None and reduce is None:
        return reduction
    average, whole = (True if flag is None else bool(flag) for flag in (size_average, reduce))
    chosen = "none" if not whole else "mean" if average else "sum"
    warnings.warn(
        "size_average and reduce args will be deprecated, please use "
        f"reduction='{chosen}' instead.",
        stacklevel=4,
    )
    return chosen


def _simple(name: str, short: str, node: str, **others: str) -> Callable[..., Tensor]:
    loss = RowLoss(ROWS[name], node, **others)

    def apply(
        input: Tensor,
        target: Tensor,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        reduction = old_reduction(size_average, reduce, reduction)
        check_reduction(reduction)
        return loss(*matched(short, input, target), reduction)

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = ROWS[name].doc + " Reduction 'mean', 'sum' or 'none'."
    return apply


mse_loss = _simple("mse_loss", "mse", "MseLossBackward0")
l1_loss = _simple("l1_loss", "l1", "MeanBackward0", sum="SumBackward0", none="AbsBackward0")
# An x outside [0, 1] makes the loss nan by its logarithm; a y outside is made to do so too.
_bce = RowLoss(
    ROWS["binary_cross_entropy"],
    "BinaryCrossEntropyBackward0",
    "where((y >= 0) * (y <= 1) != 0, {}, inf - inf)",
)
_bce_logits = RowLoss(
    ROWS["binary_cross_entropy_with_logits"], "BinaryCrossEntropyWithLogitsBackward0"
)


def _refuse(a: Any, b: Any) -> None:
    for values, name in ((a, "input"), (b, "target")):
        bad = values[~((values >= 0) & (values <= 1))]
        if bad.size:
            raise RuntimeError(
                f"all elements of {name} should be between 0 and 1, but found {bad.flat[0]:g}"
            )


def _weighted(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is not None:
        loss = FUNCTIONS["mul"](loss, weight)
    return loss if reduction == "none" else getattr(tensors, reduction)(loss)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-(t log x + (1 - t) log(1 - x)) for probabilities x, each logarithm not below -100.

    Raises:
        ValueError: if the shapes differ.
        RuntimeError: if a value is outside [0, 1] (or nan), or the dtypes differ.
    """
    if size_average is not None or reduce is not None:
        reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    need_tensor("binary_cross_entropy", "input", 1, input)
    need_tensor("binary_cross_entropy", "target", 2, target)
    a, b = input._array, target._array
    if a.shape != b.shape:
        raise ValueError(
            f"Using a target size ({target.shape}) that is different to the input size "
            f"({input.shape}) is deprecated. Please ensure they have the same size."
        )
    if a.dtype is not b.dtype:
        raise RuntimeError(f"Found dtype {target.dtype.short} but expected {input.dtype.short}")
    if a.dtype not in FLOATS:
        raise NotImplementedError(
            f"\"binary_cross_entropy\" not implemented for '{input.dtype.short}'"
        )
    loss = _bce(input, target, reduction if weight is None else "none")
    value = loss._array if reduction == "none" or weight is not None else loss._array.item()
    if value != value if value.__class__ is float else (value != value).any():
        _refuse(a, b)
    return loss if weight is None else _weighted(loss, weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy of sigmoid(input), without overflow.

    Raises:
        ValueError: if the shapes differ.
    """
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    need_tensor("binary_cross_entropy_with_logits", "input", 1, input)
    need_tensor("binary_cross_entropy_with_logits", "target", 2, target)
    if input._array.shape != target._array.shape:
        raise ValueError(
            f"Target size ({target.shape}) must be the same as input size ({input.shape})"
        )
    if input._array.dtype is not target._array.dtype:
        _need_floats(input, target)
        input, target = tensors.same_dtype(input, target)
    if pos_weight is not None:
        # -w t log s(x) - (1 - t) log(1 - s(x)), with log s(x) = -softplus(-x).
        softplus = FUNCTIONS["softplus"]
        loss = pos_weight * target * softplus(-input) + (1 - target) * softplus(input)
        return _weighted(loss, weight, reduction)
    if weight is None:
        return _bce_logits(input, target, reduction)
    return _weighted(_bce_logits(input, target, "none"), weight, reduction)


def _need_floats(input: Tensor, target: Tensor) -> None:
    """Refuse integer and bool targets."""
    if target.dtype.category == 0:
        raise RuntimeError(
            "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
            "`logical_xor()` operator instead."
        )
    if not target.is_floating_point():
        raise RuntimeError(
            f"result type {input.dtype.short} can't be cast to the desired output type "
            + target.dtype.short
        )


# ------------------------------------------------------------------------------ classes
def _nll_rule(F: Any, g: Any, const: Any, factor: Any, *_: Any) -> tuple[Any, ...]:
    key, shape, divisor = const
    each = F.mul(factor, F.expand(g, factor.shape) if g.ndim == 0 else g)
    return (F.put_index(each if divisor is None else F.div(each, divisor), key, shape),)


NLL = Rule("NllLossBackward0", _nll_rule)


def _check_classes(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> None:
    a, t = input._array, target._array
    if t.dtype != np.int64 and t.dtype != np.uint8:
        raise RuntimeError(
            f"expected target dtype to be Long or Byte, but got {target.dtype.short}"
        )
    batch = a.shape[:1] if a.ndim > 1 else ()
    if t.shape[:1] != batch and t.shape != batch:
        raise ValueError(
            f"Expected input batch_size ({a.shape[0] if a.ndim > 1 else 1}) to match target "
            f"batch_size ({t.shape[0] if t.ndim else 1})."
        )
    if t.ndim > 1 and a.ndim < 3:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if t.shape != batch + a.shape[2:]:
        raise RuntimeError(f"Expected target size {list(batch + a.shape[2:])}, got {list(t.shape)}")
    classes = a.shape[1] if a.ndim > 1 else a.shape[0]
    if weight is not None and weight._array.shape != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes but "
            f"got weight tensor of shape: {list(weight._array.shape)}"
        )
    wrong = ((t < 0) | (t >= classes)) & (t != ignore_index)
    if wrong.any():
        raise IndexError(f"Target {t[wrong].flat[0]} is out of bounds.")


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log likelihood: input (N, C, *) of log-probabilities, target (N, *) of classes.

    Raises:
        ValueError, RuntimeError: for shapes or dtypes that do not fit.
        IndexError: for a class outside [0, C).
    """
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    need_tensor("nll_loss", "input", 1, input)
    need_tensor("nll_loss", "target", 2, target)
    _check_classes(input, target, weight, ignore_index)
    a, t = input._array, target._array
    of_class = None if weight is None else weight._array
    each, factor, key, divisor = nll_arrays(a, t, of_class, ignore_index, reduction)
    saved = (wrap(factor), target) if weight is None else (wrap(factor), weight, target)
    return record(NLL, np.asarray(each), (input,), saved, (key, a.shape, divisor))


def class_key(places: Any, ndim: int) -> tuple[Any, ...]:
    """The index of all elements' classes in an array of so many dims."""
    grids = open_grid(places.shape)
    return (places,) if ndim == 1 else (grids[0], places, *grids[1:])


def nll_arrays(
    a: Any, t: Any, weight: Any, ignore_index: int, reduction: str
) -> tuple[Any, Any, Any, Any]:
    """The loss, each element's factor, where the elements are, and what the mean divides by."""
    ignored = t == ignore_index
    places = np.where(ignored, 0, t) if ignored.any() else t
    key = class_key(places, a.ndim)
    factor = np.full(t.shape, -1, a.dtype, like=a)
    if weight is not None:
        factor *= weight[places]
    factor[ignored] = 0
    each = np.asarray(a[key] * factor)
    each[ignored] = 0
    divisor = None
    if reduction == "mean":
        divisor = -float(factor.sum(dtype=np.float64))
        with np.errstate(all="ignore"):
            each = np.asarray(each.sum(dtype=np.float64) / np.float64(divisor)).astype(a.dtype)
    elif reduction == "sum":
        each = np.asarray(each.sum(dtype=np.float64)).astype(a.dtype)
    return each, factor, key, divisor


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of logits (N, C, *) with classes (N, *), or with probabilities (N, C, *).

    Raises:
        As nll_loss.
    """
    reduction = old_reduction(size_average, reduce, reduction)
    check_reduction(reduction)
    need_tensor("cross_entropy_loss", "input", 1, input)
    need_tensor("cross_entropy_loss", "target", 2, target)
    dim = 0 if input._array.ndim == 1 else 1
    logs = log_softmax(input, dim)
    if label_smoothing < 0 or label_smoothing > 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing:g}")
    if target.is_floating_point() and target._array.shape == input._array.shape:
        return _soft_cross_entropy(logs, target, weight, reduction, label_smoothing, dim)
    if target._array.shape == input._array.shape:
        raise RuntimeError(
            "Expected floating point type for target with class probabilities, got "
            + target.dtype.short
        )
    loss = nll_loss(logs, target, weight, None, ignore_index, None, reduction)
    if not label_smoothing:
        return loss
    classes = input._array.shape[dim]
    kept = wrap((target._array != ignore_index).astype(input._array.dtype))
    weighted = logs if weight is None else logs * _per_class(weight, logs, dim)
    smooth = -tensors.sum(weighted, dim) * kept
    if reduction == "mean":
        place = np.where(target._array == ignore_index, 0, target._array)
        per = kept if weight is None else kept * wrap(weight._array[place])
        smooth = tensors.sum(smooth) / tensors.sum(per)
    elif reduction == "sum":
        smooth = tensors.sum(smooth)
    return loss * (1 - label_smoothing) + smooth * (label_smoothing / classes)


def _per_class(weight: Tensor, logs: Tensor, dim: int) -> Tensor:
    shape = [1] * logs._array.ndim
    shape[dim] = -1
    return wrap(weight._array.reshape(shape))


def _soft_cross_entropy(
    logs: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float, dim: int
) -> Tensor:
    classes = logs._array.shape[dim]
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    if weight is not None:
        logs = logs * _per_class(weight, logs, dim)
    loss = -tensors.sum(logs * target, dim)
    if reduction == "mean":
        return tensors.sum(loss) / (logs._array.size // classes)  # type: ignore[no-any-return]
    return tensors.sum(loss) if reduction == "sum" else loss
