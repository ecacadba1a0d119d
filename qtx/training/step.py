"""One optimizer update, as a pure function of the state and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qtx.training.config import TrainingConfig
from qtx.training.objectives import Sums, cross_entropy_sums
from qtx.training.schedules import learning_rate_schedule
from qtx.training.sharding import LOGICAL_AXES

Batch = dict[str, jax.Array]


class Trainable(Protocol):
    """What can be trained: a Flax module, or what has these two methods of one and is hashable."""

    def init(self, *args: Any, **kwargs: Any) -> Any: ...

    def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    def __hash__(self) -> int: ...


@flax.struct.dataclass
class Window:
    """Training metrics since the last log line. They are part of the state, so that a resumed run logs the same means.

    Attributes:
      sums: loss, weight and correct, added up over the updates.
      bad_step: the first update (from 1) whose loss or gradient was not finite; 0: none.
    """

    sums: Sums
    bad_step: jax.Array

    @classmethod
    def empty(cls) -> Window:
        zero = jnp.zeros((), jnp.float32)
        return cls(Sums(zero, zero, zero), jnp.zeros((), jnp.int32))


@flax.struct.dataclass
class TrainState:
    """Everything that an update changes.

    Attributes:
      step: updates done, int32.
      params: float32, without boxes.
      opt_state: optax's.
      window: metrics since the last log line.
    """

    step: Any
    params: Any
    opt_state: Any
    window: Any


def init_state(module: Trainable, optimizer: optax.GradientTransformation, seed: Any, batch: Any) -> TrainState:
    """The state before the first update; `batch` gives the shapes only."""
    return start_state(optimizer, nn.unbox(module.init(_init_key(seed), batch)["params"]))


def start_state(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """The state before the first update of given parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), Window.empty())


def _init_key(seed: Any) -> jax.Array:
    return jax.random.split(jax.random.key(seed))[0]


def _dropout_key(seed: Any, step: jax.Array) -> jax.Array:
    """Key of an update's dropout: a function of the step alone, so that a resumed run draws the same masks."""
    return jax.random.fold_in(jax.random.split(jax.random.key(seed))[1], step)


def make_train_step(
    module: Trainable, optimizer: optax.GradientTransformation, config: TrainingConfig, mesh: Mesh
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """(state, batch, seed) -> (state after one update, its learning_rate and grad_norm), to be compiled over `mesh`.

    The loss is sum(weights * cross entropy) / sum(weights) over the whole batch: each microbatch divides by the weights
    of all, so that accumulation gives the big batch's gradient and not a mean of means.
    """

    def gradients(params, batch, key, step, normalizer):
        def loss(params):
            logits: Any = module.apply({"params": params}, batch, train=True, step=step, rngs={"dropout": key})
            sums = cross_entropy_sums(logits, batch["labels"], batch["weights"])
            return sums.loss / normalizer, sums

        return jax.grad(loss, has_aux=True)(params)

    def accumulate(params, batch, key, step, normalizer):
        parts = config.accumulation_steps
        split = jax.tree.map(lambda x: _microbatches(x, parts, mesh), batch)

        def add(total, part):
            batch, index = part
            new = gradients(params, batch, jax.random.fold_in(key, index), step, normalizer)
            return jax.tree.map(jnp.add, total, new), None

        zeros = jax.tree.map(jnp.zeros_like, params), Window.empty().sums
        return jax.lax.scan(add, zeros, (split, jnp.arange(parts)))[0]

    schedule = learning_rate_schedule(config)
    compute = gradients if config.accumulation_steps == 1 else accumulate

    def train_step(state: TrainState, batch: Batch, seed: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        weight = batch["weights"].astype(jnp.float32).sum()
        normalizer = jnp.where(weight > 0, weight, 1.0)
        grads, sums = compute(state.params, batch, _dropout_key(seed, state.step), state.step, normalizer)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.tree.norm(grads)
        step = state.step + 1

        fresh = state.step % config.log_every == 0
        window = jax.tree.map(lambda old, new: jnp.where(fresh, new, old), state.window, Window.empty())
        finite = jnp.isfinite(sums.loss) & jnp.isfinite(grad_norm)
        bad_step = jnp.where((window.bad_step == 0) & ~finite, step, window.bad_step)
        window = Window(jax.tree.map(jnp.add, window.sums, sums), bad_step)
        numbers = {"learning_rate": schedule(state.step), "grad_norm": grad_norm}
        return TrainState(step, params, opt_state, window), numbers

    return train_step


def _microbatches(x: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """`[B, ...]` -> `[parts, B / parts, ...]`, every device's examples staying on it."""
    x = jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
    sharding = NamedSharding(mesh, PartitionSpec(None, LOGICAL_AXES["batch"]))
    return jax.lax.with_sharding_constraint(x, sharding)


def make_eval_step(module: Trainable) -> Callable[[Any, Batch, jax.Array], Sums]:
    """(params, batch, step) -> sums over the batch, without dropout."""

    def eval_step(params, batch, step):
        logits: Any = module.apply({"params": params}, batch, train=False, step=step)
        return cross_entropy_sums(logits, batch["labels"], batch["weights"])

    return eval_step
