"""Differences between a model's outputs and its teacher's, which stand in the batch: of layers, and of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from qtx.foundation.batch import Batch
from qtx.masks import token_mask

# The sites that are compared: the output of a post-LN block; the input of a pre-LN block's feed-forward network, where
# no outlier of the residual stream outweighs all other features; and the input of the head.
MATCHED = ("layers/mlp_norm", "final_norm")
# The names of the arrays that a teacher adds to a batch.
OF_LAYERS, HIDDEN, LOGITS = "teacher_layers", "teacher_hidden", "teacher_logits"


def of_layers(captured: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the captured outputs of `MATCHED`, `[K, B, T, width]`, in the order of the layers."""
    return jnp.concatenate([captured[site] for site in MATCHED if site in captured])


def layer_error(captured: Mapping[str, jax.Array], batch: Batch) -> jax.Array:
    """Returns the relative squared error of the layers' outputs for each example of a batch with the teacher's,
    `[B]`: |h - t|^2 / |t|^2 over real tokens and features, as a mean over the layers."""
    targets = jnp.moveaxis(batch[OF_LAYERS], 1, 0).astype(jnp.float32)
    given = of_layers(captured)[-len(targets) :].astype(jnp.float32)
    real = token_mask(batch, targets.shape[2])[..., None]
    return jax.vmap(lambda h, t: relative_error(h, t, real))(given, targets).mean(axis=0)


def relative_error(x: jax.Array, target: jax.Array, real: jax.Array) -> jax.Array:
    """Returns |x - t|^2 / |t|^2 of each example over its `real` entries, `[B]`; x, t and `real` are `[B, ...]`."""
    axes = tuple(range(1, x.ndim))
    squares = jnp.where(real, jnp.square(target), 0.0).sum(axes)
    return jnp.where(real, jnp.square(x - target), 0.0).sum(axes) / jnp.maximum(squares, 1e-12)


def cosine_similarity(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the cosine of the angle between x and y along the last axis."""
    return (x * y).sum(-1) / jnp.maximum(jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1), 1e-12)


def softmax_divergence(logits: jax.Array, batch: Batch, whole: Batch) -> jax.Array:
    """Returns KL(teacher || model) of the class probabilities, as a mean over each example's predictions, in nats."""
    target = batch[LOGITS]
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (target, logits))
    return _mean((jnp.exp(log_p) * (log_p - log_q)).sum(-1), counted_rows(batch, target))


def label_divergence(logits: jax.Array, batch: Batch, whole: Batch) -> jax.Array:
    """Returns KL(teacher || model) of each label's presence, yes or no, as a sum over the labels, in nats."""
    target, logits = batch[LOGITS].astype(jnp.float32), logits.astype(jnp.float32)
    p = jax.nn.sigmoid(target)
    there, not_there = (jax.nn.log_sigmoid(s * target) - jax.nn.log_sigmoid(s * logits) for s in (1, -1))
    return (p * there + (1 - p) * not_there).sum(axis=-1)


def score_divergence(logits: jax.Array, batch: Batch, whole: Batch) -> jax.Array:
    """Returns the squared error of the scores as a share of the variance of the teacher's in the whole batch, as a mean
    over the outputs; for an output that does not vary there, as a share of its mean square."""
    target, logits = batch[LOGITS].astype(jnp.float32), logits.astype(jnp.float32)
    scores, weights = whole[LOGITS].astype(jnp.float32), whole["weights"].astype(jnp.float32)[:, None]
    total = jnp.maximum(weights.sum(), 1e-12)
    means = (weights * scores).sum(axis=0) / total
    variances = (weights * jnp.square(scores - means)).sum(axis=0) / total
    squares = (weights * jnp.square(scores)).sum(axis=0) / total
    scale = jnp.where(variances > 1e-6 * squares, variances, jnp.maximum(squares, 1e-12))
    return (jnp.square(logits - target) / scale).mean(axis=-1)


SOFTMAX, SCORE = "softmax", "regression"
DIVERGENCES: dict[str, Callable[[jax.Array, Batch, Batch], jax.Array]] = {
    SOFTMAX: softmax_divergence,
    "multi_label": label_divergence,
    SCORE: score_divergence,
}
"""Kind of logits -> a function: (logits, batch, the whole batch that this is a part of) -> how far the logits are from
the teacher's, a number for each example, `[B]`."""


def counted_rows(batch: Batch, output: jax.Array) -> jax.Array:
    """Says which predictions of an output count: `[B, T]` for an output `[B, T, D]`, `[B, 1]` for `[B, C]`."""
    if output.ndim == 2:
        return jnp.ones((len(output), 1), bool)
    return token_mask(batch, output.shape[1])


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Returns the mean over all axes but the first, of the values that are `counted`."""
    axes = tuple(range(1, values.ndim))
    counted = jnp.broadcast_to(counted, values.shape) if axes else counted[:, 0]
    return jnp.where(counted, values, 0.0).sum(axes) / jnp.maximum(counted.sum(axes), 1)
