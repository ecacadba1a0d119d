"""This module prepares what a command works with from an experiment's options: data, model and devices, all checked."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from qtx.data import OBJECTIVES, Data
from qtx.data.objectives import Objective
from qtx.experiment import Experiment
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import count_parameters
from qtx.pipeline.identity import identity_of, load_data
from qtx.pipeline.start import check_calibration, qat_model, teacher_of
from qtx.quantization.plan import quantizers_of
from qtx.quantization.qat.model import QatModel
from qtx.training.distillation import Teacher
from qtx.training.penalized import check_sites
from qtx.training.penalties import make_penalties
from qtx.training.run_folder import RunFolder
from qtx.training.sharding import check_batch, make_mesh, shard_global_batch


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An experiment that is ready to run.

    Attributes:
      experiment: the experiment's options, with what the config left open taken from the data.
      data: the loaded data.
      identity: the contents of the data and the tokenizer; see `qtx.pipeline.identity`.
      module: the model.
      parameters: how many scalars the model's parameters have.
      mesh: the devices.
      qat: the model that quantization-aware training trains; None: the run trains `module` itself.
      teacher: the model that the run learns from and is measured by; None: the data have the targets.
    """

    experiment: Experiment
    data: Data
    identity: Mapping[str, Any]
    module: nn.Module
    parameters: int
    mesh: jax.sharding.Mesh
    qat: QatModel | None = None
    teacher: Teacher | None = None

    @property
    def objective(self) -> Objective:
        """Returns what the run learns, with the loss that it is trained on and measured by."""
        return OBJECTIVES[self.experiment.objective].for_model(self.experiment.model)

    @property
    def batch_size(self) -> int:
        """Returns the number of examples in a forward pass, over all devices."""
        return self.experiment.training.batch_size // self.experiment.training.accumulation_steps

    @property
    def held_out_batches(self) -> tuple[int, int]:
        """Returns how many held-out batches are measured on, and how many there are."""
        total = -(-len(self.data.held_out) // self.batch_size)
        return min(self.experiment.training.eval_batches or total, total), total

    def evaluation(self) -> Batches:
        """Returns the held-out batches: the first `training.eval_batches`, or all."""
        return Batches(self.mesh, self.data.evaluation(self.batch_size), self.held_out_batches[0], self.teacher)

    def calibration(self) -> Batches:
        """Returns endless batches of training data.

        Raises:
          QtxError: if calibration would see an example twice.
        """
        check_calibration(self.data, self.batch_size, self.experiment.quantization.calibration_batches)
        return Batches(self.mesh, self.data.calibration(self.batch_size, self.experiment.seed))


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches on the devices of a mesh, the same at every iteration: the first `count`, or all; with the outputs of
    a teacher beside them, if there is a teacher."""

    mesh: jax.sharding.Mesh
    on_host: Iterable[dict[str, np.ndarray]]
    count: int | None = None
    teacher: Teacher | None = None

    def __iter__(self) -> Iterator[dict[str, jax.Array]]:
        batches = (shard_global_batch(self.mesh, batch) for batch in itertools.islice(self.on_host, self.count))
        return batches if self.teacher is None else map(self.teacher.outputs, batches)


def prepare(experiment: Experiment, data: Data | None = None, run: RunFolder | None = None) -> Prepared:
    """Loads the data, builds the model and arranges the devices; writes nothing.

    Args:
      experiment: what to prepare.
      data: the data, if an experiment with the same data section has loaded them already.
      run: the run whose tokenizer cuts the texts, and whose classes number the labels; see
        `qtx.pipeline.identity.origin`.

    Raises:
      QtxError: for what the options alone do not show: missing files, a model and data that disagree, too few devices.
    """
    mesh = make_mesh(experiment.mesh)
    check_batch(mesh, experiment.training.batch_size, experiment.training.accumulation_steps)
    data = load_data(experiment, run) if data is None else data
    module = build(experiment.model, data)
    experiment = dataclasses.replace(experiment, model=module.config)
    example = next(iter(data.evaluation(1)))
    params = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), example)["params"])
    check_recipe(experiment, module, params, example)
    check_sites(make_penalties(experiment.training.penalties), module, params, example)
    qat = qat_model(experiment, module, data)
    teacher = teacher_of(experiment, data, None if run is None else run.root)
    return Prepared(experiment, data, identity_of(data), module, count_parameters(params), mesh, qat, teacher)


def check_recipe(experiment: Experiment, module: nn.Module, params: Any, batch: dict[str, Any]) -> None:
    """Raises QtxError if the recipe does not fit the model: now, and not after hours of training."""
    for scheme in experiment.quantization.schemes[:1]:  # the rules of all schemes have the same patterns
        recipe = experiment.quantization.make_recipe(scheme, module.config)
        try:
            quantizers_of(module, params, recipe, batch)
        except QtxError as error:
            name, family = experiment.quantization.recipe, experiment.family
            raise QtxError(f"config.quantization.recipe {name!r} does not fit the {family} model: {error}") from None
