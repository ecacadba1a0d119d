"""Cross entropy of tokens, of images, and of whole texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from qtx.models.vocabulary import Factors
from qtx.training.losses.base import Loss, Training
from qtx.training.objectives import ClassSums, Sums, class_sums, cross_entropy_sums, training_sums
from qtx.training.vocabulary_loss import vocabulary_sums


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Loss):
    """Weighted cross entropy of logits `[..., classes]` and `labels` `[...]`, in nats."""

    window = Sums
    factored = True

    def training_sums(self, output: Any, batch: Mapping[str, jax.Array], training: Training) -> Sums:
        smoothing = training.label_smoothing
        if isinstance(output, Factors):
            return vocabulary_sums(output, batch["labels"], batch["weights"], smoothing, shards=training.shards)
        return training_sums(output, batch, smoothing)

    def sums(self, output: Any, batch: Mapping[str, jax.Array], shards: int) -> Sums | ClassSums:
        if isinstance(output, Factors):
            return vocabulary_sums(output, batch["labels"], batch["weights"], share_ties=True, shards=shards)
        return cross_entropy_sums(output, batch["labels"], batch["weights"])


@dataclasses.dataclass(frozen=True)
class ClassCrossEntropy(CrossEntropy):
    """Cross entropy of logits `[B, C]` of whole texts, whose classes are also counted one by one, for F1."""

    def sums(self, output: Any, batch: Mapping[str, jax.Array], shards: int) -> ClassSums:
        return class_sums(output, batch["labels"], batch["weights"])
