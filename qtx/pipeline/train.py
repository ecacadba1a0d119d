"""This module trains an experiment: its config's model, data, mesh and options, with attention's health watched."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax

import qtx.data
import qtx.families
from qtx.analysis.metrics import attention_health, health
from qtx.data.workers import spare_processes
from qtx.experiment import Experiment
from qtx.foundation.config import flattened
from qtx.foundation.hardware import chip_of
from qtx.models.flops import step_flops
from qtx.pipeline.backend import BACKEND, training_backend, with_backend
from qtx.pipeline.health import attention_warning
from qtx.pipeline.identity import identity_of, kept_files, load_data, origin
from qtx.pipeline.start import check_start, initial_params, noisy_model, qat_model, start_identity, teacher_of
from qtx.training.distillation import Teacher
from qtx.training.loop import TrainResult, fit
from qtx.training.run_folder import IDENTITY, TAKEN, RunFolder
from qtx.training.watch import Watch


def train(
    experiment: Experiment,
    workdir: str | Path,
    data: qtx.data.Data | None = None,
    profile: bool = False,
    teacher: Teacher | None = None,
) -> TrainResult:
    """Trains an experiment's model in `workdir`, or resumes; see `fit`. With `config.qat.scheme`, the parameters are
    those of a `qtx.quantization.qat.model.QatModel`, and the evaluations are of the quantized model.

    Args:
      experiment: the experiment, from `qtx.experiment.read`.
      workdir: the run's folder.
      data: the experiment's data, if loaded already.
      profile: whether to trace a few steps to the folder's `profile/`.
      teacher: the model that the experiment learns from, if loaded already.

    Raises:
      Preempted: on SIGTERM, when the state is saved.
      QtxError: if the parts of the experiment do not fit together or to the folder, or training fails; see `fit`.
    """
    folder = RunFolder(Path(workdir))
    if data is None:
        data = load_data(experiment, origin(experiment, folder.root))
    identity = identity_of(data)
    check_start(experiment, folder.root, identity)
    taken = training_backend(experiment, data, folder.root)
    asked = qtx.families.build(experiment.model, data).config
    experiment = dataclasses.replace(experiment, model=with_backend(experiment.model, taken))
    module = qtx.families.build(experiment.model, data)
    qat = qat_model(experiment, module, data)
    identity |= start_identity(experiment.start)

    def monitor(params, batch, step):
        numbers = attention_health(module, params, batch, step) if qat is None else health(qat.quantized(params), batch)
        return numbers, attention_warning(numbers["dead_row_share"], experiment.model)

    chip = chip_of(jax.devices()[0].device_kind)
    watch = Watch(
        monitor=monitor,
        flops=functools.partial(step_flops, module),
        peak_flops=None if chip is None else chip.peak_flops(experiment.model.dtype),
        profile=profile,
    )
    if jax.default_backend() != "cpu":  # on a CPU, training itself uses all cores
        data = dataclasses.replace(data, reading_processes=spare_processes())
    return fit(
        qat or noisy_model(experiment, module, data) or module,
        data,
        experiment.training,
        workdir=workdir,
        config={
            **flattened(dataclasses.replace(experiment, model=asked)),
            IDENTITY: identity,
            TAKEN: {BACKEND: taken},
        },
        files=kept_files(experiment, module.config, data),
        mesh_config=experiment.mesh,
        seed=experiment.seed,
        initial=initial_params(experiment, module, qat, data, folder.root),
        loss=qtx.data.OBJECTIVES[experiment.objective].for_model(module.config).loss,
        teacher=teacher or teacher_of(experiment, data, folder.root),
        watch=watch,
    )
