"""ReLU attention (Wortsman et al. 2023, arXiv 2309.08586): rectified scores over the number of keys."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from qtx.attention.normalizers.base import Normalizer, only_visible, over_visible


@dataclasses.dataclass(frozen=True)
class Relu(Normalizer):
    """ReLU attention, relu(x_i) / t for the t keys that a row sees (the paper divides by the length of the sequence, as
    this does where nothing is masked): exact zeros, and no bound on what a key gets."""

    largest = math.inf

    def __call__(self, parameters, scores, rows):
        scores, visible = over_visible(scores, rows)
        probs = jax.nn.relu(scores) / jnp.maximum(rows.visible(), 1)
        return only_visible(probs, visible)

    def pytorch(self, own):
        return """
keys = visible.sum(-1, keepdim=True).clamp(min=1)
return (scores.clamp(min=0) / keys).masked_fill(~visible, 0)
"""
