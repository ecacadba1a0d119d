"""Training: loss, optimizer, sharding over a mesh, the loop, checkpoints and metric logs."""

from __future__ import annotations

from qtx.training.config import TrainingConfig
from qtx.training.evaluate import evaluate
from qtx.training.loading import NEWEST, find_checkpoint, load_params
from qtx.training.loop import Task, TrainResult, fit
from qtx.training.optimizer import OPTIMIZERS
from qtx.training.run_folder import Claim, RunFolder
from qtx.training.schedules import SCHEDULES
from qtx.training.sharding import MeshConfig, make_mesh
from qtx.training.watch import Watch
from qtx.training.writers import read_metrics

__all__ = [
    "NEWEST",
    "OPTIMIZERS",
    "SCHEDULES",
    "Claim",
    "MeshConfig",
    "RunFolder",
    "Task",
    "TrainResult",
    "TrainingConfig",
    "Watch",
    "evaluate",
    "find_checkpoint",
    "fit",
    "load_params",
    "make_mesh",
    "read_metrics",
]
