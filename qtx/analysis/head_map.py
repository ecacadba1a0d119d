"""What one attention head does on one example: where it looks, what it carries, what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qtx.analysis.capture import FloatingPoint, capture
from qtx.masks import token_mask

SHOWN_TOKENS = 24


@dataclasses.dataclass(frozen=True)
class HeadMap:
    """One head on one example of T positions.

    Attributes:
      layer, head: which, from 0.
      probs: `[T, T]` (query, key).
      value_norm: `[T]`, length of each token's value vector, |V|.
      context_norm: `[T]`, length of what the head adds for each query, |P V|; after the gate where there is one.
      openness: `[T]` of the gate, or None.
      tokens: the T labels.
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
    """The map of one head on the first example of a batch: its first 24 real tokens, or all patches of an image."""
    values = jax.device_get(_first_example(model, batch, jnp.array(layer), jnp.array(head)))
    length = len(values["probs"])
    if "tokens" in batch:
        length = min(int(np.sum(values["mask"])), SHOWN_TOKENS)
        tokens = [token_text(int(token)) for token in np.asarray(batch["tokens"])[0, :length]]
    else:
        tokens = ["class", *(str(patch) for patch in range(1, length))]
    gate = values.get("gate")
    return HeadMap(
        layer=layer,
        head=head,
        probs=values["probs"][:length, :length].astype(np.float32),
        value_norm=values["value"][:length],
        context_norm=values["context"][:length],
        openness=None if gate is None else gate[:length],
        tokens=tokens,
    )


@jax.jit
def _first_example(model: FloatingPoint, batch: dict[str, Any], layer: jax.Array, head: jax.Array) -> dict[str, Any]:
    batch = {name: x[:1] for name, x in batch.items()}
    names = ("probs", "value", "context", "gated_context", "gate")
    captured = capture(model, batch, {f"layers/attention/{name}" for name in names})
    values = {path.rpartition("/")[2]: x[layer, 0] for path, x in captured.items()}
    num_heads = values["probs"].shape[0]

    def norm(x):  # [T, D] of all heads to the norm [T] of one
        per_head = x.reshape(x.shape[0], num_heads, -1)[:, head].astype(jnp.float32)
        return jnp.linalg.norm(per_head, axis=-1)

    result = {
        "probs": values["probs"][head],
        "value": norm(values["value"]),
        "context": norm(values.get("gated_context", values["context"])),
        "mask": token_mask(batch, values["probs"].shape[-1])[0],
    }
    gate = values.get("gate")  # [T, H], or [T, H * D]
    return result if gate is None else result | {"gate": gate.reshape(len(gate), num_heads, -1)[:, head].mean(axis=-1)}
