"""A prefix: keys and values in floating point that stand before every text, so that no token of a text need be where
attention parks (CushionCache, Son et al. 2024, arXiv 2406.12016; PrefixQuant, Chen et al. 2024, arXiv 2410.05265)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.attention.normalizers import Rows


class Prefix(nn.Module):
    """A `Prefix` holds the keys and values `[P, K, D]` of one layer, float32. Keys are as after rotary positions -P to
    -1, so that a text begins at position 0, whatever stands before it.

    Attributes:
      length: P.
      init_std: the standard deviation of initial keys and values.
    """

    length: int
    init_std: float

    @nn.compact
    def __call__(self, key: jax.Array, value: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array, Rows]:
        """Returns keys and values `[B, P + T, K, D]`, given those of a text, `[B, T, K, D]`, and what queries see of
        them."""

        def with_own(name: str, x: jax.Array) -> jax.Array:
            shape = (self.length, *x.shape[2:])
            own = self.param(name, nn.initializers.normal(self.init_std), shape).astype(x.dtype)
            return jnp.concatenate([jnp.broadcast_to(own, (len(x), *shape)), x], axis=1)

        mask = dataclasses.replace(rows.mask, keys=self.length + key.shape[1])
        return with_own("key", key), with_own("value", value), rows._replace(mask=mask)
