"""Exact means over held-out data."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import numpy as np

from qtx.foundation.batch import Batch
from qtx.training.distillation import is_taught
from qtx.training.objectives import Sums, cross_entropy_sums, fidelity_metrics, metrics


def evaluate(apply_fn: Callable[[Batch], jax.Array], batches: Iterable[Batch]) -> dict[str, float]:
    """Metrics of a model over batches with `labels` and `weights`.

    Args:
      apply_fn: batch -> logits `labels.shape + (classes,)`; compiled here, once per batch shape.
      batches: finite; entries of weight 0 (the padding of the last batch) do not count.

    Returns:
      loss (mean cross entropy, nats), perplexity exp(loss), accuracy (fraction), predictions (sum of the weights).
      Which of them a user reads first, `qtx.data.OBJECTIVES[objective].metric` says.
    """

    @jax.jit
    def sums(batch):
        return cross_entropy_sums(apply_fn(batch), batch["labels"], batch["weights"])

    return add_up(sums, batches)


def add_up(sums_fn: Callable[[Batch], Sums], batches: Iterable[Batch]) -> dict[str, float]:
    """`evaluate` for a compiled function batch -> `Sums`; adds in float64, so that no batch's share is rounded away.

    Of batches that a teacher has seen: loss (mean relative squared error of the outputs), fidelity (mean cosine to the
    teacher's) and predictions (examples).
    """
    total, taught = np.zeros(3), False
    for batch in batches:
        total += np.asarray(jax.device_get(tuple(sums_fn(batch))), np.float64)
        taught = is_taught(batch)
    loss, weight, correct = total.tolist()
    means = fidelity_metrics if taught else metrics
    return {**means(loss, weight, correct), "predictions": weight}
