"""Rotary positions (Su et al. 2021): queries and keys are turned by angles that grow with the position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(head_dim: int, base: float, factor: float = 1.0) -> np.ndarray:
    """Returns the angles per position, float32 `[D / 2]`: base^(-2 i / D).

    Args:
      head_dim: D.
      base: theta.
      factor: by how much fixed NTK scaling makes contexts longer (https://kexue.fm/archives/9706): the base grows by
        it, and the angles shrink by factor^(2 / D). 1: there is no scaling.
    """
    powers = np.arange(0, head_dim, 2) / head_dim
    return ((base * factor) ** -powers / factor ** (2 / head_dim)).astype(np.float32)


def rotation(frequencies: jax.Array, first: Any = 0) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns a function of queries and keys `[B, T, H, D]`, at positions from `first` on, that turns dimensions i and
    i + D / 2 of both by position times `frequencies` `[D / 2]`."""

    def turned(x: jax.Array) -> jax.Array:
        positions = first + jnp.arange(x.shape[1], dtype=jnp.float32)
        angles = positions[:, None, None] * frequencies
        left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)

    return lambda query, key: (turned(query), turned(key))
