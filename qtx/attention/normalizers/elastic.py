"""Elastic softmax (arXiv 2601.00919, 2026): each head takes a learned share of uniform attention from a softmax."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import jax
import jax.numpy as jnp

from qtx.attention.normalizers.base import Normalizer, only_visible, softmax
from qtx.attention.parameters import Parameter
from qtx.foundation.limits import at_least, within


@dataclasses.dataclass(frozen=True)
class Elastic(Normalizer):
    """Elastic softmax, relu(p_i + w tau_h / t), with p the softmax over the t keys that a row sees, and tau learned per
    head from -1 on: a head that attends uniformly attends to nothing. (Nearest relative: clipped softmax by
    `alpha_visible`, whose gamma is -alpha / t for all heads and which stretches what is left to 1.)

    Parameters: `tau` `[H]`.

    Attributes:
      tau_warmup_steps: w grows linearly from 0 over this many training steps. A narrow model as initialized attends
        almost uniformly, where w = 1 leaves nothing and no gradient.
      tau_weight: w.
    """

    warmup = "tau_warmup_steps"
    largest = math.inf

    tau_warmup_steps: Annotated[int, at_least(0)] = 0
    tau_weight: Annotated[float, within("[0, 1e6)", "0 or more, e.g. 1.0")] = 1.0

    def parameters(self, num_heads):
        return {"tau": Parameter((num_heads,), start=-1.0, axes=("heads",))}

    def grown_to(self, share):
        return dataclasses.replace(self, tau_weight=self.tau_weight * share)

    def __call__(self, parameters, scores, rows):
        tau, visible = self.tau_weight * self.grown(rows) * parameters["tau"][:, None, None], rows.mask.dense()
        probs = jax.nn.relu(softmax(scores, visible) + tau / jnp.maximum(rows.visible(), 1))
        return only_visible(probs, visible)

    def pytorch(self, own):
        return f"""
probs, keys = softmax(scores, visible), visible.sum(-1, keepdim=True).clamp(min=1)
probs = (probs + {self.tau_weight} * {own}.tau.float()[:, None, None] / keys).clamp(min=0)
return probs.masked_fill(~visible, 0)
"""
