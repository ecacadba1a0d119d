"""Exact means over held-out data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from qtx.foundation.batch import Batch
from qtx.losses.cross_entropy import cross_entropy_sums


def evaluate(apply_fn: Callable[[Batch], jax.Array], batches: Iterable[Batch]) -> dict[str, float]:
    """Returns the metrics of a model over batches with `labels` and `weights`.

    Args:
      apply_fn: batch -> logits `labels.shape + (classes,)`; compiled here, once per batch shape.
      batches: finite; entries of weight 0 (the padding of the last batch) do not count.

    Returns:
      loss (mean cross entropy, nats), perplexity exp(loss), accuracy (fraction), predictions (sum of the weights).
      `qtx.data.OBJECTIVES[objective].metric` says which of these a user reads first.
    """

    @jax.jit
    def sums(batch):
        return cross_entropy_sums(apply_fn(batch), batch["labels"], batch["weights"])

    return add_up(sums, batches)


def add_up(sums_fn: Callable[[Batch], Any], batches: Iterable[Batch]) -> dict[str, float]:
    """Returns the metrics over all batches, at least one, from a compiled function batch -> sums (see
    `qtx.losses.Loss`). The sums are added in float64, so that no batch's share is rounded away."""
    found = (jax.tree.map(_exact, jax.device_get(sums_fn(batch))) for batch in batches)
    return functools.reduce(_joined, found).metrics()


def _exact(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64)


def _joined(total: Any, more: Any) -> Any:
    return total.plus(more) if hasattr(total, "plus") else jax.tree.map(np.add, total, more)
