"""Multi-head self-attention: projections, a normalizer, and an optional gate."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.attention.config import AttentionConfig
from qtx.attention.gates import Gate
from qtx.axes import constrain
from qtx.layers import Site, dense


class GatePredictor(nn.Module):
    """Holds a gate's parameters; input `[B, T, H, D]`, output the openness `[B, T, H]`, float32."""

    gate: Gate
    init_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        initializers = {
            "bias": nn.initializers.constant(self.gate.initial_bias),
            "hidden_bias": nn.initializers.zeros_init(),
        }
        parameters = {
            name: self.param(name, initializers.get(name, nn.initializers.normal(self.init_std)), shape).astype(
                self.dtype
            )
            for name, shape in self.gate.shapes(*x.shape[2:]).items()
        }
        return jax.nn.sigmoid(self.gate(parameters, x.astype(self.dtype)).astype(jnp.float32))


class MultiHeadAttention(nn.Module):
    """Self-attention in which a head can do nothing.

    Sites: query, key, value `[B, T, H*D]`; scores (scaled, before the mask) and probs `[B, H, T, T]`; context
    `[B, T, H*D]`; with a gate, gate `[B, T, H]` and gated_context `[B, T, H*D]`; out `[B, T, width]`.

    Attributes:
      num_heads: H; D = width / H.
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
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, step: jax.Array | None = None) -> jax.Array:
        """Args:
          x: `[B, T, width]`.
          mask: broadcasts to `[B, H, T, T]`, True where the key is visible.
          step: training step, for normalizers that anneal; None: fully trained.

        Returns:
          `[B, T, width]`.
        """
        batch, length, width = x.shape
        head_dim = width // self.num_heads

        def project(name):
            y = dense(width, ("embed", "heads"), self.init_std, self.dtype, name)(x)
            return constrain(y.reshape(batch, length, self.num_heads, head_dim), "batch", None, "heads")

        query, key, value = project("query") * head_dim**-0.5, project("key"), project("value")
        scores = jnp.einsum("bthd,bshd->bhts", query, key, preferred_element_type=jnp.float32)
        probs = self.config.make_normalizer()(Site(name="scores")(scores, mask), mask, step)
        probs = nn.Dropout(self.dropout, deterministic=self.deterministic)(Site(name="probs")(probs))
        context = jnp.einsum("bhts,bshd->bthd", probs.astype(self.dtype), value)
        context = Site(name="context")(context.reshape(batch, length, width))
        gate = self.config.make_gate()
        if gate is not None:
            heads = x.reshape(batch, length, self.num_heads, head_dim)
            openness = Site(name="gate")(GatePredictor(gate, self.init_std, self.dtype, name="gate_predictor")(heads))
            openness = (gate.scale * openness).astype(self.dtype)
            context = context.reshape(heads.shape) * openness[..., None]
            context = Site(name="gated_context")(context.reshape(batch, length, width))
        return dense(width, ("heads", "embed"), self.init_std, self.dtype, "out")(context)
