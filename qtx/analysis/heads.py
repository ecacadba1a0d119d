"""Attention heads: where a model has them, and their statistics, sinks, drained values, exact zeros and dead rows.

A head that wants to do nothing parks its attention on a token whose value vector it has driven towards zero (a sink),
or, with clipped softmax, sets probabilities to exactly zero. A row whose probabilities are *all* zero passes no
gradient to its scores: a head in which most rows are dead cannot learn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.analysis.capture import Model, values_at
from qtx.anatomy import read
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.masks import Mask, token_mask
from qtx.parts import Part
from qtx.sites import MASK


class AttentionSites(NamedTuple):
    """The paths of one attention layer, or of one in every layer of a stack, and of its sites.

    Attributes:
      path: the module that has the sites.
      probs, value, context: the sites; the values and the context behind the gate that is put on them.
      gate: the openness of the gate; None: there is no gate.
      gates_values: whether the gate is put on the values, and not on the context.
    """

    path: str
    probs: str
    value: str
    context: str
    gate: str | None = None
    gates_values: bool = False


def attentions(module: nn.Module, batch: Batch) -> tuple[AttentionSites, ...]:
    """Finds the attention layers of a model by the parts that its modules declare. The batch gives shapes only.

    Raises:
      QtxError: if there are none.
    """
    anatomy, found = read(module, batch), []
    order = list(anatomy.sites)
    for probs in anatomy.sites_of((Part.PROBS,)):
        path, last = probs.path, dict[Part, str]()
        while path and not {Part.VALUE, Part.CONTEXT} <= last.keys():
            path = path.rpartition("/")[0]
            last = {site.part: site.path for site in anatomy.sites.values() if site.path.startswith(f"{path}/")}
        if path:
            value, gate = last[Part.VALUE], last.get(Part.GATE)
            on_values = gate is not None and order.index(gate) < order.index(value)
            found.append(AttentionSites(path, probs.path, value, last[Part.CONTEXT], gate, on_values))
    if not found:
        raise QtxError(
            "no module of this model declares the probabilities, values and context of attention, which statistics of "
            "its heads are taken of: see qtx.parts"
        )
    return tuple(found)


class Heads(NamedTuple):
    """All heads of a model on a batch; the L layers are those of all its attention layers, one after the other.

    Attributes:
      tensors, statistics: the results of `by_head` and `layer_statistics`.
      real: `[B, T]`, True at real tokens.
    """

    tensors: dict[str, jax.Array]
    statistics: dict[str, tuple[jax.Array, jax.Array]]
    real: jax.Array


def look_at_heads(
    model: Model, batch: Batch, paths: Collection[str] = (), step: Any = None
) -> tuple[dict[str, Any], Heads]:
    """Runs a model and returns the values of some sites, as `values_at` does, and all heads.

    Raises:
      QtxError: if attention layers have heads of different shapes.
    """
    found = attentions(model.module, batch)
    masks = [f"{sites.probs}/{MASK}" for sites in found]
    own = {site for sites in found for site in (sites.probs, sites.value, sites.context, sites.gate) if site}
    values = values_at(model, batch, {*paths, *own, *masks}, step)
    tensors = [by_head(values, sites, values[mask].prefix) for sites, mask in zip(found, masks, strict=True)]
    if len({tuple((name, x.shape[1:]) for name, x in of_one.items()) for of_one in tensors}) > 1:
        raise QtxError(
            f"the heads of {' and '.join(sites.path for sites in found)} have different shapes: statistics of heads "
            "are of one shape; analyse a model with one of these"
        )
    real = token_mask(batch, tensors[0]["probs"].shape[3], model.module)
    statistics = [layer_statistics(one, values[mask], real) for one, mask in zip(tensors, masks, strict=True)]
    all_tensors, all_statistics = (jax.tree.map(lambda *x: jnp.concatenate(x), *each) for each in (tensors, statistics))
    return values, Heads(all_tensors, all_statistics, real)


def by_head(values: Mapping[str, Any], sites: AttentionSites, prefix: int = 0) -> dict[str, jax.Array]:
    """Splits what was captured of an attention layer into the H heads of the scores; grouped keys and values, or gates
    on these, count for every head that shares them.

    Args:
      values: site to `[L, B, ...]`.
      sites: the attention layer.
      prefix: the number of keys before those of the text, to which nothing is attributed: probabilities of the text's
        keys then add up to less than 1.

    Returns:
      `probs` `[L, B, H, T, S - prefix]`; `value` and `context` `[L, B, T, H, D]`, after the gate for the one that has
      a gate; and with a gate `openness`, `[L, B, T, H]`, its mean over the dimensions if each has its own.
    """
    probs, value, context = (values[site] for site in (sites.probs, sites.value, sites.context))
    num_heads = probs.shape[2]
    value_heads = value.shape[-1] * num_heads // context.shape[-1]

    def split(x: jax.Array, heads: int) -> jax.Array:
        return jnp.repeat(x.reshape(*x.shape[:-1], heads, -1), num_heads // heads, axis=-2)

    found = {"probs": probs[..., prefix:], "value": split(value, value_heads), "context": split(context, num_heads)}
    if sites.gate is None:
        return found
    return found | {"openness": split(values[sites.gate], value_heads if sites.gates_values else num_heads).mean(-1)}


def visible_keys(mask: Mask, real: jax.Array) -> jax.Array:
    """Says which keys each query may attend to.

    Args:
      mask: the mask that the attention was given.
      real: `[B, T]`, True at real tokens.

    Returns:
      Boolean `[B, 1, T, S]` (query, key), without the keys of a prefix; the rows of padded queries see nothing, so that
      statistics leave them out.
    """
    queries, dense = real[:, None, :, None], mask.dense()
    shape = (len(real), 1, mask.queries, mask.num_keys)
    return jnp.broadcast_to(queries if dense is None else queries & dense, shape)[..., mask.prefix :]


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
    """Computes `head_statistics` of every layer, each with the mask that its own attention was given, and more.

    Args:
      heads: the result of `by_head`.
      given: the captured masks of the layers.
      real: `[B, T]`, True at real tokens.

    Returns:
      The statistics with a leading layer axis, values `[L, B, ...]`, weights `[L, B]`, and, likewise averaged over the
      samples, `context_norm`, the largest value of a head's output, `output`, the mean length of its output for a
      token, and, if there is a gate, `openness`.
    """
    count, sample = jnp.sum(real, axis=1), jnp.any(real, axis=1)

    def mean(x: jax.Array) -> jax.Array:
        """Averages `[B, T, H]` over real tokens."""
        return jnp.sum(jnp.where(real[..., None], x, 0), axis=1) / jnp.maximum(count, 1)[:, None]

    def of_layer(own, mask):
        context = jnp.where(real[..., None, None], own["context"], 0)
        lengths = jnp.linalg.norm(own["context"].astype(jnp.float32), axis=-1)
        return head_statistics(own["probs"], own["value"], real, visible_keys(mask, real)) | {
            "context_norm": (jnp.max(jnp.abs(context), axis=(1, 3)), sample),
            "output": (mean(lengths), sample),
            **({"openness": (mean(own["openness"]), count)} if "openness" in own else {}),
        }

    return jax.vmap(of_layer)(dict(heads), given)
