"""Causal language modelling (Radford et al. 2018)."""

from __future__ import annotations

import numpy as np

from qtx.data.objectives.base import TextObjective


class CausalLanguageModelling(TextObjective):
    """Prediction of the next token at every position; the last id of a block is only a label."""

    tokenizer = "bpe"
    ends_document = False

    def block_length(self, sequence_length):
        return sequence_length + 1

    def example(self, tokenizer, predictions):
        return lambda block, rng: causal_example(block)


def causal_example(block: np.ndarray) -> dict[str, np.ndarray]:
    """Makes a causal example from int32 [T + 1]: tokens, mask, labels and weights [T]; labels[t] follows tokens[t]."""
    length = len(block) - 1
    return {
        "tokens": block[:-1],
        "mask": np.ones(length, bool),
        "labels": block[1:],
        "weights": np.ones(length, np.float32),
    }
