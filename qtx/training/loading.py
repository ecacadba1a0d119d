"""The parameters of one of a run's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn

from qtx.foundation.errors import QtxError
from qtx.training.checkpoints import Checkpoints, DamagedCheckpoint
from qtx.training.program import abstract_params, placed
from qtx.training.run_folder import RunFolder
from qtx.training.sharding import ALL_DEVICES, MeshConfig, make_mesh, param_shardings
from qtx.training.step import Trainable

NEWEST, BEST = "newest", "best"


def find_checkpoint(workdir: str | Path, checkpoint: str = NEWEST) -> int:
    """Updates done at one of a run's checkpoints; arguments and errors as `load_params`."""
    with Checkpoints(_checkpoints_of(workdir)) as checkpoints:
        return _find_step(checkpoints, workdir, checkpoint)


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
    folder = _checkpoints_of(workdir)
    boxed = abstract_params(module, next(iter(data.evaluation(1))))
    shardings = param_shardings(make_mesh(mesh_config), boxed)
    with Checkpoints(folder) as checkpoints:
        step = _find_step(checkpoints, workdir, checkpoint)
        try:
            run = RunFolder(Path(workdir))
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


def _find_step(checkpoints: Checkpoints, workdir: str | Path, checkpoint: str) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise QtxError(f"{workdir} has no complete checkpoint yet: let its training reach one")
    if checkpoint == NEWEST:
        return steps[-1]
    if checkpoint == BEST:
        best = checkpoints.best_step()
        if best is None:
            raise QtxError(f"{workdir} has no checkpoint with an evaluation yet: choose one of {steps}, or newest")
        return best
    if checkpoint not in map(str, steps):
        raise QtxError(f"{workdir} has no checkpoint {checkpoint!r}: expected newest, best or one of {steps}")
    return int(checkpoint)
