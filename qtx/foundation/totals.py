"""Totals that stay exact however large they grow. Without 64-bit numbers, which JAX disables by default, a count in
int32 wraps around at 2.1e9, and a sum in float32 stops growing at 2^24 times what is added.

A `Count` or a `Total` is a pair of arrays that grows inside `jax.jit`; outside, `exact` makes it a 64-bit number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Count(NamedTuple):
    """Whole numbers below 2^64, as two uint32 arrays: high * 2^32 + low."""

    high: jax.Array
    low: jax.Array

    @classmethod
    def zero(cls, *shape: int) -> Count:
        """Returns counts of 0."""
        return cls(jnp.zeros(shape, jnp.uint32), jnp.zeros(shape, jnp.uint32))

    def plus(self, more: jax.Array) -> Count:
        """Returns the counts with `more` added, not negative and below 2^32 each (uint32 sums of one batch)."""
        low = self.low + more.astype(jnp.uint32)
        return Count(self.high + (low < self.low), low)

    def exact(self) -> np.ndarray:
        """Returns the numbers as int64, on the host."""
        return np.asarray(self.high).astype(np.int64) << 32 | np.asarray(self.low).astype(np.int64)


class Total(NamedTuple):
    """Sums with twice float32's digits: high + low, where high is the float32 nearest to the sum (Knuth's TwoSum)."""

    high: jax.Array
    low: jax.Array

    @classmethod
    def zero(cls, *shape: int) -> Total:
        """Returns sums of 0."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    def plus(self, more: jax.Array) -> Total:
        """Returns the sums with `more`, float32, added."""
        total = self.high + more
        of_more = total - self.high
        lost = (self.high - (total - of_more)) + (more - of_more)
        # An infinite total has no digits to lose, and a difference of infinities would make it NaN.
        low = jnp.where(jnp.isfinite(total), self.low + lost, 0.0)
        high = total + low
        return Total(high, jnp.where(jnp.isfinite(high), low - (high - total), 0.0))

    def exact(self) -> np.ndarray:
        """Returns the sums as float64, on the host."""
        return np.asarray(self.high, np.float64) + np.asarray(self.low, np.float64)


def exact(tree: Any) -> Any:
    """Returns a tree with its totals as 64-bit numbers, on the host."""
    return jax.tree.map(lambda leaf: leaf.exact() if is_total(leaf) else np.asarray(leaf), tree, is_leaf=is_total)


def is_total(leaf: Any) -> bool:
    """Says whether a leaf is a `Count` or a `Total`."""
    return isinstance(leaf, Count | Total)
