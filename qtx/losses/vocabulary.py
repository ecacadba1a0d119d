"""Cross entropy from the factors of logits, a part of the predictions at a time: the logits are never all in memory.

The gradient of a sum of losses needs only the logits of each prediction. So it is computed along with the loss, while
the logits are in memory, and the backward pass only scales it: three products with the table, as with stored logits,
instead of four with recomputed logits. (Liger kernel, Hsu et al. 2024, arXiv 2410.10989, section 3.2.)

Each of the devices that share a batch goes through its own predictions: parts of the whole batch would have to be
handed round, or computed by all devices.

With p = softmax(z), target t = (1 - e) onehot(y) + e / V and weight w: loss = -w sum_v t log p, d loss / dz = w (p - t)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qtx.losses.sums import PredictionSums
from qtx.models.vocabulary import Factors, multiplied_at

ROWS_OF_A_CACHE = 256
"""Predictions per part on a CPU: their logits stay in its caches, and larger parts are slower (docs/performance.md)."""
MOST_BYTES = 2**26
"""Bytes of logits per part on other devices: enough to keep a chip busy, and little beside the rest of its memory."""


class _Options(NamedTuple):
    label_smoothing: float
    share_ties: bool
    differentiated: bool = False


def vocabulary_sums(
    factors: Factors,
    labels: jax.Array,
    weights: jax.Array,
    label_smoothing: float = 0.0,
    share_ties: bool = False,
    shards: int = 1,
) -> PredictionSums:
    """Returns `qtx.losses.cross_entropy.training_sums` of `factors.logits()`, for labels and weights `[...]`; with
    `share_ties` and no smoothing `cross_entropy_sums`. Only `loss` can be differentiated, by the factors.

    Args:
      shards: the parts into which devices split the first axis (`qtx.training.sharding.batch_shards`); divides it.
    """
    hidden = factors.hidden
    by_shard = dataclasses.replace(factors, hidden=hidden.reshape(shards, -1, hidden.shape[-1]))
    labels, of_weights = labels.reshape(shards, -1), weights.reshape(shards, -1)
    loss, correct = _sums(_Options(label_smoothing, share_ties), by_shard, labels, of_weights)
    return PredictionSums(loss, weights.astype(jnp.float32).sum(), jax.lax.stop_gradient(correct))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(options: _Options, factors: Factors, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _of_shards(options, factors, labels, weights)[0]


def _forward(options, factors, labels, weights):
    return _of_shards(options._replace(differentiated=True), factors, labels, weights)


def _backward(options, gradients, of_sums):
    of_loss, _ = of_sums
    return jax.tree.map(lambda x: (x * of_loss).astype(x.dtype), gradients), None, None


_sums.defvjp(_forward, _backward)


def _of_shards(options: _Options, factors: Factors, labels: jax.Array, weights: jax.Array):
    """Returns ((loss, correct), gradients of the loss by the factors, or None) for hidden states `[shards, N, D]`."""
    hidden, table, bias = factors.hidden, factors.table, factors.bias
    own = functools.partial(_by_parts, options, table.astype(hidden.dtype), bias)
    with multiplied_at(factors.precision):
        if len(hidden) == 1:  # products of a matrix are faster than products of a batch of one matrix
            results = own(hidden[0], labels[0], weights[0])
            sums, of_hidden, of_rest = jax.tree.map(lambda x: x[None], results)
        else:
            sums, of_hidden, of_rest = jax.vmap(own)(hidden, labels, weights)
    sums, of_rest = jax.tree.map(lambda x: x.sum(axis=0), (sums, of_rest))
    if not options.differentiated:
        return sums, None
    return sums, Factors(of_hidden, of_rest[0].T, of_rest[1], factors.precision)


def _by_parts(options: _Options, table: jax.Array, bias: jax.Array | None, hidden: jax.Array, labels, weights):
    """Returns what `_of_part` does, but for all predictions, hidden `[N, D]`, computed in parts of limited size."""
    count, width = hidden.shape
    on_cpu = jax.default_backend() == "cpu"
    most = ROWS_OF_A_CACHE if on_cpu else max(ROWS_OF_A_CACHE, MOST_BYTES // (4 * table.shape[0]))
    parts = max(1, math.ceil(count / most))
    size = math.ceil(count / parts)
    one = functools.partial(_of_part, options, table, bias)
    if parts == 1:
        return one(hidden, labels, weights)
    # Predictions of weight 0 fill the last part.
    of_parts = tuple(
        jnp.pad(x, [(0, parts * size - count), *[(0, 0)] * (x.ndim - 1)]).reshape(parts, size, *x.shape[1:])
        for x in (hidden, labels, weights)
    )

    def add(total, part):
        sums, of_hidden, of_rest = one(*part)
        return jax.tree.map(jnp.add, total, (sums, of_rest)), of_hidden

    shapes = jax.eval_shape(one, *(x[0] for x in of_parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[2]))
    (sums, of_rest), of_hidden = jax.lax.scan(add, zeros, of_parts)
    return sums, of_hidden.reshape(-1, width)[:count] if options.differentiated else None, of_rest


def _of_part(options: _Options, table: jax.Array, bias: jax.Array | None, hidden: jax.Array, labels, weights):
    """Returns ((loss, correct), gradient by hidden, (gradients by the table `[D, V]` and by the bias, float32)) for a
    part of the predictions."""
    counted = weights != 0  # NaN counts: a damaged batch has to show
    labels, weights = jnp.where(counted, labels, 0), weights.astype(jnp.float32)
    logits = jnp.dot(hidden, table.T, preferred_element_type=jnp.float32)
    logits = logits if bias is None else logits + bias
    smoothing, classes = options.label_smoothing, table.shape[0]
    best = logits.max(axis=-1)
    exponentials = jnp.exp(logits - best[:, None])
    total = exponentials.sum(axis=-1)
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    loss = best + jnp.log(total) - (1 - smoothing) * of_label
    if smoothing:
        loss -= smoothing * logits.mean(axis=-1)
    share = 1.0 / (logits >= best[:, None]).sum(axis=-1) if options.share_ties else 1.0
    correct = jnp.where(of_label >= best, share, 0.0)
    sums = tuple(jnp.where(counted, weights * x, 0.0).sum() for x in (loss, correct))
    if not options.differentiated:
        return sums, None, None
    of_logits = exponentials * (weights / total)[:, None] - (smoothing / classes * weights)[:, None]
    of_logits = of_logits.at[jnp.arange(len(labels)), labels].add(-(1 - smoothing) * weights)
    of_logits = jnp.where(counted[:, None], of_logits, 0.0)
    of_bias = None if bias is None else of_logits.sum(axis=0)
    of_logits = of_logits.astype(hidden.dtype)
    of_hidden = jnp.dot(of_logits, table, preferred_element_type=jnp.float32).astype(hidden.dtype)
    # XLA's CPU backend takes 1.5 times as long if the factor with the logits is the transposed one.
    across_table = jax.lax.dot_general(hidden, of_logits, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return sums, of_hidden, (across_table, of_bias)
