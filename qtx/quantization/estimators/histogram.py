"""Quantization error of a tensor, estimated from its histogram: one look at the values serves every grid.

The values of a bin are taken to be spread evenly in it. Then the sum of |x - Q(x)|^p over a bin is an integral with
a closed form, exact however the bin lies across the cells of a grid. In steps t of the grid, with k the nearest
level and r = t - k,

    F(t) = integral_0^t |u - Q(u)|^p du = k c + r |r|^p / (p + 1),   c = 2^-p / (p + 1),

also beyond the grid's ends, where k stays at the last level.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qtx.quantization.affine import Grid

BINS = 4096


def histogram(x: jax.Array, minimum: jax.Array, maximum: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Counts the values in each of `BINS` equal parts of [minimum, maximum]; int32.

    Args:
      x: any shape, finite.
      minimum, maximum: bounds that no value that counts exceeds.
      where: broadcasts to `x`: the values that count; None: all.
    """
    width = jnp.maximum(maximum - minimum, jnp.finfo(jnp.float32).tiny)
    index = jnp.minimum(((x - minimum) * (BINS / width)).astype(jnp.int32), BINS - 1)
    index = index if where is None else jnp.where(where, index, BINS)
    return jnp.zeros(BINS, jnp.int32).at[index.ravel()].add(1, mode="drop")


def estimated_error(counts: jax.Array, minimum: jax.Array, maximum: jax.Array, grid: Grid, p: float) -> jax.Array:
    """Estimates the sum of |x - Q(x)|^p over the values of a histogram; a float32 scalar."""
    edges = minimum + (maximum - minimum) / BINS * jnp.arange(BINS + 1)
    steps = edges / grid.scale
    levels = jnp.round(jnp.clip(steps, grid.low - grid.zero_point, grid.high - grid.zero_point))
    rest = steps - levels
    powers = rest * jnp.abs(rest) ** p / (p + 1)
    of_bins = jnp.diff(levels) * (2.0**-p / (p + 1)) + jnp.diff(powers)
    width = jnp.maximum((maximum - minimum) / BINS / grid.scale, jnp.finfo(jnp.float32).tiny)
    return grid.scale**p * (counts * of_bins).reshape(64, -1).sum(axis=-1).sum() / width
