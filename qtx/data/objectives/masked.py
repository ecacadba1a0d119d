"""Masked language modelling (Devlin et al. 2019)."""

from __future__ import annotations

import numpy as np

from qtx.data.masking import Masking, mask_tokens
from qtx.data.objectives.base import TextObjective


class MaskedLanguageModelling(TextObjective):
    """Prediction of the original tokens at P masked positions: tokens, mask `[T]`, positions, labels, weights `[P]`."""

    tokenizer = "wordpiece"
    mask_probability = 0.15

    def example(self, tokenizer, predictions):
        assert tokenizer.mask is not None, "an objective that masks is given a tokenizer that can"
        masking = Masking(predictions, tokenizer.mask, tokenizer.is_special)
        return lambda block, rng: {**mask_tokens(block, masking, rng), "mask": np.ones(len(block), bool)}
