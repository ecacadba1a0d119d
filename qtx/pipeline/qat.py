"""Quantization-aware training of an experiment: from the checkpoint of another run, calibrated, to the first update."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from qtx.data import Data
from qtx.data.images import ImageOptions
from qtx.experiment import Experiment
from qtx.foundation.config import flattened
from qtx.foundation.errors import QtxError
from qtx.quantization.calibration import calibrate
from qtx.quantization.qat.model import QatModel, make_qat_model
from qtx.training.loading import load_params
from qtx.training.run_folder import IDENTITY, RunFolder, differences, other_contents
from qtx.training.sharding import make_mesh, shard_global_batch

# What may differ between a run and one that starts from it: nothing that says what a parameter means, or which data are
# held out.
FREE_OPTIONS = {
    "model": ("dropout", "attention_dropout", "init_std", "dtype", "remat"),
    "attention": ("gamma_warmup_steps",),
    "data": ("sequence_length", "mask_probability", *(field.name for field in dataclasses.fields(ImageOptions))),
}


def qat_model(experiment: Experiment, module: nn.Module, data: Data) -> QatModel | None:
    """What `config.qat` says to train instead of `module`; None: nothing else.

    Raises:
      QtxError: if the recipe does not fit the model or the training.
    """
    if not experiment.qat.start:
        return None
    recipe = experiment.quantization.make_recipe(experiment.qat.scheme, experiment.model)
    return make_qat_model(module, recipe, next(iter(data.evaluation(1))), experiment.qat.learn_ranges)


def check_start(experiment: Experiment, workdir: Path, identity: Mapping[str, str]) -> None:
    """Raises QtxError unless a run in `workdir`, of an identity (see `identity_of`), can start from
    `config.qat.start`."""
    start = experiment.qat.start
    if Path(start).resolve() == workdir.resolve():
        raise QtxError(f"config.qat.start={start} is the run's own folder: choose another --workdir")
    if RunFolder(workdir).checkpoints.is_dir():
        return  # it has started
    try:
        there = RunFolder(Path(start)).read_config()
    except QtxError as error:
        raise QtxError(f"config.qat.start={start}: {error}") from None
    if there.get("qat", {}).get("start"):
        raise QtxError(
            f"config.qat.start={start} is itself a run of quantization-aware training: start from "
            f"{there['qat']['start']}, from which it started"
        )
    differing = differences(_identity(there), _identity(json.loads(json.dumps(flattened(experiment)))))
    if differing:
        raise QtxError(f"config.qat.start={start} is a run of another model: {', '.join(differing)}; give its --config")
    other = other_contents(there, {IDENTITY: identity})
    if other:
        raise QtxError(
            f"config.qat.start={start} was trained on other data: config.data is the same, but what it names has "
            f"another content: {', '.join(other)}; restore it"
        )


def check_calibration(data: Data, batch_size: int, batches: int) -> None:
    """Raises QtxError if so many batches are more than the training data has: its records repeat without end, and the
    same ones twice would pass for more data."""
    there = len(data.training) // batch_size
    if batches > there:
        remedy = f"set config.quantization.calibration_batches to at most {there}" if there else "lower the batch size"
        raise QtxError(
            f"calibration asks for {batches} batches of {batch_size}, but there are {len(data.training):,} training "
            f"examples: {remedy}, or give more data"
        )


def start_params(experiment: Experiment, model: QatModel, data: Data) -> Any:
    """The parameters of `config.qat.start`, with ranges calibrated on training data, on the mesh."""
    quantization, training = experiment.quantization, experiment.training
    rows = training.batch_size // training.accumulation_steps
    check_calibration(data, rows, quantization.calibration_batches)
    params = load_params(model.module, data, experiment.qat.start, experiment.mesh)
    mesh = make_mesh(experiment.mesh)
    on_host = data.calibration(rows, experiment.seed)
    batches = (shard_global_batch(mesh, batch) for batch in on_host)
    recipe = quantization.make_recipe(experiment.qat.scheme, experiment.model)
    calibrated = calibrate(model.module, params, recipe, batches, quantization.calibration_batches)
    return model.start(params, calibrated)


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's config that those of a run and of its start have in common."""

    def without_free(section: str, options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: without_free(name, value) if isinstance(value, Mapping) else value
            for name, value in options.items()
            if name not in FREE_OPTIONS.get(section, ())
        }

    return without_free("", {name: config.get(name, {}) for name in ("family", "model", "data")})
