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


def rotation(
    frequencies: jax.Array, size: jax.Array | float = 1.0, first: Any = 0
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns a function of queries and keys `[B, T, H, D]`, at positions from `first` on, that turns dimensions i and
    i + R / 2 of both, R <= D, by position times `frequencies` `[R / 2]`, and multiplies these by `size`; dimensions
    from R on stay."""

    def at_its_position(x: jax.Array) -> jax.Array:
        return turned(x, first + jnp.arange(x.shape[1], dtype=jnp.float32), frequencies, size)

    return lambda query, key: (at_its_position(query), at_its_position(key))


def turned(x: jax.Array, positions: jax.Array, frequencies: jax.Array, size: jax.Array | float = 1.0) -> jax.Array:
    """Returns queries or keys `[B, T, H, D]` as `rotation` turns them at `positions`, `[T]` or one for all, `[]`."""
    half = frequencies.shape[-1]
    angles = jnp.reshape(positions, (-1, 1, 1)) * frequencies
    first, second, rest = jnp.split(x.astype(jnp.float32), [half, 2 * half], axis=-1)
    cos, sin = jnp.cos(angles) * size, jnp.sin(angles) * size
    parts = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(parts[: 3 if rest.shape[-1] else 2], axis=-1).astype(x.dtype)
