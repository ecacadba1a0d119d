"""Exact percentiles near 100 without sorting.

XLA's CPU sort takes a hundred times as long as a maximum. An order statistic is the largest number that enough values
reach, so it is found digit by digit (a radix select): three counts over the tensor, whatever its size, and no copy.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

LOWEST, HIGHEST, SIGN = -(2**31), 2**31 - 1, 2**31
DIGITS = ((21, 11), (10, 11), (0, 10))
"""Position and size in bits of the digits of a 32-bit number. With two digits instead of three, a tensor that has a
percentile for each channel would need 65,536 counts for each."""


def percentile_ends(x: jax.Array, percentile: float, where: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Returns the (100 - `percentile`)-th and the `percentile`-th percentile of all of `x`, by linear interpolation
    between order statistics; both are 0 if no value counts.

    Args:
      x: any shape.
      percentile: near 100; ranks are counted from the ends, where float32 is exact enough.
      where: broadcasts to `x`: the values that count; None: all.
    """
    codes, number = _ordered(x.astype(jnp.float32).ravel()), jnp.int32(x.size)
    counted = jnp.ones((), bool)
    if where is None:
        rank = percentile / 100 * (x.size - 1)  # in Python's double precision, as NumPy computes it
        below = math.floor(rank)
        position, fraction = jnp.int32(x.size - 1 - below), jnp.float32(rank - below)
    else:
        counted = jnp.broadcast_to(where, x.shape).ravel()
        codes, number = jnp.where(counted, codes, LOWEST), counted.sum()
        from_end = (1 - percentile / 100) * jnp.maximum(number - 1, 0)
        position = jnp.ceil(from_end).astype(jnp.int32)
        fraction = position - from_end
    # The value at the position from each end, and its neighbour towards that end: the same value again, if fewer values
    # than the position says lie beyond it.
    upper, lower = _order_statistics(codes, jnp.stack([position, number - 1 - position]))
    above, under = codes > upper, counted & (codes < lower)
    higher = jnp.where(above.sum() < position, upper, jnp.min(codes, where=above, initial=HIGHEST))
    smaller = jnp.where(under.sum() < position, lower, jnp.max(codes, where=under, initial=LOWEST))

    def between(code, next_code):
        value, next_value = _value(code), _value(jnp.where(position == 0, code, next_code))
        return jnp.where(number > 0, value + fraction * (next_value - value), 0.0)

    return between(lower, smaller), between(upper, higher)


def _order_statistics(codes: jax.Array, positions: jax.Array) -> jax.Array:
    """Finds the values at two positions `[2]` in descending order (0: the largest): each is the largest value that more
    values reach than its position says."""
    unsigned = jax.lax.bitcast_convert_type(codes, jnp.uint32) ^ jnp.uint32(SIGN)
    found = jnp.zeros(2, jnp.uint32)
    for shift, bits in DIGITS:
        # One count serves both positions: values that agree with the digits found so far for one of them are counted by
        # their next digit, in bins of that position; the other values fall beyond the last bin.
        digit, size = (unsigned >> shift) % 2**bits, 2**bits
        if shift + bits < 32:
            before = unsigned >> (shift + bits)
            digit = jnp.where(before == found[0], digit, jnp.where(before == found[1], digit + size, 2 * size))
        counts = jnp.zeros(2 * size, jnp.int32).at[digit].add(1, mode="drop").reshape(2, size)
        counts = jnp.where(found[0] == found[1], counts[0], counts)
        reached = jnp.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
        chosen = (reached > positions[:, None]).sum(axis=1) - 1
        positions = positions - (reached - counts)[jnp.arange(2), chosen]
        found = found << bits | chosen.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(found ^ jnp.uint32(SIGN), jnp.int32)


def _ordered(x: jax.Array) -> jax.Array:
    """Maps float32 to int32 in the same order; on the bits, the map is its own inverse."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ HIGHEST, bits)


def _value(code: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(jnp.where(code < 0, code ^ HIGHEST, code), jnp.float32)
