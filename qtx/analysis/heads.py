"""Statistics of attention heads: sinks, drained values, exact zeros and dead rows. Pure functions on arrays.

A head that wants to do nothing parks its attention on a token whose value vector it has driven towards zero (a sink),
or, with clipped softmax, sets probabilities to exactly zero. A row whose probabilities are *all* zero passes no
gradient to its scores: a head in which most rows are dead cannot learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qtx.masks import Mask
from qtx.sites import MASK

TENSORS = tuple(
    f"layers/attention/{name}" for name in ("probs", "value", "gated_value", "context", "gated_context", "gate")
)
GIVEN_MASK = f"{TENSORS[0]}/{MASK}"
HEAD_SITES = (*TENSORS, GIVEN_MASK)


def by_head(values: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Splits the captured `HEAD_SITES`, as far as the model has them, into the H heads of the scores; grouped keys and
    values, or gates on these, count for every head that shares them.

    Args:
      values: site to `[L, B, ...]`.

    Returns:
      `probs` `[L, B, H, T, S]`; `value` and `context` `[L, B, T, H, D]`, after the gate for the one that has a gate;
      and with a gate `openness`, `[L, B, T, H]`, its mean over the dimensions if each has its own.
    """
    probs, value, gated_value, context, gated_context, gate = map(values.get, TENSORS)
    assert probs is not None and value is not None and context is not None, "every attention has them"
    num_heads = probs.shape[2]
    value_heads = value.shape[-1] * num_heads // context.shape[-1]

    def split(x: jax.Array, heads: int) -> jax.Array:
        return jnp.repeat(x.reshape(*x.shape[:-1], heads, -1), num_heads // heads, axis=-2)

    value = value if gated_value is None else gated_value
    context = context if gated_context is None else gated_context
    found = {"probs": probs, "value": split(value, value_heads), "context": split(context, num_heads)}
    if gate is None:
        return found
    return found | {"openness": split(gate, num_heads if gated_value is None else value_heads).mean(axis=-1)}


def visible_keys(mask: Mask, real: jax.Array) -> jax.Array:
    """Says which keys each query may attend to.

    Args:
      mask: the mask that the attention was given.
      real: `[B, T]`, True at real tokens.

    Returns:
      Boolean `[B, 1, T, S]` (query, key); the rows of padded queries see nothing, so that statistics leave them out.
    """
    queries, dense = real[:, None, :, None], mask.dense()
    shape = (len(real), 1, mask.queries, mask.num_keys)
    return jnp.broadcast_to(queries if dense is None else queries & dense, shape)


def zero_share(probs: jax.Array, visible: jax.Array) -> jax.Array:
    """Computes the share of the visible probabilities that are exactly 0: `[B, H, T, S]` to `[B, H]`."""
    zeros = jnp.sum((probs == 0) & visible, axis=(2, 3))
    return zeros / jnp.maximum(jnp.sum(visible, axis=(2, 3)), 1)


def dead_row_share(probs: jax.Array, visible: jax.Array) -> jax.Array:
    """Computes the share of the queries whose visible probabilities are all exactly 0: `[B, H, T, S]` to `[B, H]`."""
    queries = jnp.any(visible, axis=3)
    dead = queries & ~jnp.any((probs != 0) & visible, axis=3)
    return jnp.sum(dead, axis=2) / jnp.maximum(jnp.sum(queries, axis=2), 1)


def column_mass(probs: jax.Array, visible: jax.Array) -> jax.Array:
    """Computes the mean probability that each key receives from the real queries: `[B, H, T, S]` to `[B, H, S]`.

    The mean is over all real queries, also those that cannot see the key (causal attention), so that the masses of a
    head add up to 1 (less for clipped softmax) and a late key seen by one query is no sink. If a block holds several
    documents, each of its queries sees its own document, and the masses are still those of the block.
    """
    queries = jnp.maximum(jnp.sum(jnp.any(visible, axis=3), axis=2), 1)
    return jnp.sum(jnp.where(visible, probs.astype(jnp.float32), 0), axis=2) / queries[..., None]


def value_norms(value: jax.Array) -> jax.Array:
    """Computes the Euclidean norm of each head's value vectors: `[B, T, H, D]` to `[B, H, T]`."""
    return jnp.linalg.norm(value.astype(jnp.float32), axis=-1).transpose(0, 2, 1)


def value_drain(norms: jax.Array, mass: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes the norm of the sink's value vector over the mean norm of the other real tokens' (1 = not drained).

    Args:
      norms: the result of `value_norms`, `[B, H, T]`.
      mass: the result of `column_mass`, `[B, H, T]`; the sink is the key with the largest.
      mask: `[B, T]`, True at real tokens.

    Returns:
      `[B, H]`.
    """
    sink = jax.nn.one_hot(jnp.argmax(mass, axis=-1), mass.shape[-1], dtype=bool)
    others = mask[:, None, :] & ~sink
    mean_other = jnp.sum(jnp.where(others, norms, 0), axis=-1) / jnp.maximum(jnp.sum(others, axis=-1), 1)
    return jnp.sum(jnp.where(sink, norms, 0), axis=-1) / jnp.maximum(mean_other, 1e-12)


def head_statistics(
    probs: jax.Array, value: jax.Array, mask: jax.Array, visible: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Computes every statistic of this file for one layer, as (values, weights) to be averaged over samples.

    Args:
      probs: attention probabilities `[B, H, T, S]`.
      value: value vectors that each head reads `[B, T, H, D]`.
      mask: `[B, T]`, True at real tokens; a sample without any has weight 0.
      visible: the result of `visible_keys`.

    Returns:
      `sink_mass`, `first_mass`, `value_drain`, `zero_share`, `dead_row_share`: values `[B, H]`, weights `[B]`;
        `column_mass`: `[B, H, T]`, `[B]`. A share is weighted by the number of keys or queries behind it.
    """
    mass = column_mass(probs, visible)
    norms = value_norms(value)
    keys = jnp.sum(visible, axis=(1, 2, 3))
    queries = jnp.sum(mask, axis=1)
    sample = jnp.any(mask, axis=1)
    return {
        "sink_mass": (jnp.max(mass, axis=-1), sample),
        "first_mass": (mass[..., 0], sample),
        "value_drain": (value_drain(norms, mass, mask), sample),
        "zero_share": (zero_share(probs, visible), keys),
        "dead_row_share": (dead_row_share(probs, visible), queries),
        "column_mass": (mass, sample),
    }


def layer_statistics(
    heads: Mapping[str, jax.Array], given: Mask, real: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Computes `head_statistics` of every layer, each with the mask that its own attention was given.

    Args:
      heads: the result of `by_head`.
      given: the captured masks of the layers, `GIVEN_MASK`.
      real: `[B, T]`, True at real tokens.

    Returns:
      The statistics with a leading layer axis: values `[L, B, ...]`, weights `[L, B]`.
    """

    def of_layer(probs, value, mask):
        return head_statistics(probs, value, real, visible_keys(mask, real))

    return jax.vmap(of_layer)(heads["probs"], heads["value"], given)
