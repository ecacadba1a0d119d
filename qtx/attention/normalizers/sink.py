"""Softmax with an empty key whose score is learned."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qtx.attention.normalizers.base import SoftmaxLike
from qtx.attention.parameters import Parameter


@dataclasses.dataclass(frozen=True)
class Sink(SoftmaxLike):
    """exp(x_i) / (exp(s_h) + sum_j exp(x_j)), s_h learned per head (gpt-oss, OpenAI 2025): each head has a place of its
    own to park attention on, and need not make one of a token. At s_h = 0, where it starts, it is `Softmax1`.

    Parameters: `sinks` `[H]`.

    Attributes:
      empty_warmup_steps: the weight of exp(s_h) grows linearly from 0 to 1 over this many training steps. (At weight 0
        s_h gets no gradient yet; nor would it, ever, if a softmax were made of it by an s_h of minus infinity.)
    """

    warmup = "empty_warmup_steps"

    empty_warmup_steps: int = 0

    def parameters(self, num_heads):
        return {"sinks": Parameter((num_heads,), start=0.0, axes=("heads",))}

    def empty(self, parameters, rows):
        return parameters["sinks"][:, None, None] + jnp.log(self.grown(rows))
