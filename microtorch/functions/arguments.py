"""Checks of arguments that many functions share, with PyTorch's errors."""

from typing import Any

import numpy as np

from ..errors import argument_error
from ..tensor import Tensor


def need_tensor(function: str, value: Any, argument: str = "input", position: int = 1) -> None:
    """Refuse what is no Tensor.

    Raises:
        TypeError: for anything but a Tensor.
    """
    if not isinstance(value, Tensor):
        raise argument_error(function, argument, position, "Tensor", value)


def is_int(value: Any) -> bool:
    """Whether a value counts as an integer: an int, but no bool, or a 0-d tensor of integers."""
    if isinstance(value, Tensor):
        return value.ndim == 0 and value.dtype.category == 1
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def int_of(function: str, value: Any, argument: str, position: int) -> int:
    """An integer argument.

    Raises:
        TypeError: for anything else.
    """
    if not is_int(value):
        raise argument_error(function, argument, position, "int", value)
    return int(value)


def ints_of(
    function: str, values: Any, argument: str, position: int = 2, one: bool = False
) -> tuple[int, ...]:
    """A sequence of integers; with `one`, a single integer stands for a sequence of itself.

    Raises:
        TypeError: for anything else.
    """
    if one and is_int(values):
        return (int(values),)
    if not isinstance(values, (tuple, list)):
        raise argument_error(function, argument, position, "tuple of ints", values)
    for k, value in enumerate(values, 1):
        if not is_int(value):
            raise TypeError(
                f"{function}(): argument '{argument}' failed to unpack the object at pos {k} with "
                f'error "type must be tuple of ints,but got {type(value).__name__}"'
            )
    return tuple(int(value) for value in values)


def variadic(function: str, values: tuple[Any, ...], argument: str) -> tuple[int, ...]:
    """Integers given one by one or as one sequence."""
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        return ints_of(function, values[0], argument, 1)
    for k, value in enumerate(values, 1):
        if not is_int(value):
            raise argument_error(function, argument, k, "tuple of ints", value)
    return tuple(int(value) for value in values)
