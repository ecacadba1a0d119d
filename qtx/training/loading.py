"""Loading the parameters of one of a run's checkpoints; checkpoint 0 of an imported run is the imported model."""

from __future__ import annotations

import contextlib
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
    """Returns the number of updates done at one of a run's checkpoints; arguments and errors as of `load_params`."""
    run = RunFolder(Path(workdir))
    with _checkpoints_of(run) as checkpoints:
        return _find_step(checkpoints, run, checkpoint)


def digest_of(workdir: str | Path, step: int) -> str:
    """Returns a digest of the content of a run's checkpoint after `step` updates; errors as of `load_params`."""
    with _checkpoints_of(RunFolder(Path(workdir))) as checkpoints:
        assert checkpoints is not None, "what was imported has no checkpoint"
        return checkpoints.digest(step)


def load_params(
    module: Trainable,
    data: Any,
    workdir: str | Path,
    mesh_config: MeshConfig = ALL_DEVICES,
    checkpoint: str = NEWEST,
) -> Any:
    """Returns the parameters of one of a run's checkpoints, on the mesh.

    Args:
      module: the run's model.
      data: has `evaluation(batch_size)`, from which only shapes are taken.
      workdir: the run's folder.
      mesh_config: the devices, not necessarily those of the training.
      checkpoint: `"newest"`, `"best"` on the held-out data by `training.best_metric`, or its step, e.g. `"500"`.

    Raises:
      QtxError: if the folder has no such checkpoint, or the checkpoint is damaged or of another model.
    """
    run = RunFolder(Path(workdir))
    boxed = abstract_params(module, next(iter(data.evaluation(1))))
    shardings = param_shardings(make_mesh(mesh_config), boxed)
    with _checkpoints_of(run) as checkpoints:
        step = _find_step(checkpoints, run, checkpoint)
        if checkpoints is None or (step == 0 and run.imported.is_dir()):
            config: Any = module.config  # type: ignore[attr-defined]
            return jax.device_put(load(run.imported, config.attention)[1], shardings)
        try:
            config = run.read_config() if run.config.exists() else None
            return checkpoints.restore_params(step, placed(nn.unbox(boxed), shardings), config)
        except DamagedCheckpoint as error:
            others = ", ".join(str(other) for other in checkpoints.steps() if other != step)
            remedy = f"choose another with --checkpoint={others}" if others else "there is no other"
            raise QtxError(f"{error}; {remedy}") from error


def _checkpoints_of(run: RunFolder) -> contextlib.AbstractContextManager[Checkpoints | None]:
    """Opens a run's checkpoints; gives None if the run has only what was imported."""
    if run.checkpoints.is_dir():
        return Checkpoints(run.checkpoints)
    if run.imported.is_dir():
        return contextlib.nullcontext()
    raise QtxError(f"{run.root} has no checkpoints: expected the folder of a training run")


def _find_step(checkpoints: Checkpoints | None, run: RunFolder, checkpoint: str) -> int:
    saved = [] if checkpoints is None else checkpoints.steps()
    steps = sorted({*saved, *([0] if run.imported.is_dir() else [])})
    if not steps:
        raise QtxError(f"{run.root} has no complete checkpoint yet: let its training reach one")
    if checkpoint == NEWEST:
        return steps[-1]
    if checkpoint == BEST:
        best = None if checkpoints is None else checkpoints.best_step()
        if best is None:
            raise QtxError(f"{run.root} has no checkpoint with an evaluation yet: choose one of {steps}, or newest")
        return best
    if checkpoint not in map(str, steps):
        raise QtxError(f"{run.root} has no checkpoint {checkpoint!r}: expected newest, best or one of {steps}")
    return int(checkpoint)
