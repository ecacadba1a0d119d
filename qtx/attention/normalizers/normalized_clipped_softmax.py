"""Clipped softmax whose rows keep their sum, whatever their number of keys."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax.numpy as jnp

from qtx.attention.normalizers.base import SoftmaxLike, clipped
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import at_least, within


@dataclasses.dataclass(frozen=True)
class NormalizedClippedSoftmax(SoftmaxLike):
    """Normalized clipped softmax, clip((t eta - beta) / (t - 1) p + (beta - eta) / (t - 1), 0, 1), p the softmax of a
    row with t visible keys (Liao & Monz 2024, arXiv 2402.12102, "Is it a free lunch for removing outliers during
    pretraining?").

    Before the clip a row's sum is beta and its largest possible value eta, at any t. Clipped softmax stretches by the
    same gamma whatever the length; here (beta - eta) / (t - 1) takes its part, and shrinks with the length. The formula
    says nothing of a row of one key, whose probability is beta.

    Attributes:
      beta: the sum of a row before the clip.
      eta: the upper stretch, which sets how much is clipped.
      eta_warmup_steps: eta grows linearly from beta, at which nothing is clipped, over this many training steps.

    Raises:
      QtxError: if eta is less than beta.
    """

    warmup = "eta_warmup_steps"

    beta: Annotated[float, within("(0, 1]", "a sum of probabilities in (0, 1], e.g. 1.0")] = 1.0
    eta: float = 1.03
    eta_warmup_steps: Annotated[int, at_least(0)] = 0

    def __post_init__(self):
        super().__post_init__()
        if not self.beta <= self.eta < 1e6:
            raise QtxError(f"eta is {self.eta}: expected at least beta {self.beta}, e.g. 1.03")

    def grown_to(self, share):
        return dataclasses.replace(self, eta=share * self.eta + (1 - share) * self.beta)

    def finish(self, parameters, probs, rows):
        grown, keys = self.grown(rows), rows.visible()
        eta = grown * self.eta + (1 - grown) * self.beta
        others = jnp.maximum(keys - 1, 1)
        several = clipped((keys * eta - self.beta) / others * probs + (self.beta - eta) / others)
        return jnp.where(keys > 1, several, self.beta * probs)

    def pytorch(self, own):
        return f"""
beta, eta, probs = {self.beta}, {self.eta}, softmax(scores, visible)
keys = visible.sum(-1, keepdim=True)
others = (keys - 1).clamp(min=1)
clipped = ((keys * eta - beta) / others * probs + (beta - eta) / others).clamp(0, 1)
return torch.where(keys > 1, clipped, beta * probs)
"""
