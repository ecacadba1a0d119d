"""Learning from a teacher: its outputs beside each batch, and how far others are from them.

Distillation (Hinton et al. 2015), here to change how a model computes and not what: the teacher is the model before.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.foundation.batch import Batch
from qtx.masks import token_mask
from qtx.sites import capture

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


def layer_error(captured: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]) -> jax.Array:
    """The relative squared error of the outputs of the layers of each example of a batch of `Teacher.targets`, `[B]`:
    |h - t|^2 / |t|^2 over real tokens and features, as a mean over the layers."""
    targets = jnp.moveaxis(batch[OF_LAYERS], 1, 0).astype(jnp.float32)
    given = of_layers(captured)[-len(targets) :].astype(jnp.float32)
    real = token_mask(batch, targets.shape[2])[..., None]
    return jax.vmap(lambda h, t: relative_error(h, t, real))(given, targets).mean(axis=0)


def relative_error(x: jax.Array, target: jax.Array, real: jax.Array) -> jax.Array:
    """|x - t|^2 / |t|^2 of each example, `[B]`, where `real`; all `[B, ...]`."""
    axes = tuple(range(1, x.ndim))
    squares = jnp.where(real, jnp.square(target), 0.0).sum(axes)
    return jnp.where(real, jnp.square(x - target), 0.0).sum(axes) / jnp.maximum(squares, 1e-12)


def cosine_similarity(x: jax.Array, y: jax.Array) -> jax.Array:
    """Over the last axis."""
    return (x * y).sum(-1) / jnp.maximum(jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1), 1e-12)


def softmax_divergence(logits: jax.Array, batch: Mapping[str, jax.Array], whole: Mapping[str, jax.Array]) -> jax.Array:
    """KL(teacher || model) of the probabilities of the classes, as a mean over an example's predictions, in nats."""
    target = batch[LOGITS]
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (target, logits))
    return _mean((jnp.exp(log_p) * (log_p - log_q)).sum(-1), counted_rows(batch, target))


def label_divergence(logits: jax.Array, batch: Mapping[str, jax.Array], whole: Mapping[str, jax.Array]) -> jax.Array:
    """KL(teacher || model) of each label's being there or not, as a sum over the labels, in nats."""
    target, logits = batch[LOGITS].astype(jnp.float32), logits.astype(jnp.float32)
    p = jax.nn.sigmoid(target)
    there, not_there = (jax.nn.log_sigmoid(s * target) - jax.nn.log_sigmoid(s * logits) for s in (1, -1))
    return (p * there + (1 - p) * not_there).sum(axis=-1)


def score_divergence(logits: jax.Array, batch: Mapping[str, jax.Array], whole: Mapping[str, jax.Array]) -> jax.Array:
    """The squared error of the scores as a share of what the teacher's vary by in the whole batch, as a mean over the
    outputs; of an output that does not vary there, as a share of its square."""
    target, logits = batch[LOGITS].astype(jnp.float32), logits.astype(jnp.float32)
    scores, weights = whole[LOGITS].astype(jnp.float32), whole["weights"].astype(jnp.float32)[:, None]
    total = jnp.maximum(weights.sum(), 1e-12)
    means = (weights * scores).sum(axis=0) / total
    variances = (weights * jnp.square(scores - means)).sum(axis=0) / total
    squares = (weights * jnp.square(scores)).sum(axis=0) / total
    scale = jnp.where(variances > 1e-6 * squares, variances, jnp.maximum(squares, 1e-12))
    return (jnp.square(logits - target) / scale).mean(axis=-1)


SOFTMAX, SCORE = "softmax", "regression"
DIVERGENCES: dict[str, Callable[[jax.Array, Mapping[str, jax.Array], Mapping[str, jax.Array]], jax.Array]] = {
    SOFTMAX: softmax_divergence,
    "multi_label": label_divergence,
    SCORE: score_divergence,
}
"""What logits mean to how far they are from the teacher's: (logits, batch, the whole batch that it is a part of) to a
number of each example, `[B]`."""


def counted_rows(batch: Mapping[str, jax.Array], output: jax.Array) -> jax.Array:
    """Which predictions of an output count, `[B, T]` of `[B, T, D]`, `[B, 1]` of `[B, C]`."""
    if output.ndim == 2:
        return jnp.ones((len(output), 1), bool)
    return token_mask(batch, output.shape[1])


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Over all axes but the first, where `counted`."""
    axes = tuple(range(1, values.ndim))
    counted = jnp.broadcast_to(counted, values.shape) if axes else counted[:, 0]
    return jnp.where(counted, values, 0.0).sum(axes) / jnp.maximum(counted.sum(axes), 1)
