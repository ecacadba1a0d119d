"""Which attention backend a run trains with: chosen once, recorded, and kept when the run goes on.

Backends draw dropout differently, so that a run that took another one midway, on a machine of another kind or with a
later version, would not be the run that it was.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from qtx.attention.fused import AUTO, BACKEND_NAMES, NAIVE, SEPARATOR, taken_by
from qtx.data import Data
from qtx.experiment import Experiment
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import TransformerConfig
from qtx.pipeline.start import noisy_model, qat_model
from qtx.training.losses import loss_of
from qtx.training.run_folder import RunFolder
from qtx.training.step import training_forward

BACKEND = "attention_backend"


def training_backend(experiment: Experiment, data: Data, workdir: Path) -> str:
    """The backend that a run's training steps take: what it took when it began, or else what the config says, `auto`
    being found out by tracing a step; names with commas where layers take several.

    Raises:
      QtxError: if it began with one that this version does not have.
    """
    folder = RunFolder(workdir)
    if not folder.checkpoints.is_dir():
        return _traced(experiment, data)
    taken = folder.taken().get(BACKEND, NAIVE)  # earlier versions had no other
    for name in taken.split(SEPARATOR):
        if name not in BACKEND_NAMES:
            raise QtxError(
                f"{folder.root} was begun with attention backend {name!r}, which this version of qtx does not have "
                f"(it has {', '.join(BACKEND_NAMES[1:])}): go on with the version that began it"
            )
    return taken


def with_backend(model: TransformerConfig, taken: str) -> TransformerConfig:
    """A model's config with what was taken in place of auto; beside `naive`, which is taken wherever something looks at
    scores or probabilities, it is the other."""
    names = set(taken.split(SEPARATOR))
    others = sorted(names - {NAIVE}) or [NAIVE]
    if model.attention_backend != AUTO or len(others) > 1:
        return model
    return dataclasses.replace(model, attention_backend=others[0])


def _traced(experiment: Experiment, data: Data) -> str:
    module: Any = build(experiment.model, data)
    trained: Any = qat_model(experiment, module, data) or noisy_model(experiment, module, data) or module
    example = next(iter(data.evaluation(2)))  # one half of which noise quantizes
    forward = training_forward(trained, experiment.training, loss_of(experiment.objective, module.config))

    def step(params: Any) -> Any:
        return forward({"params": params}, example, train=True, step=0, rngs={"dropout": jax.random.key(0)})

    return taken_by(step, jax.eval_shape(lambda: nn.unbox(trained.init(jax.random.key(0), example)["params"])))
