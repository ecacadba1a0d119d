"""This module computes attention by blocks of whole rows, in memory linear in T, with any normalizer: scores of a few
queries with all their keys, their probabilities and their context, which are computed again for the gradient (Rabe &
Staats 2021, arXiv 2112.05682). A row's sums, maxima or order may be whatever the normalizer makes of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qtx.attention.fused.backend import AttentionCase, Backend, beyond_scores
from qtx.attention.fused.tiles import Blocking, sum_dtype
from qtx.attention.normalizers import Rows
from qtx.layers import kept_of_numbers

VALUES = 2**21
"""The number of scores in a block, 8 MiB in float32."""
SPANS = 4
"""How many runs of queries a causal mask is cut into, each with only the keys up to its last query."""


class ByRows(Backend):
    """The backend for all normalizers, on any device; where they are softmax-like, `Blockwise` is faster."""

    def refusal(self, case):
        return beyond_scores(case)

    def pays(self, case):
        return case.platform == "cpu" and case.shape[1] >= 1024

    def __call__(self, case, parameters, query, key, value, rows, dropout_key):
        batch, length, heads, _ = query.shape
        number = SPANS if rows.mask.causal and length >= SPANS * 64 else 1
        ends = [length * (span + 1) // number for span in range(number)]
        contexts = []
        for first, last in zip([0, *ends], ends, strict=False):
            blocking = Blocking.of(last - first, max(8, VALUES // (batch * heads * last)))
            attend = functools.partial(_attended, case, blocking, first, last)
            contexts.append(attend(parameters, query[:, first:last], key[:, :last], value[:, :last], rows, dropout_key))
        return jnp.concatenate(contexts, axis=1)


def _attended(
    case: AttentionCase,
    blocking: Blocking,
    first: int,
    last: int,
    parameters: Mapping[str, jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    rows: Rows,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Computes the context of the queries from number `first` on, `[B, N, H, D]`, of the keys before `last`."""
    size, wide = blocking.size, sum_dtype(query)

    def up_to_last(x: Any) -> Any:
        return None if x is None else x[:, :last]

    mask = dataclasses.replace(
        rows.mask,
        queries=size,
        keys=last,
        padding=up_to_last(rows.mask.padding),
        segments=up_to_last(rows.mask.segments),
    )

    @jax.checkpoint
    def of_block(parameters: Any, key: jax.Array, value: jax.Array, block: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, query = block
        there = rows._replace(mask=dataclasses.replace(mask, offset=first + index * size))
        scores = jnp.einsum("bthd,bshd->bhts", query, key, preferred_element_type=wide)
        probs = case.normalizer(parameters, scores, there)
        if dropout_key is not None:
            number = jax.lax.broadcasted_iota(jnp.uint32, probs.shape, 3)
            for axis, stride in ((2, last), (1, last * size), (0, last * size * probs.shape[1])):
                number += jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, probs.shape, axis)
            kept, share = kept_of_numbers(jax.random.fold_in(dropout_key, first + index * size), case.dropout, number)
            probs = jnp.where(kept, probs / share, 0.0)
        return jnp.einsum("bhts,bshd->bthd", probs.astype(value.dtype), value, preferred_element_type=wide)

    more = [(0, size * blocking.number - blocking.length if axis == 1 else 0) for axis in range(4)]
    blocks = jnp.moveaxis(jnp.pad(query, more).reshape(len(query), blocking.number, size, *query.shape[2:]), 1, 0)
    context = jax.lax.map(functools.partial(of_block, parameters, key, value), (jnp.arange(blocking.number), blocks))
    context = jnp.moveaxis(context, 0, 1).reshape(len(query), -1, *query.shape[2:])
    return context[:, : blocking.length].astype(query.dtype)
