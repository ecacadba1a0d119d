"""A head map shows what one attention head does on one example: where it looks, what it carries, what it adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qtx.analysis.capture import FloatingPoint, values_at
from qtx.analysis.heads import HEAD_SITES, by_head
from qtx.masks import token_mask

SHOWN_TOKENS = 24


@dataclasses.dataclass(frozen=True)
class HeadMap:
    """One attention head on one example of T positions.

    Attributes:
      layer, head: which head, from 0.
      probs: the attention probabilities `[T, T]` (query, key).
      value_norm: `[T]`, length of each token's value vector, |V|.
      context_norm: `[T]`, length of what the head adds for each query, |P V|; after the gate where there is one.
      openness: the gate's openness `[T]`, or None without a gate.
      tokens: the labels of the T positions.
    """

    layer: int
    head: int
    probs: np.ndarray
    value_norm: np.ndarray
    context_norm: np.ndarray
    openness: np.ndarray | None
    tokens: list[str]


def head_map(
    model: FloatingPoint, batch: dict[str, Any], layer: int, head: int, token_text: Callable[[int], str]
) -> HeadMap:
    """Computes the map of one head on the first example of a batch: on its first 24 real tokens, or all patches."""
    values = jax.device_get(_first_example(model, batch, jnp.array(layer), jnp.array(head)))
    length = len(values["probs"])
    if "tokens" in batch:
        length = min(int(np.sum(values["mask"])), SHOWN_TOKENS)
        tokens = [token_text(int(token)) for token in np.asarray(batch["tokens"])[0, :length]]
    else:
        tokens = ["class", *(str(patch) for patch in range(1, length))]
    openness = values.get("openness")
    return HeadMap(
        layer=layer,
        head=head,
        probs=values["probs"][:length, :length].astype(np.float32),
        value_norm=values["value"][:length],
        context_norm=values["context"][:length],
        openness=None if openness is None else openness[:length],
        tokens=tokens,
    )


@jax.jit
def _first_example(model: FloatingPoint, batch: dict[str, Any], layer: jax.Array, head: jax.Array) -> dict[str, Any]:
    batch = {name: x[:1] for name, x in batch.items()}
    heads = {name: x[layer, 0] for name, x in by_head(values_at(model, batch, HEAD_SITES)).items()}
    result = {
        "probs": heads["probs"][head],
        "mask": token_mask(batch, heads["probs"].shape[-2], model.module)[0],
        **{name: jnp.linalg.norm(heads[name][:, head].astype(jnp.float32), axis=-1) for name in ("value", "context")},
    }
    return result | {"openness": heads["openness"][:, head]} if "openness" in heads else result
