"""Masks say which keys each query of a batch may attend to, in the models and wherever visible keys are counted, and
which tokens and samples of a batch are real, and so which values of its tensors count."""

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
    """A `Mask` says which of T keys each of T queries sees, as rules: no `[B, 1, T, T]` array is made unless `dense` is
    called. A query may see nothing at all, e.g. a causal one if all keys up to its own are padding.

    Attributes:
      length: T.
      causal: whether a query sees only itself and what is before it.
      window: a query sees only keys fewer than so many positions away; None: at any distance.
      keys: `[B, T]`, False at padding, which no query sees; None: there is no padding.
      segments: `[B, T]`, segment numbers; a query sees only keys of its own segment; None: there is one segment.
    """

    length: int
    causal: bool = False
    window: int | None = None
    keys: jax.Array | None = None
    segments: jax.Array | None = None

    @classmethod
    def of_batch(cls, batch: Mapping[str, Any], length: int, causal: bool) -> Mask:
        """Makes the mask of a batch from its `mask` and `segments`, if it has them."""
        keys = batch["mask"].astype(bool) if "mask" in batch else None
        return cls(length, causal, keys=keys, segments=batch.get("segments"))

    def dense(self) -> jax.Array | None:
        """Returns where a key is visible: bool, broadcasting to `[B, 1, T, T]` (query, key); None: everywhere."""
        return self.block(0, self.length, 0, self.length)

    def block(self, first_query: Any, queries: int, first_key: Any, keys: int, ragged: bool = False) -> Any:
        """Returns what `dense` says of consecutive queries and consecutive keys, `[B, 1, queries, keys]`.

        Args:
          first_query, first_key: the positions where they begin, perhaps traced.
          queries, keys: the numbers of queries and keys.
          ragged: whether positions may reach beyond T, where no key is visible.
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
        """Returns `x` `[B, T]` at consecutive positions; at all of them, `x` as it is."""
        return x if len(positions) == self.length else jnp.asarray(x)[:, positions]

    def visible(self) -> jax.Array:
        """Counts the keys that each query sees: float32 `[B, 1, T, 1]`, or `[1, 1, T, 1]` if all examples are alike."""
        dense = self.dense()
        if dense is None:
            return jnp.full((1, 1, self.length, 1), self.length, jnp.float32)
        count = dense.sum(axis=-1, keepdims=True, dtype=jnp.int32).astype(jnp.float32)
        count = count.reshape((1,) * (4 - count.ndim) + count.shape)
        return jnp.broadcast_to(count, (*count.shape[:2], self.length, 1))


def token_mask(batch: Mapping[str, Any], length: int) -> jax.Array:
    """Returns `[B, length]`, True at the real tokens (or patches) of the real samples.

    A sample only pads the last batch when all its `weights` are 0.
    """
    first = batch["tokens"] if "tokens" in batch else batch["images"]
    mask = batch["mask"].astype(bool) if "mask" in batch else jnp.ones((first.shape[0], length), bool)
    return mask & sample_mask(batch)[:, None]


def sample_mask(batch: Mapping[str, Any]) -> jax.Array:
    """Returns `[B]`, False for a sample that only pads the last batch (all its `weights` are 0)."""
    if "weights" not in batch:
        return jnp.ones(len(batch["tokens"] if "tokens" in batch else batch["images"]), bool)
    return jnp.any(batch["weights"].reshape(len(batch["weights"]), -1) > 0, axis=1)


def without_full_masks(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a batch without its `mask` if that has no padding, and without its `weights` if these leave out no sample
    and no position: the model computes the same, and statistics of the batch do not pay for a mask."""
    whole = {
        "mask": lambda mask: mask.all(),
        "weights": lambda weights: (weights > 0).all() if "positions" in batch else sample_mask(batch).all(),
    }
    return {name: x for name, x in batch.items() if name not in whole or not whole[name](x)}


def counted(shape: tuple[int, ...], batch: Mapping[str, Any], mask: Mask | None = None) -> jax.Array | None:
    """Says which values count in a tensor that a model computes from a batch: those of real tokens and, in the row of a
    real query, those of the keys that it sees. The tensor's shape tells what a row belongs to.

    | shape | a row belongs to |
    | --- | --- |
    | `[B, H, T, T]` | a query and a key |
    | `[B, T, ...]` | a token |
    | `[B, P, ...]`, if the batch has `positions` `[B, P]` | the token at a position; those of weight 0 only fill up |
    | `[B, ...]` otherwise | a sample: pooled outputs, the patches of an image |

    Args:
      shape: the tensor's shape; a tensor without the batch's axis, such as a table, counts as a whole.
      batch: the batch, of which `mask`, `weights` and `positions` are read if it has them.
      mask: the keys that queries see, for scores and probabilities.

    Returns:
      bool, broadcasting to the tensor; None: all values count.
    """
    seen = None if mask is None else mask.dense()
    if "mask" not in batch and "weights" not in batch:
        return seen
    size, length = (batch["tokens"] if "tokens" in batch else batch["images"]).shape[:2]
    if shape[:1] != (size,):
        return seen
    if shape[2:] == (length, length):
        real = token_mask(batch, length)
        real = real[:, None, :, None] & real[:, None, None, :]
    else:
        real = _real_rows(shape, batch, length)
        real = real.reshape(real.shape + (1,) * (len(shape) - real.ndim))
    return real if seen is None else real & seen


def _real_rows(shape: tuple[int, ...], batch: Mapping[str, Any], length: int) -> jax.Array:
    """Returns which rows are real, `[B, T]`, `[B, P]` or `[B]`; see `counted`."""
    if "tokens" in batch and len(shape) > 2:
        if shape[1] == length:
            return token_mask(batch, length)
        if "positions" in batch and shape[1] == batch["positions"].shape[1]:
            real = jnp.take_along_axis(token_mask(batch, length), batch["positions"], axis=1)
            return real & (batch["weights"] > 0) if "weights" in batch else real
    return sample_mask(batch)
