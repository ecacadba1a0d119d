"""Classification of whole texts (Devlin et al. 2019, section 4.1)."""

from __future__ import annotations

import numpy as np

from qtx.data.objectives.base import TextObjective


class SequenceClassification(TextObjective):
    """The class of a text: tokens, mask `[T]`, labels and weights `[]`; a source of labelled text makes the blocks.

    A block is one text between the start and the end token, then padding, and last its label.
    """

    loss = "class_cross_entropy"
    metric = "accuracy"
    lower_is_better = False
    built_in_source = "stdlib_labels"
    labelled = True

    tokenizer = "wordpiece"

    def block_length(self, sequence_length):
        return sequence_length + 1

    def example(self, tokenizer, predictions):
        return lambda block, rng: {
            "tokens": block[:-1],
            "mask": real_tokens(block[:-1], tokenizer.end),
            "labels": block[-1],
            "weights": np.float32(1.0),
        }


def real_tokens(tokens: np.ndarray, end: int) -> np.ndarray:
    """Which tokens `[T]` of one padded text are no padding: those up to its end token (that at position 0 is the start,
    which OPT's tokenizer has the same of)."""
    return np.arange(len(tokens)) <= 1 + np.argmax(tokens[1:] == end)
