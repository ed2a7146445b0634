"""Module: a tree of parameters, buffers and submodules with a forward function."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from .. import dtypes
from ..device import check as check_device
from ..errors import kind_of
from ..functions.creation import uninitialized
from ..graph.node import clock
from ..kernels import cpu
from ..tensor import Tensor, changed, wrap
from .hooks import Hooked, in_use
from .parameter import Buffer, Parameter, in_place_of
from .paths import Paths

_TABLES = ("_parameters", "_buffers", "_modules")


class _IncompatibleKeys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"_IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )


class Module(Hooked, Paths):
    """Base class of all layers and models; define `__init__` and `forward`.

    Attributes that are Parameters, Modules or registered buffers are found again by
    `parameters()`, `state_dict()` and the rest, in the order of their registration.
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, "Module | None"]
    _transient: set[str]

    def __init__(self) -> None:
        store = self.__dict__
        store["training"] = True
        store["_parameters"] = {}
        store["_buffers"] = {}
        store["_transient"] = set()
        store["_modules"] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation; every Module overrides this."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `forward` gives, with the hooks around it."""
        if in_use and (own := self.__dict__.get("_hooks")) is not None:
            return self._call_with_hooks(own, args, kwargs)
        return self.forward(*args, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Let `forward` be recorded at its first call, as `microtorch.compile(module)` would."""
        import importlib

        compiler = importlib.import_module("microtorch.capture.program")
        found = compiler.compile(self.forward, *args, **kwargs)
        self.forward = found  # type: ignore[method-assign]

    # ---------------------------------------------------------------------- attributes
    def __setattr__(self, name: str, value: Any) -> None:
        store = self.__dict__
        if value is not None and (
            store.get(name) is value or store.get("_buffers", {}).get(name) is value
        ):
            return
        clock.epoch += 1
        if isinstance(value, (Parameter, Module)):
            kind = "parameters" if isinstance(value, Parameter) else "module"
            table = store.get("_parameters" if kind == "parameters" else "_modules")
            if table is None:
                raise AttributeError(f"cannot assign {kind} before Module.__init__() call")
            for other in _TABLES:
                if store[other] is not table:
                    store[other].pop(name, None)
            # Kept as an ordinary attribute too, which is found twenty times faster.
            table[name] = store[name] = value
            return
        if "_parameters" in store:
            if name in store["_parameters"]:
                if value is not None:
                    raise TypeError(
                        f"cannot assign '{_type_of(value)}' as parameter '{name}' "
                        "(torch.nn.Parameter or None expected)"
                    )
                store["_parameters"][name] = store[name] = None
                return
            if name in store["_modules"] and value is None:
                store["_modules"][name] = store[name] = None
                return
            if name in store["_modules"]:
                raise TypeError(
                    f"cannot assign '{_type_of(value)}' as child module '{name}' "
                    "(torch.nn.Module or None expected)"
                )
            if isinstance(value, Buffer):
                self.register_buffer(name, value, value.persistent)
                return
            if name in store["_buffers"]:
                if value is not None and not isinstance(value, Tensor):
                    raise TypeError(
                        f"cannot assign '{type(value).__name__}' as buffer '{name}' "
                        "(torch.nn.Buffer, torch.Tensor or None expected)"
                    )
                store["_buffers"][name] = value
                return
        elif isinstance(value, Buffer):
            raise AttributeError("cannot assign buffer before Module.__init__() call")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        store = self.__dict__
        for table in _TABLES:
            if table in store and name in store[table]:
                return store[table][name]
        text = f"'{type(self).__name__}' object has no attribute '{name}'"
        raise AttributeError(text, name=name, obj=self)

    def __delattr__(self, name: str) -> None:
        clock.epoch += 1
        found = [t for t in _TABLES if self.__dict__[t].pop(name, self) is not self]
        if self.__dict__.pop(name, self) is self and not found:
            object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        tables = (self.__dict__.get(t, {}) for t in _TABLES)
        return sorted({*super().__dir__(), *(name for table in tables for name in table)})

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or None as a placeholder.

        Raises:
            TypeError: if it is no Parameter.
            KeyError: for a name that is taken, empty, or has a dot in it.
        """
        self._check_name("parameter", name, self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{_type_of(param)}' object to parameter '{name}' "
                "(torch.nn.Parameter or None required)"
            )
        # Kept as an ordinary attribute too, as by an assignment.
        self._parameters[name] = self.__dict__[name] = param
        clock.epoch += 1

    def _check_name(self, kind: str, name: Any, table: Mapping[str, Any]) -> None:
        """Refuse a name under which nothing can be registered in a table."""
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'{kind} name can\'t contain "."')
        if not name:
            raise KeyError(f'{kind} name can\'t be empty string ""')
        if hasattr(self, name) and name not in table:
            raise KeyError(f"attribute '{name}' already exists")

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is part of the state but not trained.

        Raises:
            As register_parameter.
        """
        self._check_name("buffer", name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' "
                "(torch Tensor or None required)"
            )
        self._buffers[name] = tensor
        clock.epoch += 1
        (self._transient.discard if persistent else self._transient.add)(name)

    def add_module(self, name: str, module: "Module | None") -> None:
        """Add a submodule under a name.

        Raises:
            TypeError: if it is no Module.
            KeyError: for a name that is taken, empty, or has a dot in it.
        """
        if module is not None and not isinstance(module, Module):
            kind = module if isinstance(module, type) else type(module)
            raise TypeError(f"{kind.__name__} is not a Module subclass")
        self._check_name("module", name, self._modules)
        self._modules[name] = module
        clock.epoch += 1

    register_module = add_module

    # ----------------------------------------------------------------------- traversal
    def named_modules(
        self, memo: set["Module"] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, "Module"]]:
        """This module and all below it, with their dotted names."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                dotted = prefix + ("." if prefix else "") + name
                yield from module.named_modules(memo, dotted, remove_duplicate)

    def modules(self) -> Iterator["Module"]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The direct submodules, with their names."""
        return ((n, m) for n, m in self._modules.items() if m is not None)

    def children(self) -> Iterator["Module"]:
        """The direct submodules."""
        return (module for _, module in self.named_children())

    def _named(self, table: str, prefix: str, recurse: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules() if recurse else [("", self)]:
            for name, value in module.__dict__[table].items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield ".".join(filter(None, (prefix, path, name))), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with their dotted names."""
        return self._named("_parameters", prefix, recurse)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Parameters, in the order of registration."""
        return (value for _, value in self._named("_parameters", "", recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Buffers with their dotted names."""
        return self._named("_buffers", prefix, recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Buffers, in the order of registration."""
        return (value for _, value in self._named("_buffers", "", recurse))

    # ------------------------------------------------------------------------- changes
    def apply(self, fn: Callable[["Module"], Any]) -> Self:
        """Call fn on every submodule, children first, then on this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout, batch normalization) here and below."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for module in self.modules():
            module.__dict__["training"] = mode
        clock.epoch += 1
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of all parameters, or for none."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or fill them with zeros."""
        for parameter in self.parameters():
            if set_to_none:
                parameter._grad = None
            elif parameter._grad is not None:
                parameter._grad.zero_()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast parameters and buffers in place; integer buffers keep their dtype."""
        dtype, device = kwargs.get("dtype"), kwargs.get("device")
        for value in args:
            if isinstance(value, Tensor):
                dtype, device = value.dtype, value.device
            elif isinstance(value, dtypes.dtype):
                dtype = value
            elif not isinstance(value, bool):
                device = value
        place = None if device is None else check_device(device)
        if dtype is not None:
            clock.epoch += 1
            if not dtype.is_floating_point:
                raise TypeError(
                    "nn.Module.to only accepts floating point or complex dtypes, but got desired "
                    f"dtype={dtype}"
                )
            for tensor in (*self.parameters(), *self.buffers()):
                if tensor.is_floating_point():
                    tensor._array = tensor._array.astype(dtype.numpy, copy=False)
                    if tensor._grad is not None:
                        tensor._grad = wrap(tensor._grad._array.astype(dtype.numpy, copy=False))
        if place is not None:
            self._move(place)
        return self

    def _move(self, place: Any) -> None:
        for tensor in (*self.parameters(), *self.buffers()):
            for each in (tensor, tensor._grad):
                if each is not None and each.device is not place:
                    each._array = cpu.move(each._array, place)
                    clock.epoch += 1

    def cpu(self) -> Self:
        """Parameters and buffers on the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """On a GPU.

        Raises:
            AssertionError: if there is none.
        """
        return self.to("cuda" if device is None else device)

    def float(self) -> Self:
        """Parameters and buffers as float32."""
        return self.to(dtypes.float32)

    def double(self) -> Self:
        """Parameters and buffers as float64."""
        return self.to(dtypes.float64)

    def half(self) -> Self:
        """Parameters and buffers as float16, which can be stored but not computed with."""
        return self.to(dtypes.float16)

    def bfloat16(self) -> Self:
        """Refused with a RuntimeError: there is no such dtype."""
        raise RuntimeError("microtorch has no dtype bfloat16")

    def type(self, dst_type: Any) -> Self:
        """Parameters and buffers, those of integers too, as another dtype."""
        found = [(t, t.type(dst_type)) for t in (*self.parameters(), *self.buffers())]
        for tensor, cast in found:
            if tensor.requires_grad and not cast.is_floating_point():
                raise RuntimeError(
                    "data set to a tensor that requires gradients must be floating point or "
                    "complex dtype"
                )
        for tensor, cast in found:
            tensor._array = cast._array
        return self

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Parameters and buffers with memory that is not initialized."""
        for tensor in (*self.parameters(recurse), *self.buffers(recurse)):
            tensor._array = uninitialized(tensor._array.shape, tensor._array.dtype, device)
        return self

    # --------------------------------------------------------------------------- state
    def _state(self, prefix: str = "", keep: bool = True) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._parameters.items():
            if parameter is not None:
                yield prefix + name, parameter
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._transient:
                yield prefix + name, buffer
        for name, module in self.named_children():
            yield from module._state(prefix + name + ".")

    def state_dict(
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> "OrderedDict[str, Tensor]":
        """Parameters and buffers by dotted name, sharing memory with the module."""
        found = OrderedDict() if destination is None else destination
        self._call_state_hooks("state_pre", prefix, keep_vars)
        for name, tensor in self._state(prefix):
            found[name] = tensor if keep_vars else wrap(tensor._array)
        self._call_state_hooks("state", prefix, found)
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Copy a state into the parameters and buffers; all is checked before any is changed.

        assign: put the state's tensors in their places instead.

        Raises:
            TypeError: if it is no mapping.
            RuntimeError: for wrong shapes, and if strict for missing or unexpected keys.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        state_dict = self._before_load(state_dict, strict)
        own = dict(self._state())
        missing = [k for k in own if k not in state_dict]
        unexpected = self._in_order([k for k in state_dict if k not in own])
        errors = []
        if strict and missing:
            errors.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
        if strict and unexpected:
            errors.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
        for key, tensor in own.items():
            if key not in state_dict:
                continue
            new = state_dict[key]
            if not isinstance(new, Tensor):
                what = kind_of(new) if "asarray" in kind_of(new) else type(new)
                errors.append(
                    f'While copying the parameter named "{key}", expected torch.Tensor or '
                    f"Tensor-like object from checkpoint but received {what}"
                )
            elif new._array.shape != tensor._array.shape:
                errors.append(
                    f"size mismatch for {key}: copying a param with shape {new.shape} from "
                    f"checkpoint, the shape in current model is {tensor.shape}."
                )
        if errors:
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(self).__name__}:\n\t"
                + "\n\t".join(errors)
            )
        clock.epoch += 1
        for key, tensor in own.items():
            if key in state_dict:
                if assign:
                    path, _, name = key.rpartition(".")
                    setattr(self.get_submodule(path), name, in_place_of(tensor, state_dict[key]))
                else:
                    np.copyto(tensor._array, state_dict[key]._array, casting="unsafe")
                    changed(tensor)
        keys = _IncompatibleKeys(missing, unexpected)
        self._call_state_hooks("load", "", keys)
        return keys

    def _in_order(self, keys: list[str]) -> list[str]:
        """Dotted names that there are not, in the order of the modules that they lead to."""
        places = {path: k for k, (path, _) in enumerate(self.named_modules(remove_duplicate=False))}

        def place(key: str) -> int:
            path = key.rpartition(".")[0]
            while path not in places:
                path = path.rpartition(".")[0]
            return places[path]

        return sorted(keys, key=place)

    # ------------------------------------------------------------------------ printing
    def extra_repr(self) -> str:
        """The arguments that the printed form shows."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({n}): " + indented(repr(m)) for n, m in self._modules.items()]
        name = type(self).__name__
        if not children and len(lines) <= 1:
            return f"{name}({extra})"
        return f"{name}(\n  " + "\n  ".join(lines + children) + "\n)"


def indented(text: str) -> str:
    """Text that continues a line two spaces deeper."""
    return text.replace("\n", "\n  ")


def _type_of(value: Any) -> str:
    return value.type() if isinstance(value, Tensor) else type(value).__name__


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{k}"' for k in keys)
