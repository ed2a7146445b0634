"""`torch.testing`: tensors compared, for tests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import unknown_names
from .tensor import Tensor

# dtype -> (rtol, atol); all others must be equal.
_TOLERANCES = {"float16": (1e-3, 1e-5), "float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7)}


def assert_close(
    actual: Any, expected: Any, *, allow_subclasses: bool = True, rtol: float | None = None,
    atol: float | None = None, equal_nan: bool = False, check_device: bool = True,
    check_dtype: bool = True, check_layout: bool = True, check_stride: bool = False,
    msg: str | Callable[[str], str] | None = None,
) -> None:  # fmt: skip
    """Assert |actual - expected| <= atol + rtol |expected|: of tensors, arrays, numbers, and of
    sequences and mappings of these.

    Raises:
        AssertionError: where they are not close, with the largest differences.
        TypeError: for what cannot be compared.
        ValueError: for only one of rtol and atol.
    """
    if (rtol is None) != (atol is None):
        missing = "rtol" if rtol is None else "atol"
        raise ValueError(
            f"Both 'rtol' and 'atol' must be either specified or omitted, but got no {missing}."
        )
    given = None if rtol is None or atol is None else (float(rtol), float(atol))
    found = _difference(actual, expected, given, equal_nan, (check_dtype, check_stride))
    if found is not None:
        raise AssertionError(msg(found) if callable(msg) else found if msg is None else msg)


def _difference(a: Any, b: Any, given: Any, equal_nan: bool, checks: tuple[bool, bool]) -> Any:
    """What is wrong, in words, or None."""
    if a is None or b is None:
        return None if a is b else f"None mismatch: {a} is not {b}"
    keys: Any = None
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if set(a) != set(b):
            return (
                "The keys of the mappings do not match:\n"
                f"Missing keys in the actual mapping: {sorted(set(b) - set(a))}\n"
                f"Additional keys in the actual mapping: {sorted(set(a) - set(b))}"
            )
        keys = list(a)
    elif all(isinstance(v, Sequence) and not isinstance(v, str) for v in (a, b)):
        if len(a) != len(b):
            return f"The length of the sequences mismatch: {len(a)} != {len(b)}"
        keys = range(len(a))
    if keys is not None:
        for key in keys:
            found = _difference(a[key], b[key], given, equal_nan, checks)
            if found is not None:
                place, within = f"[{key!r}]", "\n\nThe failure occurred for item "
                return (
                    found.replace(within, within + place)
                    if within in found
                    else (found + within + place)
                )
        return None
    if isinstance(a, bool) and isinstance(b, bool):
        return None if a is b else f"Booleans mismatch: {a} is not {b}"
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        if checks[0] and type(a) is not type(b):
            return f"The (d)types do not match: {type(a)} != {type(b)}."
        return _of_numbers(
            a, b, given or _TOLERANCES.get(type(a).__name__ + "64", (0, 0)), equal_nan
        )
    for kind in (Tensor, np.ndarray):
        if isinstance(a, kind) and isinstance(b, kind):
            return _of_tensors(a, b, given, equal_nan, checks)
    raise TypeError(
        f"No comparison pair was able to handle inputs of type {type(a)} and {type(b)}."
    )


def _of_tensors(a: Any, b: Any, given: Any, equal_nan: bool, checks: tuple[bool, bool]) -> Any:
    for name, wanted in (("shape", True), ("dtype", checks[0]), ("stride()", checks[1])):
        one, other = (
            x.stride()
            if name == "stride()" and isinstance(x, Tensor)
            else getattr(x, name.replace("stride()", "strides"))
            for x in (a, b)
        )
        if wanted and one != other:
            return f"The values for attribute '{name}' do not match: {one} != {other}."
    arrays = [x._array if isinstance(x, Tensor) else x for x in (a, b)]
    defaults = [_TOLERANCES.get(x.dtype.name, (0.0, 0.0)) for x in arrays]
    limits = given or tuple(max(pair) for pair in zip(*defaults, strict=True))
    if arrays[0].ndim == 0:
        return _of_numbers(arrays[0].item(), arrays[1].item(), limits, equal_nan)
    rtol, atol = limits
    common = np.result_type(*arrays)
    # Differences are computed in the common dtype, those of integers without overflow.
    floats = common if common.kind == "f" else np.dtype(np.float32)
    x, y = (v.astype(common if common.kind == "f" else object) for v in arrays)
    with np.errstate(all="ignore"):
        close = np.isclose(
            x.astype(np.float64), y.astype(np.float64), rtol, atol, equal_nan=equal_nan
        )
        if not rtol and not atol:
            close = (x == y) | (equal_nan & (x != x) & (y != y))
        if np.all(close):
            return None
        apart = np.where(close, 0, np.abs(x - y))
        relative = np.where(close, 0, apart.astype(floats) / np.abs(y).astype(floats))
    lines = [
        f"Tensor-likes are not {'close' if rtol or atol else 'equal'}!\n",
        f"Mismatched elements: {np.sum(~close.astype(bool))} / {close.size} "
        f"({np.mean(~close.astype(bool)):.1%})",
    ]
    for name, values, limit in (("absolute", apart, atol), ("relative", relative, rtol)):
        place = tuple(int(k) for k in np.unravel_index(np.argmax(values), values.shape))
        allowed = f" (up to {limit} allowed)" if rtol or atol else ""
        largest = values.tolist()
        for k in place:
            largest = largest[k]
        lines.append(f"Greatest {name} difference: {largest} at index {place}{allowed}")
    return "\n".join(lines)


def _of_numbers(a: Any, b: Any, limits: tuple[float, float], equal_nan: bool) -> Any:
    rtol, atol = limits
    if a == b or (equal_nan and a != a and b != b) or abs(a - b) <= atol + rtol * abs(b):
        return None
    apart, exact = abs(a - b), not rtol and not atol
    relative = apart / abs(b) if b else float("inf")
    within = ["" if exact else f" (up to {limit} allowed)" for limit in (atol, rtol)]
    return (
        f"Scalars are not {'equal' if exact else 'close'}!\n\nExpected {b} but got {a}.\n"
        f"Absolute difference: {apart}{within[0]}\nRelative difference: {relative}{within[1]}"
    )


__getattr__ = unknown_names(__name__)
