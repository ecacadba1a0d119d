"""Sparsemax (Martins & Astudillo 2016, arXiv 1602.02068): the nearest probabilities to the scores, many of them 0."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.attention.normalizers.sorted_rows import WithThreshold, number_of, ordered_in_pytorch, where_number


@dataclasses.dataclass(frozen=True)
class Sparsemax(WithThreshold):
    """Sparsemax, relu(x_i - tau), with tau such that a row sums to 1: the Euclidean projection of the scores onto the
    probabilities (algorithm 1 of the paper). Scores that are 1 and more below the largest get exactly 0."""

    @staticmethod
    def of_rows(scores):
        return _sparsemax(scores)

    def pytorch(self, own):
        return f"""
{ordered_in_pytorch(1)}
sums = ordered.cumsum(-1)
size = (1 + number * ordered > sums).sum(-1, keepdim=True)
tau = (sums.gather(-1, size - 1) - 1) / size
return (scores - tau).clamp(min=0).masked_fill(~visible, 0)
"""


@jax.custom_vjp
def _sparsemax(scores: jax.Array) -> jax.Array:
    ordered = -jnp.sort(-scores, axis=-1)
    number, sums = number_of(ordered), jnp.cumsum(ordered, axis=-1)
    size = (1 + number * ordered > sums).sum(axis=-1, keepdims=True)
    return jax.nn.relu(scores - (where_number(sums, size) - 1) / size)


def _backward(probs: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    """Returns the gradient of the scores, proposition 2 of the paper: that of the support, less its mean."""
    support = probs > 0
    mean = jnp.where(support, gradient, 0.0).sum(axis=-1, keepdims=True) / support.sum(axis=-1, keepdims=True)
    return (jnp.where(support, gradient - mean, 0.0),)


_sparsemax.defvjp(lambda scores: (_sparsemax(scores),) * 2, _backward)
