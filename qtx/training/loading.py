"""The parameters of one of a run's checkpoints; an imported run's checkpoint 0 is what was imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from qtx.foundation.errors import QtxError
from qtx.interop import load
from qtx.training.checkpoints import Checkpoints, DamagedCheckpoint
from qtx.training.program import abstract_params, placed
from qtx.training.run_folder import RunFolder
from qtx.training.sharding import ALL_DEVICES, MeshConfig, make_mesh, param_shardings
from qtx.training.step import Trainable

NEWEST, BEST = "newest", "best"


def find_checkpoint(workdir: str | Path, checkpoint: str = NEWEST) -> int:
    """Updates done at one of a run's checkpoints; arguments and errors as `load_params`."""
    run = RunFolder(Path(workdir))
    if run.imported.is_dir() and not run.checkpoints.is_dir():
        return _find_step([0], None, workdir, checkpoint)
    with Checkpoints(_checkpoints_of(workdir)) as checkpoints:
        return _find_step(_steps(checkpoints, run), checkpoints.best_step(), workdir, checkpoint)


def load_params(
    module: Trainable,
    data: Any,
    workdir: str | Path,
    mesh_config: MeshConfig = ALL_DEVICES,
    checkpoint: str = NEWEST,
) -> Any:
    """The parameters of one of a run's checkpoints, on the mesh.

    Args:
      module: the run's model.
      data: has `evaluation(batch_size)`; gives the shapes only.
      workdir: the run's folder.
      mesh_config: the devices, not necessarily those of the training.
      checkpoint: `"newest"`, `"best"` on the held-out data by `training.best_metric`, or its step, e.g. `"500"`.

    Raises:
      QtxError: if the folder has no such checkpoint, it is damaged, or one of another model.
    """
    run, step = RunFolder(Path(workdir)), find_checkpoint(workdir, checkpoint)
    boxed = abstract_params(module, next(iter(data.evaluation(1))))
    shardings = param_shardings(make_mesh(mesh_config), boxed)
    if step == 0 and run.imported.is_dir():
        return jax.device_put(load(run.imported)[1], shardings)
    with Checkpoints(_checkpoints_of(workdir)) as checkpoints:
        try:
            config = run.read_config() if run.config.exists() else None
            return checkpoints.restore_params(step, placed(nn.unbox(boxed), shardings), config)
        except DamagedCheckpoint as error:
            others = ", ".join(str(other) for other in checkpoints.steps() if other != step)
            remedy = f"choose another with --checkpoint={others}" if others else "there is no other"
            raise QtxError(f"{error}; {remedy}") from error


def _checkpoints_of(workdir: str | Path) -> Path:
    folder = RunFolder(Path(workdir)).checkpoints
    if not folder.is_dir():
        raise QtxError(f"{workdir} has no checkpoints: expected the folder of a training run")
    return folder


def _steps(checkpoints: Checkpoints, run: RunFolder) -> list[int]:
    return sorted({*checkpoints.steps(), *([0] if run.imported.is_dir() else [])})


def _find_step(steps: list[int], best: int | None, workdir: str | Path, checkpoint: str) -> int:
    if not steps:
        raise QtxError(f"{workdir} has no complete checkpoint yet: let its training reach one")
    if checkpoint == NEWEST:
        return steps[-1]
    if checkpoint == BEST:
        if best is None:
            raise QtxError(f"{workdir} has no checkpoint with an evaluation yet: choose one of {steps}, or newest")
        return best
    if checkpoint not in map(str, steps):
        raise QtxError(f"{workdir} has no checkpoint {checkpoint!r}: expected newest, best or one of {steps}")
    return int(checkpoint)
