"""Attention with several heads, as a module."""

from typing import Any

from ..functions.multihead import require
from ..tensor import Tensor
from . import functional as F
from . import init
from .linear import NonDynamicallyQuantizableLinear
from .module import Module
from .parameter import parameter


class MultiheadAttention(Module):
    """softmax(q k^T / sqrt(D)) v in several heads, between linear maps (arXiv:1706.03762).

    query is (L, N, embed_dim), key (S, N, kdim) and value (S, N, vdim); with batch_first N is the
    first dimension. The maps into the heads are `in_proj_weight`, or three weights where kdim or
    vdim differ from embed_dim. add_bias_kv appends a learned key and value, add_zero_attn zeros.

    Raises:
        ValueError, AssertionError: for sizes that do not fit.
    """

    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
        add_bias_kv: bool = False, add_zero_attn: bool = False, kdim: int | None = None,
        vdim: int | None = None, batch_first: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                f"num_heads={num_heads} instead"
            )
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        self.add_zero_attn = add_zero_attn
        require(self.head_dim * num_heads == embed_dim, "embed_dim must be divisible by num_heads")
        same = self._qkv_same_embed_dim
        shapes: dict[str, tuple[int, ...] | None] = {
            "q_proj_weight": None if same else (embed_dim, embed_dim),
            "k_proj_weight": None if same else (embed_dim, self.kdim),
            "v_proj_weight": None if same else (embed_dim, self.vdim),
            "in_proj_weight": (3 * embed_dim, embed_dim) if same else None,
            "in_proj_bias": (3 * embed_dim,) if bias else None,
        }
        for name, shape in shapes.items():
            self.register_parameter(name, parameter(shape, dtype, device) if shape else None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, device, dtype)
        for name in ("bias_k", "bias_v"):
            own = parameter((1, 1, embed_dim), dtype, device) if add_bias_kv else None
            # Without a value it is an attribute, not an empty parameter, as in PyTorch.
            setattr(self, name, own)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Draw new weights and appended keys and values; biases are 0."""
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight = self._parameters[name]
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self._parameters["in_proj_bias"], self.out_proj.bias):
            if bias is not None:
                init.constant_(bias, 0.0)
        for appended in (self.bias_k, self.bias_v):
            if appended is not None:
                init.xavier_normal_(appended)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None,
        average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """The result in query's layout, and the weights (N, L, S) if they are needed, (N, heads,
        L, S) if they are not averaged.

        attn_mask (L, S) or (N * heads, L, S) and key_padding_mask (N, S): bools, True where a key
        takes no part, or floats to be added to the scores. is_causal says that attn_mask is that
        of `Transformer.generate_square_subsequent_mask`.
        """
        turned = self.batch_first and query.dim() == 3
        if turned:
            # One tensor given three times stays one.
            views = {id(x): x.transpose(0, 1) for x in (query, key, value)}
            query, key, value = (views[id(x)] for x in (query, key, value))
        table = self._parameters
        z, weights = F.multi_head_attention_forward(
            query, key, value, self.embed_dim, self.num_heads, table["in_proj_weight"],
            table["in_proj_bias"], self.bias_k, self.bias_v, self.add_zero_attn, self.dropout,
            self.out_proj.weight, self.out_proj.bias, self.training, key_padding_mask,
            need_weights, attn_mask, not self._qkv_same_embed_dim, table["q_proj_weight"],
            table["k_proj_weight"], table["v_proj_weight"],
            average_attn_weights=average_attn_weights, is_causal=is_causal,
        )  # fmt: skip
        return z.transpose(0, 1) if turned else z, weights
