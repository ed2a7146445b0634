"""Tensors, modules and optimizers that are taken for granted: compared after epochs only."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import chain
from operator import attrgetter, is_, methodcaller
from typing import Any

from ..nn.module import Module
from ..optim.optimizer import Optimizer
from ..tensor import Tensor
from .guards import Guards
from .session import ARRAY
from .usercode import parts_of
from .values import CONTAINERS, frozen, hooks_of

# How often a tensor was found with other memory; from twice on, recordings look where it is at
# every call.
MOVES = "_moves"
# How deep containers in a module or an optimizer's state are looked into.
DEPTH = 3
_OF_TENSORS = attrgetter("_array"), attrgetter("_node"), vars
_OF_DICTS = methodcaller("get", "_hooks"), methodcaller("get", "_leaf_hooks")


class _Identities:
    """What objects consist of, by identity: a look that takes 1/10 of one by value."""

    def __init__(
        self, tensors: Sequence[Tensor], modules: dict[Module, tuple[set[str], Any]],
        optimizers: Sequence[Optimizer],
    ) -> None:  # fmt: skip
        # What functions give of each of some objects.
        self._found: list[tuple[Callable[[Any], Any], Sequence[Any], list[Any]]] = []
        # Containers with the parts of all, dicts with all values, and dicts with some.
        self._containers: list[Any] = []
        self._dicts: list[dict[Any, Any]] = []
        self._some: list[tuple[dict[Any, Any], list[Any], list[Any]]] = []
        dicts = [vars(t) for t in tensors]
        owners = [(_OF_TENSORS, tensors), (_OF_DICTS, dicts), ((type, vars), [*modules])]
        for functions, objects in owners:
            self._found += [(f, objects, [*map(f, objects)]) for f in functions]
        self._hold(hooks for d in dicts for f in _OF_DICTS if (hooks := f(d)))
        for module, (live, _) in modules.items():
            self._hold([vars(module)], live)
            self._hold(filter(None, [hooks_of(module)]))
        for optimizer in optimizers:
            self._add(vars(optimizer), ["state", "param_groups", "_hooks"])
            self._containers.append(optimizer.param_groups)
            for group in optimizer.param_groups:
                self._add(group, ["params"])
            lists = [group["params"] for group in optimizer.param_groups]
            self._hold([optimizer.state, *lists, *filter(None, [optimizer._hooks])])
        self._lengths = [*map(len, self._containers)]
        self._parts = [*chain.from_iterable(self._containers)]
        self._values = [*chain.from_iterable(map(dict.values, self._dicts))]

    def _add(self, container: dict[Any, Any], keys: list[Any]) -> None:
        self._some.append((container, keys, [*map(container.get, keys)]))

    def _hold(self, roots: Iterable[Any], without: Set[str] = frozenset()) -> None:
        """Hold containers with all that they contain, but the values of some keys of roots."""
        for root in roots:
            for container in _nested(root, DEPTH):
                self._containers.append(container)
                if container is root and without:
                    self._add(container, [k for k in container if k not in without])
                elif isinstance(container, dict):
                    self._dicts.append(container)

    def same(self) -> bool:
        """Whether nothing has changed for sure."""
        return (
            all(all(map(is_, map(f, objects), was)) for f, objects, was in self._found)
            and [*map(len, self._containers)] == self._lengths
            and all(map(is_, chain.from_iterable(self._containers), self._parts))
            and all(map(is_, chain.from_iterable(map(dict.values, self._dicts)), self._values))
            and all(all(map(is_, map(d.get, keys), was)) for d, keys, was in self._some)
        )


def _nested(container: Any, depth: int) -> Iterator[Any]:
    yield container
    for part in parts_of(container) if depth > 1 else ():
        if isinstance(part, CONTAINERS):
            yield from _nested(part, depth - 1)


class Lasting:
    """What tensors, modules and optimizers were when a call was recorded."""

    def __init__(
        self, tensors: list[tuple[Tensor, Any]], guards: Guards, optimizers: list[Optimizer]
    ) -> None:  # fmt: skip
        # With the nodes that they had at entry.
        self._tensors = [(t, ARRAY.__get__(t), node, _hooks(t)) for t, node in tensors]
        self._optimizers = [(o, _members(o)) for o in optimizers]
        self._guards = guards
        self._identities: _Identities | None = None

    def same(self) -> bool:
        """Whether all are as they were."""
        if self._identities is None or not self._identities.same():
            if not self._equal():
                return False
            tensors, optimizers = [t for t, *_ in self._tensors], [o for o, _ in self._optimizers]
            self._identities = _Identities(tensors, self._guards.modules, optimizers)
        return True

    def _equal(self) -> bool:
        for t, array, node, hooks in self._tensors:
            if t._array is not array:
                t.__dict__[MOVES] = t.__dict__.get(MOVES, 0) + 1
                return False
            if t._node is not node or _hooks(t) != hooks:
                return False
        optimizers_same = all(_members(o) == was for o, was in self._optimizers)
        return optimizers_same and self._guards.rare()


def _hooks(t: Tensor) -> tuple[Any, ...]:
    """The numbers of a leaf's hooks."""
    return tuple(tuple(t.__dict__.get(name, ())) for name in ("_hooks", "_leaf_hooks"))


def _members(optimizer: Any) -> Any:
    """Which groups, parameters, tensors of state and hooks an optimizer has, by identity."""
    groups = [(id(g), [*map(id, g["params"])]) for g in optimizer.param_groups]
    states = {id(p): frozen(s) for p, s in optimizer.state.items()}
    hooks = [id(h) for kind in ("step_pre", "step") for h in optimizer._hooks_of(kind)]
    return id(optimizer.state), groups, states, hooks
