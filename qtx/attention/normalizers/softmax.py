"""The vanilla softmax, with exact zeros for masked keys."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


def softmax(scores: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """softmax(scores) over the visible keys, in float32.

    Args:
      scores: `[..., T, S]`.
      mask: broadcasts to `scores`, True where the key is visible; None: all are.

    Returns:
      `[..., T, S]` float32: masked keys are exactly 0; a row without a visible key is all 0.
    """
    scores = scores.astype(jnp.float32)
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    largest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.where(mask, jnp.exp(scores - largest), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    return weights / jnp.where(total == 0, 1.0, total)


@dataclasses.dataclass(frozen=True)
class Softmax:
    """The vanilla softmax."""

    def __call__(self, scores, mask=None, step=None):
        return softmax(scores, mask)
