"""Which keys each query of a batch may attend to, the one mask of the models and of all that counts what they see; and
which tokens and samples of a batch are real."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["keys", "segments"], meta_fields=["length", "causal", "window"]
)
@dataclasses.dataclass(frozen=True)
class Mask:
    """What T queries see of T keys, as the rules that say so: no `[B, 1, T, T]` is made unless `dense` is called. A row
    may see nothing at all: that of a causal query whose keys up to its own are padding.

    Attributes:
      length: T.
      causal: a query sees only itself and what is before it.
      window: a query sees only keys fewer than so many positions away; None: at any distance.
      keys: `[B, T]`, False at padding, which no query sees; None: there is none.
      segments: `[B, T]`, a query sees only keys of its own number; None: one segment.
    """

    length: int
    causal: bool = False
    window: int | None = None
    keys: jax.Array | None = None
    segments: jax.Array | None = None

    @classmethod
    def of_batch(cls, batch: Mapping[str, Any], length: int, causal: bool) -> Mask:
        """The mask of a batch, by its `mask` and `segments`, if it has them."""
        keys = batch["mask"].astype(bool) if "mask" in batch else None
        return cls(length, causal, keys=keys, segments=batch.get("segments"))

    def dense(self) -> jax.Array | None:
        """True where a key is visible: bool, broadcasting to `[B, 1, T, T]` (query, key); None: every key is."""
        return self.block(0, self.length, 0, self.length)

    def block(self, first_query: Any, queries: int, first_key: Any, keys: int, ragged: bool = False) -> Any:
        """`dense` of some queries and keys in a row, `[B, 1, queries, keys]`.

        Args:
          first_query, first_key: where they begin, perhaps traced.
          queries, keys: how many.
          ragged: whether they may reach beyond T, where no key is visible.
        """
        if not (ragged or self.causal) and all(rule is None for rule in (self.window, self.keys, self.segments)):
            return None
        query, key = first_query + jnp.arange(queries), first_key + jnp.arange(keys)
        parts = []
        if ragged:
            parts.append(key < self.length)
        ahead = key - query[:, None]
        if self.causal:
            parts.append(ahead <= 0)
        if self.window is not None:
            parts.append(jnp.abs(ahead) < self.window)
        if self.keys is not None:
            parts.append(self._at(self.keys, key)[:, None, None, :])
        if self.segments is not None:
            of_query, of_key = self._at(self.segments, query), self._at(self.segments, key)
            parts.append(of_query[:, None, :, None] == of_key[:, None, None, :])
        return functools.reduce(jnp.logical_and, parts)

    def _at(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Some positions of `[B, T]`, in a row; of all of them it is as it is."""
        return x if len(positions) == self.length else jnp.asarray(x)[:, positions]

    def visible(self) -> jax.Array:
        """How many keys each query sees, float32 `[B, 1, T, 1]`, or `[1, 1, T, 1]` for every example's."""
        dense = self.dense()
        if dense is None:
            return jnp.full((1, 1, self.length, 1), self.length, jnp.float32)
        count = dense.sum(axis=-1, keepdims=True, dtype=jnp.int32).astype(jnp.float32)
        count = count.reshape((1,) * (4 - count.ndim) + count.shape)
        return jnp.broadcast_to(count, (*count.shape[:2], self.length, 1))


def token_mask(batch: Mapping[str, Any], length: int) -> jax.Array:
    """`[B, length]`: True at the real tokens (or patches) of the real samples.

    A sample is padding of the last batch when all its `weights` are 0.
    """
    first = batch["tokens"] if "tokens" in batch else batch["images"]
    mask = batch["mask"] if "mask" in batch else jnp.ones((first.shape[0], length), bool)
    return mask & sample_mask(batch)[:, None]


def sample_mask(batch: Mapping[str, Any]) -> jax.Array:
    """`[B]`: False for a sample that pads the last batch (all its `weights` are 0)."""
    if "weights" not in batch:
        return jnp.ones(len(batch["tokens"] if "tokens" in batch else batch["images"]), bool)
    return jnp.any(batch["weights"].reshape(len(batch["weights"]), -1) > 0, axis=1)
