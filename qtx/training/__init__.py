"""Training: objectives, optimizer, sharding over a mesh, the loop, checkpoints and metric logs."""

from __future__ import annotations

from qtx.training.config import TrainingConfig
from qtx.training.evaluate import evaluate
from qtx.training.objectives import OBJECTIVES
from qtx.training.schedules import SCHEDULES
from qtx.training.sharding import MeshConfig

__all__ = ["OBJECTIVES", "SCHEDULES", "MeshConfig", "TrainingConfig", "evaluate"]
