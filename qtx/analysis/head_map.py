"""A head map shows what one attention head does on one example: where it looks, what it carries, what it adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

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


def shown(tensors: Mapping[str, jax.Array], example: int) -> dict[str, jax.Array]:
    """Returns what maps show of one example, from the result of `by_head`: `probs` `[L, H, T, T]`, the lengths of the
    vectors `value` and `context` `[L, T, H]`, and with a gate `openness` `[L, T, H]`."""
    found = {name: x[:, example] for name, x in tensors.items()}
    lengths = {name: jnp.linalg.norm(found[name].astype(jnp.float32), axis=-1) for name in ("value", "context")}
    return found | lengths


def head_map(
    layer: int,
    head: int,
    of_layer: Mapping[str, np.ndarray],
    real: np.ndarray,
    tokens: np.ndarray | None,
    text: Callable[[int], str],
) -> HeadMap:
    """Makes the map of one head: on the first 24 real tokens of an example, or on all its patches.

    Args:
      layer, head: which head.
      of_layer: the result of `shown`, of that layer.
      real: `[T]`, True at real tokens.
      tokens: their ids `[T]`; None: patches.
      text: token id to text.
    """
    places = np.flatnonzero(real)
    labels = [patch_name(int(place)) for place in places]
    if tokens is not None:
        places = places[:SHOWN_TOKENS]
        labels = [text(int(token)) for token in tokens[places]]
    return HeadMap(
        layer=layer,
        head=head,
        probs=of_layer["probs"][head][np.ix_(places, places)].astype(np.float32),
        value_norm=of_layer["value"][places, head],
        context_norm=of_layer["context"][places, head],
        openness=of_layer["openness"][places, head] if "openness" in of_layer else None,
        tokens=labels,
    )


def patch_name(position: int) -> str:
    """Names a position of an image's sequence: it begins with the class token, so that patches count from 1."""
    return "class" if position == 0 else str(position)
