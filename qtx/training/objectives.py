"""Weighted cross entropy as sums, from which exact means are built, and the sums of losses that count nothing else.

Sums, unlike means, add up: over microbatches, devices and evaluation batches with padding, the result is that of one
big batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Sums(NamedTuple):
    """Sums over the predictions of a batch, float32 scalars.

    Attributes:
      loss: weighted cross entropies, in nats.
      weight: weights; the number of predictions where weights are 0 and 1.
      correct: weights of the predictions whose most probable class is the label; for ties see `cross_entropy_sums`.
    """

    loss: jax.Array
    weight: jax.Array
    correct: jax.Array

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of the function `metrics`, and predictions (the sum of the weights)."""
        loss, weight, correct = map(float, (self.loss, self.weight, self.correct))
        return {**metrics(loss, weight, correct), "predictions": weight}


class ClassSums(NamedTuple):
    """`Sums`, and the counts by class that F1 is computed from.

    Attributes:
      loss, weight, correct: as in `Sums`.
      by_class: weights `[3, C]` of the right predictions of a class, of all its predictions, and of its labels.
    """

    loss: jax.Array
    weight: jax.Array
    correct: jax.Array
    by_class: jax.Array

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of `Sums`, and f1."""
        return {**Sums(self.loss, self.weight, self.correct).metrics(), "f1": f1_score(np.asarray(self.by_class))}


class LossSums(NamedTuple):
    """Sums over the examples of a batch, for a loss that counts nothing else; float32 scalars.

    Attributes:
      loss: weighted losses.
      weight: weights.
    """

    loss: jax.Array
    weight: jax.Array

    def metrics(self) -> dict[str, float]:
        """Returns the mean loss, NaN for no examples, and predictions (the sum of the weights)."""
        loss, weight = float(self.loss), float(self.weight)
        return {"loss": loss / weight if weight else math.nan, "predictions": weight}


class Mean(NamedTuple):
    """A mean that adds up: the sum and the number of its terms, float32 scalars."""

    total: jax.Array
    terms: jax.Array

    @classmethod
    def zero(cls) -> Mean:
        """Returns the mean of no terms."""
        zero = jnp.zeros((), jnp.float32)
        return cls(zero, zero)


def cross_entropy_sums(logits: jax.Array, labels: jax.Array, weights: jax.Array, share_ties: bool = True) -> Sums:
    """Returns the sums for logits and labels; labels of weight 0 do not matter.

    Args:
      logits, labels, weights: `[..., classes]`, `[...]` int32, and `[...]`.
      share_ties: whether a label that is one of k best classes counts 1 / k, so that a model that says nothing has the
        accuracy of guessing; otherwise it counts 1, which saves a pass over the logits.
    """
    counted = weights > 0
    labels = jnp.where(counted, labels, 0)
    weights = weights.astype(jnp.float32)
    logits = logits.astype(jnp.float32)
    of_label = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    cross_entropy = jax.nn.logsumexp(logits, axis=-1) - of_label
    # Not `argmax == label`: XLA's CPU argmax is six times slower, and would call a tie by the order of the classes.
    best = logits.max(axis=-1)
    share = 1.0 / (logits >= best[..., None]).sum(axis=-1) if share_ties else 1.0
    correct = jnp.where(of_label >= best, share, 0.0)
    return Sums(
        jnp.where(counted, weights * cross_entropy, 0.0).sum(),
        weights.sum(),
        jnp.where(counted, weights * correct, 0.0).sum(),
    )


def class_sums(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> ClassSums:
    """Returns the sums for logits `[B, C]`, labels `[B]` int32, weights `[B]`; `by_class` takes the first of ties."""
    sums = cross_entropy_sums(logits, labels, weights)
    labelled, predicted = (jax.nn.one_hot(classes, logits.shape[-1]) for classes in (labels, logits.argmax(-1)))
    counted = jnp.stack([labelled * predicted, predicted, labelled])
    return ClassSums(*sums, jnp.where(weights[:, None] > 0, weights[:, None] * counted, 0.0).sum(axis=1))


def training_sums(logits: jax.Array, batch: Mapping[str, jax.Array], label_smoothing: float = 0.0) -> Sums:
    """Returns the sums for the targets that a model is trained on, which may be mixed and smoothed.

    An example's target is (1 - e) ((1 - s) onehot(labels) + s onehot(mixed_labels)) + e / classes, with the label
    smoothing e (Szegedy et al. 2016) and the share s of Mixup and CutMix, mixed first and smoothed then (as timm does).
    Cross entropy is linear in the target, so no target is ever built. Without mixing and smoothing, the result is that
    of `cross_entropy_sums`, and as cheap.

    Args:
      logits: `[..., classes]`.
      batch: `labels` `[...]` int32 and `weights` `[...]`; with mixed examples also `mixed_labels` `[...]` int32 and
        `mixed_share` `[...]`, in [0, 1].
      label_smoothing: e, in [0, 1).

    Returns:
      the sums; `correct` counts each of two mixed labels by its share, ignores smoothing, and does not share ties.
    """
    labels, weights = batch["labels"], batch["weights"].astype(jnp.float32)
    if "mixed_labels" in batch:
        of_mixed = weights * batch["mixed_share"]
        first = cross_entropy_sums(logits, labels, weights - of_mixed, share_ties=False)
        second = cross_entropy_sums(logits, batch["mixed_labels"], of_mixed, share_ties=False)
        sums = Sums(first.loss + second.loss, weights.sum(), first.correct + second.correct)
    else:
        sums = cross_entropy_sums(logits, labels, weights, share_ties=False)
    if label_smoothing == 0:
        return sums
    logits = logits.astype(jnp.float32)
    of_uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
    uniform_loss = jnp.where(weights > 0, weights * of_uniform, 0.0).sum()
    return sums._replace(loss=(1 - label_smoothing) * sums.loss + label_smoothing * uniform_loss)


def f1_score(by_class: np.ndarray) -> float:
    """Returns F1, the harmonic mean of precision and recall, from sums `[3, C]` of `class_sums`: of two classes the F1
    of the second, the positive one; of more the mean over classes that are predicted or present (macro). 0 for none."""
    right, predicted, labelled = by_class
    there = predicted + labelled > 0
    scores = np.where(there, 2 * right / np.where(there, predicted + labelled, 1.0), 0.0)
    return float(scores[1] if len(scores) == 2 else scores.sum() / max(there.sum(), 1))


def metrics(loss_sum: float, weight_sum: float, correct_sum: float) -> dict[str, float]:
    """Returns mean loss (nats), perplexity exp(loss) and accuracy (fraction) from sums; all NaN for no predictions."""
    if weight_sum == 0:
        return {"loss": math.nan, "perplexity": math.nan, "accuracy": math.nan}
    loss = loss_sum / weight_sum
    try:
        perplexity = math.exp(loss)
    except OverflowError:
        perplexity = math.inf
    return {"loss": loss, "perplexity": perplexity, "accuracy": correct_sum / weight_sum}
