"""Two-pass softmax (Dukhan and Ablavatski 2020, arXiv 2001.04438): sums of exponentials without a maximum.

e^x = m 2^n, with n = round(x / ln 2) kept as a number of its own, so that nothing overflows or vanishes: a sum of such
pairs is aligned to the larger exponent. A reference for numerics: as the first sweep of `qtx.attention.fused.blockwise`
it is slower than a running maximum (docs/performance.md; `python -m benchmarks.two_pass` measures it again).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

LOG2_E = 1 / math.log(2)
NONE = -1e9
"""The exponent of an empty sum: below that of every float32."""


class Scaled(NamedTuple):
    """The number mantissa 2^exponent; the exponent is a whole number held in floating point."""

    mantissa: jax.Array
    exponent: jax.Array


def exponential(x: jax.Array) -> Scaled:
    """Computes e^x of finite x, with the mantissa in [2^-1/2, 2^1/2]."""
    exponent = jnp.round(x * LOG2_E)
    # ln 2 in two parts, so that the difference keeps its digits (Cody and Waite).
    return Scaled(jnp.exp((x - exponent * 0.693359375) + exponent * 2.12194440054690583e-4), exponent)


def add(a: Scaled, b: Scaled) -> Scaled:
    """Adds a and b, elementwise."""
    exponent = jnp.maximum(a.exponent, b.exponent)
    return Scaled(a.mantissa * jnp.exp2(a.exponent - exponent) + b.mantissa * jnp.exp2(b.exponent - exponent), exponent)


def total(x: Scaled) -> Scaled:
    """Sums over the last axis, which stays, of size 1."""
    exponent = x.exponent.max(axis=-1, keepdims=True)
    return Scaled((x.mantissa * jnp.exp2(x.exponent - exponent)).sum(axis=-1, keepdims=True), exponent)


def log_sum_exp(scores: jax.Array, block: int) -> jax.Array:
    """Computes log sum exp, `[..., T, 1]`, of scores `[..., T, S]`, in one pass over blocks of keys: each place within
    a block has its own sum, and these are added last.

    Args:
      scores: finite scores; those of masked keys are far below all others.
      block: the size of a block, a divisor of S.
    """
    blocks = jnp.moveaxis(scores.reshape(*scores.shape[:-1], -1, block), -2, 0)
    nothing = Scaled(jnp.zeros_like(blocks[0]), jnp.full_like(blocks[0], NONE))
    sums, _ = jax.lax.scan(lambda sums, x: (add(sums, exponential(x)), None), nothing, blocks)
    mantissa, exponent = total(sums)
    return jnp.log(mantissa) + exponent * math.log(2)


def softmax(scores: jax.Array) -> jax.Array:
    """Computes the softmax over the last axis without a maximum; mantissas and exponents are divided apart."""
    each = exponential(scores)
    sums = total(each)
    return each.mantissa / sums.mantissa * jnp.exp2(each.exponent - sums.exponent)
