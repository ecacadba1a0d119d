"""Exact means over held-out data."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import numpy as np

from qtx.foundation.batch import Batch
from qtx.training.distillation import is_taught
from qtx.training.objectives import ClassSums, Sums, cross_entropy_sums, f1_score, fidelity_metrics, metrics


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


def add_up(sums_fn: Callable[[Batch], Sums | ClassSums], batches: Iterable[Batch]) -> dict[str, float]:
    """`evaluate` for a compiled function batch -> `Sums`; adds in float64, so that no batch's share is rounded away.

    Of batches that a teacher has seen: loss (mean relative squared error of the outputs), fidelity (mean cosine to the
    teacher's) and predictions (examples). Of `ClassSums` also f1.
    """
    total, by_class, taught = np.zeros(3), np.zeros(()), False
    for batch in batches:
        sums = jax.device_get(sums_fn(batch))
        total += np.asarray(sums[:3], np.float64)
        by_class = by_class + (sums.by_class if isinstance(sums, ClassSums) else 0.0)
        taught = is_taught(batch)
    loss, weight, correct = total.tolist()
    means = fidelity_metrics if taught else metrics
    f1 = {"f1": f1_score(by_class)} if by_class.ndim else {}
    return {**means(loss, weight, correct), **f1, "predictions": weight}
