"""`torch.nn.utils.parametrize`: parameters that are functions of others.

A parametrized module has a class of its own, made of the module's class and of the names that are
parametrized: these are properties, which call their `ParametrizationList`.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ...autograd.modes import no_grad
from ...errors import unknown_names
from ...graph.node import clock
from ...tensor import Tensor
from ..container import ModuleDict, ModuleList
from ..module import Module
from ..parameter import Parameter

__all__ = [
    "ParametrizationList", "cached", "is_parametrized", "register_parametrization",
    "remove_parametrizations", "type_before_parametrizations",
]  # fmt: skip

_PICKLED = (
    "Serialization of parametrized modules is only supported through state_dict(). See:\n"
    "https://pytorch.org/tutorials/beginner/saving_loading_models.html"
    "#saving-loading-a-general-checkpoint-for-inference-and-or-resuming-training"
)


class _Cache:
    """Values of parametrized tensors while some `cached()` block runs."""

    def __init__(self) -> None:
        self.depth = 0
        self.values: dict[tuple[int, str], Any] = {}


_cache = _Cache()


@contextmanager
def cached() -> Iterator[None]:
    """Inside, each parametrized tensor is computed once."""
    _cache.depth += 1
    try:
        yield
    finally:
        _cache.depth -= 1
        if not _cache.depth:
            _cache.values.clear()


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, and what they are computed from: `original`, or
    `original0`, `original1` ... where the first one takes several.

    Raises:
        ValueError: for a `right_inverse` that gives no tensors, and for parametrizations that
            change shape or dtype, if not unsafe.
    """

    def __init__(self, modules: Sequence[Module], original: Any, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        new = self._started(original)
        self.is_tensor = isinstance(new, Tensor)
        parts = [new] if self.is_tensor else new
        self.ntensors = len(parts)
        shape, dtype = original.shape, original.dtype
        if self.is_tensor:
            if new.dtype != dtype:
                raise ValueError(
                    "When `right_inverse` outputs one tensor, it may not change the dtype.\n"
                    f"original.dtype: {dtype}\nright_inverse(original).dtype: {new.dtype}"
                )
            # The same parameter, so that optimizers keep it.
            original.data = new
            parts = [original]
        for name, part in zip(self._names, parts, strict=True):
            if isinstance(original, Parameter):
                own = part is original
                self.register_parameter(
                    name, part if own else Parameter(part, original.requires_grad)
                )
            else:
                self.register_buffer(name, part)
        if not unsafe:
            value = self()
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"A parametrization must return a tensor. Got {type(value).__name__}."
                )
            pairs = ("dtype", dtype, value.dtype), ("shape", shape, value.shape)
            for what, before, after in pairs:
                if before != after:
                    raise ValueError(
                        f"Registering a parametrization may not change the {what} of the tensor, "
                        f"unless `unsafe` flag is enabled.\nunparametrized {what}: {before}\n"
                        f"parametrized {what}: {after}"
                    )

    @no_grad()
    def _started(self, original: Any) -> Any:
        """What the parametrizations are computed from at first: a tensor, or a list of tensors."""
        new = original
        for module in reversed(self):  # type: ignore[call-overload]
            if hasattr(module, "right_inverse"):
                # Where it is not implemented, the tensor cannot be assigned to.
                with suppress(NotImplementedError):
                    new = module.right_inverse(new)
        if isinstance(new, Tensor):
            return new.detach()
        wrong = "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...)."
        if not isinstance(new, (list, tuple)):
            raise ValueError(f"{wrong} Got {type(new).__name__}")
        for number, part in enumerate(new):
            if not isinstance(part, Tensor):
                raise ValueError(
                    f"{wrong} Got element {number} of the sequence with type {type(part).__name__}."
                )
        return [part.detach() for part in new]

    @property
    def _names(self) -> list[str]:
        return ["original"] if self.is_tensor else [f"original{k}" for k in range(self.ntensors)]

    def forward(self) -> Any:
        """The parametrized tensor."""
        first, *others = self
        value = first(*[getattr(self, name) for name in self._names])
        for module in others:
            value = module(value)
        return value

    @no_grad()
    def right_inverse(self, value: Tensor) -> None:
        """Change the originals so that the parametrized tensor becomes a value.

        Raises:
            RuntimeError: for a parametrization that has no `right_inverse`.
            ValueError: for one that gives anything but tensors like the originals.
        """
        found: Any = value
        for module in reversed(self):  # type: ignore[call-overload]
            if not hasattr(module, "right_inverse"):
                raise RuntimeError(
                    f"parametrization {type(module).__name__} does not implement right_inverse."
                )
            found = module.right_inverse(found)
        if self.is_tensor:
            if not isinstance(found, Tensor):
                raise ValueError(
                    f"`right_inverse` should return a tensor. Got {type(found).__name__}"
                )
            self._assign("original", found, "The tensor returned by `right_inverse`")
            return
        if not isinstance(found, (list, tuple)):
            raise ValueError(
                f"'right_inverse' must return a sequence of tensors. Got {type(found).__name__}."
            )
        if len(found) != self.ntensors:
            raise ValueError(
                f"'right_inverse' must return a sequence of tensors of length {self.ntensors}. "
                f"Got a sequence of length {len(found)}."
            )
        for number, part in enumerate(found):
            if not isinstance(part, Tensor):
                raise ValueError(
                    f"'right_inverse' must return a sequence of tensors. Got element {number} of "
                    f"type {type(part).__name__}."
                )
            self._assign(f"original{number}", part, f"Tensor {number} returned by `right_inverse`")

    def _assign(self, name: str, value: Any, what: str) -> None:
        original = getattr(self, name)
        if value.dtype != original.dtype:
            raise ValueError(
                f"{what} has dtype {value.dtype} while `{name}` has dtype {original.dtype}"
            )
        if value.shape == original.shape:
            original.copy_(value)
        else:
            original.data = value.detach()


# ----------------------------------------------------------------------------------- classes
@functools.cache
def _class_of(plain: Any, names: tuple[str, ...]) -> type:
    """The class of modules of a class of which some tensors are parametrized."""

    def no_state(self: Any) -> Any:
        raise RuntimeError(_PICKLED)

    def deepcopied(self: Any, memo: dict[int, Any]) -> Any:
        made = memo[id(self)] = self.__new__(type(self))
        made.__dict__ = copy.deepcopy(self.__dict__, memo)
        return made

    def assign(self: Any, name: str, value: Any) -> None:
        if name in names and isinstance(value, Parameter):
            raise KeyError(f"attribute '{name}' already exists")
        plain.__setattr__(self, name, value)

    made = {"__getstate__": no_state, "__setattr__": assign, "__module__": __name__}
    if not hasattr(plain, "__deepcopy__"):
        made["__deepcopy__"] = deepcopied
    properties = {name: _parametrized(name) for name in names}
    return type(f"Parametrized{plain.__name__}", (plain,), made | properties)


def _parametrized(name: str) -> Any:
    def get(self: Any) -> Any:
        if not _cache.depth:
            return self.parametrizations[name]()
        key = id(self), name
        if key not in _cache.values:
            _cache.values[key] = self.parametrizations[name]()
        return _cache.values[key]

    def put(self: Any, value: Any) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(get, put)


def _set_class(module: Any, plain: type) -> None:
    names = tuple(module.parametrizations) if "parametrizations" in module._modules else ()
    module.__class__ = _class_of(plain, names) if names else plain
    clock.epoch += 1


# --------------------------------------------------------------------------------- functions
def register_parametrization(
    module: Module, tensor_name: str, parametrization: Any, *, unsafe: bool = False
) -> Module:
    """Let a parameter or buffer be what a module gives for what is registered in its place.

    A tensor that is parametrized already is parametrized once more. `parametrization.right_inverse`
    says which tensor, or tensors, to start from. unsafe: neither shape nor dtype is checked.

    Raises:
        ValueError: for a name that there is not, and for parametrizations that do not fit.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        if not unsafe:
            _check_next(module, tensor_name, parametrization)
        lists: Any = module.parametrizations
        lists[tensor_name].append(parametrization)
        lists[tensor_name].unsafe |= unsafe
        clock.epoch += 1
        return module
    if tensor_name not in module._parameters and tensor_name not in module._buffers:
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element "
            f"with name '{tensor_name}'"
        )
    made = ParametrizationList([parametrization], getattr(module, tensor_name), unsafe)
    delattr(module, tensor_name)
    plain = type_before_parametrizations(module)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()
    module.parametrizations[tensor_name] = made  # type: ignore[operator]
    _set_class(module, plain)
    return module


def _check_next(module: Module, name: str, parametrization: Any) -> None:
    """Refuse a further parametrization that changes shape or dtype.

    Raises:
        ValueError: which says what changes.
    """
    value = getattr(module, name)
    found = parametrization(value)
    if not isinstance(found, Tensor):
        raise ValueError(f"A parametrization must return a tensor. Got {type(found).__name__}.")
    for what in ("dtype", "shape"):
        before, after = getattr(value, what), getattr(found, what)
        if before != after:
            raise ValueError(
                f"Registering a parametrization may not change the {what} of the tensor, unless "
                f"the `unsafe` flag is enabled.\nmodule.{name}.{what}: {before}\n"
                f"parametrization(module.{name}).{what}: {after}"
            )
    if not hasattr(parametrization, "right_inverse"):
        return
    try:
        back = parametrization.right_inverse(found)
    except NotImplementedError:
        return
    if not isinstance(back, Tensor):
        raise ValueError(
            f"parametrization.right_inverse must return a tensor. Got: {type(back).__name__}"
        )
    for what in ("dtype", "shape"):
        before, after = getattr(value, what), getattr(back, what)
        if before != after:
            raise ValueError(
                "The tensor returned by parametrization.right_inverse must have the same "
                f"{what} as module.{name}, unless the `unsafe` flag is enabled.\n"
                f"module.{name}.{what}: {before}\nreturned {what}: {after}"
            )


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a module has parametrized tensors, or whether one of them is."""
    found = module._modules.get("parametrizations")
    if not isinstance(found, ModuleDict):
        return False
    return len(found) > 0 if tensor_name is None else tensor_name in found


def type_before_parametrizations(module: Module) -> type:
    """The class that a module has without its parametrizations."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def remove_parametrizations(
    module: Module, tensor_name: str, leave_parametrized: bool = True
) -> Module:
    """Make a parametrized tensor an ordinary one again, with the value that it has, or with that of
    its original if not leave_parametrized.

    Raises:
        ValueError: for one that is not parametrized, or has no single original to go back to.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    lists: Any = module.parametrizations
    listed = lists[tensor_name]
    with no_grad():
        value = getattr(module, tensor_name).detach()
    if listed.is_tensor:
        original = listed.original
        if leave_parametrized:
            original.data = value
    elif leave_parametrized:
        trained = any(getattr(listed, name).requires_grad for name in listed._names)
        original = Parameter(value) if trained else value
    else:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is "
            "parametrized in terms of a sequence of tensors."
        )
    plain = type_before_parametrizations(module)
    del lists[tensor_name]
    if not len(lists):
        del module.parametrizations
    _set_class(module, plain)
    if isinstance(original, Parameter):
        setattr(module, tensor_name, original)
    else:
        module.register_buffer(tensor_name, original)
    return module


__getattr__ = unknown_names(__name__)
