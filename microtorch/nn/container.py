"""Modules that hold others: Sequential, ModuleList, ModuleDict, ParameterList and ParameterDict."""

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from ..tensor import Tensor
from .module import Module, indented
from .parameter import Parameter


class _Indexed(Module):
    """Submodules named '0', '1', ... with the operations of a list."""

    def _place(self, index: int) -> str:
        count = len(self._modules)
        if not -count <= index < count:
            raise IndexError(f"index {index} is out of range")
        return list(self._modules)[index]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._rebuilt(list(self._modules.items())[index])
        return self._modules[self._place(index)]

    def _rebuilt(self, items: list[tuple[str, Any]]) -> Any:
        return type(self)([module for _, module in items])  # type: ignore[call-arg]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._place(index), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def append(self, module: Module) -> Any:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self


class Sequential(_Indexed):
    """Modules called one after another; given in order, or as one OrderedDict of named ones."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = (
            args[0].items()
            if len(args) == 1 and isinstance(args[0], OrderedDict)
            else ((str(k), module) for k, module in enumerate(args))
        )
        for name, module in named:
            self.add_module(name, module)

    def _rebuilt(self, items: list[tuple[str, Any]]) -> Any:
        return Sequential(OrderedDict(items))

    def forward(self, input: Any) -> Any:
        """The last module's output."""
        for module in self._modules.values():
            input = module(input)  # type: ignore[misc]
        return input


class ModuleList(_Indexed):
    """A list of modules."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def __repr__(self) -> str:
        lines = []
        place = 0
        for text, same in itertools.groupby(repr(module) for module in self):
            count = len(list(same))
            where = f"({place}-{place + count - 1}): {count} x " if count > 1 else f"({place}): "
            lines.append(where + indented(text))
            place += count
        return "ModuleList(\n  " + "\n  ".join(lines) + "\n)" if lines else "ModuleList()"


class ModuleDict(Module):
    """A dict of modules."""

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        for name, module in dict(modules or {}).items():
            self.add_module(name, module)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def keys(self) -> Any:
        """The names."""
        return self._modules.keys()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def items(self) -> Any:
        """Names and modules."""
        return self._modules.items()


class ParameterDict(Module):
    """Parameters by name; tensors become parameters, and other objects are kept as they are."""

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        self.update(() if parameters is None else parameters)

    def __getitem__(self, key: str) -> Any:
        return getattr(self, _text(key))

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            value = Parameter(value)
        setattr(self, _text(key), value)
        self._keys[key] = None

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __or__(self, other: Any) -> "ParameterDict":
        found = self.copy()
        found.update(other)
        return found

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def keys(self) -> Any:
        """The names."""
        return self._keys.keys()

    def values(self) -> Iterator[Any]:
        """The parameters."""
        return (self[k] for k in self._keys)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and parameters."""
        return ((k, self[k]) for k in self._keys)

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter of a name, or the default."""
        return self[key] if key in self else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The parameter of a name, which is entered first if it is not there."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Take a parameter away, and give it."""
        found = self[key]
        del self[key]
        return found

    def popitem(self) -> tuple[str, Any]:
        """Take the last one away, and give its name and it."""
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        """Take all away."""
        for key in list(self):
            del self[key]

    def copy(self) -> "ParameterDict":
        """Another one, of the same parameters."""
        return ParameterDict(OrderedDict(self.items()))

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> "ParameterDict":
        """One of these names, with the default for each."""
        return ParameterDict((k, default) for k in keys)

    def update(self, parameters: Any) -> None:
        """Enter those of a mapping (sorted by name if it is a plain dict) or of pairs.

        Raises:
            TypeError, ValueError: for anything else.
        """
        if not isinstance(parameters, (Iterable, ParameterDict)):
            raise TypeError(
                "ParametersDict.update should be called with an iterable of key/value pairs, but "
                f"got {type(parameters).__name__}"
            )
        if isinstance(parameters, (OrderedDict, ParameterDict)):
            parameters = list(parameters.items())
        elif isinstance(parameters, Mapping):
            parameters = sorted(parameters.items())
        for k, pair in enumerate(parameters):
            what = f"ParameterDict update sequence element #{k}"
            if not isinstance(pair, Iterable):
                raise TypeError(f"{what} should be Iterable; is {type(pair).__name__}")
            listed = list(pair)
            if len(listed) != 2:
                raise ValueError(f"{what} has length {len(listed)}; 2 is required")
            self[listed[0]] = listed[1]

    def extra_repr(self) -> str:
        """A line for each parameter."""
        lines = []
        for k, p in self.items():
            if isinstance(p, Tensor):
                size = "x".join(map(str, p.shape))
                shown = f"Parameter containing: [{p.type()} of size {size}]"
            else:
                shown = f"Object of type: {type(p).__name__}"
            lines.append(f"  ({k}): {shown}")
        return "\n".join(lines)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("ParameterDict should not be called.")


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(
            "Index given to ParameterDict cannot be used as a key as it is not a string (type is "
            f"'{type(key).__name__}'). Open an issue on github if you need non-string keys."
        )
    return key


class ParameterList(Module):
    """A list of parameters; tensors become parameters."""

    def __init__(self, values: Iterable[Tensor] | None = None) -> None:
        super().__init__()
        self.extend(values or ())

    def append(self, value: Tensor) -> "ParameterList":
        """Add a parameter at the end."""
        made = value if isinstance(value, Parameter) else Parameter(value)
        self.register_parameter(str(len(self)), made)
        return self

    def extend(self, values: Iterable[Tensor]) -> "ParameterList":
        """Add parameters at the end."""
        for value in values:
            self.append(value)
        return self

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parameters.values())

    def __getitem__(self, index: Any) -> Any:
        found = list(self._parameters.values())
        if isinstance(index, slice):
            return ParameterList(p for p in found[index] if p is not None)
        if not -len(found) <= index < len(found):
            raise IndexError(f"index {index} is out of range")
        return found[index]

    def extra_repr(self) -> str:
        """A line for each parameter."""
        return "\n".join(
            f"  ({k}): Parameter containing: [{p.dtype} of size {'x'.join(map(str, p.shape))}]"
            for k, p in enumerate(self)
        )
