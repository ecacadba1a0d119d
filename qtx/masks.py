"""Masks say which keys each query of a batch may attend to, in the models and wherever visible keys are counted, and
which positions and samples of a batch are real, and so which values of its tensors count."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qtx.foundation.errors import QtxError
from qtx.parts import Part

EVERYWHERE = 2**30
"""The window of a layer that sees keys at any distance, where windows are data and other layers see less."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["offset", "window", "padding", "segments"],
    meta_fields=["queries", "keys", "causal", "prefix"],
)
@dataclasses.dataclass(frozen=True)
class Mask:
    """A `Mask` says which of S keys each of T queries sees, as rules: no `[B, 1, T, S]` array is made unless `dense` is
    called. A query may see nothing at all, e.g. a causal one if all keys up to its own are padding.

    Attributes:
      queries: T.
      causal: whether a query sees only the key at its own position and those before it.
      keys: S; None: T.
      offset: the position of the first query among the keys, an integer or a scalar array; None: the queries are at the
        last T positions.
      prefix: the number of keys before those of the text, which every query sees.
      window: a query sees only keys fewer than so many positions away: an integer, or a scalar array, which may differ
        from layer to layer (see `qtx.models.block.stacked`); None: at any distance.
      padding: `[B, S - prefix]`, False at padding, which no query sees; None: there is no padding.
      segments: `[B, S - prefix]`, segment numbers; a query sees only keys of the segment of the key at its own
        position; None: there is one segment.
    """

    queries: int
    causal: bool = False
    _: dataclasses.KW_ONLY
    keys: int | None = None
    offset: Any = None
    prefix: int = 0
    window: Any = None
    padding: jax.Array | None = None
    segments: jax.Array | None = None

    @classmethod
    def of_batch(cls, batch: Mapping[str, Any], length: int, causal: bool, prefix: int = 0) -> Mask:
        """Makes the mask of a batch from its `mask`, its `segments`, and its `past`, the number of its text's tokens
        before the batch's own (`qtx.attention.past`), if it has them; `prefix` keys stand before all."""
        padding, past = batch["mask"].astype(bool) if "mask" in batch else None, batch.get("past")
        offset = past if not prefix else prefix + (0 if past is None else past)
        return cls(length, causal, offset=offset, prefix=prefix, padding=padding, segments=batch.get("segments"))

    @property
    def num_keys(self) -> int:
        """Returns S."""
        return self.queries if self.keys is None else self.keys

    @property
    def first(self) -> Any:
        """Returns the position of the first query among the keys, which begin at 0: an integer or a scalar array."""
        return self.num_keys - self.queries if self.offset is None else self.offset

    @property
    def position(self) -> Any:
        """Returns the position of the first query in its text, which begins behind the prefix."""
        return self.first - self.prefix

    @property
    def square(self) -> bool:
        """Says whether the queries and the keys are at the same positions."""
        return self.num_keys == self.queries and self.offset is None

    def dense(self) -> jax.Array | None:
        """Returns where a key is visible: bool, broadcasting to `[B, 1, T, S]` (query, key); None: everywhere."""
        return self.block(0, self.queries, 0, self.num_keys)

    def block(self, first_query: Any, queries: int, first_key: Any, keys: int, ragged: bool = False) -> Any:
        """Returns what `dense` says of consecutive queries and consecutive keys, `[B, 1, queries, keys]`.

        Args:
          first_query, first_key: the numbers of the first query and the first key, perhaps traced.
          queries, keys: how many queries and keys there are.
          ragged: whether numbers may reach beyond T and S, where no key is visible.
        """
        if not self.square:
            first_query = first_query + self.first
        query, key = first_query + jnp.arange(queries), first_key + jnp.arange(keys)
        parts = []
        ahead = key - query[:, None]
        if self.causal:
            parts.append(ahead <= 0)
        if self.window is not None:
            parts.append(jnp.abs(ahead) < self.window)
        if self.padding is not None:
            parts.append(self._at(self.padding, key)[:, None, None, :])
        if self.segments is not None:
            of_query, of_key = self._at(self.segments, query), self._at(self.segments, key)
            parts.append(of_query[:, None, :, None] == of_key[:, None, None, :])
        seen = _all(*parts)
        seen = seen | (key < self.prefix) if self.prefix and seen is not None else seen
        return _all(key < self.num_keys, seen) if ragged else seen

    def _at(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Returns `x` `[B, S - prefix]` at consecutive positions, with any values at those of the prefix; at all of
        them, `x` as it is."""
        if self.square and positions.shape[0] == self.queries:
            return x
        return jnp.asarray(x)[:, positions - self.prefix]

    def visible(self) -> jax.Array:
        """Counts the keys that each query sees: float32 `[B, 1, T, 1]`, or `[1, 1, T, 1]` if all examples are alike."""
        dense = self.dense()
        if dense is None:
            return jnp.full((1, 1, self.queries, 1), self.num_keys, jnp.float32)
        count = dense.sum(axis=-1, keepdims=True, dtype=jnp.int32).astype(jnp.float32)
        count = count.reshape((1,) * (4 - count.ndim) + count.shape)
        return jnp.broadcast_to(count, (*count.shape[:2], self.queries, 1))


def real_positions(batch: Mapping[str, Any], length: int) -> jax.Array | None:
    """Says which positions of a batch's sequences are real tokens, by its `mask`: `[B, length]`; None: all are, or the
    batch has no sequences of this length. The config of a model whose sequences have positions of its own, such as
    registers, has a method `real_positions` that says it instead (`qtx.models.TransformerConfig`)."""
    mask = batch.get("mask")
    return None if mask is None or mask.shape[1] != length else mask.astype(bool)


def _real_positions(model: Any, batch: Mapping[str, Any], length: int) -> jax.Array | None:
    return getattr(getattr(model, "config", None), "real_positions", real_positions)(batch, length)


def token_mask(batch: Mapping[str, Any], length: int, model: Any = None) -> jax.Array:
    """Returns `[B, length]`, True at the real tokens (or patches) of the real samples.

    Args:
      batch: the batch; a sample only pads the last one when all its `weights` are 0.
      length: the number of positions in the model's sequences.
      model: the model, whose config may say which positions count; None: the batch alone tells.

    Raises:
      QtxError: if nothing says which of so many positions are the batch's tokens.
    """
    real, samples = _real_positions(model, batch, length), sample_mask(batch)[:, None]
    if real is None and "mask" in batch and batch["mask"].shape[1] != length:
        raise QtxError(
            f"the model has sequences of {length} positions for texts of {batch['mask'].shape[1]} tokens: give its "
            "config a method real_positions(batch, length) that says which positions are real tokens"
        )
    return jnp.broadcast_to(samples if real is None else samples & real, (len(samples), length))


def tokens_at(batch: Mapping[str, Any], length: int, model: Any = None) -> jax.Array | None:
    """Returns the identity of the token at each of the `length` positions of a model's sequences, `[B, length]`: the
    first real position has the text's first real token, and so on. Where no real token is, the number means nothing.
    None: the batch has no tokens. Arguments are as in `token_mask`.
    """
    if "tokens" not in batch:
        return None
    tokens = jnp.asarray(batch["tokens"])
    if tokens.shape[1] == length:
        return tokens
    padding = jnp.zeros(tokens.shape, bool) if "mask" not in batch else batch["mask"] == 0
    places = jnp.argsort(padding, axis=1)  # those of the real tokens come first
    number = jnp.clip(jnp.cumsum(token_mask(batch, length, model), axis=1) - 1, 0, tokens.shape[1] - 1)
    return jnp.take_along_axis(tokens, jnp.take_along_axis(places, number, axis=1), axis=1)


def sample_mask(batch: Mapping[str, Any]) -> jax.Array:
    """Returns `[B]`, False for a sample that only pads the last batch (all its `weights` are 0)."""
    if "weights" not in batch:
        return jnp.ones(_size(batch), bool)
    return jnp.any(batch["weights"].reshape(len(batch["weights"]), -1) > 0, axis=1)


def _size(batch: Mapping[str, Any]) -> int:
    return len(next(iter(batch.values())))


def without_full_masks(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a batch without its `mask` if that has no padding, and without its `weights` if these leave out no sample
    and no position: the model computes the same, and statistics of the batch do not pay for a mask."""
    whole = {
        "mask": lambda mask: mask.all(),
        "weights": lambda weights: (weights > 0).all() if "positions" in batch else sample_mask(batch).all(),
    }
    return {name: x for name, x in batch.items() if name not in whole or not whole[name](x)}


def counted(
    shape: tuple[int, ...],
    batch: Mapping[str, Any],
    mask: Mask | None = None,
    model: Any = None,
    part: Part = Part.OTHER,
) -> jax.Array | None:
    """Says which values count in a tensor that a model computes from a batch: those of real tokens and, in the row of a
    real query, those of the keys that it sees. The tensor's shape and part tell what a row belongs to.

    | shape | a row belongs to |
    | --- | --- |
    | `[B, H, T, S]` with a mask, `[B, H, T, T]` | a query and a key |
    | `[B, P, ...]`, if the batch has `positions` `[B, P]` | the token at a position; those of weight 0 only fill up |
    | `[B, T, ...]`, and if P is T all but what a head computes | a position of the model's sequences |
    | `[B, ...]` otherwise | a sample: pooled outputs, the patches of an image |

    Args:
      shape: the tensor's shape; a tensor without the batch's axis, such as a table, counts as a whole.
      batch: the batch, of which `mask`, `weights` and `positions` are read if it has them.
      mask: the keys that queries see, for scores and probabilities.
      model: the model, whose config may say which positions count; None: the batch alone tells.
      part: what the tensor is to a transformer.

    Returns:
      bool, broadcasting to the tensor; None: all values count.
    """
    seen = None if mask is None else mask.dense()
    if shape[:1] != (_size(batch),):
        return seen
    samples = sample_mask(batch).reshape((-1,) + (1,) * (len(shape) - 1)) if "weights" in batch else None
    return _all(seen, _real_rows(shape, batch, mask is not None, model, part), samples)


def _real_rows(
    shape: tuple[int, ...], batch: Mapping[str, Any], masked: bool, model: Any, part: Part
) -> jax.Array | None:
    """Returns which rows are real, and which keys if no mask says so, broadcasting to the tensor; see `counted`."""
    length = batch["tokens"].shape[1] if "tokens" in batch else None
    if masked or shape[2:] == (length, length):
        real = _real_positions(model, batch, shape[2])
        if real is None:
            return None
        return real[:, None, :, None] if masked else real[:, None, :, None] & real[:, None, None, :]
    if len(shape) < 3:
        return None
    predicted = "positions" in batch and shape[1] == batch["positions"].shape[1]
    if length is not None and predicted and (part is Part.HEAD or shape[1] != length):
        real = _real_positions(model, batch, length)
        real = None if real is None else jnp.take_along_axis(real, batch["positions"], axis=1)
        real = _all(real, batch["weights"] > 0 if "weights" in batch else None)
    else:
        real = _real_positions(model, batch, shape[1])
    return None if real is None else real.reshape(real.shape + (1,) * (len(shape) - 2))


def _all(*parts: jax.Array | None) -> jax.Array | None:
    """Returns where all parts hold; None stands for everywhere."""
    there = [part for part in parts if part is not None]
    return functools.reduce(jnp.logical_and, there) if there else None
