"""Results of several tensors with names, as PyTorch's `torch.return_types`."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from .op import deliver


def named(name: str, *fields: str) -> Callable[..., Any]:
    """The type of a function's result: a tuple whose items have names."""

    def show(self: Any) -> str:
        items = [f"{field}={item!r}" for field, item in zip(fields, self, strict=True)]
        return f"torch.return_types.{name}(\n" + ",\n".join(items) + ")"

    members: dict[str, Any] = {field: property(itemgetter(k)) for k, field in enumerate(fields)}
    members |= {"__slots__": (), "__repr__": show, "__module__": "torch.return_types"}
    return type(name, (tuple,), members)


def deliver_each(result: Any, out: Any) -> Any:
    """Results written into the tensors of `out`, if that is given."""
    if out is None:
        return result
    for z, place in zip(result, out, strict=True):
        deliver(z, place)
    return type(result)(out)
