"""Functions that rearrange elements: views that share memory, and the joins that copy.

Each view names its adjoint: what turns a gradient of the result into one of the input.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, combination_error
from ..graph.node import LEAF, Node, mode, next_seq
from ..tensor import Tensor, base_of, normal_dim, normal_dims, view
from .convert import CLONE
from .history import remember
from .names import function_as, method, public
from .op import Array, Rule, record


def _shape_rule(F: Any, g: Any, shape: Any) -> tuple[Any, ...]:
    return (F.reshape(g, shape),)


def _permute_rule(F: Any, g: Any, dims: Any) -> tuple[Any, ...]:
    return (F.permute(g, tuple(np.argsort(dims).tolist())),)


def _expand_rule(F: Any, g: Any, shape: Any) -> tuple[Any, ...]:
    return (F.sum_to(g, shape),)


VIEW = Rule("ViewBackward0", _shape_rule)
COPYING_VIEW = Rule("UnsafeViewBackward0", _shape_rule)
SQUEEZE = [Rule(f"SqueezeBackward{k}", _shape_rule) for k in range(3)]
UNSQUEEZE = Rule("UnsqueezeBackward0", _shape_rule)
PERMUTE = Rule("PermuteBackward0", _permute_rule)
TRANSPOSE = Rule("TransposeBackward0", _permute_rule)
T = Rule("TBackward0", _permute_rule)
EXPAND = Rule("ExpandBackward0", _expand_rule)


def linked(x: Tensor, array: Array, op: Rule, const: Any) -> Tensor:
    """A view of x in the graph."""
    z = view(x, array)
    parent = x._node
    if parent is not None:
        if mode.enabled:
            node = object.__new__(Node)
            node.op = op
            node.seq = next_seq()
            node.parents = (x if parent is LEAF else parent,)
            node.saved = ()
            node.const = const
            z._node = node
        else:
            # As in PyTorch, a view that is not recorded is a leaf of its own.
            z._node = LEAF
    if x._family is not None:
        z._family = base_of(x)
    if array.dtype.kind == "f":
        if not mode.enabled or x._unrecorded:
            z._unrecorded = True
        remember(z, base_of(z))
    return z


def _sizes(name: str, sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape given as numbers or as one sequence."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    for k, n in enumerate(sizes):
        if not isinstance(n, (int, np.integer)):
            if not (isinstance(n, Tensor) and n.dtype.category == 1):
                raise argument_error(name, "shape", k + 1, "tuple of ints", n)
    return tuple(int(n) for n in sizes)


def resolve_shape(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape with its -1 filled in.

    Raises:
        RuntimeError: if the shape does not hold `count` elements.
    """
    unknown = [k for k, n in enumerate(shape) if n == -1]
    if len(unknown) > 1:
        raise RuntimeError("only one dimension can be inferred")
    for k, n in enumerate(shape):
        if n < -1:
            raise RuntimeError(f"invalid shape dimension {n} at index {k} of shape {list(shape)}")
    known = math.prod([n for n in shape if n != -1])
    if unknown:
        if known == 0:
            if count == 0:
                raise RuntimeError(
                    f"cannot reshape tensor of 0 elements into shape {list(shape)} because the "
                    "unspecified dimension size -1 can be any value and is ambiguous"
                )
        elif count % known == 0:
            k = unknown[0]
            return (*shape[:k], count // known, *shape[k + 1 :])
    elif known == count:
        return shape
    raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {count}")


def _as_view(a: Array, shape: tuple[int, ...]) -> Array | None:
    """The array in another shape without copying, or None."""
    try:
        return a.reshape(shape, copy=False)
    except ValueError:
        return None


@method()
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The elements in another shape: a view where strides allow, else a copy."""
    a = input._array
    wanted = resolve_shape(_sizes("reshape", shape), a.size)
    seen = _as_view(a, wanted)
    if seen is not None:
        return linked(input, seen, VIEW, a.shape)
    return record(COPYING_VIEW, a.reshape(wanted), (input,), const=a.shape)


@function_as("reshape")
def _reshape_function(input: Tensor, shape: Sequence[int]) -> Tensor:
    """`torch.reshape`: unlike the method it takes the shape as one sequence."""
    if not isinstance(shape, (tuple, list)):
        raise argument_error("reshape", "shape", 2, "tuple of ints", shape)
    return reshape(input, shape)


@method("view")
def view_(input: Tensor, *shape: Any) -> Tensor:
    """The elements in another shape, never copied.

    Raises:
        RuntimeError: where strides do not allow that.
    """
    if len(shape) == 1 and isinstance(shape[0], dtypes.dtype):
        raise NotImplementedError("view(dtype) is not part of microtorch; use .to(dtype)")
    a = input._array
    seen = _as_view(a, resolve_shape(_sizes("view", shape), a.size))
    if seen is None:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride (at least one "
            "dimension spans across two contiguous subspaces). Use .reshape(...) instead."
        )
    return linked(input, seen, VIEW, a.shape)


@method()
def view_as(input: Tensor, other: Tensor) -> Tensor:
    """`view` in the shape of other."""
    return view_(input, other._array.shape)


@public()
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim as one."""
    shape = input._array.shape
    if not shape:
        return reshape(input, (1,))
    first, last = normal_dim(start_dim, len(shape)), normal_dim(end_dim, len(shape))
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if first == last:
        return input
    count = math.prod(shape[first : last + 1])
    return reshape(input, (*shape[:first], count, *shape[last + 1 :]))


@public()
def squeeze(input: Tensor, *dim: Any, **named: Any) -> Tensor:
    """Without its dimensions of length 1, or without those named."""
    a = input._array
    if named:
        dim = (named.pop("dim"),)
    if not dim:
        return linked(input, a.squeeze(), SQUEEZE[0], a.shape)
    if not isinstance(dim[0], (int, tuple, list)):
        raise combination_error("squeeze", input, dim[0], expected="an int or a tuple of ints")
    op = SQUEEZE[1] if isinstance(dim[0], int) else SQUEEZE[2]
    dims = normal_dims(dim[0], a.ndim) if dim[0] != () else ()
    shape = tuple(n for k, n in enumerate(a.shape) if k not in dims or n != 1)
    return linked(input, a.reshape(shape), op, a.shape)


@public()
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of length 1 more, at dim."""
    a = input._array
    place = normal_dim(dim, a.ndim + 1)
    return linked(input, np.expand_dims(a, place), UNSQUEEZE, a.shape)


@method()
def permute(input: Tensor, *dims: Any) -> Tensor:
    """The dimensions in the order `dims`."""
    if not dims:
        raise TypeError('permute() missing 1 required positional arguments: "dims"')
    order = _sizes("permute", dims)
    a = input._array
    if len(order) != a.ndim:
        raise RuntimeError(
            "permute(sparse_coo): number of dimensions in the tensor input does not match the "
            f"length of the desired ordering of dimensions i.e. input.dim() = {a.ndim} is not "
            f"equal to len(dims) = {len(order)}"
        )
    places = tuple(normal_dim(d, a.ndim) for d in order)
    if len(set(places)) != len(places):
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return linked(input, a.transpose(places), PERMUTE, places)


@function_as("permute")
def _permute_function(input: Tensor, dims: Sequence[int]) -> Tensor:
    """`torch.permute`: unlike the method it takes the dimensions as one sequence."""
    return permute(input, dims)


@public()
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """With two dimensions exchanged."""
    a = input._array
    first, second = normal_dim(dim0, a.ndim), normal_dim(dim1, a.ndim)
    order = list(range(a.ndim))
    if order:
        order[first], order[second] = order[second], order[first]
    return linked(input, a.transpose(order), TRANSPOSE, tuple(order))


@public()
def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; vectors and numbers stay."""
    a = input._array
    if a.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {a.ndim}D")
    return linked(input, a.T, T, tuple(range(a.ndim))[::-1])


def matrix_transpose(input: Tensor) -> Tensor:
    """The last two dimensions exchanged (`mT`)."""
    if input._array.ndim == 1:
        raise RuntimeError(
            "tensor.mT is only supported on matrices or batches of matrices. Got 1-D tensor."
        )
    return transpose(input, -1, -2)


def reversed_dims(input: Tensor) -> Tensor:
    """All dimensions in reverse order (`T`)."""
    return permute(input, tuple(range(input._array.ndim))[::-1])


@method()
def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Repeated along dimensions of length 1 and new leading ones, as a view; -1 keeps a length."""
    wanted = list(_sizes("expand", sizes))
    a = input._array
    lead = len(wanted) - a.ndim
    if lead < 0:
        raise RuntimeError(
            f"expand({input.type()}{{{list(a.shape)}}}, size={wanted}): "
            f"the number of sizes provided ({len(wanted)}) must be greater or equal to the number "
            f"of dimensions in the tensor ({a.ndim})"
        )
    if -1 in wanted[:lead]:
        raise RuntimeError(
            "The expanded size of the tensor (-1) isn't allowed in a leading, non-existing "
            f"dimension {wanted.index(-1)}"
        )
    for k, n in enumerate(a.shape):
        if wanted[lead + k] == -1:
            wanted[lead + k] = n
        elif n not in (1, wanted[lead + k]):
            raise RuntimeError(
                f"The expanded size of the tensor ({wanted[lead + k]}) must match the existing "
                f"size ({n}) at non-singleton dimension {lead + k}.  Target sizes: {wanted}.  "
                f"Tensor sizes: {list(a.shape)}"
            )
    strides = (0,) * lead + tuple(
        s if n != 1 else 0 for s, n in zip(a.strides, a.shape, strict=True)
    )
    seen = np.lib.stride_tricks.as_strided(a, wanted, strides)
    return linked(input, seen, EXPAND, a.shape)


@method()
def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """`reshape` to the shape of other."""
    return reshape(input, other._array.shape)


@method()
def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`expand` to the shape of other."""
    return expand(input, other._array.shape)


def narrow_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    """Zeros around the gradient of a part."""
    shape, dim, start, length, _ = const
    after = shape[dim] - start - length
    return (F.pad_dim(g, dim, start, after),)


SLICE = Rule("SliceBackward0", narrow_rule)


@public()
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`length` elements of one dimension from `start`, as a view."""
    a = input._array
    start = int(start)
    if a.ndim == 0:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    dim = normal_dim(dim, a.ndim)
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    n = a.shape[dim]
    if not -n <= start <= n:
        raise IndexError(
            f"start out of range (expected to be in range of [{-n}, {n}], but got {start})"
        )
    if start < 0:
        start += n
    if start > n - length:
        raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({n}).")
    return piece(input, dim, start, length, SLICE, 0)


def piece(x: Tensor, dim: int, start: int, length: int, op: Rule, number: int) -> Tensor:
    """Part of a dimension; `number` counts the outputs of a function that gives several."""
    seen = x._array[(slice(None),) * dim + (slice(start, start + length),)]
    return linked(x, seen, op, (x._array.shape, dim, start, length, number))


@method()
def contiguous(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """The tensor itself if its elements lie in row-major order, else a copy."""
    if input._array.flags.c_contiguous:
        return input
    return record(CLONE, np.ascontiguousarray(input._array), (input,))
