"""Classification of whole texts (Devlin et al. 2019, section 4.1)."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from qtx.data.objectives.base import TextObjective
from qtx.losses import ClassCrossEntropy

PADDING = -1
"""The entry of a block at the places that hold neither the text nor its label."""


class SequenceClassification(TextObjective):
    """Prediction of a text's class: tokens, mask `[T]`, labels, weights `[]`; sources of labelled text make the blocks.

    A block is one text within the tokenizer's template, then `PADDING`, and last its label.
    """

    loss = ClassCrossEntropy()
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
    """Returns the tokens `[T]` of a block of one text, with `pad` for `PADDING`, and a mask of the text's tokens. No
    token marks the padding: a text may itself contain the token that ends or pads it."""
    mask = block != PADDING
    return np.where(mask, block, np.int32(pad)), mask
