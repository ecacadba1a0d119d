"""Losses: what a model is trained on and measured by. A new loss is a file here and a line in `LOSSES`; an
objective names its loss (`qtx.data.objectives.Objective.loss`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtx.data import OBJECTIVES
from qtx.training.losses.base import Loss, Training
from qtx.training.losses.binary_cross_entropy import BinaryCrossEntropy
from qtx.training.losses.cross_entropy import ClassCrossEntropy, CrossEntropy
from qtx.training.losses.distillation import distillation
from qtx.training.losses.squared_error import SquaredError

LOSSES: dict[str, Callable[[Any], Loss]] = {
    "cross_entropy": lambda config: CrossEntropy(),
    "class_cross_entropy": lambda config: ClassCrossEntropy(),
    "squared_error": lambda config: SquaredError(),
    "binary_cross_entropy": lambda config: BinaryCrossEntropy(),
    "distillation": distillation,
}
"""The name that objectives use -> a function from a model's config to its loss."""


def loss_of(objective: str, config: Any) -> Loss:
    """Returns the loss of an objective, a name in `OBJECTIVES`, for a model's config."""
    return LOSSES[OBJECTIVES[objective].loss](config)


__all__ = ["LOSSES", "CrossEntropy", "Loss", "Training", "loss_of"]
