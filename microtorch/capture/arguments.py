"""The arguments of a call: the key by which its program is found, and what they are in words."""

from typing import Any

from ..graph.node import LEAF
from ..tensor import TENSORS, Tensor
from .values import CONTAINERS, SIMPLE, simple


def flatten(value: Any, tensors: list[Tensor], held: list[Any]) -> Any:
    """The key of an argument; its tensors, and what the key names by identity, are appended."""
    kind = value.__class__
    if kind in TENSORS or isinstance(value, Tensor):
        tensors.append(value)
        array, node = value._array, value._node
        wanted = None if node is None else id(value) if node is LEAF else True
        return (array.shape, array.strides, array.dtype, type(array), wanted)
    if isinstance(value, SIMPLE):
        return simple(value)
    if isinstance(value, CONTAINERS):
        more = getattr(value, "__dict__", None)
        own = (flatten(more, tensors, held),) if more else ()
        if isinstance(value, dict):
            pairs = [(k, flatten(v, tensors, held)) for k, v in value.items()]
            return (kind, getattr(value, "default_factory", None), *own, *pairs)
        return (kind, *own, *[flatten(v, tensors, held) for v in value])
    held.append(value)
    return (kind, id(value))


def describe(value: Any) -> str:
    """An argument in a few words."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).rpartition(".")[2]
        return f"{kind}{list(value.shape)}" + "@cuda" * (value.device.type != "cpu")
    if isinstance(value, (tuple, list)):
        left, right = "[]" if isinstance(value, list) else "()"
        return f"{left}{', '.join(map(describe, value))}{right}"
    text = repr(value) if isinstance(value, SIMPLE) else type(value).__name__
    return text if len(text) <= 20 else f"{text[:17]}..."
