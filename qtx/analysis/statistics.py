"""Outlier statistics of activations: pure functions on arrays, and streaming statistics of constant memory.

The statistics follow the paper's official code: a tensor of activations `[S, T, D]` is looked at one sample (sequence
or image) at a time, flattened over `T * D`, and the per-sample numbers are averaged over the samples.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qtx.foundation.totals import Count, Total

OUTLIER_SIGMAS = 6.0
"""A value is an outlier when it is more than this many standard deviations from its tensor's mean (the paper's)."""

KURTOSIS_EPSILON = 1e-6


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


class WeightedMean(NamedTuple):
    """A running mean over all samples seen, with the digits that 10^12 samples take; 0 where nothing had weight.

    Attributes:
      mean, weight: the mean so far and its total weight.
    """

    mean: Total
    weight: Total

    @classmethod
    def zero(cls, *shape: int) -> WeightedMean:
        """Returns the mean of no samples."""
        return cls(Total.zero(*shape), Total.zero(*shape))

    def plus(self, values: jax.Array, weights: jax.Array) -> WeightedMean:
        """Returns the mean with values `[S, *shape]` added, of weights `[S]` or `[S, *shape]`; a weight of 0 leaves a
        sample out (the padding of a last batch)."""
        values = values.astype(jnp.float32)
        weights = weights.astype(jnp.float32).reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
        weights = jnp.broadcast_to(weights, values.shape)
        total = self.weight.plus(jnp.sum(weights, axis=0))
        # A left-out sample may hold anything, infinities too: select, for 0 * inf is not 0.
        difference = jnp.where(weights > 0, weights * (values - self.mean.high - self.mean.low), 0)
        change = jnp.sum(difference, axis=0) / jnp.where(total.high > 0, total.high, 1)
        return WeightedMean(self.mean.plus(change), total)


class OutlierCounts(NamedTuple):
    """The outliers found so far, by hidden dimension, token position and token id, and the tokens looked at: `share =
    total / (tokens * D)`. Each sample is compared with its own mean and deviation, so that the counts do not depend on
    the batch size."""

    by_dimension: Count
    by_position: Count
    by_token: Count
    tokens_at_position: Count

    @classmethod
    def zero(cls, *leading: int, width: int, length: int, vocabulary: int = 0) -> OutlierCounts:
        """Returns counts of none, `[width]`, `[length]`, `[vocabulary]` and `[length]`, with leading axes."""
        return cls(*(Count.zero(*leading, size) for size in (width, length, vocabulary, length)))

    def plus(
        self, x: jax.Array, mask: jax.Array, tokens: jax.Array | None = None, sigmas: float = OUTLIER_SIGMAS
    ) -> OutlierCounts:
        """Returns the counts with those of a batch added, without leading axes.

        Args:
          x: activations `[S, length, width]`.
          mask: `[S, length]`, False at padding.
          tokens: token ids `[S, length]` below the vocabulary; None: they are not counted.
          sigmas: the threshold in standard deviations.
        """
        found = is_outlier(x, mask, sigmas).astype(jnp.uint32)
        per_token = jnp.sum(found, axis=2, dtype=jnp.uint32)
        by_token = self.by_token
        if tokens is not None:
            by_token = by_token.plus(jnp.zeros(by_token.low.shape, jnp.uint32).at[tokens].add(per_token))
        return OutlierCounts(
            self.by_dimension.plus(jnp.sum(found, axis=(0, 1))),
            self.by_position.plus(jnp.sum(per_token, axis=0)),
            by_token,
            self.tokens_at_position.plus(jnp.sum(mask, axis=0, dtype=jnp.uint32)),
        )


def histogram(x: jax.Array, mask: jax.Array, low: float | jax.Array, high: float | jax.Array, bins: int) -> jax.Array:
    """Counts the values of `[S, T, ...]`, up to 4 billion, where a mask `[S, T]` is True, in equal bins of [low, high],
    of which the outermost also count the rest: uint32 `[bins]`."""
    index = jnp.floor((x.astype(jnp.float32) - low) * (bins / (high - low)))
    index = jnp.clip(index, 0, bins - 1).astype(jnp.int32)
    real = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    return jnp.zeros(bins, jnp.uint32).at[index].add(jnp.broadcast_to(real, x.shape).astype(jnp.uint32))


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
