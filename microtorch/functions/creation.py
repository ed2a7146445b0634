"""Functions that make tensors from numbers, sequences and arrays."""

import builtins
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import device as devices
from .. import dtypes
from ..errors import argument_error, combination_error
from ..graph.node import LEAF
from ..tensor import Array, Tensor, strided, wrap
from .convert import to
from .names import function, method

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
    devices.check(device)
    if layout is not None and layout is not strided:
        raise RuntimeError(f"{name}(): microtorch has the layout torch.strided only, not {layout}")
    if pin_memory:
        raise RuntimeError(
            "pin_memory=True requires a CUDA or other accelerator backend; no pinned memory "
            "allocator is available on this system."
        )
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
        return out
    made = wrap(array)
    if requires_grad:
        made._node = LEAF
    return made


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


def _numpy_dtype(dtype: Any, out: Tensor | None, default: Any = None) -> Any:
    if dtype is None:
        if out is not None:
            return out._array.dtype
        return (default or dtypes.get_default_dtype()).numpy
    _check_dtype(dtype)
    if out is not None and out.dtype is not dtype:
        raise RuntimeError(
            f"dtype {dtype.short} does not match dtype of out parameter ({out.dtype.short})"
        )
    return dtype.numpy


def _check_dtype(dtype: Any) -> None:
    if not isinstance(dtype, dtypes.dtype):
        raise TypeError(f"argument 'dtype' must be torch.dtype, not {type(dtype).__name__}")


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
    """A new array of numbers, sequences of numbers or of tensors, or an ndarray."""
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.array(data)
        dtypes.of(array.dtype)
    else:
        data = _plain(data)
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
            raise TypeError("microtorch has no complex tensors")
        if array.dtype.kind == "O" or array.dtype == np.uint64:
            flat = array.ravel().tolist()
            if builtins.all(isinstance(v, builtins.int) for v in flat):
                raise ValueError("Overflow when unpacking long long")
            bad = next(v for v in flat if not isinstance(v, (builtins.int, builtins.float)))
            raise RuntimeError(f"Could not infer dtype of {type(bad).__name__}")
        if array.dtype == np.float64 and dtype is None:
            array = _astype(array, dtypes.get_default_dtype().numpy)
    return array if dtype is None else _astype(array, dtype.numpy)


def _astype(array: Array, dtype: Any) -> Array:
    with np.errstate(all="ignore"):
        return array.astype(dtype)


def _plain(data: Any) -> Any:
    """Tensors inside sequences as numbers."""
    if isinstance(data, Tensor):
        return data._array.tolist()
    if isinstance(data, (list, tuple)):
        return [_plain(d) for d in data]
    if hasattr(data, "__array__") and not isinstance(data, np.generic):
        return np.asarray(data).tolist()
    return data


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
        _check_dtype(dtype)
    if isinstance(data, Tensor):
        warnings.warn(
            "To copy construct from a tensor, it is recommended to use "
            "sourceTensor.detach().clone() "
            "or sourceTensor.detach().clone().requires_grad_(True), rather than "
            "torch.tensor(sourceTensor).",
            stacklevel=2,
        )
        array = data._array.copy() if dtype is None else _astype(data._array, dtype.numpy)
    else:
        array = _array_of(data, dtype)
    return finish("tensor", array, None, None, device, requires_grad, pin_memory)


@function()
def as_tensor(data: Any, dtype: dtypes.dtype | None = None, device: Any = None) -> Tensor:
    """`data` as a tensor, without copying where that is possible."""
    if isinstance(data, Tensor):
        return to(data, device, dtype=dtype)
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
    dtypes.of(ndarray.dtype)
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
    return wrap(ndarray)


def _filled(name: str, value: Any) -> Any:
    def create(
        *size: Any,
        out: Tensor | None = None,
        dtype: dtypes.dtype | None = None,
        layout: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        pin_memory: bool = False,
    ) -> Tensor:
        shape = sizes_of(name, size)
        numpy_dtype = _numpy_dtype(dtype, out)
        array = np.empty(shape, numpy_dtype)
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
        memory_format: Any = None,
    ) -> Tensor:
        if not isinstance(input, Tensor):
            raise argument_error(name + "_like", "input", 1, "Tensor", input)
        array = np.empty(input._array.shape, (dtype or input.dtype).numpy)
        if value is not None:
            array.fill(value)
        return finish(name + "_like", array, None, layout, device, requires_grad)

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
    if isinstance(fill_value, Tensor):
        default: Any = fill_value.dtype
        fill_value = fill_value.item()
    elif isinstance(fill_value, (bool, builtins.int, builtins.float, np.generic)):
        default = dtypes.of_number(fill_value)
    else:
        raise argument_error("full", "fill_value", 2, "Number", fill_value)
    array = np.full(sizes_of("full", tuple(size)), fill_value, _numpy_dtype(dtype, out, default))
    return finish("full", array, out, **options)


@function()
def full_like(input: Tensor, fill_value: Any, *, dtype: Any = None, **options: Any) -> Tensor:
    """`full` with the shape and dtype of input."""
    if not isinstance(input, Tensor):
        raise argument_error("full_like", "input", 1, "Tensor", input)
    numpy_dtype = (dtype or input.dtype).numpy
    array = _astype(np.full(input._array.shape, fill_value), numpy_dtype)
    return finish("full_like", array, None, **options)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


@function()
def arange(
    start: Any = None, end: Any = None, step: Any = 1, *, out: Tensor | None = None,
    dtype: dtypes.dtype | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """start, start + step, ... below end; element i is start + i * step, rounded once."""
    if end is None:
        start, end = None, start
    if end is None:
        raise combination_error("arange", expected="(end) or (start, end, step)")
    start, end, step = (_number(v) for v in (0 if start is None else start, end, step))
    for name, value in (("start", start), ("end", end), ("step", step)):
        if not isinstance(value, (builtins.int, builtins.float, np.generic)):
            raise argument_error("arange", name, 1, "Number", value)
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if not (np.isfinite(start) and np.isfinite(end)):
        raise RuntimeError(f"unsupported range: {start} -> {end}")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    whole = builtins.all(isinstance(v, (builtins.int, np.integer)) for v in (start, end, step))
    numpy_dtype = _numpy_dtype(dtype, out, dtypes.int64 if whole else None)
    count = -(-(end - start) // step) if whole else builtins.int(np.ceil((end - start) / step))
    if numpy_dtype.kind in "iu" and not whole:
        # PyTorch rounds the start and the step, for int64 before it counts.
        start, end, step = builtins.int(start), builtins.int(end), builtins.int(step)
        count = -(-(end - start) // step) if numpy_dtype == np.int64 else count
    array = _astype(start + np.arange(count) * step, numpy_dtype)
    return finish("arange", array, out, **options)


def _line(start: Any, end: Any, steps: Any, dtype: Any) -> Array:
    """PyTorch's points: from both ends towards the middle, each rounded once."""
    real = dtype if dtype.kind == "f" else np.dtype(np.float64)
    first, last = real.type(start), real.type(end)
    if steps < 2:
        return np.full(steps, first).astype(dtype)
    step = (last - first) / real.type(steps - 1)
    wide = np.longdouble if real == np.float64 else np.float64
    i = np.arange(steps)
    low = i * wide(step) + wide(first)
    high = wide(last) - (steps - 1 - i) * wide(step)
    return np.where(i < steps // 2, low, high).astype(real).astype(dtype)


def _steps(name: str, steps: Any) -> builtins.int:
    if not isinstance(steps, (builtins.int, np.integer)) or isinstance(steps, bool):
        raise combination_error(name, steps, expected="an int as steps")
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    return builtins.int(steps)


@function()
def linspace(
    start: Any, end: Any, steps: Any = None, *, out: Tensor | None = None,
    dtype: dtypes.dtype | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """`steps` points from start to end, both exact."""
    array = _line(_number(start), _number(end), _steps("linspace", steps), _numpy_dtype(dtype, out))
    return finish("linspace", array, out, **options)


@function()
def logspace(
    start: Any, end: Any, steps: Any = None, base: float = 10.0, *, out: Tensor | None = None,
    dtype: dtypes.dtype | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """base to the power of `steps` points from start to end."""
    numpy_dtype = _numpy_dtype(dtype, out)
    points = _line(_number(start), _number(end), _steps("logspace", steps), np.dtype(np.float64))
    with np.errstate(all="ignore"):
        array = np.power(np.float64(base), points).astype(numpy_dtype)
    return finish("logspace", array, out, **options)


@function()
def eye(
    n: Any, m: Any = None, *, out: Tensor | None = None, dtype: dtypes.dtype | None = None,
    **options: Any,
) -> Tensor:  # fmt: skip
    """An n x m matrix with ones on the diagonal; square by default."""
    m = n if m is None else m
    for k, (name, value) in enumerate((("n", n), ("m", m))):
        if not isinstance(value, (builtins.int, np.integer)):
            raise argument_error("eye", name, k + 1, "int", value)
        if value < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {value}")
    return finish("eye", np.eye(n, m, dtype=_numpy_dtype(dtype, out)), out, **options)


# ----------------------------------------------------------- tensors of another one's dtype
@method()
def new_zeros(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Zeros of input's dtype."""
    return zeros(*size, **{"dtype": input.dtype, **options})


@method()
def new_ones(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Ones of input's dtype."""
    return ones(*size, **{"dtype": input.dtype, **options})


@method()
def new_empty(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Uninitialized memory of input's dtype."""
    return empty(*size, **{"dtype": input.dtype, **options})


@method()
def new_full(input: Tensor, size: Any, fill_value: Any, **options: Any) -> Tensor:
    """fill_value everywhere, in input's dtype."""
    return full(size, fill_value, **{"dtype": input.dtype, **options})


@method()
def new_tensor(input: Tensor, data: Any, **options: Any) -> Tensor:
    """A copy of data in input's dtype."""
    return tensor(data, **{"dtype": input.dtype, **options})
