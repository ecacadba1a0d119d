"""Losses, each a value: what a model is trained on and measured by. An objective has one (`qtx.data.objectives`)."""

from __future__ import annotations

from qtx.losses.base import Loss, Training
from qtx.losses.binary_cross_entropy import BinaryCrossEntropy
from qtx.losses.cross_entropy import ClassCrossEntropy, CrossEntropy
from qtx.losses.distillation import EmbeddingDistillation, LogitDistillation, distillation
from qtx.losses.squared_error import SquaredError
from qtx.losses.sums import Sums

__all__ = [
    "BinaryCrossEntropy",
    "ClassCrossEntropy",
    "CrossEntropy",
    "EmbeddingDistillation",
    "LogitDistillation",
    "Loss",
    "SquaredError",
    "Sums",
    "Training",
    "distillation",
]
