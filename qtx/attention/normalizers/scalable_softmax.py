"""Scalable softmax (Nakanishi 2025, arXiv 2501.19399): scores that grow with the logarithm of the number of keys."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qtx.attention.normalizers.base import Normalizer, softmax
from qtx.attention.parameters import Parameter

START = 0.168
"""The paper's: one over the mean of log n for n from 1 to 1,024, at which the scores are those of a softmax."""


@dataclasses.dataclass(frozen=True)
class ScalableSoftmax(Normalizer):
    """Scalable softmax (SSMax), softmax(s_h log(t) x) over the t keys that a row sees, s learned per head: attention
    stays as sharp at many keys as at few.

    Parameters: `scale` `[H]`.
    """

    def parameters(self, num_heads):
        return {"scale": Parameter((num_heads,), start=START, axes=("heads",))}

    def __call__(self, parameters, scores, rows):
        by_keys = jnp.log(jnp.maximum(rows.visible(), 1))
        return softmax(parameters["scale"][:, None, None] * by_keys * scores, rows.mask.dense())

    def pytorch(self, own):
        return f"""
keys = visible.sum(-1, keepdim=True).clamp(min=1)
return softmax({own}.scale.float()[:, None, None] * keys.log() * scores, visible)
"""
