"""Classification of whole texts (Devlin et al. 2019, section 4.1)."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from qtx.data.objectives.base import TextObjective

PADDING = -1
"""In a block of a text and its label, what is no text."""


class SequenceClassification(TextObjective):
    """The class of a text: tokens, mask `[T]`, labels and weights `[]`; a source of labelled text makes the blocks.

    A block is one text within the tokenizer's template, then `PADDING`, and last its label.
    """

    loss = "class_cross_entropy"
    metric = "accuracy"
    also_measured = ("perplexity", "f1")
    lower_is_better = False
    built_in_sources = MappingProxyType({"tokens": "stdlib_labels"})
    labelled = True

    tokenizer = "wordpiece"

    def block_length(self, sequence_length):
        return sequence_length + 1

    def example(self, tokenizer, predictions):
        def labelled(block, rng):
            tokens, mask = padded(block[:-1], tokenizer.pad)
            return {"tokens": tokens, "mask": mask, "labels": block[-1], "weights": np.float32(1.0)}

        return labelled


def padded(block: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens `[T]` of a block of one text, `pad` where that has `PADDING`, and which of them are the text's. What
    is padding is told by no token: a text may itself have that which ends it, or which pads it."""
    mask = block != PADDING
    return np.where(mask, block, np.int32(pad)), mask
