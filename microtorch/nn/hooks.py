"""Hooks of modules: called around forward, and when gradients pass a module's border."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..autograd.function import Function
from ..graph.hooks import RemovableHandle
from ..graph.node import clock, mode
from ..tensor import Tensor

# Not empty once any module has a hook: modules look for theirs from then on.
in_use: list[bool] = []


class ModuleHooks:
    """The hooks of one module, by number; those `with_kwargs` are named in `keyword`."""

    def __init__(self) -> None:
        self.forward_pre: dict[int, Callable[..., Any]] = {}
        self.forward: dict[int, Callable[..., Any]] = {}
        self.backward_pre: dict[int, Callable[..., Any]] = {}
        self.backward: dict[int, Callable[..., Any]] = {}
        # Around state_dict and load_state_dict.
        self.state_pre: dict[int, Callable[..., Any]] = {}
        self.state: dict[int, Callable[..., Any]] = {}
        self.load_pre: dict[int, Callable[..., Any]] = {}
        self.load: dict[int, Callable[..., Any]] = {}
        self.keyword: dict[int, bool] = {}
        # Hooks of forward that are called also where it, or a hook before them, raises.
        self.always: dict[int, bool] = {}
        in_use[:] = [True]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        in_use[:] = [True]


class Hooked:
    """The part of Module that registers hooks and calls them."""

    def _add_hook(
        self, kind: str, hook: Callable[..., Any], prepend: bool, with_kwargs: bool = False
    ) -> RemovableHandle:
        own = self.__dict__.get("_hooks")
        if own is None:
            own = self.__dict__["_hooks"] = ModuleHooks()
        clock.epoch += 1
        hooks = getattr(own, kind)
        handle = RemovableHandle(hooks, extra_dict=own.keyword)
        earlier = dict(hooks) if prepend else {}
        for number in earlier:
            del hooks[number]
        hooks[handle.id] = hook
        hooks.update(earlier)
        if with_kwargs:
            own.keyword[handle.id] = True
        return handle

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before forward; it may give other arguments.

        with_kwargs: call `hook(module, args, kwargs)`, which gives None or both.
        """
        return self._add_hook("forward_pre", hook, prepend, with_kwargs)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:  # fmt: skip
        """Call `hook(module, args, output)` after forward; it may give another output.

        with_kwargs: call `hook(module, args, kwargs, output)`. always_call: call it also where
        forward raises, with None as output.
        """
        handle = self._add_hook("forward", hook, prepend, with_kwargs)
        if always_call:
            self.__dict__["_hooks"].always[handle.id] = True
        return handle

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, grad_output)` when gradients of the outputs are there; it may give
        others."""
        return self._add_hook("backward_pre", hook, prepend)

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` when gradients of the inputs are there; it
        may give other gradients of the inputs."""
        return self._add_hook("backward", hook, prepend)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, prefix, keep_vars)` before the module's state is taken."""
        return self._add_hook("state_pre", hook, False)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata)` when the state is taken; it may
        change state_dict, and must return None."""
        return self._add_hook("state", hook, False)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata, strict, missing_keys,
        unexpected_keys, error_msgs)` before a state is loaded; it may change state_dict, a copy of
        the module's part.
        The three lists are empty."""
        return self._add_hook("load_pre", hook, False)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, incompatible_keys)` when a state has been loaded; it may change the
        lists of keys, and must return None."""
        return self._add_hook("load", hook, False)

    def _hooks_below(self, kind: str) -> Iterator[tuple[str, Any, list[Callable[..., Any]]]]:
        """Path, module and hooks of this module and all below that have any of a kind."""
        for path, module in self._tree("", kind.endswith("pre")) if in_use else ():
            own = module.__dict__.get("_hooks")
            if own is not None and getattr(own, kind):
                yield path, module, list(getattr(own, kind).values())

    def _tree(self, path: str, parents_first: bool) -> Iterator[tuple[str, Any]]:
        if parents_first:
            yield path, self
        for name, module in self.named_children():  # type: ignore[attr-defined]
            yield from module._tree(path + name + ".", parents_first)
        if not parents_first:
            yield path, self

    def _call_state_hooks(self, kind: str, prefix: str, value: Any) -> None:
        for path, module, hooks in self._hooks_below(kind):
            for hook in hooks:
                if kind == "state_pre":
                    hook(module, prefix + path, value)
                    continue
                more = (prefix + path, {"version": 1}) if kind == "state" else ()
                if hook(module, value, *more) is not None:
                    raise RuntimeError("state_dict post-hook must return None")

    def _before_load(self, state_dict: Mapping[str, Any], strict: bool) -> Mapping[str, Any]:
        """The state to load, after the hooks that may change it."""
        for path, module, hooks in self._hooks_below("load_pre"):
            part = {k: v for k, v in state_dict.items() if k.startswith(path)}
            others = {k: v for k, v in state_dict.items() if k not in part}
            for hook in hooks:
                hook(module, part, path, {"version": 1}, strict, [], [], [])
            state_dict = others | part
        return state_dict

    def _call_with_hooks(self, own: ModuleHooks, args: Any, kwargs: Any) -> Any:
        call = _Call(args, kwargs)
        if not own.always:
            return self._hooked_forward(own, call)
        try:
            return self._hooked_forward(own, call)
        except Exception:
            for number, hook in list(own.forward.items()):
                if number in own.always and number not in call.called:
                    try:
                        call.result_of(self, own, number, hook)
                    except Exception as error:
                        warnings.warn(
                            "module forward hook with ``always_call=True`` raised an exception "
                            "that was silenced as another error was raised in forward: "
                            + str(error),
                            stacklevel=3,
                        )
            raise

    def _hooked_forward(self, own: ModuleHooks, call: "_Call") -> Any:
        args, kwargs = call.args, call.kwargs
        for number, hook in list(own.forward_pre.items()):
            if number in own.keyword:
                found = hook(self, args, kwargs)
                if found is not None:
                    if not isinstance(found, tuple) or len(found) != 2:
                        raise RuntimeError(
                            "forward pre-hook must return None or a tuple of (new_args, "
                            f"new_kwargs), but got {found}."
                        )
                    args, kwargs = found
            else:
                found = hook(self, args)
                if found is not None:
                    args = found if isinstance(found, tuple) else (found,)
        border = Border(self, own) if own.backward or own.backward_pre else None
        if border is not None:
            args = border.enter(args)
        call.args, call.kwargs = args, kwargs
        call.result = self.forward(*args, **kwargs)  # type: ignore[attr-defined]
        for number, hook in list(own.forward.items()):
            call.result_of(self, own, number, hook)
        result = call.result
        if border is None:
            return result
        if not isinstance(result, (Tensor, tuple)):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of "
                f"Tensors but received {type(result)}",
                stacklevel=3,
            )
            return result
        left = border.leave(result if isinstance(result, tuple) else (result,))
        return left if isinstance(result, tuple) else left[0]


class _Call:
    """One call of a module: its arguments, its result, and which hooks have been called."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs
        self.result: Any = None
        self.called: set[int] = set()

    def result_of(self, module: Any, own: ModuleHooks, number: int, hook: Any) -> None:
        """Call a hook of forward, and take the result that it gives."""
        self.called.add(number)
        more = (self.args, self.kwargs) if number in own.keyword else (self.args,)
        found = hook(module, *more, self.result)
        if found is not None:
            self.result = found


class Border:
    """Gradients at the outputs and inputs of one call of a module."""

    def __init__(self, module: Any, own: ModuleHooks) -> None:
        self.module = module
        self.before = list(own.backward_pre.values())
        self.after = list(own.backward.values())
        self.grad_outputs: tuple[Any, ...] | None = None
        # Where tensors are among the inputs, or None if none of these requires grad.
        self.inputs: list[int] | None = None
        self.outputs: list[int] | None = None
        # How many arguments and results there are.
        self.count = self.left = 0

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, behind a node that calls the hooks."""
        self.count = len(args)
        found, self.inputs = self._behind(args, self._at_inputs, True)
        return found

    def leave(self, results: tuple[Any, ...]) -> tuple[Any, ...]:
        """The results, behind a node that sees their gradients first."""
        self.left = len(results)
        found, self.outputs = self._behind(results, self._at_outputs, False)
        return found

    @staticmethod
    def _behind(
        values: tuple[Any, ...], hook: Callable[..., Any], zeros: bool
    ) -> tuple[tuple[Any, ...], list[int] | None]:
        places = [k for k, v in enumerate(values) if isinstance(v, Tensor)]
        if not (mode.enabled and any(values[k].requires_grad for k in places)):
            return values, None
        linked = list(values)
        made = BackwardHookFunction.apply(hook, zeros, *[values[k] for k in places])
        for k, v in zip(places, made, strict=True):
            linked[k] = v
        # A named tuple stays one.
        kind = type(values)
        return (tuple(linked) if kind is tuple else kind(*linked)), places

    def _spread(self, places: list[int], grads: tuple[Any, ...], count: int) -> tuple[Any, ...]:
        known = dict(zip(places, grads, strict=True))
        return tuple(known.get(k) for k in range(count))

    def _at_outputs(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        places = self.outputs or []
        spread = self._spread(places, grads, self.left)
        for hook in self.before:
            found = hook(self.module, spread)
            if found is None:
                continue
            found = found if isinstance(found, tuple) else (found,)
            if len(found) != len(spread):
                raise RuntimeError(
                    "Backward pre hook returned an invalid number of grad_output, got "
                    f"{len(found)}, but expected {len(spread)}"
                )
            spread = found
        self.grad_outputs = spread
        if self.inputs is None:
            self._without_inputs()
        return tuple(spread[k] for k in places)

    def _without_inputs(self) -> None:
        warnings.warn(
            "Full backward hook is firing when gradients are computed with respect to module "
            "outputs since no inputs require gradients. See "
            "https://docs.pytorch.org/docs/main/generated/torch.nn.Module.html"
            "#torch.nn.Module.register_full_backward_hook for more details.",
            stacklevel=2,
        )
        for hook in self.after:
            found = hook(self.module, (None,) * self.count, self.grad_outputs)
            if found is not None and not (
                isinstance(found, tuple) and all(d is None for d in found)
            ):
                raise RuntimeError(
                    "Backward hook for Modules where no input requires gradient should always "
                    "return None or None for all gradients."
                )
        self.grad_outputs = None

    def _at_inputs(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.grad_outputs is None:
            # Gradients that reach the inputs around the outputs, as in a second backward.
            return grads
        spread = self._spread(self.inputs or [], grads, self.count)
        for hook in self.after:
            found = hook(self.module, spread, self.grad_outputs)
            if found is None:
                continue
            found = found if isinstance(found, tuple) else (found,)
            if len(found) != len(spread):
                raise RuntimeError(
                    "Backward hook returned an invalid number of grad_input, got "
                    f"{len(found)}, but expected {len(spread)}"
                )
            spread = found
        self.grad_outputs = None
        return tuple(spread[k] for k in self.inputs or ())


class BackwardHookFunction(Function):
    """Tensors as they are; backward gives their gradients to a hook, which may replace them."""

    @staticmethod
    def forward(ctx: Any, hook: Callable[..., Any], zeros: bool, *tensors: Tensor) -> Any:
        """The tensors; those that do not require grad stay without."""
        ctx.hook = hook
        ctx.set_materialize_grads(zeros)
        ctx.mark_non_differentiable(*[t for t in tensors if not t.requires_grad])
        return tensors

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """What the hook leaves."""
        return (None, None, *ctx.hook(grads))
