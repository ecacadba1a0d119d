"""Finding the answer to a question in a text (Devlin et al. 2019, sections 4.2 and 4.3)."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import numpy as np

from qtx.data.label_values import ANSWERS
from qtx.data.objectives.base import TextObjective
from qtx.data.objectives.sequence_classification import padded
from qtx.losses import Loss, SpanCrossEntropy

OF_WINDOW = 5
"""Numbers of a window behind its tokens: the positions of the answer's first and last token, the window's number, the
position of the first token of the text, and how many tokens the window has of the text."""


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(TextObjective):
    """Prediction of the first and last token of an answer: tokens, mask `[T]`, labels `[2]`, weights `[]`, `context`
    `[T]`, the tokens that may be an answer, and `windows` `[]`, the window's number; sources of questions make the
    blocks.

    A block is a question and a window of its text within the tokenizer's template, then padding, and last `OF_WINDOW`
    numbers.

    Attributes:
      loss: the loss, which measures by the right answers.
    """

    loss: Loss = SpanCrossEntropy()

    metric = "f1"
    also_measured = ("exact_match",)
    lower_is_better = False
    built_in_sources = MappingProxyType({"tokens": "stdlib_labels"})
    labelled = True
    label_kind = ANSWERS

    tokenizer = "wordpiece"

    def for_data(self, data):
        return dataclasses.replace(self, loss=SpanCrossEntropy(data.answers))

    def block_length(self, sequence_length):
        return sequence_length + OF_WINDOW

    def example(self, tokenizer, predictions):
        def windowed(block, rng):
            tokens, mask = padded(block[:-OF_WINDOW], tokenizer.pad)
            first, last, window, begin, count = block[-OF_WINDOW:]
            place = np.arange(len(tokens))
            return {
                "tokens": tokens,
                "mask": mask,
                "labels": np.array([first, last], np.int32),
                "weights": np.float32(1.0),
                "context": (begin <= place) & (place < begin + count),
                "windows": window,
            }

        return windowed
