"""Totals that stay exact however long they grow: without 64-bit numbers, which JAX leaves off, a count in int32 wraps
round at 2.1e9 and a sum in float32 stands still at 2^24 of what is added.

Both kinds are pairs of arrays, to be added to inside `jax.jit`; what is known outside is a 64-bit number.
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
        """Nothing counted yet."""
        return cls(jnp.zeros(shape, jnp.uint32), jnp.zeros(shape, jnp.uint32))

    def plus(self, more: jax.Array) -> Count:
        """With `more`, not negative and below 2^32 each (uint32 sums of one batch)."""
        low = self.low + more.astype(jnp.uint32)
        return Count(self.high + (low < self.low), low)

    def exact(self) -> np.ndarray:
        """The numbers, int64, on the host."""
        return np.asarray(self.high).astype(np.int64) << 32 | np.asarray(self.low).astype(np.int64)


class Total(NamedTuple):
    """Sums with twice float32's digits: high + low, where high is the float32 nearest to the sum (Knuth's TwoSum)."""

    high: jax.Array
    low: jax.Array

    @classmethod
    def zero(cls, *shape: int) -> Total:
        """Nothing added yet."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    def plus(self, more: jax.Array) -> Total:
        """With `more`, float32."""
        total = self.high + more
        of_more = total - self.high
        lost = (self.high - (total - of_more)) + (more - of_more)
        # What is infinite has no digits to lose, and would lose itself in a difference of infinities.
        low = jnp.where(jnp.isfinite(total), self.low + lost, 0.0)
        high = total + low
        return Total(high, jnp.where(jnp.isfinite(high), low - (high - total), 0.0))

    def exact(self) -> np.ndarray:
        """The sums, float64, on the host."""
        return np.asarray(self.high, np.float64) + np.asarray(self.low, np.float64)


def exact(tree: Any) -> Any:
    """A tree with its totals as 64-bit numbers, on the host."""
    return jax.tree.map(lambda leaf: leaf.exact() if is_total(leaf) else np.asarray(leaf), tree, is_leaf=is_total)


def is_total(leaf: Any) -> bool:
    """Whether it is one of this file's pairs."""
    return isinstance(leaf, Count | Total)
