"""int8 grids, as arrays by name."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from qtx.quantization.affine import Grid, fake_quantize, make_grid
from qtx.quantization.basis import basis_of, enter, leave

Fields = dict[str, jax.Array]
"""A grid as arrays: `Grid`'s fields, each a scalar, or `[F]` over a tensor's last axis; the basis to round in, if not
the tensor's own; and "on", a scalar, if the recipe quantizes a site in some layers only: the scanned program, which all
layers share, then carries the site in floating point, rounded where on. All have a leading `[L]` under `layers/`."""

SHIFT = 128
"""Subtracted from an unsigned grid's integers and zero-point: [0, 255] becomes [-128, 127], the real values stay."""


@functools.partial(jax.jit, static_argnames=("symmetric",))
def int8_grid(minimum: jax.Array, maximum: jax.Array, bits: jax.Array, symmetric: bool) -> Fields:
    """Makes the grid of `make_grid`, with the integers of an unsigned grid shifted to int8.

    Args:
      minimum, maximum: real ends of the range, of the same shape.
      bits: 2 to 8; broadcasts to `minimum` from the left.
      symmetric: whether the unshifted grid's zero-point is fixed at 0.
    """
    minimum = jnp.asarray(minimum, jnp.float32)
    bits = jnp.asarray(bits, jnp.float32)
    bits = jnp.broadcast_to(bits.reshape(bits.shape + (1,) * (minimum.ndim - bits.ndim)), minimum.shape)
    grid = make_grid(minimum, maximum, bits, symmetric)
    shift = jnp.where(grid.low < 0, 0, SHIFT)
    fields = {
        "scale": grid.scale,
        "zero_point": grid.zero_point - shift,
        "low": grid.low - shift,
        "high": grid.high - shift,
    }
    return {name: jnp.broadcast_to(value, minimum.shape) for name, value in fields.items()}


def grid_of(fields: Fields) -> Grid:
    """Returns the grid alone, without basis and "on"."""
    return Grid(**{name: fields[name] for name in ("scale", "zero_point", "low", "high")})


def on_grid(y: jax.Array, fields: Fields) -> jax.Array:
    """Rounds `y` `[..., F]` to a grid, in the grid's basis, where the grid is on."""
    grid, basis = grid_of(fields), basis_of(fields)
    y = enter(y, basis)
    rounded = fake_quantize(y, grid)
    return leave(jnp.where(fields["on"], rounded, y) if "on" in fields else rounded, basis)
