"""Moments of a model's outputs and of its teacher's, from which their centred cosine is: stable however far the outputs
are from 0, for every batch is centred by its own means and batches are joined by the differences of these.

(Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np


class Moments(NamedTuple):
    """Of N rows of outputs x and of a teacher's t, each of D numbers.

    Attributes:
      weight: the sum of the rows' weights.
      means, target_means: over the rows, `[D]`.
      variation, target_variation, common: sums over rows and numbers of (x - mean)^2, (t - mean)^2 and their product.
      error: sum of (x - t)^2.
    """

    weight: Any
    means: Any
    target_means: Any
    variation: Any
    target_variation: Any
    common: Any
    error: Any

    def plus(self, more: Self) -> Self:
        """With those of other rows, on the host, in float64."""
        weight = self.weight + more.weight
        share = self.weight * more.weight / weight if weight else 0.0
        moved, target_moved = more.means - self.means, more.target_means - self.target_means
        part = more.weight / weight if weight else 0.0
        return type(self)(
            weight,
            self.means + part * moved,
            self.target_means + part * target_moved,
            self.variation + more.variation + share * np.square(moved).sum(),
            self.target_variation + more.target_variation + share * np.square(target_moved).sum(),
            self.common + more.common + share * (moved * target_moved).sum(),
            self.error + more.error,
        )

    @property
    def cosine(self) -> float:
        """Of the centred outputs to the centred ones of the teacher, at most 1; 0 of outputs that are all the same, NaN
        of a teacher whose outputs are."""
        product = float(self.variation) * float(self.target_variation)
        if not float(self.target_variation):
            return math.nan
        return float(self.common) / math.sqrt(product) if product else 0.0

    @property
    def relative_error(self) -> float:
        """The squared error as a share of the teacher's variation: 1 is no better than its means (1 - R^2)."""
        variation = float(self.target_variation)
        return float(self.error) / variation if variation else math.nan


def moments(outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> Moments:
    """Of outputs and targets `[N, D]`, float32, and the rows' weights `[N]`."""
    total = weights.sum()
    weights = weights[:, None]
    counted = weights > 0
    outputs, targets = (jnp.where(counted, x, 0.0) for x in (outputs, targets))

    def mean(x: jax.Array) -> jax.Array:
        return (weights * x).sum(axis=0) / jnp.where(total > 0, total, 1.0)

    def summed(x: jax.Array) -> jax.Array:
        return (weights * x).sum(axis=-1).sum()  # row by row: float32 has no place for the digits of a long sum

    means, target_means = mean(outputs), mean(targets)
    x, t = outputs - means, targets - target_means
    error = outputs - targets
    return Moments(total, means, target_means, summed(x * x), summed(t * t), summed(x * t), summed(error * error))
