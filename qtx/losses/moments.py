"""Moments of a model's outputs and of its teacher's, from which the centred cosine is computed. This is stable even far
from 0: every batch of outputs is centred by its own means, and batches are joined by the differences of the means.

(Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np


class Moments(NamedTuple):
    """The weighted moments of N rows of outputs x and of a teacher's outputs t, each of D numbers.

    Attributes:
      weight: the sum of the rows' weights.
      means, target_means: the means of x and of t over the rows, `[D]`.
      variation, target_variation, common: sums of (x - mean)^2, (t - mean)^2 and (x - mean) (t - mean), `[D]`.
      error: sums of (x - t)^2, `[D]`.
    """

    weight: Any
    means: Any
    target_means: Any
    variation: Any
    target_variation: Any
    common: Any
    error: Any

    def plus(self, more: Self) -> Self:
        """Returns the moments of these rows and of others together, on the host, in float64."""
        weight = self.weight + more.weight
        part = more.weight / weight if weight else 0.0
        moved, target_moved = more.means - self.means, more.target_means - self.target_means
        return type(self)(
            weight,
            self.means + part * moved,
            self.target_means + part * target_moved,
            self.variation + more.variation + self.weight * part * moved * moved,
            self.target_variation + more.target_variation + self.weight * part * target_moved * target_moved,
            self.common + more.common + self.weight * part * moved * target_moved,
            self.error + more.error,
        )

    def compared(self, one_by_one: bool = False) -> tuple[float, float]:
        """Returns the cosine of the centred outputs to the teacher's centred ones, and the squared error as a share of
        the teacher's variation (1 - R^2), which is 1 for a model that only gives the teacher's means.

        Args:
          one_by_one: compare each of the D numbers by itself, since their sizes may differ, and take the mean over
            those that vary in the teacher's outputs; otherwise compare all of them together.

        Returns:
          NaN for both if the teacher's outputs are all the same; a cosine of 0 if the model's are.
        """
        sums = np.stack([self.variation, self.target_variation, self.common, self.error])
        sums = sums if one_by_one else sums.sum(axis=1, keepdims=True)
        variation, target_variation, common, error = sums[:, sums[1] > 0]
        if not target_variation.size:
            return math.nan, math.nan
        product = variation * target_variation
        cosines = np.where(product > 0, common / np.sqrt(np.where(product > 0, product, 1.0)), 0.0)
        return float(cosines.mean()), float((error / target_variation).mean())


def moments(outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> Moments:
    """Returns the moments of outputs and targets `[N, D]`, float32, with the rows' weights `[N]`."""
    total = weights.sum()
    weights = weights[:, None]
    counted = weights > 0
    outputs, targets = (jnp.where(counted, x, 0.0) for x in (outputs, targets))

    def summed(x: jax.Array) -> jax.Array:
        return (weights * x).sum(axis=0)

    means, target_means = (summed(x) / jnp.where(total > 0, total, 1.0) for x in (outputs, targets))
    x, t = outputs - means, targets - target_means
    error = outputs - targets
    return Moments(total, means, target_means, summed(x * x), summed(t * t), summed(x * t), summed(error * error))
