"""Regression: learning one or several numbers of a whole text (Cer et al. 2017: how similar two sentences are)."""

from __future__ import annotations

import dataclasses

from qtx.data.label_values import NUMBERS
from qtx.data.objectives.numbers import NumbersOfTexts, counted
from qtx.losses import SquaredError


@dataclasses.dataclass(frozen=True)
class SequenceRegression(NumbersOfTexts):
    """Prediction of the numbers of a text."""

    loss = SquaredError()
    metric = "correlation"
    also_measured = ("rank_correlation",)
    label_kind = NUMBERS
    in_block = "float32"

    def named(self, rows, names):
        return (counted(rows) if names is None else names), rows
