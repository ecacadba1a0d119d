"""Classification of words, such as the recognition of named entities (Devlin et al. 2019, section 5.3)."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import numpy as np

from qtx.data.label_values import TAGS
from qtx.data.objectives.base import TextObjective
from qtx.data.objectives.sequence_classification import PADDING, padded
from qtx.losses import EntityCrossEntropy, Loss


@dataclasses.dataclass(frozen=True)
class TokenClassification(TextObjective):
    """Prediction of the class of each word: tokens, mask, labels, weights `[T]`; sources of labelled words make the
    blocks. A word has its label, and the weight 1, at its first token.

    A block is a sentence within the tokenizer's template, then `PADDING`, and behind these T entries T more: the label
    where a word begins, or else `PADDING`.

    Attributes:
      loss: the loss, which measures entities by the names of the classes.
    """

    loss: Loss = EntityCrossEntropy()

    metric = "f1"
    also_measured = ("precision", "recall", "accuracy", "perplexity")
    lower_is_better = False
    built_in_sources = MappingProxyType({"tokens": "stdlib_labels"})
    labelled = True
    label_kind = TAGS

    tokenizer = "wordpiece"

    def for_data(self, data):
        return dataclasses.replace(self, loss=EntityCrossEntropy(data.classes or ()))

    def block_length(self, sequence_length):
        return 2 * sequence_length

    def example(self, tokenizer, predictions):
        def labelled(block, rng):
            sentence, labels = np.split(block, 2)
            tokens, mask = padded(sentence, tokenizer.pad)
            words = labels != PADDING
            return {
                "tokens": tokens,
                "mask": mask,
                "labels": np.where(words, labels, np.int32(0)),
                "weights": words.astype(np.float32),
            }

        return labelled
