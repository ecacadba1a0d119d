"""This module makes all that a command works with from an experiment's options, once: data, model, devices, teacher."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from qtx.anatomy import Anatomy, read
from qtx.attention.fused import taken_by
from qtx.data import OBJECTIVES, Data
from qtx.data.objectives import Objective
from qtx.experiment import Experiment
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import TransformerConfig, count_parameters
from qtx.pipeline.identity import identity_of, load_data, origin
from qtx.pipeline.teacher import teacher_of
from qtx.pipeline.trainable import Trained, make_trained, with_module
from qtx.quantization.plan import quantizers_of
from qtx.quantization.qat.model import QatModel
from qtx.training.distillation import Teacher
from qtx.training.sharding import check_batch, make_mesh, shard_global_batch
from qtx.training.step import training_forward


@dataclasses.dataclass(frozen=True)
class Assembled:
    """An experiment that is ready to run, with what was made of its options.

    Attributes:
      experiment: the experiment's options, with what the config left open taken from the data.
      data: the loaded data.
      identity: the contents of the data and the tokenizer; see `qtx.pipeline.identity`.
      module: the model.
      trained: what training trains: `module` itself, or `module` with quantizers or noise.
      parameters: how many scalars the model's parameters have.
      mesh: the devices.
      teacher: the model that the run learns from and is measured by; None: the data have the targets.
    """

    experiment: Experiment
    data: Data
    identity: Mapping[str, Any]
    module: nn.Module
    trained: Trained
    parameters: int
    mesh: jax.sharding.Mesh
    teacher: Teacher | None = None

    @property
    def qat(self) -> QatModel | None:
        """Returns the model that quantization-aware training trains; None: the model is trained in floating point."""
        return self.trained if isinstance(self.trained, QatModel) else None

    @property
    def objective(self) -> Objective:
        """Returns what the run learns, with the loss that it is trained on and measured by."""
        return OBJECTIVES[self.experiment.objective].for_model(self.experiment.model).for_data(self.data)

    @functools.cached_property
    def backend(self) -> str:
        """Returns the attention backends that a training step takes under the config, separated by commas, where layers
        take different ones. The step is traced, once."""
        example = next(iter(self.data.evaluation(2)))  # two, for noise quantizes half of a batch
        forward = training_forward(self.trained, self.experiment.training, self.objective.loss)

        def step(params: Any) -> Any:
            return forward({"params": params}, example, train=True, step=0, rngs={"dropout": jax.random.key(0)})

        init = functools.partial(self.trained.init, jax.random.key(0), example)
        return taken_by(step, nn.unbox(jax.eval_shape(init)["params"]))

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
          QtxError: if calibration would see an example twice: the records repeat without end, and the same ones twice
            would pass for more data.
        """
        asked, there = self.experiment.quantization.calibration_batches, len(self.data.training) // self.batch_size
        if asked > there:
            at_most = f"set config.quantization.calibration_batches to at most {there}"
            raise QtxError(
                f"calibration asks for {asked} batches of {self.batch_size}, but there are "
                f"{len(self.data.training):,} training examples: {at_most if there else 'lower the batch size'}, or "
                "give more data"
            )
        return Batches(self.mesh, self.data.calibration(self.batch_size, self.experiment.seed))

    def with_model(self, model: TransformerConfig) -> Assembled:
        """Returns the same experiment, nothing made anew, under a config of the model by which it computes otherwise
        with the same parameters."""
        module = self.module.clone(config=model)
        experiment = dataclasses.replace(self.experiment, model=model)
        trained = with_module(self.trained, module)
        return dataclasses.replace(self, experiment=experiment, module=module, trained=trained)


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


def assemble(experiment: Experiment, data: Data | None = None, workdir: Path | None = None) -> Assembled:
    """Loads the data, builds the model and arranges the devices; writes nothing.

    Args:
      experiment: what to prepare.
      data: the data, if an experiment with the same data section has loaded them already.
      workdir: the run's folder, if it has one; the run there, or the one that it starts from, has the tokenizer and the
        numbers of the classes (see `qtx.pipeline.identity.origin`).

    Raises:
      QtxError: for what the options alone do not show: missing files, a model and data that disagree, too few devices.
    """
    mesh = make_mesh(experiment.mesh)
    check_batch(mesh, experiment.training.batch_size, experiment.training.accumulation_steps)
    if data is None:
        data = load_data(experiment, None if workdir is None else origin(experiment, workdir))
    module = build(experiment.model, data)
    experiment = dataclasses.replace(experiment, model=module.config)
    example = next(iter(data.evaluation(1)))
    params = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), example)["params"])
    check_recipe(experiment, read(module, example))
    trained = make_trained(experiment, module, example)
    teacher = teacher_of(experiment, data, workdir)
    return Assembled(experiment, data, identity_of(data), module, trained, count_parameters(params), mesh, teacher)


def check_recipe(experiment: Experiment, anatomy: Anatomy) -> None:
    """Raises QtxError if the recipe does not fit the model: now, and not after hours of training."""
    for scheme in experiment.quantization.schemes[:1]:  # the rules of all schemes have the same patterns
        recipe = experiment.quantization.make_recipe(scheme, experiment.model)
        try:
            quantizers_of(anatomy, recipe)
        except QtxError as error:
            name, family = experiment.quantization.recipe, experiment.family
            raise QtxError(f"config.quantization.recipe {name!r} does not fit the {family} model: {error}") from None
