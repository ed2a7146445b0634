"""Tensors as text, in PyTorch's format.

Numbers of one tensor share a width. Floats are shown whole (`1.`) if all are whole, in scientific
notation if their magnitudes are far apart, else with `precision` decimals. Above `threshold`
elements only `edgeitems` at both ends of each dimension are shown, and only those count for the
width.
"""

import math
from typing import Any

import numpy as np

from . import dtypes

Array = np.ndarray[Any, Any]

_PROFILES = {
    "default": (4, 1000, 3, 80),
    "short": (2, 1000, 2, 80),
    "full": (4, math.inf, 3, 80),
}
_KEYS = ("precision", "threshold", "edgeitems", "linewidth")
_options: dict[str, Any] = dict(zip(_KEYS, _PROFILES["default"], strict=True)) | {"sci_mode": None}


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Change how tensors are printed.

    precision: decimals of floats. threshold: elements above which a tensor is summarized.
    edgeitems: how many are shown then at each end. linewidth: columns. profile: 'default',
    'short' or 'full'. sci_mode: always or never scientific notation; None decides by the values.
    """
    if profile is not None:
        if profile.lower() not in _PROFILES:
            raise ValueError(f"unknown profile {profile!r}: use 'default', 'short' or 'full'")
        _options.update(zip(_KEYS, _PROFILES[profile.lower()], strict=True))
    given = dict(zip(_KEYS, (precision, threshold, edgeitems, linewidth), strict=True))
    _options.update({key: value for key, value in given.items() if value is not None})
    _options["sci_mode"] = sci_mode


def get_printoptions() -> dict[str, Any]:
    """The print options in force."""
    return dict(_options)


class _Formatter:
    """How the numbers of one tensor are written, from those that are shown."""

    def __init__(self, values: Array) -> None:
        self._floating = values.dtype.kind == "f"
        self._whole = True
        self._scientific = False
        self.width = 1
        flat = values.reshape(-1)
        if not self._floating:
            self.width = max((len(str(v)) for v in flat.tolist()), default=1)
            return
        flat = flat.astype(np.float64)
        finite = flat[np.isfinite(flat) & (flat != 0)]
        if finite.size == 0:
            # Zeros, nan and inf alone are not aligned.
            return
        magnitudes = np.abs(finite)
        low, high = float(magnitudes.min()), float(magnitudes.max())
        self._whole = bool((np.ceil(finite) == finite).all())
        apart = high / low > 1000.0 or high > 1.0e8
        self._scientific = apart or (not self._whole and low < 1.0e-4)
        if _options["sci_mode"] is not None:
            self._scientific = _options["sci_mode"]
        self.width = max(len(self._text(v)) for v in finite.tolist())

    def _text(self, value: Any) -> str:
        if not self._floating:
            return str(value)
        if self._scientific:
            return f"{value:.{_options['precision']}e}"
        if self._whole:
            text = f"{value:.0f}"
            return text if math.isinf(value) or math.isnan(value) else text + "."
        return f"{value:.{_options['precision']}f}"

    def __call__(self, value: Any) -> str:
        return self._text(value).rjust(self.width)


def _vector(items: list[Any], indent: int, write: _Formatter, summarize: bool) -> str:
    """One line of numbers, broken where it would be too long."""
    edge = _options["edgeitems"]
    per_line = max(1, math.floor((_options["linewidth"] - indent) / (write.width + 2)))
    if summarize and not edge:
        cells = ["..."]
    elif summarize and len(items) > 2 * edge:
        cells = [*map(write, items[:edge]), " ...", *map(write, items[-edge:])]
    else:
        cells = [write(v) for v in items]
    lines = [cells[k : k + per_line] for k in range(0, len(cells), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(", ".join(line) for line in lines) + "]"


def _nested(array: Array, indent: int, write: _Formatter, summarize: bool) -> str:
    if array.ndim == 0:
        return write(array.item())
    if array.ndim == 1:
        return _vector(array.tolist(), indent, write, summarize)
    edge = _options["edgeitems"]
    count = len(array)
    if summarize and count > 2 * edge:
        shown = [*range(edge), None, *range(count - edge, count)]
    else:
        shown = list(range(count))
    parts = ["..." if k is None else _nested(array[k], indent + 1, write, summarize) for k in shown]
    gap = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
    return "[" + gap.join(parts) + "]"


def _corners(array: Array) -> Array:
    """The elements that a summary shows."""
    edge = _options["edgeitems"]
    for dim, n in enumerate(array.shape):
        if n > 2 * edge:
            array = np.take(array, [*range(edge), *range(n - edge, n)], axis=dim)
    return array


def tensor_repr(
    array: Array,
    *,
    grad_fn: str | None = None,
    requires_grad: bool = False,
    device: str | None = None,
    prefix: str = "tensor(",
) -> str:
    """What PyTorch prints for a tensor with these elements and properties."""
    suffixes = []
    dtype = dtypes.of(array.dtype)
    indent = len(prefix)
    usual: tuple[Any, ...] = (dtypes.get_default_dtype(), dtypes.int64, dtypes.bool)
    if array.size == 0:
        if array.ndim != 1:
            suffixes.append(f"size={tuple(array.shape)}")
        usual = (dtypes.get_default_dtype(),)
        text = "[]"
    else:
        if not _options["edgeitems"]:
            suffixes.append(f"size={tuple(array.shape)}")
        summarize = array.size > _options["threshold"]
        write = _Formatter(_corners(array) if summarize else array)
        text = _nested(array, indent, write, summarize)
    if dtype not in usual:
        suffixes.append(f"dtype={dtype}")
    if device is not None:
        suffixes.insert(0, f"device='{device}'")
    if grad_fn is not None:
        suffixes.append(f"grad_fn=<{grad_fn}>")
    elif requires_grad:
        suffixes.append("requires_grad=True")
    return _joined(prefix + text, suffixes, indent, array.size)


def _joined(text: str, suffixes: list[str], indent: int, size: int) -> str:
    """The suffixes behind the text, each on the line if it fits."""
    last = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if last + len(suffix) + 2 > _options["linewidth"]:
            text += ",\n" + " " * indent + suffix
            last = indent + len(suffix)
        else:
            text += ", " + suffix
            last += len(suffix) + 2
    return text + ")"
