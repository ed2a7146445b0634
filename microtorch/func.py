"""`torch.func`: a module called with other tensors in the places of its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .errors import unknown_names
from .graph.node import clock
from .nn.module import Module
from .tensor import Tensor

__all__ = ["functional_call"]

Tensors = dict[str, Any]


def functional_call(
    module: Module, parameter_and_buffer_dicts: Tensors | Sequence[Tensors], args: Any = None,
    kwargs: dict[str, Any] | None = None, *, tie_weights: bool = True, strict: bool = False,
) -> Any:  # fmt: skip
    """What a module gives with the tensors of a dict, or of several, for parameters and buffers.

    tie_weights: a tensor that the module has under several names is replaced under all of them.
    strict: there must be a tensor for each name, and no others. A buffer that the call puts in the
    place of a given one is put into the dict.

    Raises:
        RuntimeError: for names that are missing or unexpected, if strict.
        ValueError: for tensors given twice, or where there is no dict.
    """
    given = _merged(parameter_and_buffer_dicts)
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    with _replaced(module, given, tie_weights, strict):
        return module(*args, **({} if kwargs is None else kwargs))


def _merged(dicts: Any) -> Tensors:
    """One dict of several, or the only one itself."""
    if isinstance(dicts, dict):
        return dicts
    if not isinstance(dicts, (list, tuple)):
        raise ValueError(
            "Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got "
            f"{type(dicts)}"
        )
    if not all(isinstance(d, dict) for d in dicts):
        raise ValueError("Expected all elements of parameter_and_buffer_dicts to be dictionaries")
    names = [name for d in dicts for name in d]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{twice} appeared in multiple dictionaries; behavior of functional call is ambiguous"
        )
    return {name: value for d in dicts for name, value in d.items()}


@contextmanager
def _replaced(module: Module, given: Tensors, tie_weights: bool, strict: bool) -> Iterator[None]:
    """Tensors in the places of a module's own, while the block runs."""
    own: dict[str, Any] = {}
    for path, inner in module.named_modules(remove_duplicate=False):
        for table in (inner._parameters, inner._buffers):
            for name, value in table.items():
                own[f"{path}.{name}" if path else name] = value
    put = _with_tied(given, own) if tie_weights else dict(given)
    if strict:
        _check_names(module, put, own)
    places: list[Any] = []
    for name, value in put.items():
        path, _, attribute = name.rpartition(".")
        if not attribute:
            raise KeyError('tensor name can\'t be empty string ""')
        if not isinstance(value, Tensor) and value is not None:
            raise TypeError(f"{value} is not an instance of torch.Tensor")
        store = module.get_submodule(path).__dict__
        tables = (store["_parameters"], store["_buffers"], store)
        places += [(t, attribute, t[attribute], name) for t in tables if attribute in t]
    for table, attribute, _, name in places:
        table[attribute] = put[name]
    clock.epoch += 1
    try:
        yield
    finally:
        for table, attribute, old, name in places:
            left = table.get(attribute)
            table[attribute] = old
            if left is not put[name] and name in given:
                given[name] = left
        clock.epoch += 1


def _with_tied(given: Tensors, own: Tensors) -> Tensors:
    """What is given, under all names of the tensors that it replaces."""
    together: dict[int, list[str]] = {}
    for name, tensor in own.items():
        if tensor is not None:
            together.setdefault(id(tensor), []).append(name)
    found = dict(given)
    for names in together.values():
        chosen = [name for name in names if name in given]
        if len({id(given[name]) for name in chosen}) > 1:
            raise ValueError(
                f"functional_call got multiple values for keys {sorted(chosen)}, which are tied. "
                "Consider using tie_weights=False"
            )
        if chosen:
            found.update(dict.fromkeys(names, given[chosen[0]]))
    return found


def _check_names(module: Module, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse names that are not those of the module's tensors."""
    lines = [
        f"\t{kind} key(s): {', '.join(map(repr, sorted(names)))}."
        for kind, names in (
            ("Unexpected", given.keys() - own.keys()),
            ("Missing", {n for n, t in own.items() if t is not None} - given.keys()),
        )
        if names
    ]
    if lines:
        raise RuntimeError(
            "\n".join([f"Error(s) in reparametrizing for {type(module).__name__}:", *lines])
        )


__getattr__ = unknown_names(__name__)
