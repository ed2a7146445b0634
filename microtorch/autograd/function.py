"""`Function`: an op whose forward and backward are the user's own.

The context that forward fills is the graph's node. A Function of several outputs has one node an
output besides: it hands the gradient of its output, with its number, to the context's node, where
the engine adds them up before backward is called once.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any
from weakref import ref

import numpy as np

from ..functions.history import forget, take_over
from ..functions.op import record
from ..functions.op import tensors as primitives
from ..graph.engine import SECOND_BACKWARD
from ..graph.node import LEAF, Node, mode, next_seq
from ..tensor import Tensor, changed, edge, new, view, wrap

NOT_IMPLEMENTED = (
    "You must implement either the backward or vjp method for your custom autograd.Function to "
    "use it with backward mode AD."
)


class Parts(dict[int, Any]):
    """Gradients of some outputs of one Function, by number."""

    def __add__(self, other: "Parts") -> "Parts":
        found = Parts(self)
        for number, g in other.items():
            found[number] = found[number] + g if number in found else g
        return found


class FunctionCtx(Node):
    """What forward leaves for backward: saved tensors, marks, and attributes of any name."""

    materialize_grads = True
    to_save: tuple[Any, ...] = ()
    dirty_tensors: tuple[Any, ...] = ()
    non_differentiable: tuple[Any, ...] = ()
    needs_input_grad: tuple[bool, ...] = ()
    # Shape and dtype of each output, None for what is no tensor.
    outputs: tuple[Any, ...] = ()
    # Position, shape and dtype of the arguments that are tensors; how many arguments there are.
    inputs: tuple[tuple[int, tuple[int, ...], Any], ...] = ()
    count = 0
    # Which of the saved values are outputs: place -> number of the output and a weak reference
    # to its node.
    _results: dict[int, tuple[int, Any]] = {}

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep inputs, outputs, other tensors or None for backward's `ctx.saved_tensors`."""
        self.to_save = tensors

    def mark_dirty(self, *args: Any) -> None:
        """Say which inputs forward changed in place; they must be among the outputs."""
        self.dirty_tensors = args

    def mark_non_differentiable(self, *args: Any) -> None:
        """Say which outputs have no gradient."""
        self.non_differentiable = args

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward is given zeros, or None, for outputs that nothing depended on."""
        self.materialize_grads = value

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What was saved, outputs with their history.

        Raises:
            RuntimeError: if it has been freed.
        """
        if self.saved is None:
            raise RuntimeError(SECOND_BACKWARD)
        return tuple(
            self._result(s, *self._results[place]) if place in self._results else s
            for place, s in enumerate(self.saved)
        )

    def _result(self, array: Any, number: int, reference: Any) -> Tensor:
        z = wrap(array)
        if len(self.outputs) == 1:
            z._node = self
        else:
            z._node = reference() or _output_node(self, number, False)
        return z

    def _keep(self, tensors: list[Any]) -> None:
        """Pack what was saved: outputs as arrays, which makes no circle of references."""
        saved: list[Any] = []
        self._results = {}
        for place, s in enumerate(self.to_save):
            if s is not None and not isinstance(s, Tensor):
                raise TypeError(
                    f"save_for_backward can only save variables, but argument {place} is of type "
                    + type(s).__name__
                )
            number = next((k for k, t in enumerate(tensors) if t is s and s is not None), None)
            if number is None:
                saved.append(s)
                continue
            saved.append(tensors[number]._array)
            self._results[place] = (number, None)
        self.saved = tuple(saved)


class OutputNode(Node):
    """The node of one of several outputs; its attributes are those of the context."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parents[0], name)

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """Those of the whole Function."""
        return self.parents[0].next_functions  # type: ignore[no-any-return]


class _OutputOp:
    """Hands the gradient of one output to the Function's node."""

    def __init__(self, saves_result: bool) -> None:
        self.saves_result = saves_result

    def backward(self, node: Node, g: Any) -> tuple[Parts]:
        """The gradient with the output's number."""
        return (Parts({node.const: g}),)

    differentiate = backward


class _FunctionOp:
    """Runs the user's backward, with grad mode on where the graph of it is wanted."""

    def __init__(self, saves_result: bool) -> None:
        self.saves_result = saves_result

    def backward(self, node: Any, g: Any) -> tuple[Any, ...]:
        """Gradients of the tensors among the arguments, as arrays."""
        before = mode.enabled
        mode.enabled = False
        try:
            parts = Parts((k, wrap(a)) for k, a in g.items()) if isinstance(g, Parts) else wrap(g)
            return tuple([None if d is None else d._array for d in _gradients(node, parts)])
        finally:
            mode.enabled = before

    def differentiate(self, node: Any, g: Any) -> tuple[Any, ...]:
        """Gradients of the tensors among the arguments, as Tensors with a history."""
        return _gradients(node, g)


_OUTPUT = (_OutputOp(False), _OutputOp(True))
_FUNCTION = (_FunctionOp(False), _FunctionOp(True))


def _output_node(ctx: FunctionCtx, number: int, saved: bool) -> Node:
    node: Node = new(ctx.output_class)  # type: ignore[attr-defined]
    node.op = _OUTPUT[saved]
    node.seq = next_seq()
    node.parents = (ctx,)
    # Lets an in-place change of an output that was saved be noticed.
    node.saved = (number,) if saved else ()
    node.const = number
    return node


def _gradients(node: Any, g: Any) -> tuple[Any, ...]:
    """What the user's backward returns, checked, cast and summed to the arguments' shapes."""
    parts = g if isinstance(g, Parts) else {0: g}
    grads = [parts.get(number) for number in range(len(node.outputs))]
    if node.materialize_grads:
        grads = [
            wrap(np.zeros(*meta)) if g is None and meta is not None else g
            for g, meta in zip(grads, node.outputs, strict=True)
        ]
    found = node.function._backward()(node, *grads)
    if not isinstance(found, tuple):
        found = (found,)
    name, count = type(node).__name__, node.count
    if len(found) < count or any(d is not None for d in found[count:]):
        raise RuntimeError(
            f"function {name} returned an incorrect number of gradients (expected {count}, got "
            f"{len(found)})"
        )
    tensors = {position for position, _, _ in node.inputs}
    for position, d in enumerate(found):
        if d is not None and position not in tensors:
            raise RuntimeError(
                f"function {name} returned a gradient different than None at position "
                f"{position + 1}, but the corresponding forward input was not a Variable"
            )
        if d is not None and not isinstance(d, Tensor):
            raise RuntimeError(f"expected Variable or None (got {type(d).__name__})")
    return tuple(
        _fitted(found[position], name, k, shape, dtype)
        for k, (position, shape, dtype) in enumerate(node.inputs)
    )


def _fitted(d: Any, name: str, index: int, shape: tuple[int, ...], dtype: Any) -> Any:
    if d is None:
        return None
    own = d._array.shape
    if own != shape:
        lead = len(own) - len(shape)
        if lead < 0 or any(n != 1 and n != m for n, m in zip(shape, own[lead:], strict=True)):
            raise RuntimeError(
                f"Function {name} returned an invalid gradient at index {index} - got {list(own)} "
                f"but expected shape compatible with {list(shape)}"
            )
        d = primitives.sum_to(d, shape)
    return d if d.dtype is dtype else primitives.cast(d, dtype)


class Function:
    """Base class of one's own ops; `apply` calls them.

    forward: `forward(ctx, *args)`, or `forward(*args)` beside `setup_context(ctx, inputs, output)`;
    gives a Tensor or a tuple. backward: `backward(ctx, *grad_outputs)` gives a gradient, or None,
    for each argument. Both are static methods.
    """

    context_class: type[FunctionCtx]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name, scope = cls.__name__ + "Backward", {"__module__": "torch.autograd.function"}
        outputs = type(name, (OutputNode,), {**scope, "__slots__": ()})
        cls.context_class = type(
            name, (FunctionCtx,), {**scope, "function": cls, "output_class": outputs}
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            f"{type(self)} should not be instantiated. Methods on autograd functions are all "
            "static, so you should invoke them on the class itself. Instantiating an autograd "
            "function will raise an error in a future version of PyTorch.",
            DeprecationWarning,
            stacklevel=2,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: `apply` is called on the class."""
        raise RuntimeError(
            "Legacy autograd function with non-static forward method is deprecated. Please use "
            "new-style autograd function with static forward method. (Example: "
            "https://pytorch.org/docs/stable/autograd.html#torch.autograd.Function)"
        )

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The computation; every Function overrides this."""
        raise NotImplementedError(
            "You must implement the forward function for custom autograd.Function."
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Fill the context after a forward that takes none."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Gradients of forward's arguments, given those of its outputs."""
        raise NotImplementedError(NOT_IMPLEMENTED)

    vjp = backward

    @classmethod
    def _backward(cls) -> Callable[..., Any]:
        if cls.backward is Function.backward:
            return cls.vjp
        if cls.vjp is not Function.vjp:
            raise RuntimeError(
                "Implementing both 'backward' and 'vjp' for a custom Function is not allowed. You "
                "should only implement one of them."
            )
        return cls.backward

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """What forward gives, in the graph if a Tensor among the arguments requires grad."""
        separate = cls.setup_context is not Function.setup_context
        if separate:
            args, kwargs = _with_defaults(cls.forward, args, kwargs)
        ctx = cls.context_class()
        ctx.saved = ()
        ctx.const = None
        ctx.count = len(args)
        ctx.needs_input_grad = tuple([isinstance(x, Tensor) and x.requires_grad for x in args])
        tensors = [(k, x) for k, x in enumerate(args) if isinstance(x, Tensor)]
        ctx.parents = tuple([edge(x) for _, x in tensors])
        ctx.inputs = tuple([(k, x._array.shape, x.dtype) for k, x in tensors])
        before = mode.enabled
        mode.enabled = False
        try:
            if separate:
                output = cls.forward(*args, **kwargs)
                cls.setup_context(ctx, args, output)
            else:
                output = cls.forward(ctx, *args, **kwargs)
        finally:
            mode.enabled = before
        results = list(output) if isinstance(output, tuple) else [output]
        recorded = mode.enabled and any(ctx.needs_input_grad)
        _link(ctx, results, [x for _, x in tensors], recorded)
        return tuple(results) if isinstance(output, tuple) else results[0]


def _with_defaults(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """All of forward's arguments by position; what does not fit is left for its call to refuse."""
    code = getattr(forward, "__code__", None)
    if code is None:
        return args, kwargs
    names = code.co_varnames[: code.co_argcount]
    values = getattr(forward, "__defaults__", None) or ()
    given = {**dict(zip(names[len(names) - len(values) :], values, strict=True)), **kwargs}
    found = list(args)
    for name in names[len(args) :]:
        if name not in given:
            break
        found.append(given[name])
        kwargs.pop(name, None)
    return tuple(found), kwargs


def _among(x: Any, others: Any) -> bool:
    return any(x is other for other in others)


def _link(ctx: FunctionCtx, results: list[Any], inputs: list[Tensor], recorded: bool) -> None:
    """Put the outputs into the graph, in place of those in `results` where they are inputs."""
    dirty, plain = ctx.dirty_tensors, ctx.non_differentiable
    if not all(_among(x, results) for x in dirty):
        raise RuntimeError(
            "Some elements marked as dirty during the forward method were not returned as output. "
            "The inputs that are modified inplace must all be outputs of the Function."
        )
    for x in dirty:
        if not _among(x, inputs):
            warnings.warn(
                "ctx.mark_dirty() received a tensor that was not an input. Only input Tensors that "
                "have been mutated should be passed to ctx.mark_dirty().",
                stacklevel=4,
            )
        elif recorded and x._node is LEAF:
            raise RuntimeError(
                "a leaf Variable that requires grad has been used in an in-place operation."
            )
        else:
            changed(x)
    tensors = [r if isinstance(r, Tensor) else None for r in results]
    differentiable = [
        recorded and t is not None and t.is_floating_point() and not _among(t, plain)
        for t in tensors
    ]
    if recorded:
        ctx.outputs = tuple(
            [None if t is None else (t._array.shape, t._array.dtype) for t in tensors]
        )
        ctx._keep([t if on else None for t, on in zip(tensors, differentiable, strict=True)])
        kept = {number for number, _ in ctx._results.values()}
        ctx.op = _FUNCTION[bool(kept) and len(results) == 1]
        ctx.seq = next_seq()
    nodes: dict[int, Node] = {}
    for number, t in enumerate(tensors):
        if t is None:
            continue
        if _among(t, inputs) and not _among(t, dirty):
            t = results[number] = view(t, t._array)
        elif not differentiable[number]:
            if not _among(t, inputs):
                t._node = None
            continue
        if not differentiable[number]:
            continue
        node = ctx if len(results) == 1 else _output_node(ctx, number, number in kept)
        nodes[number] = node
        if _among(t, dirty) and _among(t, inputs):
            take_over(t, node)
        else:
            t._node = node
            forget(t)
    if ctx._results:
        ctx._results = {
            place: (number, ref(nodes[number])) for place, (number, _) in ctx._results.items()
        }
    # What forward marked refers to the outputs, and they to this node.
    ctx.to_save = ctx.dirty_tensors = ctx.non_differentiable = ()


class _Refuse:
    """The op of gradients that cannot be differentiated again."""

    kind = "Error"
    saves_result = False

    def backward(self, node: Node, g: Any) -> Any:
        """Raise."""
        raise RuntimeError(
            "trying to differentiate twice a function that was marked with @once_differentiable"
        )

    differentiate = backward


_REFUSE = _Refuse()


def once_differentiable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a backward whose gradients cannot be differentiated; trying to raises."""

    @functools.wraps(fn)
    def wrapper(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        before = mode.enabled
        mode.enabled = False
        try:
            found = fn(ctx, *args, **kwargs)
        finally:
            mode.enabled = before
        if not before or not any(isinstance(x, Tensor) and x.requires_grad for x in args):
            return found
        refusing = tuple(
            None if d is None else record(_REFUSE, d._array, (wrap(d._array).requires_grad_(),))
            for d in (found if isinstance(found, tuple) else (found,))
        )
        return refusing if isinstance(found, tuple) else refusing[0]

    return wrapper
