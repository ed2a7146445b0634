"""Element types under PyTorch's names, and the rules by which they combine.

Numbers and 0-d tensors are weak: they do not widen a tensor with dimensions unless they are of a
higher category (bool < integer < floating point).
"""

from typing import Any, TypeAlias

import numpy as np

_pybool, _pyint = bool, int
# The dtypes below take the names of Python's types.
Int: TypeAlias = int
Bool: TypeAlias = bool


class dtype:
    """The element type of a tensor; `repr` is `torch.float32`."""

    __slots__ = ("category", "is_floating_point", "itemsize", "name", "numpy", "short")

    def __init__(self, name: str, short: str) -> None:
        self.name = name
        self.short = short  # C name that error messages use
        self.numpy = np.dtype(name)
        self.itemsize = self.numpy.itemsize
        self.category = {"b": 0, "u": 1, "i": 1, "f": 2}[self.numpy.kind]
        self.is_floating_point = self.category == 2

    is_complex = False

    @property
    def is_signed(self) -> Bool:
        """Whether the type has negative numbers."""
        return self.numpy.kind in "if"

    def __repr__(self) -> str:
        return "torch." + self.name

    def __reduce__(self) -> str:
        return self.name


float64 = double = dtype("float64", "Double")
float32 = float = dtype("float32", "Float")
float16 = half = dtype("float16", "Half")
int64 = long = dtype("int64", "Long")
int32 = int = dtype("int32", "Int")
int16 = short = dtype("int16", "Short")
int8 = dtype("int8", "Char")
uint8 = dtype("uint8", "Byte")
bool = dtype("bool", "Bool")

_by_numpy = {
    d.numpy: d for d in (float64, float32, float16, int64, int32, int16, int8, uint8, bool)
}
_default = float32


def of(numpy_dtype: "np.dtype[Any]") -> dtype:
    """The dtype of an ndarray's elements.

    Raises:
        TypeError: for element types that no tensor can have.
    """
    found = _by_numpy.get(numpy_dtype)
    if found is None:
        found = _by_numpy.get(numpy_dtype.newbyteorder("="))
    if found is None:
        kind = f"numpy.{numpy_dtype.type.__name__}"
        raise TypeError(
            f"can't convert np.ndarray of type {kind}. The only supported types are: float64, "
            "float32, float16, int64, int32, int16, int8, uint8, and bool."
        )
    return found


def native(array: "np.ndarray[Any, np.dtype[Any]]") -> Any:
    """An array whose dtype is the object that NumPy has for it: that of a pickled array is another.

    Raises:
        TypeError: for element types that no tensor can have.
    """
    own = of(array.dtype).numpy
    same = array.dtype is own or array.dtype != own
    return array if same else array.view(own)


def get_default_dtype() -> dtype:
    """The dtype of tensors made from Python floats."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Make float32 or float64 the dtype of tensors made from Python floats."""
    global _default
    if not isinstance(d, dtype):
        raise TypeError(
            "invalid dtype object: only floating-point types are supported as the default type"
        )
    if not d.is_floating_point:
        raise TypeError("only floating-point types are supported as the default type")
    _default = d


def of_number(value: Any) -> dtype:
    """The dtype of a Python number or NumPy scalar used as a number."""
    if isinstance(value, (_pybool, np.bool_)):
        return bool
    if isinstance(value, (_pyint, np.integer)):
        return int64
    return _default


def promote(a: dtype, b: dtype) -> dtype:
    """The dtype of the combination of two tensors of equal rank status."""
    if a is b:
        return a
    if a.category != b.category:
        return a if a.category > b.category else b
    return _by_numpy[np.promote_types(a.numpy, b.numpy)]


def result_type(operands: list[tuple[dtype, Int]]) -> dtype:
    """The dtype of an operation on `(dtype, priority)`: 2 dimensioned, 1 zero-dim, 0 number.

    The highest category wins; within it, only the operands of the highest priority count.
    """
    best: dict[Int, dtype] = {}
    for d, priority in operands:
        best[priority] = promote(best[priority], d) if priority in best else d
    result: dtype | None = None
    for priority in (2, 1, 0):
        found = best.get(priority)
        if found is not None and (result is None or found.category > result.category):
            result = found
    assert result is not None
    return result
