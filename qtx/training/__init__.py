"""Training: loss, optimizer, sharding over a mesh, the loop, checkpoints and metric logs."""

from __future__ import annotations

from qtx.training.config import TrainingConfig
from qtx.training.evaluate import evaluate
from qtx.training.loop import NEWEST, TrainResult, find_checkpoint, fit, load_params
from qtx.training.optimizer import OPTIMIZERS
from qtx.training.run_folder import RunFolder
from qtx.training.schedules import SCHEDULES
from qtx.training.sharding import MeshConfig
from qtx.training.writers import read_metrics

__all__ = [
    "NEWEST",
    "OPTIMIZERS",
    "SCHEDULES",
    "MeshConfig",
    "RunFolder",
    "TrainResult",
    "TrainingConfig",
    "evaluate",
    "find_checkpoint",
    "fit",
    "load_params",
    "read_metrics",
]
