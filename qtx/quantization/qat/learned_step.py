"""Fake quantization with gradients: straight-through rounding, and grids that learn: LSQ (Esser et al. 2020, arXiv
1902.08153) on symmetric ones, LSQ+ (Bhalgat et al. 2020, arXiv 2004.09576) on asymmetric ones.

The papers learn the step s and, if asymmetric, the offset b, the real value of the smallest integer. With the grid's
integers Q_n..Q_p (LSQ: -2^(bits-1)..2^(bits-1) - 1; LSQ+: 0..2^bits - 1), v = (x - b) / s, and b = 0 for LSQ:

    x_hat = s * round(clip(v, Q_n, Q_p)) + b

                        d x_hat / dx    d x_hat / ds     d x_hat / db
    Q_n <= v <= Q_p     1               round(v) - v     0
    v < Q_n             0               Q_n              1
    v > Q_p             0               Q_p              1

(LSQ's equations 3 and 5, LSQ+'s 5 and 6). The gradients of s and b are summed over the N values that share them, times
1 / sqrt(N * Q_p) (LSQ's section 2.2; LSQ+ takes it over). For weights, N is their number in one layer; for activations,
LSQ counts a layer's features, those of one example: the gradient does not depend on how a batch is divided up.

Where this differs from the papers:
- The integers must represent zero exactly, as the grids do that a trained model is run on. So b is moved to the
  nearest multiple of s, and into [-Q_p s, 0], straight through: x_hat is LSQ+'s for this b, bit for bit what the
  quantized model computes.
- A value just at an end counts as inside: nothing of it is clipped. The papers' continuous values never lie just there;
  after a ReLU half of all values do, and they would all pull at b.
- A step that an update took to zero or below acts as the smallest step, but its gradient may still bring it back.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from qtx.quantization.affine import SMALLEST_SCALE, Grid, fake_quantize, make_grid

Learnable = dict[str, jax.Array]
"""The learned part of a grid: `step` and, if asymmetric, `offset`. A symmetric grid has `low` instead, its smallest
integer (0 for a range without negative values), which no gradient reaches. All are float32, of one shape: `()`, or
`[D]` over the last axis, with a leading `[L]` where layers are stacked."""


def learnable(minimum: jax.Array, maximum: jax.Array, bits: jax.Array | int, symmetric: bool) -> Learnable:
    """Returns the learned part of the grid that covers [minimum, maximum]; `ends` gives back this range, widened to
    include 0."""
    grid = make_grid(minimum, maximum, bits, symmetric)
    if symmetric:
        return {"step": grid.scale, "low": grid.low}
    return {"step": grid.scale, "offset": jnp.minimum(jnp.asarray(minimum, jnp.float32), 0.0)}


def ends(learned: Learnable, bits: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Returns (minimum, maximum), the range whose grid has this step and offset."""
    levels = 2.0 ** jnp.asarray(bits, jnp.float32)
    step = jnp.maximum(learned["step"], SMALLEST_SCALE)
    if "low" in learned:
        signed = learned["low"] < 0
        maximum = step * (jnp.where(signed, levels / 2, levels) - 1)
        return jnp.where(signed, -maximum, 0.0), maximum
    length = step * (levels - 1)
    minimum = jnp.clip(learned["offset"], -length, 0.0)
    return minimum, minimum + length


def fake_quantize_learned(
    x: jax.Array, learned: Learnable, bits: jax.Array | int, size: float | None = None
) -> jax.Array:
    """Does `fake_quantize` on the grid of the range `ends(learned, bits)`, bit for bit, with this module's gradients.

    Args:
      x: any shape and floating dtype.
      learned: step and offset or low, of a shape that broadcasts to `x`.
      bits: 2 to 16, broadcastable to the step; no gradient.
      size: N, how many values share a step; by default, how many of those in `x`.

    Returns:
      `x` rounded, in its shape and dtype.
    """
    step = learned["step"]
    grid = make_grid(*ends(learned, bits), bits, symmetric="low" in learned)
    if size is None:
        size = x.size / max(step.size, 1)
    offset = learned.get("offset", jnp.zeros_like(step))
    return _quantize(x, step, offset, jax.lax.stop_gradient(grid), float(size))


def fake_quantize_between(
    x: jax.Array, minimum: jax.Array, maximum: jax.Array, bits: jax.Array | int, symmetric: bool
) -> jax.Array:
    """Does `fake_quantize(x, make_grid(minimum, maximum, bits, symmetric))` with this module's gradients: of `x`, and
    of both ends by way of step and offset, but not scaled. For ends that are functions of what is trained."""
    learned = learnable(minimum, maximum, bits, symmetric)
    grid = jax.lax.stop_gradient(make_grid(minimum, maximum, bits, symmetric))
    return _quantize(x, learned["step"], learned.get("offset", jnp.zeros_like(learned["step"])), grid, None)


def fake_quantize_straight_through(x: jax.Array, grid: Grid) -> jax.Array:
    """Does `fake_quantize(x, grid)` with the gradient of `x` alone: for grids that are not learned."""
    zeros = jnp.zeros_like(grid.scale)
    return _quantize(x, zeros, zeros, jax.lax.stop_gradient(grid), 1.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _quantize(x, step, offset, grid, size):
    return fake_quantize(x, grid)


def _forward(x, step, offset, grid, size):
    return fake_quantize(x, grid), (x, step, grid)


def _backward(size, saved, g):
    x, step, grid = saved
    v = x.astype(jnp.float32) / grid.scale + grid.zero_point
    below, above = v < grid.low, v > grid.high
    by_step = jnp.where(below, grid.low, jnp.where(above, grid.high, jnp.round(v) - v))
    scaled = g.astype(jnp.float32)
    if size is not None:
        scaled = scaled / jnp.sqrt(size * grid.high)

    def total(values):
        return jax.vjp(lambda end: jnp.broadcast_to(end, x.shape), step)[1](values)[0]

    clipped = below | above
    dx = jnp.where(clipped, jnp.zeros_like(g), g)
    by_offset = jnp.where(clipped, scaled, 0.0)
    return dx, total(scaled * by_step), total(by_offset), jax.tree.map(jnp.zeros_like, grid)


_quantize.defvjp(_forward, _backward)
