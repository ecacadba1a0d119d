"""Distillation (Hinton et al. 2015): learning a teacher's outputs, for any text or image."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import numpy as np

from qtx.data.objectives.base import TextObjective
from qtx.losses import EmbeddingDistillation, LogitDistillation, Loss
from qtx.losses.divergences import DIVERGENCES, SCORE, SOFTMAX


@dataclasses.dataclass(frozen=True)
class Distillation(TextObjective):
    """Prediction of a teacher's outputs for a whole block: tokens, mask `[T]`, and one weight for the block, `[]`.

    Image sources make the examples of images: images `[H, W, C]` and one weight. The teacher is the run that training
    starts from; its outputs are put beside the batch on the devices.

    Attributes:
      loss: the comparison with the teacher's outputs, which depends on the model's head.
    """

    loss: Loss = LogitDistillation()

    metric = "fidelity"
    also_measured = ("centred_fidelity",)
    lower_is_better = False
    taught = True
    pads = True

    built_in_sources = MappingProxyType({"tokens": "stdlib", "images": "photographs"})
    tokenizer = "wordpiece"

    def for_model(self, config):
        head = getattr(config, "head", None)
        if head == "none":
            return dataclasses.replace(self, loss=EmbeddingDistillation(config))
        # Softmax over one class is 1, whatever its logit: a head of one output for a text is a score.
        of_one = head not in ("mlm", "token_classification") and getattr(config, "num_classes", None) == 1
        kind = head if head in DIVERGENCES else SCORE if of_one else SOFTMAX
        return dataclasses.replace(self, loss=LogitDistillation(kind, config))

    def example(self, tokenizer, predictions):
        return lambda block, rng: {
            "tokens": block,
            "mask": np.ones(len(block), bool),
            "weights": np.float32(1.0),
        }
