"""Functions that make tensors from numbers, sequences and arrays."""

import builtins
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import cuda, dtypes
from ..device import CPU, gpu
from ..device import check as check_device
from ..errors import argument_error
from ..graph.node import LEAF, clock
from ..kernels import cpu
from ..tensor import Array, Tensor, contiguous_format, device_of, strided, wrap
from .convert import number, refuse_overflow, to
from .names import function

NO_COMPLEX = "microtorch has no complex tensors"
REQUIRES_FLOAT = "Only Tensors of floating point and complex dtype can require gradients"


def finish(
    name: str,
    array: Array,
    out: Tensor | None = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """The tensor of a creation function, after the checks that all of them share.

    Raises:
        RuntimeError: for integers that require grad, for pinned memory or a layout that there is
            not, for an `out` that requires grad.
    """
    place = device_of(out._array) if device is None and out is not None else check_device(device)
    if device_of(array) is not place:
        array = cpu.move(array, place)
    if layout is not None and layout is not strided:
        raise RuntimeError(f"{name}(): microtorch has the layout torch.strided only, not {layout}")
    if pin_memory:
        if not cuda.is_available():
            raise RuntimeError(
                "pin_memory=True requires a CUDA or other accelerator backend; no pinned memory "
                "allocator is available on this system."
            )
        if place is not CPU:
            raise RuntimeError("Only dense CPU tensors can be pinned")
        ordinary, array = array, gpu("exchange").pinned(array.shape, array.dtype)
        np.copyto(array, ordinary)
    if requires_grad and array.dtype.kind != "f":
        raise RuntimeError(REQUIRES_FLOAT)
    if out is not None:
        if out._node is not None:
            raise RuntimeError(
                f"aten::{name}(): functions with out=... arguments don't support automatic "
                "differentiation, but one of the arguments requires grad."
            )
        if out._array.shape == array.shape:
            np.copyto(out._array, array, casting="unsafe")
        else:
            out._array = array.astype(out._array.dtype)
            clock.epoch += 1
        return out
    made = wrap(array)
    if requires_grad:
        made._node = LEAF
    return made


def uninitialized(shape: Any, dtype: Any, device: Any = None) -> Array:
    """A new array on a device, whose elements are whatever lies there."""
    if check_device(device) is CPU:
        return np.empty(shape, dtype)
    return gpu("array").empty(shape, dtype)  # type: ignore[no-any-return]


def sizes_of(name: str, sizes: tuple[Any, ...], argument: str = "size") -> tuple[int, ...]:
    """A shape given as numbers or as one sequence.

    Raises:
        TypeError: for anything but integers.
        RuntimeError: for negative lengths.
    """
    nested = len(sizes) == 1 and isinstance(sizes[0], (tuple, list))
    if nested:
        sizes = tuple(sizes[0])
    for k, n in enumerate(sizes, 1):
        if not isinstance(n, (builtins.int, np.integer)):
            if isinstance(n, Tensor) and n.ndim == 0 and n.dtype.category == 1:
                continue
            if nested:
                raise TypeError(
                    f"{name}(): argument '{argument}' failed to unpack the object at pos {k} with "
                    f'error "type must be tuple of ints,but got {type(n).__name__}"'
                )
            raise argument_error(name, argument, 1, "tuple of ints", n)
    shape = tuple(builtins.int(n) for n in sizes)
    for n in shape:
        if n < 0:
            raise RuntimeError(
                "zeros: Dimension size must be non-negative."
                if name == "zeros"
                else f"Trying to create tensor with negative dimension {n}: {list(shape)}"
            )
    return shape


def dtype_for(dtype: Any, out: Tensor | None, default: Any = None) -> Any:
    """The element type by `dtype`, else that of `out`, else a default."""
    if dtype is None:
        if out is not None:
            return out._array.dtype
        return (default or dtypes.get_default_dtype()).numpy
    dtype = as_dtype(dtype)
    if out is not None and out.dtype is not dtype:
        raise RuntimeError(
            f"dtype {dtype.short} does not match dtype of out parameter ({out.dtype.short})"
        )
    return dtype.numpy


_OF_PYTHON = {
    builtins.bool: dtypes.bool, builtins.int: dtypes.int64, builtins.float: dtypes.float64,
}  # fmt: skip


def as_dtype(dtype: Any) -> dtypes.dtype:
    """A dtype, or the one that a type of Python's stands for.

    Raises:
        TypeError: for anything else.
    """
    found = _OF_PYTHON.get(dtype, dtype) if isinstance(dtype, type) else dtype
    if not isinstance(found, dtypes.dtype):
        raise TypeError(f"argument 'dtype' must be torch.dtype, not {type(dtype).__name__}")
    return found


def _ragged(data: Any, shape: tuple[int, ...], dim: int = 0) -> None:
    """Find the sequence of another length than its first sibling, and say so."""
    if not isinstance(data, (list, tuple)):
        return
    if dim >= len(shape):
        raise TypeError(f"'{type(data).__name__}' object cannot be interpreted as an integer")
    if len(data) != shape[dim]:
        raise ValueError(f"expected sequence of length {shape[dim]} at dim {dim} (got {len(data)})")
    for item in data:
        _ragged(item, shape, dim + 1)


def _array_of(data: Any, dtype: dtypes.dtype | None) -> Array:
    """A new array of numbers, sequences of numbers or of tensors of one element, or an ndarray."""
    if isinstance(data, (np.ndarray, np.generic)):
        array = dtypes.native(np.array(data))
    else:
        kinds: set[Any] = set()
        data = _plain(data, kinds)
        if data is None:
            raise RuntimeError("Could not infer dtype of NoneType")
        try:
            array = np.array(data)
        except ValueError:
            shape: list[int] = []
            first = data
            while isinstance(first, (list, tuple)):
                shape.append(len(first))
                first = first[0] if first else None
            _ragged(data, tuple(shape))
            raise
        if array.dtype.kind in "US":
            if array.ndim:
                raise ValueError("too many dimensions 'str'")
            raise TypeError("new(): invalid data type 'str'")
        if array.dtype.kind == "c":
            raise TypeError(NO_COMPLEX)
        if array.dtype.kind == "O" or array.dtype == np.uint64:
            flat = array.ravel().tolist()
            if builtins.all(isinstance(v, builtins.int) for v in flat):
                raise ValueError("Overflow when unpacking long long")
            bad = next(v for v in flat if not isinstance(v, (builtins.int, builtins.float)))
            raise RuntimeError(f"Could not infer dtype of {type(bad).__name__}")
        if array.dtype == np.float64 and dtype is None:
            array = astype(array, _common(kinds).numpy)
        if dtype is not None and dtype.category == 1 and array.size and array.dtype != dtype.numpy:
            refuse_overflow(array.min(), array.max(), dtype.numpy, dtype.name)
    return array if dtype is None else astype(array, dtype.numpy)


def astype(array: Array, dtype: Any) -> Array:
    """The elements as another type; out of range is not an error."""
    with np.errstate(all="ignore"):
        return array.astype(dtype)


_PLAIN = {builtins.int, builtins.float, bool}


def _plain(data: Any, kinds: set[Any]) -> Any:
    """Tensors of one element in sequences as numbers; kinds are the types of all numbers."""
    if isinstance(data, (list, tuple)):
        types = set(map(type, data))
        if types <= _PLAIN:
            kinds |= types
            return data
        return [_plain(d, kinds) for d in data]
    if isinstance(data, Tensor):
        if data._array.size != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        kinds.add(data.dtype)
        return data._array.item()
    if hasattr(data, "__array__"):
        array = np.asarray(data)
        kinds.add(dtypes.of(array.dtype))
        return data if isinstance(data, np.generic) else array.tolist()
    kinds.add(type(data))
    return data


def _common(kinds: set[Any]) -> dtypes.dtype:
    """The dtype of numbers of several kinds, at least one of them floating-point."""
    found = dtypes.bool if kinds else dtypes.get_default_dtype()
    for kind in kinds:
        of_kind = kind if isinstance(kind, dtypes.dtype) else dtypes.of_number(kind())
        found = dtypes.promote(found, of_kind)
    return found


@function()
def tensor(
    data: Any = ...,
    *,
    dtype: dtypes.dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A new tensor that copies `data`: numbers, nested sequences, an ndarray or a tensor.

    Python floats become the default dtype, ints int64, bools bool; arrays keep their dtype.
    """
    if data is ...:
        raise TypeError('tensor() missing 1 required positional arguments: "data"')
    if dtype is not None:
        dtype = as_dtype(dtype)
    if isinstance(data, Tensor):
        warnings.warn(
            "To copy construct from a tensor, it is recommended to use "
            "sourceTensor.detach().clone() "
            "or sourceTensor.detach().clone().requires_grad_(True), rather than "
            "torch.tensor(sourceTensor).",
            stacklevel=2,
        )
        array = data._array.copy() if dtype is None else astype(data._array, dtype.numpy)
        device = data.device if device is None else device
    else:
        array = _array_of(data, dtype)
    return finish("tensor", array, None, None, device, requires_grad, pin_memory)


@function()
def as_tensor(data: Any, dtype: dtypes.dtype | None = None, device: Any = None) -> Tensor:
    """`data` as a tensor, without copying where that is possible."""
    if isinstance(data, Tensor):
        return to(data, device, dtype=dtype)
    if hasattr(data, "__cuda_array_interface__"):
        check_device("cuda")
        found = wrap(gpu("exchange").from_interface(data))
        return to(found, "cuda" if device is None else device, dtype=dtype)
    if isinstance(data, np.ndarray) and (dtype is None or data.dtype == dtype.numpy):
        return from_numpy(data)
    return tensor(data, dtype=dtype, device=device)


@function()
def from_numpy(ndarray: Array) -> Tensor:
    """A tensor that shares memory with an ndarray.

    Raises:
        TypeError: for anything else, or an element type that tensors do not have.
        ValueError: for negative strides.
    """
    if not isinstance(ndarray, np.ndarray):
        kind = type(ndarray)
        name = kind.__name__ if kind.__module__ == "builtins" else f"numpy.{kind.__name__}"
        raise TypeError(f"expected np.ndarray (got {name})")
    array = dtypes.native(ndarray)
    if builtins.any(s < 0 for s in ndarray.strides):
        raise ValueError(
            "At least one stride in the given numpy array is negative, and tensors with negative "
            "strides are not currently supported. (You can probably work around this by making a "
            "copy of your array  with array.copy().) "
        )
    if not ndarray.flags.writeable:
        warnings.warn(
            "The given NumPy array is not writable, and PyTorch does not support non-writable "
            "tensors. This means writing to this tensor will result in undefined behavior.",
            stacklevel=2,
        )
    return wrap(array)


def memory_order(x: Tensor, memory_format: Any = None) -> list[builtins.int]:
    """The dimensions from the one of the largest stride on, in which a tensor like x is filled."""
    strides = x._array.strides
    dims = builtins.list(range(len(strides)))
    if memory_format is contiguous_format or x._array.flags.c_contiguous or 0 in strides:
        return dims
    return sorted(dims, key=lambda d: -strides[d])


def empty_array_like(x: Tensor, dtype: dtypes.dtype, memory_format: Any = None) -> Array:
    """An array of the shape of x, with its dimensions in the same order in memory."""
    if x._array.flags.c_contiguous:
        return np.empty(x._array.shape, dtype.numpy, like=x._array)
    order = memory_order(x, memory_format)
    made = np.empty([x._array.shape[d] for d in order], dtype.numpy, like=x._array)
    return made.transpose(np.argsort(order))


def _filled(name: str, value: Any) -> Any:
    def create(
        *sizes: Any,
        size: Any = None,
        out: Tensor | None = None,
        dtype: dtypes.dtype | None = None,
        layout: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        pin_memory: bool = False,
        memory_format: Any = None,
    ) -> Tensor:
        if size is None and not sizes:
            raise TypeError(f'{name}() missing 1 required positional arguments: "size"')
        shape = sizes_of(name, sizes if size is None else (size,))
        numpy_dtype = dtype_for(dtype, out)
        array = uninitialized(shape, numpy_dtype, device)
        if value is not None:
            array.fill(value)
        return finish(name, array, out, layout, device, requires_grad, pin_memory)

    def like(
        input: Tensor,
        *,
        dtype: dtypes.dtype | None = None,
        layout: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        pin_memory: bool = False,
        memory_format: Any = None,
    ) -> Tensor:
        if not isinstance(input, Tensor):
            raise argument_error(name + "_like", "input", 1, "Tensor", input)
        array = empty_array_like(input, dtype or input.dtype, memory_format)
        if value is not None:
            array.fill(value)
        place = input.device if device is None else device
        return finish(name + "_like", array, None, layout, place, requires_grad, pin_memory)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"A tensor of the given shape, {name}."
    like.__name__ = like.__qualname__ = name + "_like"
    like.__doc__ = f"`{name}` with the shape and dtype of input."
    return create, like


zeros, zeros_like = map(function(), _filled("zeros", 0))
ones, ones_like = map(function(), _filled("ones", 1))
empty, empty_like = map(function(), _filled("empty", None))


@function()
def full(
    size: Sequence[int], fill_value: Any, *, out: Tensor | None = None,
    dtype: dtypes.dtype | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """A tensor of one number; the dtype is that of the number."""
    if not isinstance(size, (tuple, list)):
        raise argument_error("full", "size", 1, "tuple of ints", size)
    if isinstance(fill_value, Tensor) and fill_value.ndim == 0:
        default: Any = fill_value.dtype
        fill_value = fill_value.item()
    elif isinstance(fill_value, complex):
        raise TypeError(NO_COMPLEX)
    elif isinstance(fill_value, (bool, builtins.int, builtins.float, np.generic)):
        default = dtypes.of_number(fill_value)
    else:
        raise argument_error("full", "fill_value", 2, "Number", fill_value)
    shape, numpy_dtype = sizes_of("full", tuple(size)), dtype_for(dtype, out, default)
    array = uninitialized(shape, numpy_dtype, options.get("device"))
    array[...] = number(fill_value, numpy_dtype)
    return finish("full", array, out, **options)


@function()
def full_like(input: Tensor, fill_value: Any, *, dtype: Any = None, **options: Any) -> Tensor:
    """`full` with the shape and dtype of input."""
    if not isinstance(input, Tensor):
        raise argument_error("full_like", "input", 1, "Tensor", input)
    if isinstance(fill_value, Tensor) and fill_value.ndim == 0:
        fill_value = fill_value.item()
    if not isinstance(fill_value, (bool, builtins.int, builtins.float, np.generic)):
        raise argument_error("full_like", "fill_value", 2, "Number", fill_value)
    options.setdefault("device", input.device)
    array = empty_array_like(input, dtype or input.dtype, options.pop("memory_format", None))
    array[...] = number(fill_value, array.dtype)
    return finish("full_like", array, None, **options)
