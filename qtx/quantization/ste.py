"""Fake quantization with gradients: straight-through rounding, and ranges that learn (LSQ, Esser et al. 2020; the
offset of an asymmetric grid as in LSQ+, Bhalgat et al. 2020).

Notation: scale s, zero-point z, integers low..high, n = high; v = x / s, r = round(v) - v, and

    x_hat = s * (clip(round(v) + z, low, high) - z).

Rounding counts as the identity, as a derivative ("straight through"): d round(v) = dv. So, for a value

    inside (low <= round(v) + z <= high)    d x_hat / dx = 1    d x_hat / ds = r          d x_hat / dz = 0
    below  (clipped to low)                 d x_hat / dx = 0    d x_hat / ds = low - z    d x_hat / dz = -s
    above  (clipped to high)                d x_hat / dx = 0    d x_hat / ds = high - z   d x_hat / dz = -s

which is LSQ's gradient of the scale, and LSQ+'s of the offset. Here the two ends of the range are what is learned, not
s and z, so that a learned range is a calibrated range and zero stays exactly on the grid.

Asymmetric: s = (maximum - minimum) / n and z = round(-minimum / s), again straight through. By the chain rule, with
e = z + minimum / s, the zero-point's own rounding error (|e| <= 1/2):

    inside    d x_hat / d minimum = -r / n       d x_hat / d maximum = r / n
    below     d x_hat / d minimum = 1 + e / n    d x_hat / d maximum = -e / n
    above     d x_hat / d minimum = e / n        d x_hat / d maximum = 1 - e / n

Symmetric: z = 0 and s = max(-minimum, maximum) / n, so the larger end takes (d x_hat / ds) / n, negated if it is the
minimum; two equally large ends take half each, and stay equal.

What `make_grid` does to a range that cannot be (it is widened to include 0, and kept from vanishing) is straight
through as well: an end that a step took across 0 still gets the gradient that may bring it back.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from qtx.quantization.affine import fake_quantize, make_grid


def fake_quantize_ste(
    x: jax.Array,
    minimum: jax.Array,
    maximum: jax.Array,
    bits: jax.Array | int,
    symmetric: bool,
    size: float | None = None,
) -> jax.Array:
    """`fake_quantize(x, make_grid(minimum, maximum, bits, symmetric))`, bit for bit, with this module's gradients.

    The gradient of an end is the sum over the values that share it, times LSQ's 1 / sqrt(N * high): it makes a range
    learn about as fast, in proportion, as the weights (under AdamW, which divides by a gradient's size, it matters to
    the clipping of the gradient's norm alone).

    Args:
      x: any shape and floating dtype.
      minimum, maximum: float32, of one shape that broadcasts to `x`: `()`, `[D]` over the last axis, or `[..., 1]`.
      bits: 2 to 16, broadcastable to the ends; no gradient.
      symmetric: zero-point fixed at 0.
      size: N, how many values share a range: by default those in `x`. For activations LSQ counts one example's, so
        that the gradient does not depend on how a batch is divided up.

    Returns:
      as `x`.
    """
    minimum, maximum = jnp.asarray(minimum, jnp.float32), jnp.asarray(maximum, jnp.float32)
    if size is None:
        size = x.size / max(minimum.size, 1)
    return _quantize(x, minimum, maximum, jnp.asarray(bits, jnp.float32), symmetric, float(size))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _quantize(x, minimum, maximum, bits, symmetric, size):
    return fake_quantize(x, make_grid(minimum, maximum, bits, symmetric))


def _forward(x, minimum, maximum, bits, symmetric, size):
    return _quantize(x, minimum, maximum, bits, symmetric, size), (x, minimum, maximum, bits)


def _backward(symmetric, size, saved, g):
    x, minimum, maximum, bits = saved
    grid = make_grid(minimum, maximum, bits, symmetric)
    v = x.astype(jnp.float32) / grid.scale
    q = jnp.round(v) + grid.zero_point
    below, above, r = q < grid.low, q > grid.high, jnp.round(v) - v

    def of_region(inside, if_below, if_above):
        return jnp.where(below, if_below, jnp.where(above, if_above, inside))

    if symmetric:
        by_scale = of_region(r, grid.low, grid.high) / grid.high
        share = 0.5 * (1 + jnp.sign(jnp.maximum(maximum, 0.0) + jnp.minimum(minimum, 0.0)))
        by_minimum, by_maximum = -(1 - share) * by_scale, share * by_scale
    else:
        e = (grid.zero_point + jnp.minimum(minimum, 0.0) / grid.scale) / grid.high
        by_minimum = of_region(-r / grid.high, 1 + e, e)
        by_maximum = of_region(r / grid.high, -e, 1 - e)

    g32 = g.astype(jnp.float32) / jnp.sqrt(size * grid.high)

    def total(values):
        return jax.vjp(lambda end: jnp.broadcast_to(end, x.shape), minimum)[1](values)[0]

    dx = jnp.where(below | above, jnp.zeros_like(g), g)
    return dx, total(g32 * by_minimum), total(g32 * by_maximum), jnp.zeros_like(bits)


_quantize.defvjp(_forward, _backward)
