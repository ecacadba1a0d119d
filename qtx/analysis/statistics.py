"""Outlier statistics of activations: pure functions on arrays, and streaming accumulators of constant memory.

The statistics follow the paper's official code: a tensor of activations `[S, T, D]` is looked at one sample (sequence
or image) at a time, flattened over `T * D`, and the per-sample numbers are averaged over the samples. An accumulator
is an `(init, update)` pair in the manner of optax, to be used inside `jax.jit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qtx.foundation.totals import Count, Total

OUTLIER_SIGMAS = 6.0
"""A value is an outlier when it is more than this many standard deviations from its tensor's mean (the paper's)."""

KURTOSIS_EPSILON = 1e-6


class Accumulator(NamedTuple):
    """A streaming statistic: `state = init()`; per batch `state = update(state, x, ...)`; the state is the result."""

    init: Callable[[], Any]
    update: Callable[..., Any]


def infinity_norm(x: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Computes the largest magnitude of each sample, `[S, ...]` to `[S]`, over the values that count: `where`,
    broadcasting to `x`; None: all."""
    x, counts = _samples(x, where)
    return jnp.max(jnp.abs(x), axis=1, where=counts, initial=0.0)


def kurtosis(x: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Computes the kurtosis of each sample, `mean((x - mu)^4) / (s^4 + 1e-6)` with the unbiased deviation s: `[S, ...]`
    to `[S]`, over the values that count, as in `infinity_norm`.

    The kurtosis is 3 for normally distributed values (not the excess kurtosis) and grows with the weight of the tails.
    """
    centered, number, variance = _centered(x, where)
    return jnp.sum(centered**4, axis=1) / number / (variance**2 + KURTOSIS_EPSILON)


def largest_distance(x: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Computes the largest distance from each sample's mean in its standard deviations, `[S, ...]` to `[S]`, over the
    values that count, as in `infinity_norm`."""
    centered, _, variance = _centered(x, where)
    return jnp.max(jnp.abs(centered), axis=1) / jnp.maximum(jnp.sqrt(variance), 1e-12)


def is_outlier(x: jax.Array, mask: jax.Array | None = None, sigmas: float = OUTLIER_SIGMAS) -> jax.Array:
    """Tells which values lie more than `sigmas` standard deviations from their sample's mean.

    Args:
      x: activations `[S, T, D]`.
      mask: `[S, T]`, False at padded positions: they neither enter the mean and deviation nor are outliers.
      sigmas: the threshold in standard deviations.

    Returns:
      Boolean `[S, T, D]`.
    """
    centered, _, variance = _centered(x, None if mask is None else mask[..., None])
    return (jnp.abs(centered) > sigmas * jnp.sqrt(variance)[:, None]).reshape(x.shape)


class MeanState(NamedTuple):
    """The mean so far and its total weight, each with the digits that float32 has no place for."""

    mean: Total
    weight: Total


def weighted_mean(*shape: int) -> Accumulator:
    """Makes the accumulator of a running mean over all samples seen, with the digits that 10^12 samples take.

    `update(state, values, weights)` takes values `[S, *shape]` and weights `[S]` or `[S, *shape]`; a weight of 0 leaves
    a sample out (the padding of a last batch). The mean is 0 where nothing had weight.
    """

    def init() -> MeanState:
        return MeanState(Total.zero(*shape), Total.zero(*shape))

    def update(state: MeanState, values: jax.Array, weights: jax.Array) -> MeanState:
        values = values.astype(jnp.float32)
        weights = weights.astype(jnp.float32).reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
        weights = jnp.broadcast_to(weights, values.shape)
        batch_weight = jnp.sum(weights, axis=0)
        total = state.weight.plus(batch_weight)
        # A left-out sample may hold anything, infinities too: select, for 0 * inf is not 0.
        difference = jnp.where(weights > 0, weights * (values - state.mean.high - state.mean.low), 0)
        change = jnp.sum(difference, axis=0) / jnp.where(total.high > 0, total.high, 1)
        return MeanState(state.mean.plus(change), total)

    return Accumulator(init, update)


class OutlierCounts(NamedTuple):
    """Outliers found so far, and the tokens looked at: `share = total / (tokens * D)`."""

    by_dimension: Count
    by_position: Count
    by_token: Count
    tokens_at_position: Count


def outlier_counts(length: int, width: int, vocabulary: int = 0, sigmas: float = OUTLIER_SIGMAS) -> Accumulator:
    """Makes the accumulator that counts outliers by hidden dimension, token position and token id.

    `update(state, x, mask, tokens)` takes activations `[S, length, width]`, a mask `[S, length]` (False = padding) and
    token ids `[S, length]` below `vocabulary` (ignored when `vocabulary` is 0). Each sample is compared with its own
    mean and deviation, so the counts do not depend on the batch size. They are `[width]`, `[length]`, `[vocabulary]`
    and `[length]`.
    """

    def init() -> OutlierCounts:
        return OutlierCounts(*(Count.zero(size) for size in (width, length, vocabulary, length)))

    def update(state: OutlierCounts, x: jax.Array, mask: jax.Array, tokens: jax.Array | None = None) -> OutlierCounts:
        found = is_outlier(x, mask, sigmas).astype(jnp.uint32)
        per_token = jnp.sum(found, axis=2, dtype=jnp.uint32)
        of_tokens = jnp.zeros(vocabulary, jnp.uint32)
        return OutlierCounts(
            state.by_dimension.plus(jnp.sum(found, axis=(0, 1))),
            state.by_position.plus(jnp.sum(per_token, axis=0)),
            state.by_token.plus(of_tokens.at[tokens].add(per_token)) if vocabulary else state.by_token,
            state.tokens_at_position.plus(jnp.sum(mask, axis=0, dtype=jnp.uint32)),
        )

    return Accumulator(init, update)


def histogram(low: float | jax.Array, high: float | jax.Array, bins: int) -> Accumulator:
    """Makes the accumulator that counts values in `bins` equal bins of [low, high]; the outermost also count the rest.

    `update(counts, x, mask)` takes counts `[bins]`, `[S, T, ...]`, of up to 4 billion values, and a mask `[S, T]`.
    """

    def update(counts: Count, x: jax.Array, mask: jax.Array) -> Count:
        index = jnp.floor((x.astype(jnp.float32) - low) * (bins / (high - low)))
        index = jnp.clip(index, 0, bins - 1).astype(jnp.int32)
        real = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        of_batch = jnp.zeros(bins, jnp.uint32).at[index].add(jnp.broadcast_to(real, x.shape).astype(jnp.uint32))
        return counts.plus(of_batch)

    return Accumulator(lambda: Count.zero(bins), update)


def per_layer(accumulator: Accumulator, num_layers: int) -> Accumulator:
    """Makes an accumulator for `num_layers` tensors at once, stacked on a leading axis: `x` is `[L, S, ...]`.

    Further arguments of `update` (masks, weights) are shared by the layers.
    """

    def init() -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_layers, *leaf.shape)), accumulator.init())

    def update(state: Any, x: Any, *shared: Any) -> Any:
        return jax.vmap(lambda one, values: accumulator.update(one, values, *shared))(state, x)

    return Accumulator(init, update)


def _samples(x: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Returns the values of each sample, float32 `[S, N]`, and which of them count, `[S, N]`."""
    counts = jnp.broadcast_to(True if where is None else where, x.shape)
    return x.reshape(x.shape[0], -1).astype(jnp.float32), counts.reshape(x.shape[0], -1)


def _centered(x: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the distances of each sample's values from their mean, `[S, N]`, 0 for values that do not count; and how
    many count, and their unbiased variance, `[S]`."""
    x, counts = _samples(x, where)
    number = jnp.maximum(counts.sum(axis=1), 1)
    mean = jnp.sum(x, axis=1, where=counts) / number
    centered = jnp.where(counts, x - mean[:, None], 0.0)
    return centered, number, jnp.sum(centered**2, axis=1) / jnp.maximum(number - 1, 1)
