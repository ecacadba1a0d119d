"""The bias of attention scores by the distance of query and key (T5, Raffel et al. 2020), one table for all layers."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qtx.layers import embedding

FURTHEST = 128
"""The distance from which on all keys share a bucket."""


def _buckets_of_distances(number: int) -> np.ndarray:
    """Returns the bucket of each distance from `-FURTHEST` (a key before the query) to `FURTHEST`, int32: half of the
    `number` are for keys after the query, half of each half for one distance each, and the rest for distances that grow
    by a constant factor up to `FURTHEST`."""
    half, exact = number // 2, number // 4
    ahead = np.arange(-FURTHEST, FURTHEST + 1)
    distance = np.abs(ahead)
    # float32 as in PyTorch, since buckets begin where the quotient is whole.
    share = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    share = share / np.float32(np.log(FURTHEST / exact))
    far = exact + (share * np.float32(half - exact)).astype(np.int32)
    return np.where(ahead > 0, half, 0) + np.where(distance < exact, distance, np.minimum(far, half - 1))


def distance_buckets(length: int, number: int) -> jax.Array:
    """Returns the bucket of each query and key, int32 `[T, T]`, of a `number` of buckets."""
    ahead = jnp.arange(length) - jnp.arange(length)[:, None]
    place = jnp.clip(ahead, -FURTHEST, FURTHEST) + FURTHEST
    return jnp.asarray(_buckets_of_distances(number), jnp.int32).at[place].get(mode="promise_in_bounds")


class RelativeBias(nn.Module):
    """The bias of a model's scores, float32 `[1, H, T, T]`. Its table `[buckets, H]` is a site, `[1, T, T, H]`."""

    buckets: int
    num_heads: int
    init_std: float

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        table = embedding(self.buckets, self.num_heads, "positions", self.init_std, jnp.float32, "table", "heads")
        return table(distance_buckets(length, self.buckets)[None]).transpose(0, 3, 1, 2)
