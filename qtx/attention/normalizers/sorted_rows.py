"""This module has what normalizers share that find a threshold in the sorted scores of a row."""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp

from qtx.attention.normalizers.base import Normalizer, Rows, only_visible, over_visible

FAR = -10.0
"""A score beside the largest that is beyond every threshold, and at which sums keep their digits."""


class WithThreshold(Normalizer):
    """A normalizer of the scores of a row beside their largest, by a threshold that these have."""

    @staticmethod
    @abc.abstractmethod
    def of_rows(scores: jax.Array) -> jax.Array:
        """Computes probabilities `[..., S]` from the scores of `below_largest`, with a gradient."""

    def __call__(self, parameters, scores, rows):
        scores, visible = below_largest(scores, rows)
        probs = self.of_rows(scores)
        return only_visible(probs, visible)


def below_largest(scores: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array | None]:
    """Returns the scores less the largest of their row, `FAR` where that is less or the key is masked, and where keys
    are visible; None: all are."""
    scores, visible = over_visible(scores, rows)
    seen = scores if visible is None else jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    below = scores - jax.lax.stop_gradient(seen.max(axis=-1, keepdims=True))
    below = jnp.where(below > FAR, below, FAR)
    return below if visible is None else jnp.where(visible, below, FAR), visible


def number_of(ordered: jax.Array) -> jax.Array:
    """Returns 1 to S, the numbers of the scores of a sorted row, `[S]`."""
    return jnp.arange(1, ordered.shape[-1] + 1, dtype=ordered.dtype)


def where_number(x: jax.Array, number: jax.Array) -> jax.Array:
    """Returns what a row `[..., S]` has at a number, counted from 1, `[..., 1]`."""
    return jnp.where(number_of(x) == number, x, 0.0).sum(axis=-1, keepdims=True)


def ordered_in_pytorch(divisor: int) -> str:
    """Writes in PyTorch the scores of `below_largest` over a divisor, the same sorted, and their numbers."""
    return f"""
largest = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).amax(-1, keepdim=True)
scores = (scores - largest).masked_fill(~visible, {FAR}).clamp(min={FAR}) / {divisor}
ordered = scores.sort(-1, descending=True).values
number = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
""".strip()
