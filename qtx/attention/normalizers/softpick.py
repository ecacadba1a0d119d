"""Softpick (Zuhri et al. 2025, arXiv 2504.20966): a rectified softmax, whose rows need not sum to one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.attention.normalizers.base import Normalizer, only_visible, over_visible

EPSILON = 1e-8
"""As in the paper's code, beside a sum of exponentials that are shifted by the largest score."""


@dataclasses.dataclass(frozen=True)
class Softpick(Normalizer):
    """Softpick, relu(e^x_i - 1) / (sum_j |e^x_j - 1| + epsilon): exactly 0 for every score of 0 or less, whose distance
    from 0 still takes away from the others."""

    def __call__(self, parameters, scores, rows):
        scores, visible = over_visible(scores, rows)
        largest = jax.lax.stop_gradient(jnp.maximum(scores.max(axis=-1, keepdims=True), 0.0))
        less = jnp.exp(scores - largest) - jnp.exp(-largest)
        less = only_visible(less, visible)
        return jax.nn.relu(less) / (jnp.abs(less).sum(axis=-1, keepdims=True) + EPSILON)

    def pytorch(self, own):
        return f"""
scores = scores.masked_fill(~visible, 0)
largest = scores.amax(-1, keepdim=True).clamp(min=0)
less = ((scores - largest).exp() - (-largest).exp()).masked_fill(~visible, 0)
return less.clamp(min=0) / (less.abs().sum(-1, keepdim=True) + {EPSILON})
"""
