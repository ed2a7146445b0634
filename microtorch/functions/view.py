"""Functions that rearrange elements: views that share memory, and the joins that copy.

Each view names its adjoint: what turns a gradient of the result into one of the input.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, combination_error
from ..graph.node import LEAF, mode, next_seq
from ..tensor import Tensor, edge, normal_dim, normal_dims, view, wrap
from .convert import CLONE
from .history import remember
from .names import PUBLIC, function, method, public
from .op import Array, Rule, deliver, record
from .op import tensors as primitives


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
    if x._node is None:
        pass
    elif not mode.enabled:
        # As in PyTorch, a view that is not recorded is a leaf of its own.
        z._node = LEAF
        z._unrecorded = True
    else:
        node = object.__new__(op.kind)
        node.op = op
        node.seq = next_seq()
        node.parents = (edge(x),)
        node.saved = ()
        node.const = const
        z._node = node
    if mode.enabled and array.dtype.kind == "f":
        remember(z, z._base)
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
    known = int(np.prod([n for n in shape if n != -1], dtype=np.int64))
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


def _reshape_function(input: Tensor, shape: Sequence[int]) -> Tensor:
    """`torch.reshape`: unlike the method it takes the shape as one sequence."""
    if not isinstance(shape, (tuple, list)):
        raise argument_error("reshape", "shape", 2, "tuple of ints", shape)
    return reshape(input, shape)


PUBLIC["reshape"] = _reshape_function


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
    count = int(np.prod(shape[first : last + 1], dtype=np.int64))
    return reshape(input, (*shape[:first], count, *shape[last + 1 :]))


@public()
def squeeze(input: Tensor, *dim: Any, **named: Any) -> Tensor:
    """Without its dimensions of length 1, or without those named."""
    a = input._array
    if "dim" in named:
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


@public()
def permute(input: Tensor, *dims: Any) -> Tensor:
    """The dimensions in the order `dims`."""
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


# ------------------------------------------------------------------------ joins and parts
def _cat_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    dim, ends, lengths = const
    return tuple(F.narrow(g, dim, end - n, n) for end, n in zip(ends, lengths, strict=True))


def _stack_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    dim, count, shape = const
    return tuple(F.reshape(F.narrow(g, dim, k, 1), shape) for k in range(count))


def _narrow_rule(F: Any, g: Any, const: Any) -> tuple[Any, ...]:
    shape, dim, start, length, _ = const
    after = shape[dim] - start - length
    return (F.pad_dim(g, dim, start, after),)


CAT = Rule("CatBackward0", _cat_rule)
STACK = Rule("StackBackward0", _stack_rule)
SLICE = Rule("SliceBackward0", _narrow_rule)
SPLIT = Rule("SplitBackward0", _narrow_rule)
SPLIT_SIZES = Rule("SplitWithSizesBackward0", _narrow_rule)


@public()
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """`length` elements of one dimension from `start`, as a view."""
    a = input._array
    if a.ndim == 0:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    dim = normal_dim(dim, a.ndim)
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    if start < 0:
        start += a.shape[dim]
    if not 0 <= start <= a.shape[dim] - length:
        raise RuntimeError(
            f"start ({start}) + length ({length}) exceeds dimension size ({a.shape[dim]})."
        )
    return _piece(input, dim, start, length, SLICE, 0)


def _piece(x: Tensor, dim: int, start: int, length: int, op: Rule, number: int) -> Tensor:
    """Part of a dimension; `number` counts the outputs of a function that gives several."""
    seen = x._array[(slice(None),) * dim + (slice(start, start + length),)]
    return linked(x, seen, op, (x._array.shape, dim, start, length, number))


def pad_dim(input: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Zeros before and after along one dimension."""
    shape = list(input._array.shape)
    parts = []
    for count, part in ((before, None), (0, input), (after, None)):
        if part is not None:
            parts.append(part)
        elif count:
            shape[dim] = count
            parts.append(wrap(np.zeros(shape, input._array.dtype)))
    return cat(parts, dim)


def _check_tensors(name: str, tensors_: Any) -> list[Tensor]:
    if isinstance(tensors_, Tensor) or not isinstance(tensors_, (list, tuple)):
        raise argument_error(name, "tensors", 1, "tuple of Tensors", tensors_)
    for k, x in enumerate(tensors_):
        if not isinstance(x, Tensor):
            raise TypeError(
                f"expected Tensor as element {k} in argument 0, but got {type(x).__name__}"
            )
    return list(tensors_)


@function("concat", "concatenate")
def cat(
    tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """Tensors joined along an existing dimension; dtypes promote, 1-d empty ones are skipped."""
    parts = _check_tensors("cat", tensors)
    if not parts:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors")
    for k, x in enumerate(parts):
        if x._array.ndim == 0:
            raise RuntimeError(f"zero-dimensional tensor (at position {k}) cannot be concatenated")
    kept = [x for x in parts if x._array.shape != (0,)] or parts[:1]
    first = kept[0]._array
    dim = normal_dim(dim if axis is None else axis, first.ndim)
    for k, x in enumerate(kept[1:], 1):
        shape = x._array.shape
        if len(shape) != first.ndim:
            raise RuntimeError(
                f"Tensors must have same number of dimensions: got {first.ndim} and {len(shape)}"
            )
        for d, n in enumerate(shape):
            if d != dim and n != first.shape[d]:
                raise RuntimeError(
                    f"Sizes of tensors must match except in dimension {dim}. Expected size "
                    f"{first.shape[d]} but got size {n} for tensor number {k} in the list."
                )
    dtype = dtypes.result_type([(x.dtype, 2) for x in parts])
    kept = [primitives.cast(x, dtype) for x in kept]
    lengths = [x._array.shape[dim] for x in kept]
    const = (dim, np.cumsum(lengths).tolist(), lengths)
    array = np.concatenate([x._array for x in kept], dim)
    return deliver(record(CAT, array, tuple(kept), const=const), out)


@function()
def stack(tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None) -> Tensor:
    """Tensors of one shape joined along a new dimension."""
    parts = _check_tensors("stack", tensors)
    if not parts:
        raise RuntimeError("stack expects a non-empty TensorList")
    shape = parts[0]._array.shape
    for k, x in enumerate(parts):
        if x._array.shape != shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(shape)} at entry 0 and "
                f"{list(x._array.shape)} at entry {k}"
            )
    dim = normal_dim(dim, len(shape) + 1)
    array = np.stack([x._array for x in parts], dim)
    return deliver(record(STACK, array, tuple(parts), const=(dim, len(parts), shape)), out)


@public()
def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of pieces along a dimension: of one length, the last smaller, or of given lengths."""
    a = tensor._array
    if a.ndim == 0:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    dim = normal_dim(dim, a.ndim)
    n = a.shape[dim]
    size = split_size_or_sections
    if isinstance(size, int):
        if size < 0:
            raise RuntimeError(
                f"split expects split_size be non-negative, but got split_size={size}"
            )
        if size == 0 and n:
            raise RuntimeError(
                f"split_size can only be 0 if dimension size is 0, but got dimension size of {n}"
            )
        sizes = [min(size, n - start) for start in range(0, n, size or 1)] or [0]
        return _pieces(tensor, sizes, dim, SPLIT)
    if not isinstance(size, (list, tuple)):
        raise argument_error("split_with_sizes", "split_sizes", 2, "tuple of ints", size)
    sizes = list(size)
    if any(s < 0 for s in sizes):
        raise RuntimeError(
            "split_with_sizes expects split_sizes have only non-negative entries, but got "
            f"split_sizes={sizes}"
        )
    if sum(sizes) != n:
        raise RuntimeError(
            f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at "
            f"dimension {dim}), but got split_sizes={sizes}"
        )
    return _pieces(tensor, sizes, dim, SPLIT_SIZES)


def _pieces(x: Tensor, sizes: list[int], dim: int, op: Rule) -> tuple[Tensor, ...]:
    ends = np.cumsum(sizes).tolist()
    return tuple(
        _piece(x, dim, end - n, n, op, k)
        for k, (end, n) in enumerate(zip(ends, sizes, strict=True))
    )


@public()
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of at most `chunks` pieces of equal length, the last one smaller."""
    if not isinstance(chunks, int):
        raise argument_error("chunk", "chunks", 2, "int", chunks)
    if input._array.ndim == 0:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    dim = normal_dim(dim, input._array.ndim)
    n = input._array.shape[dim]
    if n == 0:
        return _pieces(input, [0] * chunks, dim, SPLIT)
    size = -(-n // chunks)
    return _pieces(input, [min(size, n - s) for s in range(0, n, size)], dim, SPLIT)


@method()
def contiguous(input: Tensor) -> Tensor:
    """The tensor itself if its elements lie in row-major order, else a copy."""
    if input._array.flags.c_contiguous:
        return input
    return record(CLONE, np.ascontiguousarray(input._array), (input,))
