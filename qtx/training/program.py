"""The compiled functions of a training run, shared by all runs that differ only in seed, data or folder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from qtx.anatomy import read
from qtx.foundation.batch import Batch
from qtx.losses import Loss
from qtx.training.config import TrainingConfig
from qtx.training.optimizer import Parameters
from qtx.training.penalized import check_sites
from qtx.training.penalties import make_penalties
from qtx.training.sharding import batch_sharding, optimizer_shardings, param_shardings, replicated
from qtx.training.step import (
    CROSS_ENTROPY,
    Trainable,
    TrainState,
    init_state,
    make_eval_step,
    make_train_step,
    start_state,
)

# (name, shape, dtype) of every array of one example, sorted: all of the data that a program depends on.
Shapes = tuple[tuple[str, tuple[int, ...], str], ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled functions that a run calls; everything lies on the mesh.

    Attributes:
      abstract_state: shapes, dtypes and shardings of the state.
      init: seed -> the state before the first update, every device computing its own part.
      start: parameters, which are copied -> the state of these before the first update.
      train_step: (state, batch, seed) -> (new state, numbers of this update); the old state is consumed.
      eval_step: (params, batch, step) -> the sums of `Loss.measured` of the batch.
    """

    abstract_state: TrainState
    init: Callable[[np.uint32], TrainState]
    start: Callable[[Any], TrainState]
    train_step: Callable[[TrainState, Batch, np.uint32], tuple[TrainState, dict[str, jax.Array]]]
    eval_step: Callable[[Any, Batch, jax.Array], Any]


def make_program(
    module: Trainable,
    training: TrainingConfig,
    mesh: Mesh,
    batch: Mapping[str, np.ndarray],
    loss: Loss = CROSS_ENTROPY,
) -> Program:
    """Returns the program for batches like `batch` (any number of examples); it is compiled once, when first called.

    Raises:
      QtxError: if the module does not have the sites of `training.penalties`, or a penalty does not fit its sites.
    """
    shapes = sorted((name, np.shape(value)[1:], np.asarray(value).dtype.name) for name, value in batch.items())
    return _make_program(module, training, mesh, tuple(shapes), loss)


# A comparison runs each variant's program once per seed, and compiling may take longer than training a small model.
@functools.lru_cache(maxsize=16)
def _make_program(module: Trainable, training: TrainingConfig, mesh: Mesh, shapes: Shapes, loss: Loss) -> Program:
    penalties = make_penalties(training.penalties)
    # Parameter shapes do not depend on the number of examples: one is enough to trace the initialization.
    example = {name: np.zeros((1, *shape), dtype) for name, shape, dtype in shapes}
    optimizer = training.make_optimizer(described(module, example))

    def init(seed):
        return init_state(module, optimizer, seed, example, loss, penalties)

    def start(given):
        # The training step consumes its state: without a copy it would consume the caller's arrays.
        return start_state(optimizer, jax.tree.map(jnp.copy, given), loss, penalties)

    abstract = jax.eval_shape(init, np.uint32(0))
    check_sites(penalties, module, abstract.params, example)
    boxed = abstract_params(module, example)
    everywhere = replicated(mesh)
    params = param_shardings(mesh, boxed)
    shardings = TrainState(
        step=everywhere,
        params=params,
        opt_state=optimizer_shardings(mesh, optimizer, abstract.params, params),
        window=jax.tree.map(lambda _: everywhere, abstract.window),
        lost=jax.tree.map(lambda _: everywhere, abstract.lost),
        bad=jax.tree.map(lambda _: everywhere, abstract.bad),
    )
    return Program(
        abstract_state=placed(abstract, shardings),
        init=jax.jit(init, out_shardings=shardings),
        start=jax.jit(start, out_shardings=shardings),
        train_step=jax.jit(
            make_train_step(module, optimizer, training, mesh, loss),
            in_shardings=(shardings, batch_sharding(mesh), everywhere),
            out_shardings=(shardings, everywhere),
            donate_argnums=0,
        ),
        eval_step=jax.jit(make_eval_step(module, mesh, loss), out_shardings=everywhere),
    )


def described(module: Trainable, batch: Mapping[str, Any]) -> Parameters:
    """Returns what is known of each parameter that is trained, by path. The batch gives shapes only."""
    trained: Any = module
    return read(trained, batch).parameters if isinstance(module, nn.Module) else trained.described(batch)


def abstract_params(module: Trainable, batch: Mapping[str, Any]) -> Any:
    """Returns the shapes of a model's parameters, boxed with their logical axes."""
    return jax.eval_shape(lambda batch: module.init(jax.random.key(0), batch)["params"], dict(batch))


def placed(abstract: Any, shardings: Any) -> Any:
    """Returns `jax.ShapeDtypeStruct`s with shardings, which say where a checkpoint is restored to."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
