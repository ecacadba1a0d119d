"""Which keys each query of a batch may attend to: the one mask of the models, and of all that counts what they see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def attention_mask(batch: Mapping[str, Any], length: int, causal: bool) -> jax.Array | None:
    """The mask of a batch, True where a key is visible; None if every query sees every key.

    Args:
      batch: optionally `mask` `[B, T]` (False = padding) and `segments` `[B, T]` (a token sees only those of its own
        number).
      length: T.
      causal: whether a query sees only itself and what is before it.

    Returns:
      bool, broadcasting to `[B, 1, T, T]` (query, key).
    """
    parts = []
    if causal:
        parts.append(jnp.tril(jnp.ones((length, length), bool)))
    if "mask" in batch:
        parts.append(batch["mask"].astype(bool)[:, None, None, :])
    if "segments" in batch:
        segments = batch["segments"][:, None]
        parts.append(segments[..., :, None] == segments[..., None, :])
    return None if not parts else jax.tree.reduce(jnp.logical_and, parts)
