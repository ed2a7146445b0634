"""Embeddings, attention, and the bilinear map."""

import math
from typing import Any

import numpy as np

from ..kernels import cpu
from ..tensor import Tensor, wrap
from .convert import where
from .elementwise import FUNCTIONS
from .names import function
from .normalization import softmax
from .op import Rule, need_tensor, record, tensors
from .product import matmul
from .view import matrix_transpose, reshape


def _embedding_rule(F: Any, g: Any, const: Any, input: Any) -> tuple[Any, ...]:
    """Rows are added up where they came from, those of the padding left out."""
    places, shape, padding = const
    rows = F.reshape(g, (-1, shape[1]))
    if padding is not None:
        rows = F.where(F.reshape(input != padding, (-1, 1)), rows, 0.0)
    return (F.put_index(rows, (places,), shape),)


EMBEDDING = Rule("EmbeddingBackward0", _embedding_rule)


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """The rows of weight (rows, columns) that input (*) names: (*, columns).

    padding_idx: a row that gets no gradient.

    Raises:
        IndexError: for an index outside of the rows.
        NotImplementedError: for max_norm, scale_grad_by_freq and sparse.
    """
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotImplementedError(
            "max_norm, scale_grad_by_freq and sparse are not part of microtorch's embedding"
        )
    need_tensor("embedding", "indices", 2, input)
    need_tensor("embedding", "weight", 1, weight)
    places, w = input._array, weight._array
    if padding_idx is not None:
        if not -w.shape[0] <= padding_idx < w.shape[0]:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= w.shape[0]
    if places.dtype not in (np.int32, np.int64):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: "
            f"Long, Int; but got torch.{input.dtype.short}Tensor instead (while checking arguments "
            "for embedding)"
        )
    if w.ndim != 2:
        raise RuntimeError("'weight' must be 2-D")
    cpu.check_inside(places, w.shape[0], IndexError, "index out of range in self")
    const = (places.reshape(-1), w.shape, padding_idx)
    return record(EMBEDDING, w[places], (weight,), (input,), const)


@function()
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1^T W_k x2 + b_k: input (*, in1) and (*, in2), weight (out, in1, in2): (*, out).

    Raises:
        RuntimeError: for shapes that do not fit.
    """
    a, b, w = input1._array.shape, input2._array.shape, weight._array.shape
    if a[:-1] != b[:-1]:
        raise RuntimeError(
            f"bilinear(): input batch dimensions do not match: got {list(a)} and {list(b)}"
        )
    for k, n in ((1, a[-1]), (2, b[-1])):
        if n != w[k]:
            raise RuntimeError(
                f"bilinear(): input{k} size does not match weight size: got {n} but expected {w[k]}"
            )
    # (rows, in1) x (in1, out * in2), then a product with input2 for each row.
    flat = reshape(tensors.permute(weight, (1, 0, 2)), (w[1], w[0] * w[2]))
    half = reshape(matmul(reshape(input1, (-1, w[1])), flat), (-1, w[0], w[2]))
    z = reshape(matmul(half, reshape(input2, (-1, w[2], 1))), (*a[:-1], w[0]))
    return z if bias is None else FUNCTIONS["add"](z, bias)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """softmax(query key^T * scale + mask) value (arXiv:1706.03762).

    query (*, L, E), key (*, S, E), value (*, S, V). attn_mask: bools, True where a key takes
    part, or floats to be added; is_causal: each query sees the keys up to its own place. scale:
    1 / sqrt(E) if not given. A query that sees no key gives zeros.

    Raises:
        RuntimeError: for shapes or dtypes that do not fit, or a mask beside is_causal.
    """
    arrays = [x._array for x in (query, key, value)]
    if min(a.ndim for a in arrays) < 2:
        raise RuntimeError(
            "scaled_dot_product_attention: Expected query, key, and value to all be  at least 2 "
            f"dimensional, but got query, key, value dimensions: {arrays[0].ndim}, "
            f"{arrays[1].ndim}, {arrays[2].ndim} instead."
        )
    if len({a.dtype for a in arrays}) > 1:
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{query.dtype} key.dtype: {key.dtype} and value.dtype: {value.dtype} instead."
        )
    if attn_mask is not None and is_causal:
        raise RuntimeError(
            "scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True"
        )
    if enable_gqa:
        raise NotImplementedError("enable_gqa is not part of microtorch")
    lengths = arrays[0].shape[-2], arrays[1].shape[-2]
    hidden = None
    if is_causal:
        hidden = wrap(~np.tri(*lengths, dtype=bool, like=arrays[0]))
    elif attn_mask is not None and attn_mask._array.dtype == np.bool_:
        hidden = wrap(~attn_mask._array)
    elif attn_mask is not None and attn_mask._array.dtype != arrays[0].dtype:
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
            f"attn_mask.dtype: {attn_mask.dtype} and  query.dtype: {query.dtype} instead."
        )
    factor = 1 / math.sqrt(arrays[0].shape[-1]) if scale is None else scale
    scores = matmul(FUNCTIONS["mul"](query, factor), matrix_transpose(key))
    if hidden is not None:
        scores = where(hidden, -math.inf, scores)
    elif attn_mask is not None:
        scores = FUNCTIONS["add"](scores, attn_mask)
    blind = None
    if hidden is not None or attn_mask is not None:
        nothing = (scores._array == -np.inf).all(-1, keepdims=True)
        if cpu.any_true(nothing):
            # Finite before softmax as well: of nan the gradient would be nan.
            blind = wrap(nothing)
            scores = where(blind, 0.0, scores)
    chances = softmax(scores, -1)
    if blind is not None:
        chances = where(blind, 0.0, chances)
    if dropout_p:
        chances = tensors.dropout(chances, dropout_p)
    return matmul(chances, value)
