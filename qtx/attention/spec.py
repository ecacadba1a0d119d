"""The specification of one attention layer, apart from its parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from qtx.attention.config import AttentionConfig
from qtx.attention.fused import AUTO
from qtx.foundation.errors import QtxError


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """An `AttentionSpec` says what one layer of attention computes, and how.

    Attributes:
      num_heads: H, the number of query heads.
      variant: the normalizer and the gate.
      num_kv_heads: K, the number of key and value heads, each of which H / K consecutive query heads share
        (grouped-query attention, Ainslie et al. 2023); None: H.
      head_dim: D; None: the width of the input, divided by H.
      use_bias: whether the projections have biases.
      out_bias: whether the output projection has one; None: as the others.
      score_dim: the scores are divided by the root of this number; None: of D.
      score_cap: c, where scores s become c tanh(s / c) before the mask (Gemma 2); None: they are not bounded.
      prefix: how many learned keys and values stand before every text (`qtx.attention.prefix`).
      dropout: the rate on the probabilities, applied after clipping (the paper's section 4.1).
      init_std: the standard deviation of the initial kernels.
      dtype: the dtype of the computation; scores, probabilities and a gate's sigmoid are float32 under bfloat16 too.
      backend: a name in `qtx.attention.fused.BACKEND_NAMES`. If anything reads or changes scores or probabilities,
        these are computed whatever the name.

    Raises:
      QtxError: if K does not divide H.
    """

    num_heads: int
    variant: AttentionConfig = AttentionConfig()
    num_kv_heads: int | None = None
    head_dim: int | None = None
    use_bias: bool = True
    out_bias: bool | None = None
    score_dim: float | None = None
    score_cap: float | None = None
    prefix: int = 0
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: Any = jnp.float32
    backend: str = AUTO

    def __post_init__(self):
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            raise QtxError(f"num_kv_heads is {self.kv_heads}: expected a divisor of num_heads {self.num_heads}")

    @property
    def kv_heads(self) -> int:
        """Returns K."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads
