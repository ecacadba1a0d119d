"""The control: attention switched off, so that what remains is not attention's doing."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qtx.attention.normalizers.base import Normalizer


@dataclasses.dataclass(frozen=True)
class NoAttention(Normalizer):
    """Every probability is 0: the layer adds only its output bias to the residual.

    Outliers that a model with this normalizer still grows come from the optimizer or the data, not from attention heads
    that try to do nothing; each comparison carries it for that reason.
    """

    def __call__(self, parameters, scores, rows):
        return jnp.zeros_like(scores, dtype=jnp.float32)

    def pytorch(self, own):
        return "return torch.zeros_like(scores)"
