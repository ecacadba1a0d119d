"""Sigmoid attention (Ramapuram et al. 2024, arXiv 2409.04431): every key is weighed by itself."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.attention.normalizers.base import Normalizer, only_visible, over_visible


@dataclasses.dataclass(frozen=True)
class Sigmoid(Normalizer):
    """Sigmoid attention, sigmoid(x_i - log t) for the t keys that a row sees (the paper's bias -log n, with n the keys
    in sight, so that the first rows of a causal model are not fainter than the last): no key takes from another, and at
    scores of 0 a row sums to nearly 1."""

    def __call__(self, parameters, scores, rows):
        scores, visible = over_visible(scores, rows)
        probs = jax.nn.sigmoid(scores - jnp.log(jnp.maximum(rows.visible(), 1)))
        return only_visible(probs, visible)

    def pytorch(self, own):
        return """
keys = visible.sum(-1, keepdim=True).clamp(min=1)
return torch.sigmoid(scores - keys.log()).masked_fill(~visible, 0)
"""
