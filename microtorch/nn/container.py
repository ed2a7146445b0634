"""Modules that hold others: Sequential, ModuleList and ModuleDict."""

import itertools
import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from .module import Module, indented


class _Indexed(Module):
    """Submodules named '0', '1', ... with the operations of a list."""

    def _place(self, index: int) -> str:
        count = len(self._modules)
        index = operator.index(index)
        if not -count <= index < count:
            raise IndexError(f"index {index} is out of range")
        return list(self._modules)[index]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._rebuilt(list(self._modules.items())[index])
        return self._modules[self._place(index)]

    def _rebuilt(self, items: list[tuple[str, Any]]) -> Any:
        return type(self)([module for _, module in items])  # type: ignore[call-arg]

    def _number(self, modules: list[Any]) -> None:
        """Hold these modules, under numbers."""
        for name in list(self._modules):
            delattr(self, name)
        for k, module in enumerate(modules):
            self.add_module(str(k), module)

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._place(index), module)

    def __delitem__(self, index: int | slice) -> None:
        found = list(self)
        if not isinstance(index, slice):
            self._place(index)
        del found[index]
        self._number(found)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.isdigit()]

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end.

        Raises:
            TypeError: for what is no iterable.
        """
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"{type(self).__name__}.extend should be called with an iterable, but got "
                + type(modules).__name__
            )
        for module in list(modules):
            self.append(module)
        return self

    def pop(self, key: int | slice) -> Any:
        """Take a module away, and give it."""
        found = self[key]
        del self[key]
        return found


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
        return type(self)(OrderedDict(items))

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before the one at an index.

        Raises:
            AssertionError: for what is no module.
            IndexError: for an index out of range.
        """
        if not isinstance(module, Module):
            raise AssertionError(f"module should be of type: {Module}")
        if not -len(self) <= index <= len(self):
            raise IndexError(f"Index out of range: {index}")
        found = list(self)
        found.insert(index, module)
        self._number(found)
        return self

    def __add__(self, other: Any) -> "Sequential":
        return Sequential(*self).__iadd__(other)

    def __iadd__(self, other: Any) -> Self:
        if not isinstance(other, Sequential):
            raise ValueError(
                "add operator supports only objects of Sequential class, but "
                f"{type(other)} is given."
            )
        return self.extend(other)

    def __mul__(self, other: int) -> "Sequential":
        return Sequential(*self).__imul__(other)

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Self:
        if not isinstance(other, int):
            raise TypeError(f"unsupported operand type(s) for *: {type(self)} and {type(other)}")
        if other <= 0:
            raise ValueError(f"Non-positive multiplication factor {other} for {type(self)}")
        return self.extend(list(self) * (other - 1))

    def forward(self, input: Any) -> Any:
        """The last module's output."""
        for module in self._modules.values():
            input = module(input)  # type: ignore[misc]
        return input


class ModuleList(_Indexed):
    """A list of modules."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one at an index."""
        found = list(self)
        found.insert(index, module)
        self._number(found)

    def __add__(self, other: Iterable[Module]) -> "ModuleList":
        return ModuleList(self).extend(other)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __repr__(self) -> str:
        name = type(self).__name__
        lines = []
        place = 0
        for text, same in itertools.groupby(repr(module) for module in self):
            count = len(list(same))
            where = f"({place}-{place + count - 1}): {count} x " if count > 1 else f"({place}): "
            lines.append(where + indented(text))
            place += count
        return f"{name}(\n  " + "\n  ".join(lines) + "\n)" if lines else f"{name}()"


class ModuleDict(Module):
    """A dict of modules."""

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self._modules:
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def pop(self, key: str) -> Any:
        """Take a module away, and give it."""
        found = self[key]
        del self[key]
        return found

    def clear(self) -> None:
        """Take all away."""
        for key in list(self):
            del self[key]

    def update(self, modules: Any) -> None:
        """Enter those of a mapping or of pairs.

        Raises:
            TypeError, ValueError: for anything else.
        """
        if not isinstance(modules, Iterable):
            raise TypeError(
                "ModuleDict.update should be called with an iterable of key/value pairs, but got "
                + type(modules).__name__
            )
        if isinstance(modules, (Mapping, ModuleDict)):
            modules = modules.items()
        for key, module in pairs("ModuleDict", modules):
            self[key] = module

    def keys(self) -> Any:
        """The names."""
        return self._modules.keys()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def items(self) -> Any:
        """Names and modules."""
        return self._modules.items()


def pairs(owner: str, items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Pairs of a name and a value.

    Raises:
        TypeError, ValueError: for anything else, when its turn comes.
    """
    for k, pair in enumerate(items):
        what = f"{owner} update sequence element #{k}"
        if not isinstance(pair, Iterable):
            raise TypeError(f"{what} should be Iterable; is {type(pair).__name__}")
        listed = list(pair)
        if len(listed) != 2:
            raise ValueError(f"{what} has length {len(listed)}; 2 is required")
        yield listed[0], listed[1]
