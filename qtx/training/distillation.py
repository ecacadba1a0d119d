"""Learning from a teacher: its outputs beside each batch, and the loss against them.

Distillation (Hinton et al. 2015), here to change how a model computes and not what: the teacher is the model before.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.foundation.batch import Batch
from qtx.masks import token_mask
from qtx.sites import capture
from qtx.training.objectives import Sums

LAYERS = ("all", "last")
# Whose outputs are compared: of a post-LN block its output; of a pre-LN block what its feed-forward network reads,
# where no outlier of the residual stream outweighs all other features; and what the head reads.
MATCHED = ("layers/mlp_norm", "final_norm")
# What a teacher adds to a batch.
OF_LAYERS, HIDDEN, LOGITS = "teacher_layers", "teacher_hidden", "teacher_logits"


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen model whose outputs are the targets.

    Attributes:
      module: with or without a head.
      params: its parameters, on the devices.
      layers: which of its layers' outputs are given, of `LAYERS`.
    """

    module: nn.Module
    params: Any
    layers: str = "all"

    def outputs(self, batch: Batch) -> Batch:
        """A batch with the teacher's final outputs, to measure by: `teacher_hidden` `[B, T, width]` of a model without
        a head, else `teacher_logits`."""
        return with_targets(self.module, "none", self.params, dict(batch))

    def targets(self, batch: Batch) -> Batch:
        """The same with `teacher_layers` `[B, K, T, width]`, to train by."""
        return with_targets(self.module, self.layers, self.params, dict(batch))


@functools.partial(jax.jit, static_argnums=(0, 1))
def with_targets(module: nn.Module, layers: str, params: Any, batch: Batch) -> Batch:
    """A batch with the outputs of a module beside it: the final ones, and those of `layers`, of `LAYERS` or "none"."""
    config: Any = module.config
    final, captured = capture(module.apply, MATCHED if layers != "none" else (), {"params": params}, batch)
    found = {HIDDEN if getattr(config, "head", None) == "none" else LOGITS: final}
    if layers != "none":
        outputs = of_layers(captured)
        found[OF_LAYERS] = jnp.moveaxis(outputs if layers == "all" else outputs[-1:], 0, 1)
    return {**batch, **found}


def of_layers(captured: Mapping[str, jax.Array]) -> jax.Array:
    """The captured outputs of `MATCHED`, `[K, B, T, width]`, in the order of the layers."""
    return jnp.concatenate([captured[site] for site in MATCHED if site in captured])


def is_taught(batch: Mapping[str, Any]) -> bool:
    """Whether a teacher has seen a batch."""
    return HIDDEN in batch or LOGITS in batch


def distillation_sums(output: jax.Array, captured: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]) -> Sums:
    """Sums of the training loss of a batch of `Teacher.targets`, over examples.

    Of an example it is the relative squared error of the outputs of the layers, |h - t|^2 / |t|^2 over real tokens and
    features, as a mean over the layers, and of a model with a head also the Kullback-Leibler divergence of the
    predicted probabilities from the teacher's, in nats, as a mean over the predictions. `correct` sums cosines.
    """
    targets = jnp.moveaxis(batch[OF_LAYERS], 1, 0).astype(jnp.float32)
    given = of_layers(captured)[-len(targets) :].astype(jnp.float32)
    real = token_mask(batch, targets.shape[2])[..., None]
    loss = jax.vmap(lambda h, t: relative_error(h, t, real))(given, targets).mean(axis=0)
    if LOGITS in batch:
        loss += divergence(output, batch[LOGITS], batch)
    weights = batch["weights"].astype(jnp.float32)
    return Sums((weights * loss).sum(), weights.sum(), (weights * fidelity(output, batch)).sum())


def fidelity_sums(output: jax.Array, batch: Mapping[str, jax.Array]) -> Sums:
    """Sums that measure a model against a batch of `Teacher.outputs`, over examples: as the loss the relative squared
    error of the final outputs, as `correct` their cosine (see `fidelity`)."""
    target = batch[HIDDEN] if HIDDEN in batch else batch[LOGITS]
    real = _counted(batch, target)
    weights = batch["weights"].astype(jnp.float32)
    loss = relative_error(output.astype(jnp.float32), target.astype(jnp.float32), real)
    return Sums((weights * loss).sum(), weights.sum(), (weights * fidelity(output, batch)).sum())


def relative_error(x: jax.Array, target: jax.Array, real: jax.Array) -> jax.Array:
    """|x - t|^2 / |t|^2 of each example, `[B]`, where `real`; all `[B, ...]`."""
    axes = tuple(range(1, x.ndim))
    squares = jnp.where(real, jnp.square(target), 0.0).sum(axes)
    return jnp.where(real, jnp.square(x - target), 0.0).sum(axes) / jnp.maximum(squares, 1e-12)


def fidelity(output: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The cosine of each example's output to the teacher's, `[B]`: of hidden states, of their mean over the real tokens
    (the embedding of a text, as sentence-transformers makes it); of logits, as a mean over the predictions."""
    target = batch[HIDDEN] if HIDDEN in batch else batch[LOGITS]
    real = _counted(batch, target)
    x, t = output.astype(jnp.float32), target.astype(jnp.float32)
    if HIDDEN in batch:
        return cosine_similarity(jnp.where(real, x, 0.0).sum(axis=1), jnp.where(real, t, 0.0).sum(axis=1))
    return _mean(cosine_similarity(x, t), real[..., 0])


def cosine_similarity(x: jax.Array, y: jax.Array) -> jax.Array:
    """Over the last axis."""
    return (x * y).sum(-1) / jnp.maximum(jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1), 1e-12)


def divergence(logits: jax.Array, target: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """KL(teacher || model) of the predictions of each example, `[B]`, in nats."""
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (target, logits))
    return _mean((jnp.exp(log_p) * (log_p - log_q)).sum(-1), _counted(batch, target)[..., 0])


def _counted(batch: Mapping[str, jax.Array], output: jax.Array) -> jax.Array:
    """Which entries of an output count, `[B, T or 1, 1]` of `[B, T, D]`, `[B, 1]` of `[B, C]`."""
    if output.ndim == 2:
        return jnp.ones((len(output), 1), bool)
    return token_mask(batch, output.shape[1])[..., None]


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Over all axes but the first, where `counted`."""
    axes = tuple(range(1, values.ndim))
    counted = jnp.broadcast_to(counted, values.shape)
    return jnp.where(counted, values, 0.0).sum(axes) / jnp.maximum(counted.sum(axes), 1)
