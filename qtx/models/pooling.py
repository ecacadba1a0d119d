"""Poolings make one vector of the hidden states of a text, under the names in sentence-transformers' module Pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qtx.foundation.errors import lookup

SEPARATOR = "+"


def _total(hidden: jax.Array, real: jax.Array) -> jax.Array:
    return jnp.where(real[..., None], hidden, 0.0).sum(axis=1)


def _count(real: jax.Array) -> jax.Array:
    return jnp.maximum(real.sum(axis=1, keepdims=True), 1).astype(jnp.float32)


def mean(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """Averages the states of the real tokens."""
    return _total(hidden, real) / _count(real)


def mean_sqrt_len_tokens(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """Sums the states of the real tokens and divides by the root of the tokens' number."""
    return _total(hidden, real) / jnp.sqrt(_count(real))


def weightedmean(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """Averages the states of the real tokens, weighted by position, counted from 1 (Muennighoff 2022)."""
    weights = jnp.where(real, jnp.arange(1, real.shape[1] + 1), 0).astype(jnp.float32)
    return (weights[..., None] * jnp.where(real[..., None], hidden, 0.0)).sum(axis=1) / jnp.maximum(
        weights.sum(axis=1, keepdims=True), 1.0
    )


def largest(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """Returns each feature's largest value over the real tokens."""
    found = jnp.where(real[..., None], hidden, -jnp.inf).max(axis=1)
    return jnp.where(real.any(axis=1, keepdims=True), found, 0.0)


def first(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """Returns the state of the first real position: the token at the beginning, or an image's class token."""
    return jnp.take_along_axis(hidden, jnp.argmax(real, axis=1)[:, None, None], axis=1)[:, 0]


def last(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """Returns the state of the last real token."""
    place = jnp.where(real, jnp.arange(real.shape[1]), 0).max(axis=1)
    return jnp.take_along_axis(hidden, place[:, None, None], axis=1)[:, 0]


POOLINGS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "cls": first,
    "max": largest,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens,
    "weightedmean": weightedmean,
    "lasttoken": last,
}
"""Poolings by name: hidden states `[B, T, D]`, float32, and which tokens are real, `[B, T]`, to vectors `[B, D]`."""


def check_pooling(name: str) -> None:
    """Raises QtxError unless `name` is a name in `POOLINGS`, or several with `+` between."""
    for part in name.split(SEPARATOR):
        lookup(POOLINGS, "pooling", part)


def pooled(hidden: jax.Array, real: jax.Array, pooling: str, normalize: bool) -> jax.Array:
    """Returns the embedding `[B, D]` of hidden states `[B, T, D]`, float32; `[B, n D]` by n poolings with `+` between.

    Args:
      hidden, real: the states, and which tokens are real, `[B, T]`.
      pooling: a name in `POOLINGS`, or several.
      normalize: whether the embedding is divided by its L2 norm.
    """
    hidden = hidden.astype(jnp.float32)
    vectors = jnp.concatenate([POOLINGS[name](hidden, real) for name in pooling.split(SEPARATOR)], axis=-1)
    return normalized(vectors) if normalize else vectors


def normalized(vectors: jax.Array) -> jax.Array:
    """Divides vectors `[..., D]` by their L2 norms; one of zeros stays."""
    squares = jnp.square(vectors).sum(axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(squares, 1e-24))


def without_prompt(real: jax.Array, batch: Mapping[str, Any], config: Any) -> jax.Array:
    """Says which of the real tokens, `[B, T]`, are pooled: without those of a prompt, whose number the batch has as
    `prompt` `[B]`, if the config leaves them out."""
    if "prompt" not in batch or getattr(config, "include_prompt", True):
        return real
    return real & (jnp.arange(real.shape[1]) >= batch["prompt"][:, None])


def embedding_of(output: jax.Array, real: jax.Array, batch: Mapping[str, Any], config: Any) -> jax.Array:
    """Returns the embeddings of a model's output, float32 `[B, D]`: as it is, or, if it is hidden states, pooled as the
    config says. `real` `[B, T]` says which of these are of real tokens."""
    if output.ndim == 2:
        return output.astype(jnp.float32)
    counted = without_prompt(real, batch, config)
    return pooled(output, counted, getattr(config, "pooling", "mean"), getattr(config, "normalize", False))
