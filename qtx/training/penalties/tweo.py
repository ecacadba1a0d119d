"""TWEO: a high power of the values."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax.numpy as jnp

from qtx.foundation.limits import at_least, positive
from qtx.training.penalties.base import Penalty


@dataclasses.dataclass(frozen=True)
class Tweo(Penalty):
    """The penalty mean_d (|x_d| / tau)^p: almost nothing below tau, and steep above (Liang et al. 2025, "TWEO:
    Transformers Without Extreme Outliers", arXiv 2511.23225).

    It is meant for the outputs of the blocks: `layers/mlp_residual` where the LayerNorms are on the branches (pre-LN),
    `layers/mlp_norm` where they follow the residual sums (post-LN: BERT, OPT-350m).

    Attributes:
      tau: the scale, in units of the site.
      p: the power, at least 2.
    """

    sites: str = "layers/mlp_residual"
    tau: Annotated[float, positive()] = 3.0
    p: Annotated[int, at_least(2)] = 4

    def __call__(self, x, step):
        return ((jnp.abs(x) / self.tau) ** self.p).mean(axis=-1)
