"""What a recording is made of: memory, views of it, and operations from views to views.

A recording is a straight list of operations in the order in which eager mode did them. Memory is a
`Storage`; whatever shares memory shares the Storage, and a view is only another `Ref`. An operation
reads the Refs `ins` and writes the Refs `outs`, so in-place changes need nothing of their own, and
what an operation depends on follows from the storages alone. Distances count elements, not bytes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(eq=False, slots=True)
class Number:
    """Where a hyper-parameter is: an item of a dict, or of a tuple in it.

    truth: whether it is not 0, where a recording takes that for granted.
    """

    owner: dict[str, Any]
    key: str
    place: int = -1
    truth: bool | None = None

    def __call__(self) -> Any:
        """The number as it is now."""
        value = self.owner[self.key]
        return value if self.place < 0 else value[self.place]

    def __str__(self) -> str:
        return self.key if self.place < 0 else f"{self.key}{self.place}"


@dataclass(eq=False, slots=True)
class Storage:
    """Memory of one dtype.

    kind: "argument" (given anew with every call), "captured" (memory that lives outside and is
    read and written in place: parameters, optimizer state, buffers, gradients), "constant" (known
    when recorded, never written), "number" (a hyper-parameter, read from `source` at every call),
    "temporary" (undefined at the start of a call), "result" (a temporary that the caller gets).
    array: the memory of "captured" and "constant", C-contiguous and one-dimensional.
    device: "cpu" or "cuda". position: of an argument. name: a short identifier for the program's
    text, from the user's code where there is one.
    """

    dtype: np.dtype[Any]
    size: int
    kind: str
    name: str = ""
    array: Array | None = None
    position: int = -1
    source: Number | None = None
    device: str = "cpu"

    @property
    def whole(self) -> "Ref":
        """All elements as a vector."""
        return Ref(self, (self.size,), (1,))


class Ref(NamedTuple):
    """A view: its element (i, j) is `offset + i * strides[0] + j * strides[1]` of a storage."""

    storage: Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the elements."""
        return self.storage.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def over(self, shape: Iterable[int], strides: Iterable[int]) -> "Ref":
        """A view with other dims that begins with the same element."""
        return Ref(self.storage, tuple(shape), tuple(strides), self.offset)


@dataclass(eq=False, slots=True)
class Op:
    """What all operations have. origin: "file.py:12", the user's line. label: its name."""

    outs: tuple[Ref, ...]
    ins: tuple[Ref, ...]
    origin: str = field(default="", kw_only=True)
    label: str = field(default="", kw_only=True)


@dataclass(eq=False, slots=True)
class Map(Op):
    """outs[k] = formulas[k] for every element; all outs have one shape.

    formulas: text in the language of the table (`table.VOCABULARY`) over `names`, those of `ins`;
    ins are broadcast already (stride 0). Computed in the dtype of the ins. Dtypes differ only in
    a conversion, `x`, and a choice, `where(c, x, y)`, with bools c: x and y are of the out's dtype,
    or numbers. Without ins, the formula is a number, for every element. A formula over bools or
    integers uses the row's own text.
    """

    formulas: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class Fold(Op):
    """outs[0] = the fold (a name of `table.FOLDS`) of the formula over the dims of the ins.

    The out has the shape of the ins without `dims`.
    """

    fold: str = "sum"
    dims: tuple[int, ...] = ()
    formula: str = "x"
    names: tuple[str, ...] = ("x",)


@dataclass(eq=False, slots=True)
class Product(Op):
    """outs[0] = ins[0] @ ins[1]: (..., n, k) by (..., k, m), of equal leading dims (perhaps of
    stride 0)."""


@dataclass(eq=False, slots=True)
class Rows(Op):
    """A row-wise op of `table.ROWWISE` along the last dim of its ins."""

    name: str = ""


@dataclass(eq=False, slots=True)
class Call(Op):
    """Anything else: `function(outs, ins)` with lists of arrays, called from Python in its turn.

    It writes into the outs. Used for what is too rare or too big for a loop of its own: LAPACK,
    convolutions, sorts, random numbers. effect: it changes what no Ref shows (a generator), so
    it is kept in its place among such calls even if nothing reads its outs.
    """

    function: Callable[[list[Array], list[Array]], None] = lambda outs, ins: None
    effect: bool = False


@dataclass(eq=False, slots=True)
class Recording:
    """One recorded call."""

    ops: list[Op]
    arguments: list[Ref]
    results: list[Ref]
