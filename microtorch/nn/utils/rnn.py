"""`torch.nn.utils.rnn`: sequences of several lengths as one tensor."""

from collections.abc import Iterable
from typing import Any

from ...errors import unknown_names
from ...functions.cat import stack
from ...functions.op import tensors as primitives
from ...functions.padding import pad
from ...tensor import Tensor


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:  # fmt: skip
    """Sequences (L, *) padded to the longest, as one tensor (T, B, *), or (B, T, *).

    Raises:
        RuntimeError: for what are no sequences, or none; for another side.
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            "pad_sequence: Expected iterable for input sequences, but got arg of type: "
            f"{type(sequences)}"
        )
    listed = list(sequences)
    if not listed:
        raise RuntimeError("received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError(
            f"Expected padding_side to be one of left or right, but got {padding_side}."
        )
    longest = max(len(s._array) for s in listed)
    rows = []
    for s in listed:
        missing = longest - len(s._array)
        before, after = (missing, 0) if padding_side == "left" else (0, missing)
        dims = (0, 0) * (s._array.ndim - 1)
        rows.append(pad(s, (*dims, before, after), value=padding_value))
    return stack(rows, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Any]:
    """The sequences that `pad_sequence` padded, by their lengths."""
    batch = (
        padded_sequences
        if batch_first
        else primitives.permute(padded_sequences, (1, 0, *range(2, padded_sequences._array.ndim)))
    )
    return [x[: int(n)] for x, n in zip(batch, lengths, strict=True)]


__getattr__ = unknown_names(__name__)
