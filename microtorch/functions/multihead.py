"""Attention with several heads between linear maps, and its masks."""

import math
import warnings
from typing import Any

from .. import dtypes
from ..tensor import Tensor
from .attention import scaled_dot_product_attention
from .cat import cat
from .creation import zeros
from .elementwise import FUNCTIONS
from .masked import masked_fill
from .normalization import softmax
from .op import tensors
from .padding import pad
from .parts import chunk
from .product import linear, matmul
from .reduce import mean
from .view import expand, matrix_transpose, permute, reshape, squeeze, unsqueeze


def require(condition: bool, message: str) -> None:
    """Refuse what PyTorch refuses by an assertion.

    Raises:
        AssertionError: unless the condition holds.
    """
    if not condition:
        raise AssertionError(message)


def additive_mask(
    mask: Tensor | None, name: str, dtype: Any, beside: Tensor | None = None, beside_name: str = ""
) -> Tensor | None:
    """A mask that is added to scores: bools become -inf where they are True, and 0 elsewhere.

    Raises:
        AssertionError: for integers.
    """
    if mask is None:
        return None
    boolean = mask.dtype is dtypes.bool
    require(
        boolean or mask.is_floating_point(), f"only bool and floating types of {name} are supported"
    )
    if beside is not None and beside.dtype is not mask.dtype:
        warnings.warn(
            f"Support for mismatched {name} and {beside_name} is deprecated. Use same type for "
            "both instead.",
            stacklevel=3,
        )
    if not boolean:
        return mask
    nothing = zeros(mask.shape, dtype=dtype, device=mask.device)
    return masked_fill(nothing, mask, -math.inf)


def multi_head_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None,
    bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
    out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None, static_v: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Attention of several heads (arXiv:1706.03762), and its weights if they are needed.

    query (L, N, E), key (S, N, K) and value (S, N, V), or the three without N. attn_mask (L, S)
    or (N * heads, L, S) and key_padding_mask (N, S): bools, True where a key takes no part, or
    floats to be added to the scores. The result is (L, N, E), the weights are (N, L, S), or (N,
    heads, L, S) if they are not averaged.

    Raises:
        AssertionError, RuntimeError: for shapes or dtypes that do not fit.
    """
    batched = _is_batched(query, key, value, key_padding_mask, attn_mask, num_heads)
    alone = query is key and key is value
    if not batched:
        query, key, value = (unsqueeze(x, 1) for x in (query, key, value))
        if key_padding_mask is not None:
            key_padding_mask = unsqueeze(key_padding_mask, 0)
    padding = additive_mask(
        key_padding_mask, "key_padding_mask", query.dtype, attn_mask, "attn_mask"
    )
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module "
            "method `generate_square_subsequent_mask` to create this mask."
        )
    # The hint replaces the mask where the mask is not needed for anything else.
    causal = is_causal and padding is None and not need_weights
    mask = None if causal else additive_mask(attn_mask, "attn_mask", query.dtype)
    _check_sizes(query, key, value, embed_dim_to_check, num_heads, use_separate_proj_weight)
    length, batch, width = query.shape
    if use_separate_proj_weight:
        weights = [q_proj_weight, k_proj_weight, v_proj_weight]
        q, k, v = _projected_apart((query, key, value), weights, in_proj_bias)
    else:
        q, k, v = _projected((query, key, value), in_proj_weight, in_proj_bias, alone)
    if mask is not None:
        mask = _checked_mask(mask, length, key.shape[0], batch, num_heads)
    added = 0
    require(bias_k is None or bias_v is not None, "bias_k is set but bias_v is None")
    require(bias_v is None or bias_k is not None, "bias_v is set but bias_k is None")
    if bias_k is not None and bias_v is not None:
        require(static_k is None, "bias cannot be added to static key.")
        require(static_v is None, "bias cannot be added to static value.")
        k, v = (cat([x, expand(b, 1, batch, width)]) for x, b in ((k, bias_k), (v, bias_v)))
        added += 1
    shape = (batch, num_heads, width // num_heads)
    q = _heads(q, shape)
    k = _heads(k, shape) if static_k is None else _given_heads("static_k", static_k, shape)
    v = _heads(v, shape) if static_v is None else _given_heads("static_v", static_v, shape)
    if add_zero_attn:
        nothing = zeros(batch, num_heads, 1, shape[2], dtype=k.dtype, device=k.device)
        k, v = cat([k, nothing], 2), cat([v, nothing], 2)
        added += 1
    if added:
        mask, padding = (None if m is None else pad(m, (0, added)) for m in (mask, padding))
    if padding is not None:
        for d, n in enumerate((batch, k.shape[2])):
            require(
                padding.shape[d] == n,
                f"Expected key_padded_mask.shape[{d}] to be {n}, but got {padding.shape[d]}",
            )
        padding = reshape(padding, (batch, 1, 1, k.shape[2]))
        mask = padding if mask is None else FUNCTIONS["add"](mask, padding)
    dropped = dropout_p if training else 0.0
    if need_weights:
        chances = _chances(q, k, mask, dropped)
        z = matmul(chances, v)
    else:
        z = scaled_dot_product_attention(q, k, v, mask, dropped, causal)
    z = linear(
        reshape(permute(z, 2, 0, 1, 3), (length, batch, width)), out_proj_weight, out_proj_bias
    )
    found = None
    if need_weights:
        found = mean(chances, 1) if average_attn_weights else chances
        found = found if batched else squeeze(found, 0)
    return z if batched else squeeze(z, 1), found


def _is_batched(
    query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None,
    heads: int,
) -> bool:  # fmt: skip
    """Whether there is a dimension of the batch, which all operands must agree on."""
    rank = query.dim()
    require(
        rank in (2, 3),
        f"query should be unbatched 2D or batched 3D tensor but received {rank}-D query tensor",
    )
    before = f"For {'batched (3-D)' if rank == 3 else 'unbatched (2-D)'} `query`, expected "
    require(
        key.dim() == value.dim() == rank,
        f"{before}`key` and `value` to be {rank}-D but found {key.dim()}-D and {value.dim()}-D "
        "tensors respectively",
    )
    if padding is not None:
        require(
            padding.dim() == rank - 1,
            f"{before}`key_padding_mask` to be `None` or {rank - 1}-D but found {padding.dim()}-D "
            "tensor instead",
        )
    if mask is not None:
        require(
            mask.dim() in (2, 3),
            f"{before}`attn_mask` to be `None`, 2-D or 3-D but found {mask.dim()}-D tensor instead",
        )
        if rank == 2 and mask.dim() == 3:
            wanted = (heads, query.shape[0], key.shape[0])
            require(
                tuple(mask.shape) == wanted,
                f"Expected `attn_mask` shape to be {wanted} but got {mask.shape}",
            )
    return rank == 3


def _check_sizes(
    query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, apart: bool
) -> None:
    found = query.shape[-1]
    require(found == width, f"was expecting embedding dimension of {width}, but got {found}")
    require(found % heads == 0, f"embed_dim {found} not divisible by num_heads {heads}")
    if apart:
        require(
            key.shape[:2] == value.shape[:2],
            f"key's sequence and batch dims {key.shape[:2]} do not match value's {value.shape[:2]}",
        )
    else:
        require(
            key.shape == value.shape,
            f"key shape {key.shape} does not match value shape {value.shape}",
        )


def _projected(
    operands: tuple[Tensor, ...], weight: Tensor | None, bias: Tensor | None, alone: bool
) -> list[Tensor]:
    """Query, key and value by the three parts of one weight; by one product if they are one."""
    require(weight is not None, "use_separate_proj_weight is False but in_proj_weight is None")
    assert weight is not None
    if alone:
        return list(chunk(linear(operands[0], weight, bias), 3, -1))
    weights, biases = chunk(weight, 3), _thirds(bias)
    return [linear(x, w, b) for x, w, b in zip(operands, weights, biases, strict=True)]


def _projected_apart(
    operands: tuple[Tensor, ...], weights: list[Tensor | None], bias: Tensor | None
) -> list[Tensor]:
    """Query, key and value by a weight each."""
    for letter, weight in zip("qkv", weights, strict=True):
        message = f"use_separate_proj_weight is True but {letter}_proj_weight is None"
        require(weight is not None, message)
    width, biases = operands[0].shape[-1], _thirds(bias)
    names = ("query", "key", "value")
    for name, x, weight in zip(names, operands, weights, strict=True):
        _check_shape(f"{name} weights", weight, (width, x.shape[-1]))
    for name, part in zip(names, biases, strict=True):
        _check_shape(f"{name} bias", part, (width,))
    return [linear(x, w, b) for x, w, b in zip(operands, weights, biases, strict=True)]  # type: ignore[arg-type]


def _thirds(bias: Tensor | None) -> tuple[Tensor | None, ...]:
    return (None,) * 3 if bias is None else chunk(bias, 3)


def _check_shape(name: str, x: Tensor | None, wanted: tuple[int, ...]) -> None:
    if x is not None:
        got = tuple(x.shape)
        require(got == wanted, f"expecting {name} shape of {wanted}, but got {x.shape}")


def _checked_mask(mask: Tensor, length: int, keys: int, batch: int, heads: int) -> Tensor:
    """A mask in the shape (N or 1, heads or 1, L, S)."""
    wanted = (length, keys) if mask.dim() == 2 else (batch * heads, length, keys)
    if tuple(mask.shape) != wanted:
        raise RuntimeError(
            f"The shape of the {mask.dim()}D attn_mask is {mask.shape}, but should be {wanted}."
        )
    return reshape(mask, (1, 1, *wanted) if mask.dim() == 2 else (batch, heads, length, keys))


def _heads(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(L, N, heads * D) as (N, heads, L, D)."""
    length, (batch, heads, depth) = x.shape[0], shape
    if tuple(x.shape[1:]) != (batch, heads * depth):
        raise RuntimeError(
            f"shape '[{length}, {batch * heads}, {depth}]' is invalid for input of size {x.numel()}"
        )
    return permute(reshape(x, (length, batch, heads, depth)), 1, 2, 0, 3)


def _given_heads(name: str, given: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Keys or values that are given as (N * heads, S, D), as (N, heads, S, D)."""
    batch, heads, depth = shape
    for d, n in ((0, batch * heads), (2, depth)):
        got = given.shape[d]
        require(got == n, f"expecting {name}.size({d}) of {n}, but got {got}")
    return reshape(given, (batch, heads, -1, depth))


def _chances(q: Tensor, k: Tensor, mask: Tensor | None, p: float) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask), after dropout; nan for a query that sees no key."""
    factor = 1 / math.sqrt(q.shape[-1])
    scores = matmul(FUNCTIONS["mul"](q, factor), matrix_transpose(k))
    if mask is not None:
        if mask.dtype is not scores.dtype:
            names = [x.dtype.short.lower() for x in (mask, q, k)]
            raise RuntimeError(
                "Input dtypes must be the same, got: input {}, batch1: {}, batch2: {}".format(
                    *names
                )
            )
        scores = FUNCTIONS["add"](scores, mask)
    chances = softmax(scores, -1)
    return tensors.dropout(chances, p) if p else chances  # type: ignore[no-any-return]
