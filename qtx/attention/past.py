"""Past keys and values: those of positions before a batch's own tokens, which its queries see too.

A text that goes on token by token has those of its earlier tokens in the variable collection `cache`, one `key` and one
`value` a layer, `[B, S, K, D]`, after any rotation and gate. Whatever comes before, the mask says at which of the S
positions the queries begin (`qtx.masks.Mask.first`), and what they see there.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from qtx.attention.normalizers import Rows

CACHE = "cache"


def has_past(layer: nn.Module) -> bool:
    """Says whether an attention layer, which is running, has keys and values of earlier tokens, and so of a prefix."""
    return layer.is_mutable_collection(CACHE) and layer.has_variable(CACHE, "key")


def with_past(layer: nn.Module, key: jax.Array, value: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array, Rows]:
    """Returns the keys and values that a layer's queries choose from, `[B, S, K, D]`, and what the queries see of them.

    Without a mutable collection `cache` these are the arguments. With one, keys and values are put where the queries
    are, into those that the collection has, or become its content if it has none.

    Args:
      layer: the attention layer, which is running.
      key, value: those of the batch's own tokens, `[B, T, K, D]`.
      rows: what the queries see.
    """
    if layer.is_initializing() or not layer.is_mutable_collection(CACHE):
        return key, value, rows
    found = {"key": key, "value": value}
    if has_past(layer):
        place = (0, rows.mask.first, 0, 0)
        found = {
            name: jax.lax.dynamic_update_slice(layer.get_variable(CACHE, name), x, place) for name, x in found.items()
        }
        rows = rows._replace(mask=dataclasses.replace(rows.mask, keys=found["key"].shape[1]))
    for name, x in found.items():
        layer.put_variable(CACHE, name, x)
    return found["key"], found["value"], rows
