"""Multi-head self-attention: projections, a normalizer, and an optional gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.attention.config import AttentionConfig
from qtx.attention.gates import DenseGate, Gate, PerHeadGate
from qtx.attention.normalizers import Rows
from qtx.attention.parameters import Parameters
from qtx.axes import constrain
from qtx.layers import Product, dense
from qtx.masks import Mask
from qtx.sites import Site


class Held(nn.Module):
    """Holds the parameters of a normalizer or a gate, float32, and calls it with them."""

    parameters: Parameters
    init_std: float

    @nn.compact
    def __call__(self, function: Callable[..., jax.Array], *inputs: Any) -> jax.Array:
        """function({name: array}, *inputs)."""

        def init(start, axes):
            initial = nn.initializers.normal(self.init_std) if start is None else nn.initializers.constant(start)
            return nn.with_logical_partitioning(initial, axes) if axes else initial

        parameters = self.parameters.items()
        held = {name: self.param(name, init(start, axes), shape) for name, (shape, start, axes) in parameters}
        return function(held, *inputs)


class MultiHeadAttention(nn.Module):
    """Self-attention in which a head can do nothing.

    Sites: query, key, value `[B, T, H*D]`; scores (scaled, before the mask) and probs `[B, H, T, T]`; context
    `[B, T, H*D]`; out `[B, T, width]`. With a gate, gate, its openness, `[B, T, H]`, or `[B, T, H*D]` if it has one for
    each dimension; gated_context `[B, T, H*D]`, or gated_value if it is on the values; and, if it is a dense layer,
    gate_predictor, of the gate's shape.

    Attributes:
      num_heads: H.
      config: the normalizer and the gate.
      dropout: rate on the probabilities, applied after clipping (the paper's section 4.1).
      init_std: standard deviation of the initial kernels.
      dtype: of the computation; scores, probabilities and gates are float32 under bfloat16 too.
      deterministic: no dropout.
    """

    num_heads: int
    config: AttentionConfig
    dropout: float
    init_std: float
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, rows: Rows | None = None, residual: jax.Array | None = None) -> jax.Array:
        """Args:
          x: `[B, T, width]`.
          rows: which keys each query sees, and the training step; None: all, fully trained.
          residual: `[B, T, width]`, what `x` is the LayerNorm of, for gates that read it; None: `x`.

        Returns:
          `[B, T, width]`.
        """
        batch, length, width = x.shape
        head_dim = width // self.num_heads
        normalizer, gate = self.config.normalizer, self.config.gate
        rows = Rows(Mask(length)) if rows is None else rows

        def split(y):
            return y.reshape(batch, length, self.num_heads, -1)

        def merged(y):
            return y.reshape(batch, length, -1)

        def project(name):
            y = dense(width, ("embed", "heads"), self.init_std, self.dtype, name)(x)
            return constrain(split(y), "batch", None, "heads")

        def gated(gate, y, name):
            openness = self._openness(gate, x if gate.input == "normed" or residual is None else residual)
            return Site(name=name)(merged(split(y) * openness))

        query, key, value = project("query"), project("key"), project("value")
        if gate is not None and gate.place == "values":
            value = split(gated(gate, value, "gated_value"))
        scores = Product("bthd,bshd->bhts", jnp.float32, head_dim**-0.5, name="score_product")(query, key)
        scores = Site(name="scores")(scores, rows.mask)
        normalize = Held(normalizer.parameters(self.num_heads), self.init_std, name="normalizer")
        probs = Site(name="probs")(normalize(normalizer, scores, rows))
        probs = nn.Dropout(self.dropout, deterministic=self.deterministic)(probs).astype(self.dtype)
        context = Product("bhts,bshd->bthd", self.dtype, name="context_product")(probs, value)
        context = Site(name="context")(merged(context))
        if gate is not None and gate.place == "context":
            context = gated(gate, context, "gated_context")
        return dense(width, ("heads", "embed"), self.init_std, self.dtype, "out")(context)

    def _openness(self, gate: Gate, x: jax.Array) -> jax.Array:
        """The gate's factor, `[B, T, H, 1 or D]`."""
        head_dim = x.shape[-1] // self.num_heads
        heads = (*x.shape[:2], self.num_heads, -1)
        if isinstance(gate, DenseGate):
            features = self.num_heads * gate.logits_per_head(head_dim)
            layer = dense(
                features,
                ("embed", "heads"),
                self.init_std,
                self.dtype,
                "gate_predictor",
                use_bias=gate.initial_bias is not None,
                bias=gate.initial_bias or 0.0,
            )
            logits = layer(x)
        else:
            assert isinstance(gate, PerHeadGate)

            def in_dtype(parameters, x):
                return gate({name: value.astype(self.dtype) for name, value in parameters.items()}, x)

            predict = Held(gate.parameters(self.num_heads, head_dim), self.init_std, name="gate_predictor")
            logits = predict(in_dtype, x.reshape(heads).astype(self.dtype)).reshape(*x.shape[:2], -1)
        openness = Site(name="gate")(jax.nn.sigmoid(logits.astype(jnp.float32)))
        return (gate.scale * openness).astype(self.dtype).reshape(heads)
