"""The base class of normalizers with an empty key, which says how much the key weighs."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any

import jax.numpy as jnp

from qtx.attention.normalizers.base import Rows, SoftmaxLike
from qtx.foundation.limits import at_least, within


@dataclasses.dataclass(frozen=True)
class WithEmptyKey(SoftmaxLike):
    """A softmax with w empty keys of score s: exp(x_i) / (w exp(s) + sum_j exp(x_j)).

    Attributes:
      empty_warmup_steps: the weight grows linearly from 0 over this many training steps.
      empty_weight: w.
    """

    warmup = "empty_warmup_steps"

    empty_warmup_steps: Annotated[int, at_least(0)] = 0
    empty_weight: Annotated[float, within("[0, 1e6)", "0 or more, e.g. 1.0")] = 1.0

    def grown_to(self, share):
        return dataclasses.replace(self, empty_weight=self.empty_weight * share)

    def log_weight(self, rows: Rows) -> Any:
        """Returns log(w) at the training step of `rows`; -inf: there is no empty key yet."""
        return jnp.log(self.empty_weight * self.grown(rows))

    def with_empty_key(self, score: str) -> str:
        """Writes in PyTorch the softmax with an empty key of a score `[B, H, T, 1]`, whose probability is left out."""
        if self.empty_weight != 1:
            score += f" + {math.log(self.empty_weight)}" if self.empty_weight else " - torch.inf"
        return f"""
scores = torch.cat([scores, {score}], -1)
return softmax(scores, nn.functional.pad(visible, (0, 1), value=True))[..., :-1]
"""
