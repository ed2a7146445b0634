"""The tape: memory that a call touches, and the operations on it, as they are done.

Operations on constants alone are not recorded: their results are constants.
"""

import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..table import names_in
from .ir import Array, Call, Map, Op, Ref, Storage

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUTSIDE = (PACKAGE + os.sep, os.path.dirname(os.path.abspath(np.__file__)) + os.sep,
           "<frozen")  # fmt: skip


class Active(threading.local):
    """The tape of this thread, if it records."""

    tape: "Tape | None" = None


active = Active()


class CaptureError(RuntimeError):
    """What a compiled function may not do."""


def file_of(frame: Any) -> str:
    """The file of a frame's code; code without a file belongs to the module that it runs in."""
    name: str = frame.f_code.co_filename
    if name.startswith("<"):
        module = frame.f_globals.get("__name__") or "microtorch"
        return PACKAGE + os.sep if module.partition(".")[0] in ("microtorch", "numpy") else name
    return name


def user_frame() -> Any:
    """The innermost frame that is neither the package's nor NumPy's."""
    frame: Any = sys._getframe(1)
    while frame is not None and file_of(frame).startswith(OUTSIDE):
        frame = frame.f_back
    return frame


def place(full: bool = False) -> str:
    """The user's line, as "file.py:12"."""
    frame = user_frame()
    if frame is None:
        return ""
    name = frame.f_code.co_filename
    return f"{name if full else os.path.basename(name)}:{frame.f_lineno}"


def read_error(what: str) -> CaptureError:
    """The error for a value that Python code asks for."""
    return CaptureError(
        f"{place(True)}: a value is read in Python ({what}) inside a compiled function, which the "
        "compiled program could not do again. Return the tensor and read it after the call, use "
        'torch.where for choices, or compile with fallback="eager".'
    )


def refusal(what: str, remedy: str) -> CaptureError:
    """The error for what cannot be recorded."""
    return CaptureError(f'{place(True)}: {what}. {remedy}, or compile with fallback="eager".')


def broadcast(ref: Ref, shape: tuple[int, ...]) -> Ref:
    """The view repeated to a shape."""
    lead = len(shape) - len(ref.shape)
    own = tuple(
        0 if n == 1 != m else s
        for s, n, m in zip(ref.strides, ref.shape, shape[lead:], strict=True)
    )
    return Ref(ref.storage, tuple(shape), (0,) * lead + own, ref.offset)


def permuted(ref: Ref, order: Iterable[int]) -> Ref:
    """The view with its dims in another order."""
    dims = tuple(order)
    shape, strides = (tuple(t[d] for d in dims) for t in (ref.shape, ref.strides))
    return Ref(ref.storage, shape, strides, ref.offset)


class Tape:
    """The storages of a recording and the arrays that are views of them."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make
        self.ops: list[Op] = []
        # Whether operations are still recorded.
        self.live = True
        # Whether what cannot be recorded ends the recording, not the call; and then why.
        self.lenient = False
        self.failure: CaptureError | None = None
        # Arrays by identity, with what stands for each; held, so that identities stay.
        self.known: dict[int, Any] = {}
        # Memory from outside: (first address, end, storage, address of element 0).
        self.outside: list[tuple[int, int, Storage, int]] = []
        self.used: set[Storage] = set()
        # What the forward program reads, while the backward program is recorded.
        self.frozen: set[Storage] = set()
        # Constants that hold one number: storage -> number.
        self.filled: dict[Storage, Any] = {}
        # Memory that np.empty gave, until it is written.
        self.undefined: set[Storage] = set()
        # Arrays of the user's that constants were made from.
        self.given: list[Array] = []

    def give_up(self, error: CaptureError) -> None:
        """End the recording and let the call go on eagerly, if that is allowed.

        Raises:
            CaptureError: else.
        """
        if not self.lenient:
            raise error
        self.live, self.failure, active.tape = False, error, None

    def attempt(self, record: Callable[..., Any], *args: Any) -> Any:
        """Record something, or do it eagerly and give up."""
        try:
            return record(*args)
        except CaptureError as error:
            self.give_up(error)
            return record(*args)

    # -------------------------------------------------------------------------- storages
    def fresh(self, value: Any, kind: str = "temporary") -> Any:
        """A new array of memory of its own."""
        value = np.asarray(value)
        size = value.size
        strides = tuple(s // value.itemsize for s in value.strides)
        extent = 1 + sum((n - 1) * s for n, s in zip(value.shape, strides, strict=True) if n)
        if size and (extent != size or min(strides, default=0) < 0):
            value = value.copy()
            strides = tuple(s // value.itemsize for s in value.strides)
        return self.make(self, value, Ref(Storage(value.dtype, size, kind), value.shape, strides))

    def constant(self, value: Array) -> Any:
        """What stands for an array that is known now."""
        found = self.known.get(id(value))
        if found is None:
            array = value if value.size == 0 or 0 not in value.strides else value.copy()
            found = self.fresh(array, "constant")
            memory = found.value
            found.ref.storage.array = as_strided(memory, (memory.size,), (memory.itemsize,))
            if value.size and not any(value.strides):
                self.filled[found.ref.storage] = value.flat[0]
            self.known[id(value)] = found
            self.known[id(found)] = value
        return found

    def capture(self, value: Array, kind: str = "captured", position: int = -1) -> Any:
        """What stands for memory from outside, which is read and written in place."""
        found = self.known.get(id(value))
        if found is not None:
            return found
        low, high = np.lib.array_utils.byte_bounds(value)
        item = value.itemsize
        for known in self.outside if kind == "captured" else ():
            first, end, storage, start = known
            if low < end and first < high and value.size:
                if low < first or high > end or storage.dtype != value.dtype:
                    raise refusal(
                        "tensors share a part of their memory in a way that cannot be recorded",
                        "Clone one of them",
                    )
                break
        else:
            root = value if kind == "argument" else _root(value)
            first, end = np.lib.array_utils.byte_bounds(root)
            start = first
            size = (end - first) // item if root.size else 0
            storage = Storage(value.dtype, size, kind, position=position)
            if kind != "argument":
                ends = (slice(None, None, -1 if s < 0 else 1) for s in root.strides)
                at = root[(*ends, ...)]  # type: ignore[arg-type]
                storage.array = as_strided(at, (size,), (item,))
            if root.size and kind == "captured":
                self.outside.append((first, end, storage, start))
        offset = (value.ctypes.data - start) // item if value.size else 0
        ref = Ref(storage, value.shape, tuple(s // item for s in value.strides), offset)
        found = self.known[id(value)] = self.make(self, value, ref)
        self.known[id(found)] = value
        return found

    def view(self, parent: Any, value: Array) -> Any:
        """A view of the parent's memory."""
        ref, item = parent.ref, parent.value.itemsize
        offset = ref.offset
        if value.size:
            offset += (value.ctypes.data - parent.value.ctypes.data) // item
        strides = tuple(s // item for s in value.strides)
        return self.make(self, value, Ref(ref.storage, value.shape, strides, offset))

    def lift(self, value: Any) -> Any:
        """What stands for an operand: recorded, an array, or a number."""
        if type(value) is self.make:
            if value.tape is not self:
                raise refusal("an array of another recording is used", "Keep calls apart")
            return value
        if type(value) is np.ndarray:
            return self.constant(value)
        return self.constant(np.asarray(value))

    # ------------------------------------------------------------------------ operations
    def emit(self, op: Op) -> None:
        """Note an operation."""
        op.origin = place()
        self.ops.append(op)
        self.used.update(r.storage for r in (*op.ins, *op.outs))

    def writable(self, target: Any) -> None:
        """Prepare memory for being written."""
        storage = target.ref.storage
        if storage.kind == "number":
            raise refusal("a number of an optimizer is written", "Write to a tensor")
        if storage.kind != "constant":
            return
        memory = storage.array
        if storage in self.frozen:
            raise refusal("a constant of the forward pass is written in backward", "Clone it")
        if any(np.may_share_memory(memory, a) for a in self.given):
            raise refusal("an array from outside is written in place", "Use a tensor")
        whole = Ref(storage, (storage.size,), (1,))
        storage.kind, storage.array = "temporary", None
        if storage in self.undefined and storage not in self.used:
            return
        if storage in self.filled:
            fill = Map((whole,), (), formulas=(literal(self.filled[storage], storage.dtype),))
            self.ops.insert(0, fill)
        else:
            kept = Storage(storage.dtype, storage.size, "constant", array=memory.copy())
            source = Ref(kept, (storage.size,), (1,))
            self.ops.insert(0, Map((whole,), (source,), formulas=("x",), names=("x",)))

    def map(
        self, outs: Iterable[Any], ins: Iterable[Any], formulas: tuple[str, ...],
        names: tuple[str, ...], label: str,
    ) -> None:  # fmt: skip
        """Record formulas over whole arrays; numbers among the ins become literals."""
        outs, ins = list(outs), list(ins)
        targets = tuple(o.ref for o in outs)
        shape = targets[0].shape
        if any(x.dtype == np.float16 for x in (*outs, *ins)):
            # No kernels are made for it.
            self.call(label, outs, ins, _halves(names))
            return
        refs, kept = [], []
        for x, name in zip(ins, names, strict=True):
            number = _uniform(x)
            if number is not None and len(names) > 1:
                text = literal(number, x.dtype)
                formulas = tuple(substitute(f, {name: text}) for f in formulas)
            elif not any(name in names_in(f) for f in formulas):
                continue
            else:
                refs.append(broadcast(x.ref, shape))
                kept.append(name)
        clash = any(
            r.storage is t.storage and (r.strides, r.offset) != (t.strides, t.offset)
            for r in refs for t in targets
        )  # fmt: skip
        if not clash:
            self.emit(Map(targets, tuple(refs), formulas=formulas, names=tuple(kept), label=label))
            return
        through = tuple(self.fresh(np.empty(t.shape, t.dtype)).ref for t in targets)
        self.emit(Map(through, tuple(refs), formulas=formulas, names=tuple(kept), label=label))
        for t, r in zip(targets, through, strict=True):
            self.emit(Map((t,), (r,), formulas=("x",), names=("x",), label="copy"))

    def call(
        self, label: str, outs: Iterable[Any], ins: Iterable[Any], function: Any,
        effect: bool = False,
    ) -> None:  # fmt: skip
        """Record what is called from Python: `function(outs, ins)`."""
        targets, sources = (tuple(x.ref for x in xs) for xs in (outs, ins))
        self.emit(Call(targets, sources, function=function, label=label, effect=effect))


def _halves(names: tuple[str, ...]) -> Any:
    """Copies and choices of float16, by NumPy."""
    if names not in (("x",), ("c", "x", "y")):
        raise refusal("arithmetic of float16 is recorded", "Cast to float32")

    def again(outs: list[Array], ins: list[Array]) -> None:
        value = ins[0] if len(ins) == 1 else np.where(*ins)
        np.copyto(outs[0], value, casting="unsafe")

    return again


def _root(value: Array) -> Array:
    """The array of the same dtype that owns the memory."""
    while type(value.base) is np.ndarray and value.base.dtype == value.dtype:
        value = value.base
    return value


def _uniform(x: Any) -> Any:
    """The number that a constant repeats, or None; arrays of several numbers are not looked at."""
    if x.ref.storage.kind != "constant" or x.ref.size == 0:
        return None
    if x.ref.storage in x.tape.filled:
        return x.tape.filled[x.ref.storage]
    return x.value.flat[0] if x.value.size == 1 and x.dtype != np.bool_ else None


def literal(number: Any, dtype: Any) -> str:
    """A number in a formula."""
    if np.dtype(dtype).kind != "f":
        text = str(int(number))
    elif number != number:
        return "(inf - inf)"
    else:
        text = repr(float(number))
    return f"({text})" if text.startswith("-") else text


NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


def substitute(formula: str, values: dict[str, str]) -> str:
    """A formula with texts in the places of names."""
    return NAME.sub(lambda m: values.get(m[0], m[0]), formula)
