"""Softmax with an empty key of score 0."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qtx.attention.normalizers.base import SoftmaxLike


@dataclasses.dataclass(frozen=True)
class Softmax1(SoftmaxLike):
    """exp(x_i) / (1 + sum_j exp(x_j)) (Miller 2023, "Attention is off by one"): a head whose scores are all far below 0
    attends to nothing."""

    def empty(self, parameters):
        return jnp.zeros((), jnp.float32)
