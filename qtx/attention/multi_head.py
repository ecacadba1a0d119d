"""Multi-head self-attention: projections, a normalizer, and an optional gate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.attention.fused import case_of, chosen
from qtx.attention.gates import DenseGate, Gate, PerHeadGate
from qtx.attention.normalizers import Rows
from qtx.attention.parameters import NORMALIZER, Parameters, check_parameters
from qtx.attention.past import has_past, with_past
from qtx.attention.prefix import Prefix
from qtx.attention.spec import AttentionSpec
from qtx.axes import constrain
from qtx.foundation.errors import QtxError
from qtx.layers import Dropout, Product, dense
from qtx.masks import Mask
from qtx.parts import Part
from qtx.sites import Site, watched

INNER = ("scores", "probs", "score_product", "context_product")
"""The modules that run only when attention is computed the naive way."""


class WithParameters(nn.Module):
    """A `WithParameters` module holds the parameters of a normalizer or a gate, float32, and calls it with them."""

    parameters: Parameters
    init_std: float
    part: Part = Part.OTHER

    @nn.compact
    def __call__(self, function: Callable[..., jax.Array], *inputs: Any) -> jax.Array:
        """Returns function({name: array}, *inputs)."""

        def init(start, axes):
            initial = nn.initializers.normal(self.init_std) if start is None else nn.initializers.constant(start)
            return nn.with_logical_partitioning(initial, axes) if axes else initial

        parameters = self.parameters.items()
        check_parameters(self.parameters)
        held = {name: self.param(name, init(start, axes), shape) for name, (shape, start, axes) in parameters}
        return function(held, *inputs)


class MultiHeadAttention(nn.Module):
    """Self-attention in which a head can do nothing.

    Sites: query `[B, T, H*D]`; key and value `[B, T, K*D]`; scores (scaled, with any bias, before the mask) and probs
    `[B, H, T, T]`; context `[B, T, H*D]`; out `[B, T, width]`. A gate adds gate, its openness, `[B, T, H]`, or
    `[B, T, H*D]` if each dimension has one, and gated_context `[B, T, H*D]`; on the values it adds gated_value
    `[B, T, K*D]` instead, and gate has K for H. A gate that is a dense layer also adds gate_predictor, of the shape of
    gate. A rotation adds rotated_query and rotated_key, of the shapes of query and key.

    Attributes:
      spec: what is computed, and how; H, K and D are its.
      deterministic: whether dropout is off.

    Raises:
      QtxError: if H does not divide the width that a gate reads by heads, or a gate's logits do not fit.
    """

    spec: AttentionSpec
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        rows: Rows | None = None,
        residual: jax.Array | None = None,
        rotate: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None,
    ) -> jax.Array:
        """Returns self-attention `[B, T, width]` over `x`.

        Args:
          x: the input `[B, T, width]`.
          rows: which keys each query sees, and the training step; None: all keys, fully trained.
          residual: `[B, T, width]`, the input of the LayerNorm that made `x`, for gates that read it; None: `x`.
          rotate: a function of the queries `[B, T, H, D]` and keys `[B, T, K, D]` before their product, such as rotary
            positions (Su et al. 2021), that returns both. Modules that it makes belong to the attention.
        """
        batch, length, width = x.shape
        spec, num_heads, kv_heads = self.spec, self.spec.num_heads, self.spec.kv_heads
        head_dim = width // num_heads if spec.head_dim is None else spec.head_dim
        normalizer, gate = spec.variant.normalizer, spec.variant.gate
        rows = Rows(Mask(length)) if rows is None else rows

        def split(y):
            return y.reshape(batch, length, -1, head_dim)

        def merged(y):
            return y.reshape(batch, length, -1)

        def project(part, name, heads):
            features, axes = heads * head_dim, ("embed", "heads")
            y = dense(features, axes, spec.init_std, spec.dtype, name, spec.use_bias, part=part)(x)
            return constrain(split(y), "batch", None, "heads")

        def of_query_heads(y):
            return y if kv_heads == num_heads else jnp.repeat(y, num_heads // kv_heads, axis=2)

        def gated(gate, y, part, name):
            read, y = x if gate.input == "normed" or residual is None else residual, split(y)
            return Site(part, name=name)(merged(y * self._openness(gate, read, *y.shape[2:])))

        query = project(Part.QUERY, "query", num_heads)
        key, value = project(Part.KEY, "key", kv_heads), project(Part.VALUE, "value", kv_heads)
        if rotate is not None:
            query, key = rotate(query, key)
            query = split(Site(Part.QUERY, name="rotated_query")(merged(query)))
            key = split(Site(Part.KEY, name="rotated_key")(merged(key)))
        if gate is not None and gate.place == "values":
            value = split(gated(gate, value, Part.VALUE, "gated_value"))
        if spec.prefix and not has_past(self):
            key, value, rows = Prefix(spec.prefix, spec.init_std, name="prefix")(key, value, rows)
        key, value, rows = with_past(self, key, value, rows)
        key, value = of_query_heads(key), of_query_heads(value)
        normalize = WithParameters(normalizer.parameters(num_heads), spec.init_std, name=NORMALIZER)
        dropout = 0.0 if self.deterministic else spec.dropout
        case = case_of(normalizer, rows, query, dropout, spec.score_cap is not None)
        backend = chosen(spec.backend, case, watched(self, *INNER))
        scale = (spec.score_dim or head_dim) ** -0.5
        if backend is None:
            context = self._naive(normalize, query, key, value, rows, scale)
        else:
            dropout_key = self.make_rng("dropout") if dropout else None
            query = query * scale
            context = normalize(functools.partial(backend, case), query, key, value, rows, dropout_key)
        context = Site(Part.CONTEXT, name="context")(merged(context))
        if gate is not None and gate.place == "context":
            context = gated(gate, context, Part.CONTEXT, "gated_context")
        axes = ("heads", "embed")
        bias = spec.use_bias if spec.out_bias is None else spec.out_bias
        return dense(width, axes, spec.init_std, spec.dtype, "out", bias, part=Part.BRANCH)(context)

    def _naive(
        self, normalize: WithParameters, query: jax.Array, key: jax.Array, value: jax.Array, rows: Rows, scale: float
    ) -> jax.Array:
        """Computes the context `[B, T, H, D]` with scores and probabilities in memory, where all can look at them."""
        scores = Product("bthd,bshd->bhts", jnp.float32, scale, name="score_product")(query, key)
        if self.spec.score_cap is not None:
            scores = self.spec.score_cap * jnp.tanh(scores / self.spec.score_cap)
        scores = scores if rows.bias is None else scores + rows.bias
        scores = Site(Part.SCORES, name="scores")(scores, rows.mask)
        probs = Site(Part.PROBS, name="probs")(normalize(self.spec.variant.normalizer, scores, rows), rows.mask)
        probs = Dropout(self.spec.dropout, deterministic=self.deterministic)(probs).astype(self.spec.dtype)
        return Product("bhts,bshd->bthd", self.spec.dtype, name="context_product")(probs, value)

    def _openness(self, gate: Gate, x: jax.Array, num_heads: int, head_dim: int) -> jax.Array:
        """Computes the gate's factor on `num_heads` heads, `[B, T, num_heads, 1 or head_dim]`."""
        heads = (*x.shape[:2], num_heads, -1)
        if isinstance(gate, DenseGate):
            features = num_heads * gate.logits_per_head(head_dim)
            layer = dense(
                features,
                ("embed", "heads"),
                self.spec.init_std,
                self.spec.dtype,
                "gate_predictor",
                use_bias=gate.initial_bias is not None,
                bias=gate.initial_bias or 0.0,
                part=Part.GATE,
            )
            logits = layer(x)
        else:
            assert isinstance(gate, PerHeadGate)
            if x.shape[-1] % num_heads:
                raise QtxError(
                    f"num_heads {num_heads} does not divide width {x.shape[-1]}, of which this gate reads each head's "
                    "own slice: choose one that reads all of it, such as headwise"
                )

            def in_dtype(parameters, x):
                return gate({name: value.astype(self.spec.dtype) for name, value in parameters.items()}, x)

            held = gate.parameters(num_heads, x.shape[-1] // num_heads)
            predict = WithParameters(held, self.spec.init_std, Part.GATE, name="gate_predictor")
            logits = predict(in_dtype, x.reshape(heads).astype(self.spec.dtype))
            of_heads = (*x.shape[:2], num_heads)
            if logits.shape not in ((*of_heads, 1), (*of_heads, head_dim)):
                raise QtxError(
                    f"{type(gate).__name__} gives logits {logits.shape}, expected {(*of_heads, 1)}, one for a head, or "
                    f"{(*of_heads, head_dim)}, one for each of its dimensions: it may not leave its input out"
                )
            logits = logits.reshape(*x.shape[:2], -1)
        openness = Site(Part.GATE, name="gate")(jax.nn.sigmoid(logits.astype(jnp.float32)))
        return (gate.scale * openness).astype(self.spec.dtype).reshape(heads)
