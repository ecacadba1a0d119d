"""Training: loss, optimizer, sharding over a mesh, the loop, checkpoints and metric logs."""

from __future__ import annotations

from qtx.training.config import TrainingConfig
from qtx.training.evaluate import evaluate
from qtx.training.loading import NEWEST, find_checkpoint, load_params
from qtx.training.loop import TrainResult, fit
from qtx.training.optimizer import OPTIMIZERS
from qtx.training.run_folder import RunFolder
from qtx.training.schedules import SCHEDULES
from qtx.training.sharding import MeshConfig
from qtx.training.watch import Watch
from qtx.training.writers import read_metrics

__all__ = [
    "NEWEST",
    "OPTIMIZERS",
    "SCHEDULES",
    "MeshConfig",
    "RunFolder",
    "TrainResult",
    "TrainingConfig",
    "Watch",
    "evaluate",
    "find_checkpoint",
    "fit",
    "load_params",
    "read_metrics",
]
