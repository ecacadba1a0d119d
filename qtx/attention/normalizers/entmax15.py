"""1.5-entmax (Peters et al. 2019, arXiv 1905.05702): between softmax and sparsemax, with exact zeros."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.attention.normalizers.sorted_rows import WithThreshold, number_of, ordered_in_pytorch, where_number


@dataclasses.dataclass(frozen=True)
class Entmax15(WithThreshold):
    """1.5-entmax, relu(x_i / 2 - tau)^2, with tau such that a row sums to 1, found exactly (algorithm 2 of the paper).
    Scores that are 2 and more below the largest get exactly 0."""

    @staticmethod
    def of_rows(scores):
        return _entmax15(scores)

    def pytorch(self, own):
        return f"""
{ordered_in_pytorch(2)}
mean = ordered.cumsum(-1) / number
spread = number * ((ordered**2).cumsum(-1) / number - mean**2)
taus = mean - ((1 - spread) / number).clamp(min=0).sqrt()
size = (taus <= ordered).sum(-1, keepdim=True)
return ((scores - taus.gather(-1, size - 1)).clamp(min=0) ** 2).masked_fill(~visible, 0)
"""


@jax.custom_vjp
def _entmax15(scores: jax.Array) -> jax.Array:
    half = scores / 2
    ordered = -jnp.sort(-half, axis=-1)
    number = number_of(ordered)
    mean = jnp.cumsum(ordered, axis=-1) / number
    spread = number * (jnp.cumsum(ordered**2, axis=-1) / number - mean**2)
    taus = mean - jnp.sqrt(jax.nn.relu((1 - spread) / number))
    size = (taus <= ordered).sum(axis=-1, keepdims=True)
    return jax.nn.relu(half - where_number(taus, size)) ** 2


def _backward(probs: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    """Returns the gradient of the scores (the paper's equation 14 at alpha = 1.5): that of p is diag(r) - r r^T / sum r
    with r = sqrt(p)."""
    root = jnp.sqrt(probs)
    through = root * gradient
    return (through - root * through.sum(axis=-1, keepdims=True) / root.sum(axis=-1, keepdims=True),)


_entmax15.defvjp(lambda scores: (_entmax15(scores),) * 2, _backward)
