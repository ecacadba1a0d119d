"""Choosing the right continuation of a text by its log-likelihood."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import numpy as np

from qtx.data.label_values import CHOICES
from qtx.data.objectives.base import TextObjective
from qtx.data.objectives.sequence_classification import padded
from qtx.losses import ChoiceCrossEntropy, Loss

OF_CHOICE = 3
"""Numbers of a block besides its tokens: the last id, which is only a label, and behind it how many ids the choice has,
and the choice's number."""


@dataclasses.dataclass(frozen=True)
class Choosing(TextObjective):
    """Prediction of a choice's tokens from what stands before it: tokens, mask, labels, weights `[T]`, and `choices`
    `[]`, the choice's number; sources of choices make the blocks.

    A block is a context and a choice, T + 1 ids, padded, and then two numbers; see `OF_CHOICE`.

    Attributes:
      loss: the loss, which measures by the choices of every question.
    """

    loss: Loss = ChoiceCrossEntropy()

    metric = "accuracy"
    also_measured = ("perplexity", "accuracy_norm")
    lower_is_better = False
    built_in_sources = MappingProxyType({"tokens": "stdlib_labels"})
    labelled = True
    label_kind = CHOICES

    tokenizer = "bpe"
    ends_document = False

    def for_data(self, data):
        return dataclasses.replace(self, loss=ChoiceCrossEntropy(data.choices))

    def block_length(self, sequence_length):
        return sequence_length + OF_CHOICE

    def example(self, tokenizer, predictions):
        def chosen(block, rng):
            *_, count, number = block
            ids, there = padded(block[:-2], tokenizer.pad)
            mask = there[1:]
            predicted, end = np.arange(len(mask)), mask.sum()
            return {
                "tokens": np.where(mask, ids[:-1], np.int32(tokenizer.pad)),
                "mask": mask,
                "labels": ids[1:],
                "weights": ((end - count <= predicted) & (predicted < end)).astype(np.float32),
                "choices": number,
            }

        return chosen
