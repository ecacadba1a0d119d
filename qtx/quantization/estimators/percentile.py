"""Exact percentiles near 100 without sorting.

XLA's CPU sort takes a hundred times as long as a maximum. An order statistic is the largest number that enough values
reach, so it is found bit by bit: 32 counts over the tensor, whatever its size, and no copy of it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

LOWEST, HIGHEST = -(2**31), 2**31 - 1


def upper_percentile(x: jax.Array, percentile: float, where: jax.Array | None = None) -> jax.Array:
    """The `percentile`-th percentile of all of `x`, by linear interpolation between order statistics.

    Args:
      x: any shape.
      percentile: near 100; the rank is counted from the top, where float32 is exact enough.
      where: broadcasts to `x`: the values that count; None: all.
    """
    codes = _ordered(x.astype(jnp.float32).ravel())
    if where is None:
        rank = percentile / 100 * (x.size - 1)  # in Python's double precision, as NumPy computes it
        below = math.floor(rank)
        position, fraction = jnp.int32(x.size - 1 - below), jnp.float32(rank - below)
    else:
        counted = jnp.broadcast_to(where, x.shape).ravel()
        codes = jnp.where(counted, codes, LOWEST)
        from_top = (1 - percentile / 100) * jnp.maximum(counted.sum() - 1, 0)
        position = jnp.ceil(from_top).astype(jnp.int32)
        fraction = position - from_top
    lower = _largest(codes, position)
    # The next larger value: the same one again if more values reach it than its position needs.
    above = codes > lower
    upper = jnp.where(above.sum() < position, lower, jnp.min(codes, where=above, initial=HIGHEST))
    upper = jnp.where(position == 0, lower, upper)
    low, high = _value(lower), _value(upper)
    return low + fraction * (high - low)


def _largest(codes: jax.Array, position: jax.Array) -> jax.Array:
    """The value at `position` (0: the largest) in descending order: the largest that `position + 1` values reach."""

    def halve(_, ends):
        low, high = ends
        middle = (low | high) - ((low ^ high) >> 1)  # the mean, rounded up, without overflow
        reached = (codes >= middle).sum() > position
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle - 1)

    return jax.lax.fori_loop(0, 32, halve, (jnp.int32(LOWEST), jnp.int32(HIGHEST)))[0]


def _ordered(x: jax.Array) -> jax.Array:
    """float32 as int32 in the same order; its own inverse on the bits."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ HIGHEST, bits)


def _value(code: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(jnp.where(code < 0, code ^ HIGHEST, code), jnp.float32)
