"""Tensor: an ndarray and its place in the graph.

`_array` is the payload; `_node` is None where no gradient is wanted, LEAF for a leaf that
requires grad, else the node that made the tensor; `_base` is the tensor whose storage a view
shares; `_changes` counts in-place changes and belongs to the base. The differentiable functions
of `functions/` are attached to the class as methods.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np

from . import dtypes
from .device import CPU, gpu
from .device import device as Device
from .errors import (
    FUNCTION_VIEW,
    NO_GRAD_VIEW,
    ONE_OF_SEVERAL_VIEWS,
    argument_error,
    kind_of,
    unknown_name,
)
from .graph.node import LEAF, Node, clock, mode, next_change, next_seq, shown, version_at

Array = np.ndarray[Any, Any]
new: Callable[[type], Any] = object.__new__

NON_LEAF_GRAD = (
    "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad "
    "attribute won't be populated during autograd.backward(). If you indeed want the .grad field "
    "to be populated for a non-leaf Tensor, use .retain_grad() on the non-leaf Tensor. If you "
    "access the non-leaf Tensor by mistake, make sure you access the leaf Tensor instead."
)
NOT_A_LEAF = (
    "you can only change requires_grad flags of leaf variables. If you want to use a computed "
    "variable in a subgraph that doesn't require differentiation use var_no_grad = var.detach()."
)
DEEPCOPY = (
    "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at "
    "the moment.  If you were attempting to deepcopy a module, this may be because of a "
    "torch.nn.utils.weight_norm usage, see https://github.com/pytorch/pytorch/pull/103001"
)


DETACH_VIEW = (
    "Can't detach views in-place. Use detach() instead. If you are using DistributedDataParallel "
    "(DDP) for training, and gradient_as_bucket_view is set as True, gradients are views of DDP "
    "buckets, and hence detach_() cannot be called on these gradients. To fix this error, please "
    "refer to the Optimizer.zero_grad() function in torch/optim/optimizer.py as a solution."
)
DETACHED = (
    "Trying to use a saved tensor that has been detached in-place, i.e. with .detach_().This is "
    "not supported, please use out-of-place `.detach()` instead"
)
OWN = object()


class Size(tuple[int, ...]):
    """The shape of a tensor: a tuple that prints as `torch.Size([2, 3])`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"

    def numel(self) -> int:
        """Number of elements of a tensor of this shape."""
        return int(np.prod(self, dtype=np.int64)) if self else 1

    def __add__(self, other: Any) -> "Size":
        return Size(tuple.__add__(self, tuple(other)))

    def __getitem__(self, key: Any) -> Any:
        found = tuple.__getitem__(self, key)
        return Size(found) if isinstance(key, slice) else found


class Layout:
    """How elements are stored; there is one way, `torch.strided`."""

    def __repr__(self) -> str:
        return "torch.strided"

    def __reduce__(self) -> str:
        return "strided"


class MemoryFormat:
    """An order of dimensions in memory, `torch.contiguous_format`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "torch." + self.name


strided = Layout()
contiguous_format, preserve_format = map(MemoryFormat, ("contiguous_format", "preserve_format"))
# Nodes whose saved result was changed in place: what it is, its version now, and when saved.
_changed_results: "WeakKeyDictionary[Node, tuple[str, int, int]]" = WeakKeyDictionary()


class Tensor:
    """A multi-dimensional array of one dtype that can be differentiated."""

    __slots__ = ("__dict__", "__weakref__", "_array", "_node")

    _array: Array
    _node: Any
    # Defaults of what few tensors have, kept in the instance's dict.
    _grad: "Tensor | None" = None
    _base: "Tensor | None" = None
    # Where the history of changes goes if not to the base: `OWN`, or the detached tensor viewed.
    _family: Any = None
    _views: "list[Any] | None" = None
    # When `detach_` cut the tensor off its history.
    _cut: int | None = None
    # The last node that saved what it wrote into a view of this base.
    _written: Any = None
    _changes: "tuple[int, int, Any] | None" = None
    # Whether this is a view made while grad mode was off, or a view of such a one.
    _unrecorded = False

    def __new__(cls, *args: Any, **kwargs: Any) -> "Tensor":
        """PyTorch's old constructor: `Tensor([1, 2])` copies data as float32, `Tensor(2, 3)`."""
        if len(args) == 1 and not isinstance(args[0], int):
            data = args[0]._array if isinstance(args[0], Tensor) else args[0]
            array = dtypes.native(np.array(data, dtypes.get_default_dtype().numpy))
        else:
            array = np.empty(args, dtypes.get_default_dtype().numpy)
        return wrap(array, cls)

    if TYPE_CHECKING:

        def __add__(self, other: Any) -> "Tensor": ...
        def __sub__(self, other: Any) -> "Tensor": ...
        def __mul__(self, other: Any) -> "Tensor": ...
        def __truediv__(self, other: Any) -> "Tensor": ...
        def __neg__(self) -> "Tensor": ...
        def __rsub__(self, other: Any) -> "Tensor": ...
        def __rmul__(self, other: Any) -> "Tensor": ...
        def __radd__(self, other: Any) -> "Tensor": ...
        def __getitem__(self, key: Any) -> "Tensor": ...

        type: Callable[..., Any]

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        if name == "__cuda_array_interface__":
            raise AttributeError(
                "Can't get __cuda_array_interface__ on non-CUDA tensor type: "
                f"torch.{self.dtype.short}Tensor If CUDA data is required use tensor.cuda() to "
                "copy tensor to device memory."
            )
        raise unknown_name("'Tensor' object", name, dir(type(self)))

    # ---------------------------------------------------------------------- attributes
    @property
    def shape(self) -> Size:
        """Lengths of the dimensions."""
        return Size(self._array.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one dimension."""
        if dim is None:
            return Size(self._array.shape)
        return self._array.shape[normal_dim(dim, self._array.ndim)]

    @property
    def dtype(self) -> dtypes.dtype:
        """Element type."""
        return dtypes.of(self._array.dtype)

    @property
    def device(self) -> Device:
        """Where the elements are."""
        return device_of(self._array)

    layout = strided
    is_cpu = property(lambda self: self.device is CPU)
    is_cuda = property(lambda self: self.device is not CPU)
    is_sparse = False
    is_quantized = False

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._array.ndim

    dim = ndimension = lambda self: self._array.ndim

    def numel(self) -> int:
        """Number of elements."""
        return self._array.size

    nelement = numel

    def stride(self, dim: int | None = None) -> Any:
        """Steps between neighbours along each dimension, in elements."""
        item = self._array.itemsize
        steps = tuple(s // item for s in self._array.strides)
        return steps if dim is None else steps[normal_dim(dim, self._array.ndim)]

    def data_ptr(self) -> int:
        """Address of the first element."""
        return self._array.ctypes.data

    def element_size(self) -> int:
        """Bytes an element."""
        return self._array.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return self._array.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._array.nbytes

    def storage_offset(self) -> int:
        """Position of the first element in the storage, in elements."""
        root = root_of(self)
        step = self._array.ctypes.data - root._array.ctypes.data
        return step // self._array.itemsize

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return self._array.flags.c_contiguous

    def is_floating_point(self) -> bool:
        """Whether the dtype is a floating-point type."""
        return self._array.dtype.kind == "f"

    def is_complex(self) -> bool:
        """False: there are no complex tensors."""
        return False

    # ------------------------------------------------------------------------ autograd
    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to or through this tensor."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if self._node is not None and self._node is not LEAF:
            if not flag:
                raise RuntimeError(NOT_A_LEAF)
            raise RuntimeError("you can only change requires_grad flags of leaf variables.")
        if flag and self._array.dtype.kind != "f":
            raise RuntimeError(
                "only Tensors of floating point and complex dtype can require gradients"
            )
        self.requires_grad_(flag)

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Ask for gradients of this leaf, in place.

        Raises:
            RuntimeError: for integer tensors, and for False on a tensor that is no leaf.
        """
        if not isinstance(requires_grad, bool):
            raise argument_error("requires_grad_", "requires_grad", 1, "bool", requires_grad)
        # Looked up in any case, by which a recording knows the tensor.
        kind = self._array.dtype.kind
        if self._node is not None and self._node is not LEAF:
            if not requires_grad:
                raise RuntimeError(NOT_A_LEAF)
        elif not requires_grad:
            self._node = None
        elif kind != "f":
            raise RuntimeError("only Tensors of floating point dtype can require gradients")
        else:
            self._node = LEAF
        clock.epoch += 1
        return self

    @property
    def is_leaf(self) -> bool:
        """True unless an operation on tensors that require grad made this tensor."""
        return self._node is None or self._node is LEAF

    @property
    def grad_fn(self) -> Node | None:
        """The node that made this tensor; None for a leaf."""
        return None if self._node is LEAF else shown(self._node)  # type: ignore[no-any-return]

    @property
    def grad(self) -> "Tensor | None":
        """The accumulated gradient, or None. Reading it on a non-leaf warns."""
        g = self._grad
        if g is None and self._node is not None and self._node is not LEAF:
            if "_retains_grad" not in self.__dict__:
                warnings.warn(NON_LEAF_GRAD, stacklevel=2)
        return g

    @grad.setter
    def grad(self, value: "Tensor | None") -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(
                    "assigned grad expected to be a Tensor or None but got grad of type "
                    + kind_of(value)
                )
            if value._array.dtype != self._array.dtype:
                raise RuntimeError(
                    f"attempting to assign a gradient with dtype '{value.dtype.short.lower()}' to "
                    f"a tensor with grad_dtype '{self.dtype.short}'. The gradient must match the "
                    "tensor's dtype"
                )
            if value.device is not self.device:
                raise RuntimeError(
                    "attempting to assign a gradient with device type "
                    f"'{value.device.type}' to a tensor with device type '{self.device.type}'. "
                    "Please ensure that the gradient and the tensor are on the same device"
                )
            if value._array.shape != self._array.shape:
                raise RuntimeError(
                    f"attempting to assign a gradient of size '{list(value._array.shape)}' to a "
                    f"tensor of size '{list(self._array.shape)}'. Please ensure that the gradient "
                    "and the tensor are the same size"
                )
        self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def retains_grad(self) -> bool:
        """Whether `retain_grad` was called on this non-leaf."""
        return "_retains_grad" in self.__dict__

    @property
    def data(self) -> "Tensor":
        """The same storage without history and without version checks."""
        return wrap(self._array)

    @data.setter
    def data(self, value: "Tensor") -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {kind_of(value)}")
        if value._array.dtype.kind != "f" and self._node is not None:
            raise RuntimeError(
                "data set to a tensor that requires gradients must be floating point or complex "
                "dtype"
            )
        self._array = value._array
        clock.epoch += 1

    def detach(self) -> "Tensor":
        """The same storage without history; in-place changes are still checked."""
        z = view(self, self._array)
        z._family = OWN
        return z

    def detach_(self) -> "Tensor":
        """Cut this tensor off its history, in place.

        Raises:
            RuntimeError: for a view.
        """
        if base_of(self) is not self:
            raise RuntimeError(DETACH_VIEW)
        if not self.is_leaf:
            clock.latest_change = self._cut = next_seq()
            if self._node.op.saves_result:
                self._written = ref(self._node)
        self._node = None
        clock.epoch += 1
        return self

    @property
    def _version(self) -> int:
        changes = root_of(self)._changes
        return 0 if changes is None else changes[0]

    # --------------------------------------------------------------------- conversions
    def numpy(self, *, force: bool = False) -> Array:
        """The elements as an ndarray that shares memory."""
        if self._node is not None and not force:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad. "
                "Use tensor.detach().numpy() instead."
            )
        if device_of(self._array) is CPU:
            return self._array
        if not force:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        return self._array.host()  # type: ignore[attr-defined, no-any-return]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The elements for NumPy, shared unless another dtype or a copy is asked for.

        Raises:
            RuntimeError: for a tensor that requires grad.
            ValueError: for another dtype without a copy.
        """
        array = self.numpy()
        if dtype is not None and dtype != array.dtype:
            if copy is False:
                raise ValueError("Unable to avoid copy while creating an array as requested.")
            return array.astype(dtype)
        return array.copy() if copy else array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The elements for other libraries that use a GPU, shared.

        Raises:
            AttributeError: for a tensor of the CPU.
            RuntimeError: for a tensor that requires grad.
        """
        if self.device is CPU:
            raise AttributeError
        if self._node is not None:
            raise RuntimeError(
                "Can't get __cuda_array_interface__ on Variable that requires grad. If gradients "
                "aren't required, use var.detach() to get Variable that doesn't require grad."
            )
        return gpu("exchange").interface(self._array)  # type: ignore[no-any-return]

    # An ndarray on the left of an operator lets the Tensor on the right decide.
    __array_priority__ = 1000

    def __array_wrap__(self, array: Array, *_: Any) -> "Tensor":
        return wrap(np.asarray(array))

    def item(self) -> Any:
        """The only element, as a Python number."""
        if self._array.size != 1:
            raise RuntimeError(
                f"a Tensor with {self._array.size} elements cannot be converted to Scalar"
            )
        return self._array.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self._array.tolist()

    def _scalar(self) -> Any:
        if self._array.size != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        if self._node is not None and not _warned:
            _warned.append("scalar")
            warnings.warn(
                "Converting a tensor with requires_grad=True to a scalar may lead to unexpected "
                "behavior.\nConsider using tensor.detach() first.",
                stacklevel=3,
            )
        return self._array.item()

    def __float__(self) -> float:
        return float(self._scalar())

    def __int__(self) -> int:
        return int(self._scalar())

    def __index__(self) -> int:
        if self._array.dtype.kind not in "iub" or self._array.size != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self._array.item())

    def __bool__(self) -> bool:
        if self._array.size != 1:
            count = "no values" if self._array.size == 0 else "more than one value"
            raise RuntimeError(f"Boolean value of Tensor with {count} is ambiguous")
        return bool(self._array.item())

    def __len__(self) -> int:
        if self._array.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return len(self._array)

    def __contains__(self, value: Any) -> bool:
        return bool((self._array == (value._array if isinstance(value, Tensor) else value)).any())

    def __dir__(self) -> list[str]:
        return sorted(set(dir(type(self))) | set(self.__dict__))

    # ------------------------------------------------------------------------ printing
    def __repr__(self) -> str:
        from .printing import tensor_repr

        grad_fn, place = self.grad_fn, self.device
        return tensor_repr(
            self._array if place is CPU else self.numpy(force=True),
            device=None if place is CPU else str(place),
            grad_fn=None if grad_fn is None else type(grad_fn).__name__,
            requires_grad=self._node is not None,
        )

    def __format__(self, spec: str) -> str:
        if self._array.ndim == 0 and type(self) is Tensor:
            return format(self._array.item(), spec)
        if spec:
            kind = type(self).__name__
            raise TypeError(f"unsupported format string passed to {kind}.__format__")
        return repr(self)


_warned: list[str] = []


def device_of(array: Any) -> Device:
    """Where an array is."""
    return CPU if type(array) is np.ndarray or array is None else getattr(array, "device", CPU)


def wrap(array: Array, cls: "type[Tensor]" = Tensor) -> Tensor:
    """A leaf around an ndarray, without copying."""
    t = new(cls)
    t._array = array
    t._node = None
    return t  # type: ignore[no-any-return]


def view(x: Tensor, array: Array) -> Tensor:
    """A tensor without history that shares x's storage and version."""
    t = new(Tensor)
    t._array = array
    t._node = None
    t._base = x if x._base is None else x._base
    return t  # type: ignore[no-any-return]


def root_of(x: Tensor) -> Tensor:
    """The tensor that owns the storage and its version."""
    return x if x._base is None else x._base


def base_of(x: Tensor) -> Tensor:
    """The tensor whose history a change of x belongs to: a detached tensor has its own."""
    family = x._family
    if family is None:
        return x if x._base is None else x._base
    return x if family is OWN else family  # type: ignore[no-any-return]


def edge(x: Tensor) -> Any:
    """Where the gradient of x goes: its node, x itself for a leaf, or None."""
    node = x._node
    return x if node is LEAF else node


def normal_dim(dim: int, ndim: int) -> int:
    """A dimension counted from the front.

    Raises:
        IndexError: if it is out of range; a 0-d tensor accepts 0 and -1.
    """
    extent = ndim or 1
    if not -extent <= dim < extent:
        raise IndexError(
            "Dimension out of range (expected to be in range of "
            f"[{-extent}, {extent - 1}], but got {dim})"
        )
    return dim % extent


def normal_dims(dims: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Dimensions counted from the front; None or () means all."""
    if dims is None:
        return tuple(range(ndim))
    if isinstance(dims, int):
        dims = (dims,)
    elif isinstance(dims, str):
        raise TypeError("argument 'dim' must be int or tuple of ints, not str")
    found = tuple(normal_dim(d, ndim) for d in dims)
    for d in found:
        if found.count(d) > 1:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
    return found or tuple(range(ndim))


# ------------------------------------------------------------------- in-place changes
def check_in_place(x: Tensor, what: str = "a leaf") -> None:
    """Refuse an in-place change that autograd could not follow.

    Raises:
        RuntimeError: while grad is enabled, for a leaf that requires grad, a view of one, or one
            of the several views that a function gave.
    """
    node = x._node
    if not mode.enabled:
        return
    base = x if x._base is None else base_of(x)
    if node is None and base._node is not LEAF:
        return
    if x._unrecorded:
        raise RuntimeError(NO_GRAD_VIEW)
    if node is None or node is LEAF:
        what = what if base is x else "a view of a leaf"
        raise RuntimeError(
            f"{what} Variable that requires grad is being used in an in-place operation."
        )
    if x._base is not None:
        custom = hasattr(node, "needs_input_grad")
        number, op = _output_number(node), _op_name(node)
        if custom and len(node.outputs) == 1:
            raise RuntimeError(FUNCTION_VIEW.format(op=op))
        if base is x:
            return
        if base._node is LEAF and not custom:
            raise RuntimeError(
                "a view of a leaf Variable that requires grad is being used in an in-place "
                "operation."
            )
        if custom:
            raise RuntimeError(ONE_OF_SEVERAL_VIEWS.format(number=number, op=op))
        origin = node
        while isinstance(origin, Node) and origin is not base._node:
            if origin.name().startswith(("Split", "Unbind")):
                raise RuntimeError(ONE_OF_SEVERAL_VIEWS.format(number=number, op=op))
            origin = origin.parents[0]


def changed(x: Tensor) -> None:
    """Count one in-place change of x's storage."""
    root = x._base
    if root is None:
        root = x
    while True:
        earlier = root._changes
        change = next_change(earlier)
        # Again, where another thread has changed it meanwhile: no change may be lost.
        if root._changes is earlier:
            root._changes = change
            break
    node = root._node
    if node is not None and node is not LEAF and node.saved and node.op.saves_result:
        _note_change(root, node, change[0])
    if root._written is not None:
        node = root._written()
        if node is not None:
            _note_change(root, node, change[0])


def _note_change(root: Tensor, node: Node, count: int) -> None:
    """Remember that the result which a node saved has been changed."""
    *_, saved = _changed_results.get(node, (count - 1,))
    _changed_results[node] = (_description(root, node), count, saved)


def _description(x: Tensor, node: Any) -> str:
    kind = f"[torch.{x.dtype.short}Tensor {list(x._array.shape)}]"
    if node is None or node is LEAF:
        return kind
    return f"{kind}, which is output {_output_number(node)} of {_op_name(node)},"


def _output_number(node: Any) -> int:
    """Which output of its op a node stands for."""
    name = node.name()
    if name.startswith("Split"):
        return node.const[4]  # type: ignore[no-any-return]
    if name.startswith("Unbind"):
        return node.const[1][-1]  # type: ignore[no-any-return]
    return (node.const or 0) if hasattr(node, "needs_input_grad") else 0


def _op_name(node: Any) -> str:
    """The op without the 'Backward0' of the node's name, as PyTorch's messages have it."""
    return node.name().partition("Backward")[0]  # type: ignore[no-any-return]


def check_saved(node: Node) -> None:
    """Raise if a value that the node saved has been changed in place since.

    Raises:
        RuntimeError: naming the shape, the versions and the op that changed it.
    """
    what = None
    for saved in node.saved or ():
        if isinstance(saved, Tensor):
            if saved._cut is not None and saved._cut < node.seq:
                raise RuntimeError(DETACHED)
            root = root_of(saved)
            changes = root._changes
            if changes is not None and changes[1] < node.seq:
                what = _description(saved, saved._node)
                count, expected = changes[0], version_at(changes, node.seq)
    if what is None and node in _changed_results:
        what, count, expected = _changed_results[node]
    if what is not None:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: {what} is at version {count}; expected version {expected} instead. Hint: "
            "enable anomaly detection to find the operation that failed to compute its gradient, "
            "with torch.autograd.set_detect_anomaly(True, check_nan=False)."
        )


TENSORS = {Tensor}
