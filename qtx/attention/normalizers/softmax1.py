"""Softmax with an empty key of score 0."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qtx.attention.normalizers.base import SoftmaxLike


@dataclasses.dataclass(frozen=True)
class Softmax1(SoftmaxLike):
    """exp(x_i) / (1 + sum_j exp(x_j)) (Miller 2023, "Attention is off by one"): a head whose scores are all far below 0
    attends to nothing.

    Attributes:
      empty_warmup_steps: the 1, the weight of an empty key, grows linearly from 0 over this many training steps.
    """

    warmup = "empty_warmup_steps"

    empty_warmup_steps: int = 0

    def empty(self, parameters, rows):
        return jnp.log(self.grown(rows))
