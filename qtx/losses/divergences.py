"""Differences between a model's outputs and its teacher's, which stand in the batch: of layers, and of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.anatomy import read
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.masks import token_mask
from qtx.parts import Part

TEACHER = "teacher_"
"""The beginning of the names of the arrays that a teacher adds to a batch."""
OF_LAYERS, HIDDEN, LOGITS = f"{TEACHER}layers/", f"{TEACHER}hidden", f"{TEACHER}logits"
"""The path of each compared site follows `OF_LAYERS`; the others are the names of the model's outputs."""


def matched(module: nn.Module, batch: Batch) -> tuple[str, ...]:
    """Returns the paths of the sites that are compared, in the order of the computation. The batch gives shapes only.

    They are the last norm of each layer: the output of a post-LN block, or the input of a pre-LN block's feed-forward
    network, where no outlier of the residual stream outweighs all other features; and the input of the head, if that is
    a norm after the layers.

    Raises:
      QtxError: if there are none.
    """
    found: dict[Any, str] = {}
    anatomy = read(module, {name: x for name, x in batch.items() if not name.startswith(TEACHER)})
    for site in anatomy.sites_of((Part.NORM,)):
        if site.stack is not None:
            found[site.stack] = site.path
        elif found:
            found[site.path] = site.path
    if not found:
        raise QtxError(
            "distillation finds no norm in a stack of layers, whose outputs it would compare: no module of this model "
            "declares one, see qtx.parts"
        )
    return tuple(found.values())


def layer_error(captured: Mapping[str, jax.Array], batch: Batch, model: Any) -> jax.Array:
    """Returns the relative squared error of the layers' outputs for each example of a batch with the teacher's,
    `[B]`: |h - t|^2 / |t|^2 over real tokens and features, as a mean over the layers. In a decoder, a token of which
    one feature holds more than half of the teacher's squares does not count in that layer: attention rests there, and
    the spike is what is to go. An encoder's embedding is made of such tokens too.

    Args:
      captured: the model's outputs by site, `[L, B, T, width]`.
      batch: has the teacher's, `OF_LAYERS` and the site, `[B, L, T, width]`, or of the last layers alone.
      model: says which tokens are real (see `qtx.masks.token_mask`).
    """
    errors = []
    for name in filter(lambda name: name.startswith(OF_LAYERS), batch):
        targets = jnp.moveaxis(batch[name], 1, 0).astype(jnp.float32)
        given = captured[name.removeprefix(OF_LAYERS)][-len(targets) :].astype(jnp.float32)
        real = token_mask(batch, targets.shape[2], model)[..., None]
        real = jnp.broadcast_to(real, (*targets.shape[:-1], 1))
        if getattr(getattr(model, "config", None), "causal", False):
            squares = jnp.square(targets)
            real &= 2 * squares.max(axis=-1, keepdims=True) <= squares.sum(axis=-1, keepdims=True)
        errors.append(jax.vmap(relative_error)(given, targets, real))
    return jnp.concatenate(errors).mean(axis=0)


def relative_error(x: jax.Array, target: jax.Array, real: jax.Array) -> jax.Array:
    """Returns |x - t|^2 / |t|^2 of each example over its `real` entries, `[B]`; x, t and `real` are `[B, ...]`."""
    axes = tuple(range(1, x.ndim))
    squares = jnp.where(real, jnp.square(target), 0.0).sum(axes)
    return jnp.where(real, jnp.square(x - target), 0.0).sum(axes) / jnp.maximum(squares, 1e-12)


def cosine_similarity(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the cosine of the angle between x and y along the last axis."""
    return (x * y).sum(-1) / jnp.maximum(jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1), 1e-12)


def softmax_divergence(logits: jax.Array, batch: Batch, whole: Batch, counted: jax.Array) -> jax.Array:
    """Returns KL(teacher || model) of the class probabilities, as a mean over each example's predictions, in nats."""
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (batch[LOGITS], logits))
    divergences = (jnp.exp(log_p) * (log_p - log_q)).sum(-1).reshape(counted.shape)
    return jnp.where(counted, divergences, 0.0).sum(axis=1) / jnp.maximum(counted.sum(axis=1), 1)


def span_divergence(logits: jax.Array, batch: Batch, whole: Batch, counted: jax.Array) -> jax.Array:
    """Returns KL(teacher || model) of where an answer begins and of where it ends, among the real tokens of each
    example, as a mean over the two, in nats; logits are `[B, T, 2]`."""
    real = counted[..., None]
    log_p, log_q = (
        jax.nn.log_softmax(jnp.where(real, x.astype(jnp.float32), -1e30), axis=1) for x in (batch[LOGITS], logits)
    )
    return jnp.where(real, jnp.exp(log_p) * (log_p - log_q), 0.0).sum(axis=1).mean(axis=-1)


def label_divergence(logits: jax.Array, batch: Batch, whole: Batch, counted: jax.Array) -> jax.Array:
    """Returns KL(teacher || model) of each label's presence, yes or no, as a sum over the labels, in nats."""
    target, logits = batch[LOGITS].astype(jnp.float32), logits.astype(jnp.float32)
    p = jax.nn.sigmoid(target)
    there, not_there = (jax.nn.log_sigmoid(s * target) - jax.nn.log_sigmoid(s * logits) for s in (1, -1))
    return (p * there + (1 - p) * not_there).sum(axis=-1)


def score_divergence(logits: jax.Array, batch: Batch, whole: Batch, counted: jax.Array) -> jax.Array:
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


SOFTMAX, SCORE, SPAN = "softmax", "regression", "span"
DIVERGENCES: dict[str, Callable[[jax.Array, Batch, Batch, jax.Array], jax.Array]] = {
    SOFTMAX: softmax_divergence,
    "multi_label": label_divergence,
    SCORE: score_divergence,
    SPAN: span_divergence,
}
"""Kind of logits -> a function: (logits, batch, the whole batch that this is a part of, `counted_rows`) -> how far the
logits are from the teacher's, a number for each example, `[B]`."""


def counted_rows(batch: Batch, output: jax.Array, model: Any) -> jax.Array:
    """Says which predictions of a model's output count: `[B, T]` for an output `[B, T, D]`, `[B, 1]` for `[B, C]`."""
    return jnp.ones((len(output), 1), bool) if output.ndim == 2 else token_mask(batch, output.shape[1], model)
