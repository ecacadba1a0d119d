"""Clipped softmax (Bondarenko et al. 2023, eq. 4): probabilities stretched to (gamma, zeta), then clipped to [0, 1]."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qtx.attention.normalizers.softmax import softmax
from qtx.errors import QtxError


@dataclasses.dataclass(frozen=True)
class ClippedSoftmax:
    """clip((zeta - gamma) softmax(x) + gamma, 0, 1): exact zeros and ones at finite scores, so a head can do nothing.

    Attributes:
      gamma: lower stretch, <= 0. Give either `gamma` or `alpha`.
      zeta: upper stretch, >= 1.
      alpha: gamma = -alpha / T for T keys, which lets one value fit every sequence length (the paper's section 4.1;
        2 to 4 work at every T).
      gamma_warmup_steps: gamma grows linearly from 0 over this many training steps. A freshly initialized narrow model
        attends almost uniformly (p = 1/T), and any gamma below about -1/T then clips every probability to 0, where no
        gradient flows; the warm-up lets attention form first.

    Raises:
      QtxError: if gamma > 0, zeta < 1, alpha < 0, or both gamma and alpha are given.
    """

    gamma: float | None = None
    zeta: float = 1.0
    alpha: float | None = None
    gamma_warmup_steps: int = 0

    def __post_init__(self):
        if (self.gamma is None) == (self.alpha is None):
            given = "neither" if self.gamma is None else "both"
            raise QtxError(
                f"clipped_softmax takes one of gamma and alpha, got {given}: set e.g. alpha=4, or gamma=-0.03"
            )
        if self.gamma is not None and not -1e6 < self.gamma <= 0:
            raise QtxError(f"gamma is {self.gamma}: expected gamma <= 0, e.g. -0.03")
        if self.alpha is not None and not 0 <= self.alpha < 1e6:
            raise QtxError(f"alpha is {self.alpha}: expected alpha >= 0 (gamma = -alpha / T), e.g. 4")
        if not 1 <= self.zeta < 1e6:
            raise QtxError(f"zeta is {self.zeta}: expected zeta >= 1, e.g. 1.0")
        if self.gamma_warmup_steps < 0:
            raise QtxError(f"gamma_warmup_steps is {self.gamma_warmup_steps}: expected 0 or more steps")

    def stretch(self, num_keys: int) -> float:
        """gamma for rows of `num_keys` keys."""
        return self.gamma if self.alpha is None else -self.alpha / num_keys  # type: ignore[return-value]

    def __call__(self, scores: jax.Array, mask: jax.Array | None = None, step: jax.Array | None = None) -> jax.Array:
        gamma: Any = self.stretch(scores.shape[-1])
        if self.gamma_warmup_steps and step is not None:
            gamma = gamma * jnp.minimum(step / self.gamma_warmup_steps, 1.0)
        return jnp.clip((self.zeta - gamma) * softmax(scores, mask) + gamma, 0.0, 1.0)
