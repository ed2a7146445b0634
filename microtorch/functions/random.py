"""Random tensors, from the CPU streams of PyTorch (`microtorch.random`)."""

from functools import partial
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import argument_error, broadcast_error, combination_error
from ..random import Generator, default_for
from ..tensor import Array, Tensor, check_in_place, device_of, wrap
from .arguments import int_of, need_tensor
from .convert import cut
from .creation import (
    as_dtype,
    empty_array_like,
    finish,
    memory_order,
    sizes_of,
    uninitialized,
)
from .names import function, method, public
from .op import Rule, record
from .overlap import check_overlap

NORMAL = Rule("NormalBackward1", lambda F, g, const: (F.mul(g, 0.0),))
OVERWRITE = Rule("UniformBackward0", lambda F, g, const: (F.mul(g, 0.0),))
BERNOULLI = Rule("BernoulliBackward0", lambda F, g, const: (F.mul(g, 0.0),))


def source_for(array: Array, generator: Generator | None = None) -> Generator:
    """The generator that fills an array: the default one of its device, unless one is given.

    Raises:
        RuntimeError: for a generator of another device.
    """
    place = device_of(array)
    if generator is None:
        return default_for(place)
    if generator.device.type != place.type:
        raise RuntimeError(
            f"Expected a '{place.type}' device type for generator but found "
            f"'{generator.device.type}'"
        )
    return generator


def _new(shape: Any, kind: Any, out: Tensor | None, options: dict[str, Any]) -> Array:
    """Memory for what is drawn, on the device of the options, which is that of `out` if that is."""
    if out is not None and options.get("device") is None:
        options["device"] = out.device
    return uninitialized(shape, kind, options.get("device"))


def _float_dtype(dtype: Any, out: Tensor | None, kernel: str) -> Any:
    chosen = dtype or (out.dtype if out is not None else dtypes.get_default_dtype())
    if not chosen.is_floating_point:
        raise NotImplementedError(f"\"{kernel}\" not implemented for '{chosen.short}'")
    return chosen.numpy


def _shape(name: str, size: tuple[Any, ...]) -> tuple[int, ...]:
    return sizes_of(name, size)


def _size(name: str, sizes: tuple[Any, ...], size: Any) -> tuple[int, ...]:
    """A shape given as numbers, as one sequence, or by name."""
    if size is None and not sizes:
        raise combination_error(name, expected="tuple of ints size")
    return _shape(name, sizes if size is None else (size,))


@function()
def rand(
    *sizes: Any, size: Any = None, generator: Generator | None = None, out: Tensor | None = None,
    dtype: Any = None, **options: Any,
) -> Tensor:  # fmt: skip
    """Uniform numbers in [0, 1)."""
    kind = _float_dtype(dtype, out, "check_uniform_bounds")
    array = _new(_size("rand", sizes, size), kind, out, options)
    source_for(array, generator).uniform(array, 0.0, 1.0)
    return finish("rand", array, out, **options)


@function()
def randn(
    *sizes: Any, size: Any = None, generator: Generator | None = None, out: Tensor | None = None,
    dtype: Any = None, **options: Any,
) -> Tensor:  # fmt: skip
    """Standard normal numbers."""
    kind = _float_dtype(dtype, out, "normal_kernel_cpu")
    array = _new(_size("randn", sizes, size), kind, out, options)
    source_for(array, generator).normal(array, 0.0, 1.0)
    return finish("randn", array, out, **options)


def _like(draw: Any, input: Tensor, dtype: Any, options: dict[str, Any]) -> Tensor:
    """What `draw` gives for a shape, with the shape and order in memory of input."""
    options.setdefault("device", input.device)
    order = memory_order(input, options.pop("memory_format", None))
    made = draw([input._array.shape[d] for d in order], dtype=dtype or input.dtype, **options)
    made._array = made._array.transpose(np.argsort(order))
    return made  # type: ignore[no-any-return]


@function()
def rand_like(input: Tensor, *, dtype: Any = None, **options: Any) -> Tensor:
    """`rand` with the shape and dtype of input."""
    if not isinstance(input, Tensor):
        raise argument_error("rand_like", "input", 1, "Tensor", input)
    return _like(rand, input, dtype, options)


@function()
def randn_like(input: Tensor, *, dtype: Any = None, **options: Any) -> Tensor:
    """`randn` with the shape and dtype of input."""
    need_tensor("randn_like", input)
    order = memory_order(input, options.get("memory_format"))
    if order == sorted(order):
        return _like(randn, input, dtype, options)
    # PyTorch's normal numbers depend on whether the memory is in row-major order.
    kind = as_dtype(dtype or input.dtype)
    _float_dtype(kind, None, "normal_kernel_cpu")
    made = wrap(empty_array_like(input, kind))
    options.setdefault("device", input.device)
    return finish("randn_like", normal_(made)._array, None, **options)


@function()
def normal(
    mean: Any, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None,
    out: Tensor | None = None, dtype: Any = None, **options: Any,
) -> Tensor:  # fmt: skip
    """Normal numbers; mean and std are tensors, which broadcast, or numbers with a size."""
    for t in (mean, std):
        if isinstance(t, Tensor) and not t.is_floating_point():
            raise NotImplementedError(
                f"\"normal_kernel_cpu\" not implemented for '{t.dtype.short}'"
            )
    if isinstance(std, Tensor):
        if (std._array < 0).any():
            raise RuntimeError("normal expects all elements of std >= 0.0")
    elif std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    if not isinstance(mean, Tensor) and not isinstance(std, Tensor):
        if size is None:
            raise combination_error("normal", mean, std, expected="size, a tuple of ints")
        if not isinstance(size, (tuple, list)):
            raise combination_error("normal", mean, std, size, expected="size, a tuple of ints")
        kind = _float_dtype(dtype, out, "normal_kernel_cpu")
        array = _new(_shape("normal", (size,)), kind, out, options)
        source_for(array, generator).normal(array, float(mean), float(std))
        return finish("normal", array, out, **options)
    reference = mean if isinstance(mean, Tensor) else std
    m = mean._array if isinstance(mean, Tensor) else mean
    s = std._array if isinstance(std, Tensor) else std
    try:
        shape = np.broadcast_shapes(np.shape(m), np.shape(s))
    except ValueError:
        raise broadcast_error(np.shape(m), np.shape(s)) from None
    array = np.empty(shape, reference._array.dtype, like=reference._array)
    # A number as std scales inside the generator, with one rounding; a tensor outside, with two.
    source = source_for(array, generator)
    source.normal(array, 0.0, 1.0 if isinstance(std, Tensor) else float(std))
    if isinstance(std, Tensor):
        array *= s
    array += m
    if out is not None:
        return finish("normal", array, out, device=reference.device)
    return record(NORMAL, array, (mean,)) if isinstance(mean, Tensor) else wrap(array)


@function()
def randint(
    low: Any, high: Any = None, size: Any = None, *, generator: Generator | None = None,
    out: Tensor | None = None, dtype: Any = None, **options: Any,
) -> Tensor:  # fmt: skip
    """Integers in [low, high); `randint(high, size)` starts at 0."""
    if size is None and isinstance(high, (tuple, list)):
        low, high, size = 0, low, high
    if not isinstance(size, (tuple, list)):
        if high is None:
            raise combination_error("randint", low, expected="size, a tuple of ints")
        place, given = (2, high) if size is None else (3, size)
        raise argument_error("randint", "size", place, "tuple of ints", given)
    bottom, top = int_of("randint", low, "low", 1), int_of("randint", high, "high", 2)
    kind = (dtype or (out.dtype if out is not None else dtypes.int64)).numpy
    array = _new(_shape("randint", (size,)), kind, out, options)
    source_for(array, generator).randint(array, bottom, top)
    return finish("randint", array, out, **options)


@function()
def randint_like(input: Tensor, low: int, high: int | None = None, **options: Any) -> Tensor:
    """`randint` with the shape and dtype of input."""
    need_tensor("randint_like", input)
    if high is None:
        low, high = 0, low
    return _like(partial(randint, low, high), input, options.pop("dtype", None), options)


@function()
def randperm(
    n: int, *, generator: Generator | None = None, out: Tensor | None = None, dtype: Any = None,
    **options: Any,
) -> Tensor:  # fmt: skip
    """A random order of 0 ... n - 1."""
    if not isinstance(n, (int, np.integer)):
        raise argument_error("randperm", "n", 1, "int", n)
    if n < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension {n}: [{n}]")
    kind = (dtype or (out.dtype if out is not None else dtypes.int64)).numpy
    source = source_for(_new(0, kind, out, options), generator)
    return finish("randperm", source.randperm(n, kind), out, **options)


@public()
def bernoulli(
    input: Tensor, p: float | None = None, *, generator: Generator | None = None,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """0 or 1, with the probabilities in input, or p for every element of a tensor like it."""
    if not isinstance(input, Tensor):
        raise argument_error("bernoulli", "input", 1, "Tensor", input)
    if p is not None:
        array = np.empty(input._array.shape, input._array.dtype, like=input._array)
        source_for(array, generator).bernoulli_scalar(array, p)
    else:
        if not input.is_floating_point():
            raise NotImplementedError(
                f"\"bernoulli_tensor_cpu_p_\" not implemented for '{input.dtype.short}'"
            )
        array = source_for(input._array, generator).bernoulli(input._array)
    if out is not None:
        return finish("bernoulli", array, out, device=input.device)
    return record(BERNOULLI, array, (input,))


@public()
def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *,
    generator: Generator | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Indices drawn in proportion to weights."""
    need_tensor("multinomial", input)
    source = source_for(input._array, generator)
    drawn = source.multinomial(input._array, num_samples, replacement)
    return finish("multinomial", np.ascontiguousarray(drawn), out, device=input.device)


def _fill(x: Tensor, draw: Any) -> Tensor:
    """Fill in place in the order of memory, through a contiguous copy where x has gaps."""
    check_in_place(x)
    check_overlap(x)
    a = x._array
    if a.flags.c_contiguous:
        draw(a)
    else:
        order = memory_order(x)
        filled = np.empty([a.shape[d] for d in order], a.dtype, like=a)
        draw(filled)
        a[...] = filled.transpose(np.argsort(order))
    cut(x, OVERWRITE)
    return x


@method()
def uniform_(
    input: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Any = None, **named: Any
) -> Tensor:
    """Uniform numbers in [from, to), in place."""
    low = named.pop("from", from_)
    if low > to:
        raise RuntimeError(
            f"uniform_ expects to return a [from, to) range, but found from={low:g} > to={to:g}"
        )
    _float_dtype(input.dtype, None, "check_uniform_bounds")
    return _fill(input, lambda a: source_for(a, generator).uniform(a, float(low), float(to)))


@method()
def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Normal numbers, in place."""
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    _float_dtype(input.dtype, None, "normal_kernel_cpu")
    contiguous = input._array.flags.c_contiguous
    return _fill(
        input, lambda a: source_for(a, generator).normal(a, float(mean), float(std), contiguous)
    )


@method()
def bernoulli_(input: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """0 or 1 with probability p, in place."""
    if isinstance(p, Tensor):
        check_in_place(input)
        source = source_for(input._array, generator)
        drawn = source.bernoulli(np.broadcast_to(p._array, input._array.shape).copy())
        np.copyto(input._array, drawn, casting="unsafe")
        cut(input, OVERWRITE)
        return input
    return _fill(input, lambda a: source_for(a, generator).bernoulli_scalar(a, p))


@method()
def random_(input: Tensor, from_: Any = None, to: Any = None, *, generator: Any = None) -> Tensor:
    """Integers in [from, to), in [0, from), or in all of the dtype's range, in place."""
    source = source_for(input._array, generator)
    if from_ is None:
        return _fill(input, source.random)
    low, high = (0, from_) if to is None else (from_, to)
    return _fill(input, lambda a: source.randint(a, low, high))


@method()
def exponential_(input: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Exponentially distributed numbers, in place."""
    return _fill(input, lambda a: source_for(a, generator).exponential(a, lambd))
