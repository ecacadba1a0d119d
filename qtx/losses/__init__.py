"""Losses: what a model is trained on and measured by, each a value that an objective owns (`qtx.data.objectives`)."""

from __future__ import annotations

from qtx.losses.base import Loss, Training
from qtx.losses.binary_cross_entropy import BinaryCrossEntropy
from qtx.losses.choices import ChoiceCrossEntropy
from qtx.losses.cross_entropy import ClassCrossEntropy, CrossEntropy
from qtx.losses.distillation import EmbeddingDistillation, LogitDistillation
from qtx.losses.entities import EntityCrossEntropy
from qtx.losses.spans import SpanCrossEntropy
from qtx.losses.squared_error import SquaredError
from qtx.losses.sums import Sums

__all__ = [
    "BinaryCrossEntropy",
    "ChoiceCrossEntropy",
    "ClassCrossEntropy",
    "CrossEntropy",
    "EmbeddingDistillation",
    "EntityCrossEntropy",
    "LogitDistillation",
    "Loss",
    "SpanCrossEntropy",
    "SquaredError",
    "Sums",
    "Training",
]
