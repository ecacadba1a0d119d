"""Squared error of numbers that a model gives for a whole text."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from qtx.foundation.batch import Batch
from qtx.losses.base import Loss, Training
from qtx.losses.sums import Sums, weighted


class Pairs(NamedTuple):
    """The outputs and labels of every text, since ranks cannot be had from sums. `plus` appends, on the host.

    Attributes:
      output, labels: `[N, K]`.
      weights: `[N]`; 0 for padding.
    """

    output: Any
    labels: Any
    weights: Any

    def plus(self, more: Self) -> Self:
        """Returns the pairs with those of another batch appended."""
        return type(self)(*(np.concatenate(parts) for parts in zip(self, more, strict=True)))

    def metrics(self) -> dict[str, float]:
        """Returns the mean squared error, the correlation (Pearson) and the rank correlation (Spearman), as means over
        the K outputs, and the number of predictions. Of constant outputs a correlation is 0, of constant labels NaN."""
        counted = np.asarray(self.weights) > 0
        output, labels = (np.asarray(x, np.float64)[counted] for x in (self.output, self.labels))
        count = float(counted.sum())
        if not count:
            return {"loss": math.nan, "correlation": math.nan, "rank_correlation": math.nan, "predictions": 0.0}
        columns = list(zip(output.T, labels.T, strict=True))
        return {
            "loss": float(np.square(output - labels).mean()),
            "correlation": float(np.mean([correlation(x, y) for x, y in columns])),
            "rank_correlation": float(np.mean([correlation(ranks(x), ranks(y)) for x, y in columns])),
            "predictions": count,
        }


def correlation(found: np.ndarray, right: np.ndarray) -> float:
    """Returns Pearson's correlation of two vectors `[N]`; 0 if `found` is constant, NaN if `right` is."""
    x, y = found - found.mean(), right - right.mean()
    if not y.any():
        return math.nan
    return float(x @ y / math.sqrt((x @ x) * (y @ y))) if x.any() else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns the ranks of `[N]` values, from 0; equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[places]


@dataclasses.dataclass(frozen=True)
class SquaredError(Loss):
    """The squared error of outputs `[B, K]` and `labels` `[B, K]`, as a mean over the outputs."""

    def __call__(self, output: jax.Array, batch: Batch, training: Training) -> Sums:
        return weighted(jnp.square(output.astype(jnp.float32) - batch["labels"]).mean(axis=-1), batch["weights"])

    def measured(self, output: jax.Array, batch: Batch, shards: int) -> Pairs:
        return Pairs(output.astype(jnp.float32), batch["labels"], batch["weights"])
