"""Weighted cross entropy of tokens, of images, and of whole texts."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.foundation.batch import Batch
from qtx.losses.base import Loss, Training
from qtx.losses.sums import ClassSums, PredictionSums, TextSums
from qtx.losses.vocabulary import vocabulary_sums
from qtx.masks import sample_mask
from qtx.models.vocabulary import Factors


def cross_entropy_sums(
    logits: jax.Array, labels: jax.Array, weights: jax.Array, share_ties: bool = True
) -> PredictionSums:
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
    return PredictionSums(
        jnp.where(counted, weights * cross_entropy, 0.0).sum(),
        weights.sum(),
        jnp.where(counted, weights * correct, 0.0).sum(),
    )


def class_sums(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> ClassSums:
    """Returns the sums for logits `[B, C]`, labels `[B]` int32, weights `[B]`; `by_class` takes the first of ties."""
    sums = cross_entropy_sums(logits, labels, weights)
    labelled, predicted = (jax.nn.one_hot(classes, logits.shape[-1]) for classes in (labels, logits.argmax(-1)))
    counted = jnp.stack([labelled * predicted, predicted, labelled])
    return ClassSums(sums, jnp.where(weights[:, None] > 0, weights[:, None] * counted, 0.0).sum(axis=1))


def training_sums(logits: jax.Array, batch: Batch, label_smoothing: float = 0.0) -> PredictionSums:
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
        sums = PredictionSums(first.loss + second.loss, weights.sum(), first.correct + second.correct)
    else:
        sums = cross_entropy_sums(logits, labels, weights, share_ties=False)
    if label_smoothing == 0:
        return sums
    logits = logits.astype(jnp.float32)
    of_uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
    uniform_loss = jnp.where(weights > 0, weights * of_uniform, 0.0).sum()
    return sums._replace(loss=(1 - label_smoothing) * sums.loss + label_smoothing * uniform_loss)


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Loss):
    """Weighted cross entropy of logits `[..., classes]`, or their factors, and `labels` `[...]`, in nats. Where a batch
    says of how many `bytes` and `words` `[B]` of a text its labels are, it is measured by these, too."""

    window = PredictionSums
    factored = True

    def __call__(self, output: jax.Array | Factors, batch: Batch, training: Training) -> PredictionSums:
        smoothing = training.label_smoothing
        if isinstance(output, Factors):
            return vocabulary_sums(output, batch["labels"], batch["weights"], smoothing, shards=training.shards)
        return training_sums(output, batch, smoothing)

    def measured(self, output: jax.Array | Factors, batch: Batch, shards: int) -> PredictionSums | TextSums:
        labels, weights = batch["labels"], batch["weights"]
        if isinstance(output, Factors):
            sums = vocabulary_sums(output, labels, weights, share_ties=True, shards=shards)
        else:
            sums = cross_entropy_sums(output, labels, weights)
        if "bytes" not in batch:
            return sums
        real = sample_mask(batch)
        return TextSums(sums, *((real * batch[unit]).sum(dtype=jnp.float32) for unit in ("bytes", "words")))


@dataclasses.dataclass(frozen=True)
class ClassCrossEntropy(Loss):
    """Cross entropy of logits `[B, C]` of whole texts, whose classes are also counted one by one, for F1."""

    window = PredictionSums

    def __call__(self, output: jax.Array, batch: Batch, training: Training) -> PredictionSums:
        return training_sums(output, batch, training.label_smoothing)

    def measured(self, output: jax.Array, batch: Batch, shards: int) -> ClassSums:
        return class_sums(output, batch["labels"], batch["weights"])
