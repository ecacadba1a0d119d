"""One optimizer update, as a pure function of the state and a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, Protocol

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qtx.axes import LOGICAL_AXES
from qtx.foundation.batch import Batch
from qtx.foundation.totals import Total
from qtx.losses import CrossEntropy, Loss, Training
from qtx.quantization.qat.noise import NoisyModel
from qtx.sites import capture
from qtx.training.config import TrainingConfig
from qtx.training.penalized import Mean, penalty_sums
from qtx.training.penalties import make_penalties
from qtx.training.sharding import batch_shards

CROSS_ENTROPY = CrossEntropy()


class Trainable(Protocol):
    """A `Trainable` is a Flax module, or a hashable object with these two methods of one, the model as `module`, and a
    method `described` that returns the parameters for a batch, by path (`qtx.anatomy.Parameter`)."""

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the variables, as `flax.linen.Module.init` does."""
        ...

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the outputs, as `flax.linen.Module.apply` does."""
        ...

    def __hash__(self) -> int: ...


@flax.struct.dataclass
class BadSteps:
    """Updates whose loss or gradient was not finite. They are skipped: parameters and optimizer state stay.

    Attributes:
      last: the last such update (from 1); 0: none.
      in_a_row: how many such updates came one after the other, up to now.
      total: how many updates were skipped in the run.
    """

    last: jax.Array
    in_a_row: jax.Array
    total: jax.Array

    @classmethod
    def none(cls) -> BadSteps:
        """Returns the counts before any bad step."""
        zero = jnp.zeros((), jnp.int32)
        return cls(zero, zero, zero)


@flax.struct.dataclass
class TrainState:
    """The state of training, which is everything that an update changes.

    Attributes:
      step: updates done, int32; skipped ones count.
      params: the parameters, float32, without boxes.
      opt_state: the state of the optax optimizer.
      window: sums of the loss since the last log line, by name, without skipped updates; with penalties also their
        means, as `penalties`. Part of the state, so that a resumed run logs the same means.
      lost: the digits of the window's sums that float32 has no place for (see `qtx.foundation.totals.Total`).
      bad: the skipped updates.
    """

    step: Any
    params: Any
    opt_state: Any
    window: Any
    lost: Any
    bad: Any


def init_state(
    module: Trainable,
    optimizer: optax.GradientTransformation,
    seed: Any,
    batch: Any,
    loss: Loss,
    penalties: Collection[str],
) -> TrainState:
    """Returns the state before the first update, for a loss and the named penalties; `batch` gives the shapes only."""
    return start_state(optimizer, nn.unbox(module.init(_init_key(seed), batch)["params"]), loss, penalties)


def start_state(
    optimizer: optax.GradientTransformation, params: Any, loss: Loss, penalties: Collection[str]
) -> TrainState:
    """Returns the state of given parameters before the first update, for a loss and the named penalties."""
    step, zero = jnp.zeros((), jnp.int32), begun_window(loss, penalties)
    return TrainState(step, params, optimizer.init(params), zero, zero, BadSteps.none())


def begun_window(loss: Loss, penalties: Collection[str]) -> dict[str, Any]:
    """Returns the sums of no predictions. They have no `penalties` if there are none, so that checkpoints have none."""
    sums: dict[str, Any] = {name: jnp.zeros((), jnp.float32) for name in loss.window._fields}
    return sums | ({"penalties": {name: Mean.zero() for name in penalties}} if penalties else {})


def _init_key(seed: Any) -> jax.Array:
    """Returns the key of a run's initial parameters."""
    return jax.random.split(jax.random.key(seed))[0]


def _dropout_key(seed: Any, step: jax.Array) -> jax.Array:
    """Returns the key of an update's dropout: only seed and step matter, so that a resumed run draws the same masks."""
    return jax.random.fold_in(jax.random.split(jax.random.key(seed))[1], step)


def training_forward(
    module: Trainable, config: TrainingConfig, loss: Loss
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Returns `module.apply`, extended to return also the tensors at the sites that penalties or the loss look at."""
    penalized = {pattern for penalty in make_penalties(config.penalties).values() for pattern in penalty.patterns}
    trained: Any = module
    model = module if isinstance(module, nn.Module) else trained.module

    def forward(variables, batch, **options):
        sites = penalized | set(loss.sites(model, batch))
        if sites:
            return loss.output_of(capture, module.apply, sites, variables, batch, **options)
        return loss.output_of(module.apply, variables, batch, **options), {}

    return forward


def make_train_step(
    module: Trainable,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    mesh: Mesh,
    loss: Loss = CROSS_ENTROPY,
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the step, to be compiled over `mesh`: (state, batch, seed) -> (new state, learning_rate and grad_norm).

    The loss is sum(weights * loss of an example or prediction) / sum(weights) over the whole batch: each microbatch
    divides by the weights of all, so that accumulation gives the big batch's gradient and not a mean of means. The
    penalties of `config.penalties` are added likewise.

    An update whose loss or gradient is not finite is skipped. After `config.max_bad_steps` such updates in a row the
    state stays as it was before the last one, and only `bad` tells so: until that is noticed, calls change nothing.

    Raises:
      QtxError: if the step would compute a batch in parts whose losses do not add up to the batch's.
    """
    loss.check_whole(config.accumulation_steps, isinstance(module, NoisyModel))
    penalties = make_penalties(config.penalties)
    forward = training_forward(module, config, loss)

    def gradients(params, batch, key, step, total_weight, whole):
        def total(params):
            output, captured = forward({"params": params}, batch, train=True, step=step, rngs={"dropout": key})
            given = Training(captured, whole, config.label_smoothing, batch_shards(mesh))
            sums = loss(output, batch, given)._asdict()
            if not penalties:
                return sums["loss"] / total_weight, sums
            penalty, of_penalties = penalty_sums(penalties, captured, batch, whole, step, module)
            return sums["loss"] / total_weight + penalty, {**sums, "penalties": of_penalties}

        return jax.grad(total, has_aux=True)(params)

    def accumulate(params, batch, key, step, total_weight, whole):
        parts = config.accumulation_steps
        split = jax.tree.map(lambda x: _microbatches(x, parts, mesh), batch)

        def add(total, part):
            batch, index = part
            new = gradients(params, batch, jax.random.fold_in(key, index), step, total_weight, whole)
            return jax.tree.map(jnp.add, total, new), None

        zeros = jax.tree.map(jnp.zeros_like, params), begun_window(loss, penalties)
        return jax.lax.scan(add, zeros, (split, jnp.arange(parts)))[0]

    schedule = config.make_schedule()
    compute = gradients if config.accumulation_steps == 1 else accumulate

    def train_step(state: TrainState, batch: Batch, seed: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        weight = batch["weights"].astype(jnp.float32).sum()
        total_weight = jnp.where(weight > 0, weight, 1.0)
        grads, sums = compute(state.params, batch, _dropout_key(seed, state.step), state.step, total_weight, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.tree.norm(grads)

        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(grad_norm)
        for mean in sums.get("penalties", {}).values():
            finite &= jnp.isfinite(mean.total)
        in_a_row = jnp.where(finite, 0, state.bad.in_a_row + 1)
        frozen = state.bad.in_a_row >= config.max_bad_steps
        goes_on = ~frozen & (in_a_row < config.max_bad_steps)
        skipped = goes_on & ~finite
        bad = BadSteps(jnp.where(finite, state.bad.last, state.step + 1), in_a_row, state.bad.total + skipped)
        begun = (begun_window(loss, penalties), begun_window(loss, penalties))
        window, lost = _where(state.step % config.log_every == 0, begun, (state.window, state.lost))
        parts = zip(*map(jax.tree.leaves, (window, lost, sums)), strict=True)
        totals = [Total(*pair).plus(more) for *pair, more in parts]
        added = tuple(jax.tree.unflatten(jax.tree.structure(sums), part) for part in zip(*totals, strict=True))
        window, lost = _where(finite, added, (window, lost))
        params, opt_state = _where(finite & ~frozen, (params, opt_state), (state.params, state.opt_state))
        after = TrainState(
            step=state.step + goes_on,
            params=params,
            opt_state=opt_state,
            window=_where(goes_on, window, state.window),
            lost=_where(goes_on, lost, state.lost),
            bad=_where(frozen, state.bad, bad),
        )
        # A skipped update leaves the optimizer's own count, by which it takes its learning rate, where it was.
        numbers = {"learning_rate": schedule(state.step - state.bad.total), "grad_norm": grad_norm}
        return after, numbers

    return train_step


def _where(condition: jax.Array, chosen: Any, other: Any) -> Any:
    """Applies `jnp.where` to every leaf of two trees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, other)


def _microbatches(x: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """Splits `[B, ...]` into microbatches `[parts, B / parts, ...]`; every device keeps its own examples."""
    x = jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
    sharding = NamedSharding(mesh, PartitionSpec(None, LOGICAL_AXES["batch"]))
    return jax.lax.with_sharding_constraint(x, sharding)


def make_eval_step(module: Trainable, mesh: Mesh, loss: Loss = CROSS_ENTROPY) -> Callable[[Any, Batch, jax.Array], Any]:
    """Returns a function to be compiled over `mesh`: (params, batch, step) -> the sums by which `loss` measures the
    model, computed without dropout."""

    def eval_step(params, batch, step):
        apply = functools.partial(module.apply, {"params": params}, train=False, step=step)
        return loss.measured(loss.output_of(apply, batch), batch, batch_shards(mesh))

    return eval_step
