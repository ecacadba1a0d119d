"""This module trains a assembled experiment in a run's folder, with attention's health watched."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax

from qtx.analysis.metrics import attention_health, health
from qtx.data.workers import spare_processes
from qtx.foundation.config import flattened
from qtx.foundation.hardware import chip_of
from qtx.models.flops import step_flops
from qtx.pipeline.assemble import Assembled
from qtx.pipeline.backend import BACKEND, training_backend, with_backend
from qtx.pipeline.health import attention_warning
from qtx.pipeline.identity import kept_files
from qtx.pipeline.initial import initial_params
from qtx.pipeline.lineage import start_identity
from qtx.pipeline.start_check import check_start
from qtx.training.loop import Task, TrainResult, fit
from qtx.training.run_folder import IDENTITY, TAKEN, Claim, RunFolder
from qtx.training.watch import Watch


def train(assembled: Assembled, workdir: str | Path, profile: bool = False) -> TrainResult:
    """Trains an experiment's model in `workdir`, or resumes; see `fit`. With `config.qat.scheme`, the parameters are
    those of a `qtx.quantization.qat.model.QatModel`, and the evaluations are of the quantized model.

    Args:
      assembled: the experiment.
      workdir: the run's folder.
      profile: whether to trace a few steps to the folder's `profile/`.

    Raises:
      Preempted: on SIGTERM, when the state is saved.
      QtxError: if the parts of the experiment do not fit to the folder, or training fails; see `fit`.
    """
    folder, asked = RunFolder(Path(workdir)), assembled.experiment
    check_start(asked, folder.root, assembled.identity)
    taken = training_backend(assembled, folder.root)
    assembled = assembled.with_model(with_backend(asked.model, taken))
    identity = {**assembled.identity, **start_identity(asked.start)}
    config = {**flattened(asked), IDENTITY: identity, TAKEN: {BACKEND: taken}}
    data = assembled.data
    if jax.default_backend() != "cpu":  # on a CPU, training itself uses all cores
        data = dataclasses.replace(data, reading_processes=spare_processes())
    initial = initial_params(assembled, folder.root)
    return fit(
        Task(assembled.trained, data, asked.seed, initial, assembled.objective.loss, assembled.teacher),
        asked.training,
        Claim(folder, config, kept_files(asked, data)),
        assembled.mesh,
        _watch(assembled, profile),
    )


def _watch(assembled: Assembled, profile: bool) -> Watch:
    """Returns the choice of what is watched: the health of attention, and how well the devices are used."""
    module, qat, model = assembled.module, assembled.qat, assembled.experiment.model

    def monitor(params, batch, step):
        numbers = attention_health(module, params, batch, step) if qat is None else health(qat.quantized(params), batch)
        return numbers, attention_warning(numbers["dead_row_share"], model)

    chip = chip_of(jax.devices()[0].device_kind)
    return Watch(
        monitor=monitor,
        flops=functools.partial(step_flops, module),
        peak_flops=None if chip is None else chip.peak_flops(model.dtype),
        profile=profile,
    )
