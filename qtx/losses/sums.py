"""Sums over the examples or predictions of a batch, from which exact means are built.

Sums, unlike means, add up: over microbatches, devices and evaluation batches with padding, the result is that of one
big batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def perplexity(loss: float) -> float:
    """Returns exp of a mean cross entropy in nats, infinite where that is beyond float64."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


class Sums(NamedTuple):
    """Sums over the examples of a batch, float32 scalars.

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


class PredictionSums(NamedTuple):
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
        """Returns mean loss, perplexity exp(loss) and accuracy (fraction), all NaN for no predictions, and predictions
        (the sum of the weights)."""
        weight = float(self.weight)
        loss, correct = (float(x) / weight if weight else math.nan for x in (self.loss, self.correct))
        return {"loss": loss, "perplexity": perplexity(loss), "accuracy": correct, "predictions": weight}


class TextSums(NamedTuple):
    """`PredictionSums` of tokens, and how long the text is that they stand for, float32 scalars.

    Attributes:
      predictions: the sums over the tokens.
      bytes, words: UTF-8 bytes and words of the text.
    """

    predictions: PredictionSums
    bytes: jax.Array
    words: jax.Array

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of `PredictionSums`, word_perplexity, exp of the loss per word, and bits_per_byte, the
        loss per byte in bits (lm-evaluation-harness; Gao et al. 2020, section 3.1); NaN for a text without any."""
        loss, size, words = float(self.predictions.loss), float(self.bytes), float(self.words)
        return {
            **self.predictions.metrics(),
            "word_perplexity": perplexity(loss / words) if words else math.nan,
            "bits_per_byte": loss / size / math.log(2) if size else math.nan,
        }


class ClassSums(NamedTuple):
    """`PredictionSums`, and the counts by class that F1 is computed from.

    Attributes:
      predictions: the sums over all classes.
      by_class: weights `[3, C]` of the right predictions of a class, of all its predictions, and of its labels.
    """

    predictions: PredictionSums
    by_class: jax.Array

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of `PredictionSums`, and f1."""
        return {**self.predictions.metrics(), "f1": f1_score(np.asarray(self.by_class))}


def weighted(losses: jax.Array, weights: jax.Array) -> Sums:
    """Returns the sums for a loss and a weight of each example, both `[B]`; a loss of weight 0 does not matter."""
    weights = weights.astype(jnp.float32)
    return Sums(jnp.where(weights > 0, weights * losses, 0.0).sum(), weights.sum())


def f1_score(by_class: np.ndarray) -> float:
    """Returns F1, the harmonic mean of precision and recall, from sums `[3, C]` of `class_sums`: of two classes the F1
    of the second, the positive one; of more the mean over classes that are predicted or present (macro). 0 for none."""
    right, predicted, labelled = by_class
    there = predicted + labelled > 0
    scores = np.where(there, 2 * right / np.where(there, predicted + labelled, 1.0), 0.0)
    return float(scores[1] if len(scores) == 2 else scores.sum() / max(there.sum(), 1))
