"""Binary cross entropy, for labels of which a text may have several."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qtx.foundation.batch import Batch
from qtx.losses.base import Loss, Training
from qtx.losses.sums import Sums, weighted

OF_LABEL = "f1/"
"""The prefix of the metric of one label, before the label's number."""


class LabelSums(NamedTuple):
    """`Sums`, and the counts that F1 is computed from.

    Attributes:
      texts: the sums of the losses and the weights.
      by_label: weights `[3, C]` of a label's right assignments, of all its assignments, and of the texts that have it.
    """

    texts: Sums
    by_label: Any

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of `Sums`, F1 over all assignments together (micro), and F1 of each label, `f1/0` and so
        on, without labels that neither are assigned nor should be."""
        right, assigned, there = np.asarray(self.by_label, np.float64)
        total = assigned + there
        of_all = float(2 * right.sum() / total.sum()) if total.any() else math.nan
        of_labels = {f"{OF_LABEL}{i}": float(2 * right[i] / total[i]) for i in np.flatnonzero(total)}
        return {**self.texts.metrics(), "f1": of_all, **of_labels}


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns -y log sigmoid(z) - (1 - y) log sigmoid(-z), elementwise, in nats; finite for any finite logit z."""
    return jax.nn.softplus(logits) - labels * logits


@dataclasses.dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """The binary cross entropy of logits `[B, C]` and `labels` `[B, C]`, 0 or 1, as a mean over the labels."""

    def __call__(self, output: jax.Array, batch: Batch, training: Training) -> Sums:
        losses = binary_cross_entropy(output.astype(jnp.float32), batch["labels"].astype(jnp.float32)).mean(axis=-1)
        return weighted(losses, batch["weights"])

    def measured(self, output: jax.Array, batch: Batch, shards: int) -> LabelSums:
        weights, assigned, there = batch["weights"].astype(jnp.float32), output > 0, batch["labels"] > 0
        counted = jnp.stack([assigned & there, assigned, there]).astype(jnp.float32)
        by_label = jnp.where(weights[:, None] > 0, weights[:, None] * counted, 0.0).sum(axis=1)
        return LabelSums(super().measured(output, batch, shards), by_label)
