"""Uniform affine quantization: real ranges to integer grids and back (Bondarenko et al. 2023, eq. 1)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

SMALLEST_SCALE = 1e-8
"""The least scale of a grid: smaller ones are clamped to it, so that an all-zero tensor quantizes to zeros."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grid:
    """The representable values scale * (q - zero_point) for integers low <= q <= high; all are arrays that broadcast to
    a tensor, by tiles (see `tiled`)."""

    scale: jax.Array
    zero_point: jax.Array
    low: jax.Array
    high: jax.Array

    def quantize(self, x: jax.Array) -> jax.Array:
        """Rounds `x` to the nearest integers of the grid, ties to even, as float32."""
        scale, zero_point, low, high = (tiled(v, x.shape) for v in (self.scale, self.zero_point, self.low, self.high))
        return jnp.clip(jnp.round(x.astype(jnp.float32) / scale) + zero_point, low, high)

    def dequantize(self, q: jax.Array) -> jax.Array:
        """Returns the real values of integers."""
        return tiled(self.scale, q.shape) * (q - tiled(self.zero_point, q.shape))

    @property
    def ends(self) -> tuple[jax.Array, jax.Array]:
        """Returns the smallest and the largest representable value."""
        return self.dequantize(self.low), self.dequantize(self.high)


def tiled(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcasts an array to a tensor's shape by tiles, as a group's range to the values of the group: along an axis of
    D, each of the array's G entries is repeated D / G times. An array of one entry an axis, or of as many as the tensor
    has, is returned as it is: NumPy broadcasts it."""
    for axis in range(-min(x.ndim, len(shape)), 0):
        if 1 < x.shape[axis] < shape[axis]:
            x = jnp.repeat(x, shape[axis] // x.shape[axis], axis)
    return x


def make_grid(minimum: jax.Array, maximum: jax.Array, bits: jax.Array | int, symmetric: bool) -> Grid:
    """Returns the grid that covers [minimum, maximum] and represents 0 exactly.

    An asymmetric grid has 2^bits - 1 steps over the range, widened to include 0; its zero-point is rounded and clamped
    to the grid. A symmetric grid has zero-point 0 and scale = absmax / (2^(bits-1) - 1), on [-2^(bits-1),
    2^(bits-1) - 1]; a range without negative values uses the unsigned [0, 2^bits - 1], as the paper's code does.

    Args:
      minimum, maximum: real ends of the range, of the same shape.
      bits: 2 to 16; may be a traced array.
      symmetric: whether the zero-point is fixed at 0.
    """
    minimum = jnp.minimum(jnp.asarray(minimum, jnp.float32), 0.0)
    maximum = jnp.maximum(jnp.asarray(maximum, jnp.float32), SMALLEST_SCALE)
    levels = 2.0 ** jnp.asarray(bits, jnp.float32)
    if symmetric:
        signed = minimum < 0
        low = jnp.where(signed, -levels / 2, 0.0)
        high = jnp.where(signed, levels / 2, levels) - 1
        scale = jnp.maximum(jnp.maximum(-minimum, maximum) / high, SMALLEST_SCALE)
        return Grid(scale, jnp.zeros_like(scale), low, high)
    high = levels - 1
    scale = jnp.maximum((maximum - minimum) / high, SMALLEST_SCALE)
    zero_point = jnp.clip(jnp.round(-minimum / scale), 0.0, high)
    return Grid(scale, zero_point, jnp.zeros_like(high), high)


def fake_quantize(x: jax.Array, grid: Grid) -> jax.Array:
    """Rounds `x` to the grid, in `x`'s dtype: quantizes, then dequantizes."""
    return grid.dequantize(grid.quantize(x)).astype(x.dtype)
