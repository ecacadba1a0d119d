"""Compiling an experiment's training step ahead of time, for a mesh that the machine may not have."""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from typing import Any

import jax
import numpy as np

from qtx.attention.fused import NAIVE
from qtx.data import OBJECTIVES
from qtx.experiment import Experiment
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import count_parameters
from qtx.models.flops import product_flops, step_flops
from qtx.pipeline.backend import with_backend
from qtx.pipeline.start import noisy_model, qat_model
from qtx.planning.hlo import Traffic, count_collectives, count_product_flops
from qtx.planning.stand_in import stand_in
from qtx.training.distillation import with_targets
from qtx.training.program import abstract_params, make_program
from qtx.training.sharding import MESH_AXES, batch_sharding, check_batch, make_mesh


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One training step on a mesh. Sizes are bytes on one device.

    Attributes:
      experiment: the experiment that was planned.
      mesh: size of each of the mesh's axes.
      assumed: sizes that the config does not tell, as texts.
      count: number of the model's parameters, over all devices.
      parameters: float32 master weights.
      optimizer: the optimizer's state.
      gradients: as large as the parameters.
      batch: the batch of one update.
      temporary: all else that the compiled step holds at its worst moment: activations, and the gradients.
      model_flops: FLOPs that the model needs per step, over all devices; see `qtx.models.flops`.
      step_flops: FLOPs of the matrix products in the step as traced, over all devices, with what rematerialization
        computes again.
      device_flops: FLOPs of the matrix products that one device computes, as compiled: more than its share of
        `step_flops` if several devices do the same work.
      collectives: one device's collectives, by the kinds that occur.
    """

    experiment: Experiment
    mesh: dict[str, int]
    assumed: list[str]
    count: int
    parameters: int
    optimizer: int
    gradients: int
    batch: int
    temporary: int
    model_flops: int
    step_flops: int
    device_flops: int
    collectives: dict[str, Traffic]

    @property
    def devices(self) -> int:
        """Returns the number of devices of the mesh."""
        return math.prod(self.mesh.values())

    @property
    def activations(self) -> int:
        """Returns the size of the temporary memory beside the gradients."""
        return max(self.temporary - self.gradients, 0)

    @property
    def total(self) -> int:
        """Returns the size of all that a device must hold."""
        return self.parameters + self.optimizer + self.batch + max(self.temporary, self.gradients)


def virtual_devices(count: int) -> list[jax.Device]:
    """Returns CPU devices to compile for; they need no memory of their own until something runs on them.

    Raises:
      QtxError: if JAX has already started with fewer.
    """
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has started: its devices must do
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise QtxError(
            f"{count} virtual devices are needed, but JAX has started with {len(devices)}: plan in a process of its own"
        )
    return devices[:count]


def devices_of(experiment: Experiment) -> int:
    """Returns how many devices the mesh of a config names; an axis of -1 counts as 1."""
    return math.prod(abs(size) for size in dataclasses.astuple(experiment.mesh))


def plan_step(experiment: Experiment, devices: list[jax.Device]) -> StepPlan:
    """Compiles an experiment's training step for a mesh of `devices`; needs neither the data nor memory for the step.

    Raises:
      QtxError: if model, batch and mesh do not fit together.
    """
    mesh, training = make_mesh(experiment.mesh, devices), experiment.training
    check_batch(mesh, training.batch_size, training.accumulation_steps)
    data, assumed = stand_in(experiment)
    # The choice of the backend "auto" depends on the device, and these devices are not those that the plan is for.
    model = with_backend(experiment.model, NAIVE)
    module: Any = build(model, data)
    trained = qat_model(experiment, module, data) or noisy_model(experiment, module, data) or module
    example = next(iter(data.evaluation(1)))
    objective = OBJECTIVES[experiment.objective].for_model(module.config)
    program = make_program(trained, training, mesh, example, objective.loss)
    batch = {
        name: jax.ShapeDtypeStruct((training.batch_size, *value.shape[1:]), value.dtype, sharding=batch_sharding(mesh))
        for name, value in example.items()
    }
    if objective.taught:
        teach = functools.partial(with_targets, module, training.distill_layers)
        targets = jax.eval_shape(teach, abstract_params(module, example), batch)
        batch = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)) for name, x in targets.items()
        }
    state, train_step = program.abstract_state, typing.cast(jax.stages.Wrapped, program.train_step)
    traced = train_step.trace(state, batch, np.uint32(0))
    compiled = traced.lower().compile()
    memory, text = typing.cast(Any, compiled.memory_analysis()), compiled.as_text() or ""
    return StepPlan(
        experiment=experiment,
        mesh={axis: mesh.shape[axis] for axis in MESH_AXES},
        assumed=assumed,
        count=count_parameters(state.params),
        parameters=bytes_per_device(state.params),
        optimizer=bytes_per_device(state.opt_state),
        gradients=bytes_per_device(state.params),
        batch=bytes_per_device(batch),
        temporary=memory.temp_size_in_bytes,
        model_flops=step_flops(module, batch),
        step_flops=product_flops(traced.jaxpr),
        device_flops=count_product_flops(text),
        collectives=count_collectives(text),
    )


def bytes_per_device(tree: Any) -> int:
    """Computes the most bytes that one device holds of arrays or `jax.ShapeDtypeStruct`s with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
