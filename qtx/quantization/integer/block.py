"""The transformer block on integers: what `Block` computes under fake quantization, as one pure function.

Its variables mirror the module tree, without the layer axis: a site's node has its "grid" (see `tensor.on_grid`), a
dense layer's also its kernel (see `products.dense`), a LayerNorm's "scale" and "bias", and the gate
predictor's "parameters". "input" is the site whose output enters the block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qtx.models.block import ACTIVATIONS, TransformerConfig
from qtx.quantization.integer import products
from qtx.quantization.integer.tensor import Tensor, on_grid

Variables = Mapping[str, Any]


def block(
    config: TransformerConfig,
    pre_norm: bool,
    activation: str,
    variables: Variables,
    x: jax.Array,
    mask: jax.Array | None,
    step: jax.Array | None,
) -> jax.Array:
    """The block's output, float32 `[B, T, width]`; `x`, `mask` and `step` as in `Block`."""

    def norm(x: Tensor, name: str) -> Tensor:
        return _layer_norm(x.real, config.layer_norm_epsilon, variables[name])

    def add(x: Tensor, branch: Tensor, name: str) -> Tensor:
        return on_grid(x.real + branch.real, variables.get(name))

    entering = on_grid(x, variables.get("input"))
    branch = _attention(
        config, variables["attention"], norm(entering, "attention_norm") if pre_norm else entering, mask, step
    )
    middle = add(entering, branch, "attention_residual")
    middle = middle if pre_norm else norm(middle, "attention_norm")
    branch = _mlp(activation, variables["mlp"], norm(middle, "mlp_norm") if pre_norm else middle)
    leaving = add(middle, branch, "mlp_residual")
    return (leaving if pre_norm else norm(leaving, "mlp_norm")).real


def _attention(
    config: TransformerConfig, variables: Variables, x: Tensor, mask: jax.Array | None, step: jax.Array | None
) -> Tensor:
    heads = config.num_heads
    query, key, value = (_dense(x, variables[name]) for name in ("query", "key", "value"))
    scores = on_grid(products.scores(query, key, heads), variables.get("scores"))
    probs = on_grid(config.attention.make_normalizer()(scores.real, mask, step), variables.get("probs"))
    context = on_grid(products.context(probs, value, heads), variables.get("context"))
    gate = config.attention.make_gate()
    if gate is not None:
        split = (*x.real.shape[:2], heads, -1)
        logits = gate(variables["gate_predictor"]["parameters"], x.real.reshape(split))
        openness = gate.scale * on_grid(jax.nn.sigmoid(logits), variables.get("gate")).real
        gated = context.real.reshape(split) * openness[..., None]
        context = on_grid(gated.reshape(x.real.shape), variables.get("gated_context"))
    return _dense(context, variables["out"])


def _mlp(activation: str, variables: Variables, x: Tensor) -> Tensor:
    hidden = ACTIVATIONS[activation](_dense(x, variables["in"]).real)
    return _dense(on_grid(hidden, variables.get("hidden")), variables["out"])


def _dense(x: Tensor, node: Variables) -> Tensor:
    return on_grid(products.dense(x, node), node)


def _layer_norm(x: jax.Array, epsilon: float, node: Variables) -> Tensor:
    """As `flax.linen.LayerNorm` with the two-pass variance (see `qtx.layers.layer_norm`)."""
    centred = x - x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon) * node["scale"]
    return on_grid(centred * scale + node["bias"], node)
