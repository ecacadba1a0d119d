"""Real tensors that are also int8 integers on a grid."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qtx.quantization.affine import Grid, fake_quantize, make_grid
from qtx.quantization.basis import basis_of, enter, leave

SHIFT = 128
"""Subtracted from an unsigned grid's integers and zero-point: [0, 255] becomes [-128, 127], the values stay."""


class Tensor(NamedTuple):
    """A tensor between two products.

    Attributes:
      real: float32 values.
      integers: int8, the same values as `grid.scale * (integers - grid.zero_point)` (in the basis that the site is
        quantized in, if not its own: see `qtx.quantization.basis`); None: in floating point.
      grid: of the integers.
    """

    real: jax.Array
    integers: jax.Array | None = None
    grid: Grid | None = None


@functools.partial(jax.jit, static_argnames=("symmetric",))
def int8_grid(minimum: jax.Array, maximum: jax.Array, bits: jax.Array, symmetric: bool) -> dict[str, jax.Array]:
    """`make_grid` with the integers of an unsigned grid shifted to int8, as a dictionary of `Grid`'s fields.

    Args:
      minimum, maximum: same shape.
      bits: 2 to 8; broadcasts to `minimum` from the left.
      symmetric: zero-point of the unshifted grid fixed at 0.
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


def on_grid(y: jax.Array, node: Mapping[str, Any] | None) -> Tensor:
    """`y` rounded to the grid of a site.

    Args:
      y: `[..., F]`.
      node: the site's variables. "grid", if there: `Grid`'s fields, scalars or `[F]`; the basis to round in, if not
        the tensor's own; and "on", a scalar, if the recipe quantizes the site in some layers only: then the scanned
        program, which all layers share, has to carry it in floating point, rounded where it is on.
    """
    fields = (node or {}).get("grid")
    if fields is None:
        return Tensor(y)
    grid = Grid(**{name: fields[name] for name in ("scale", "zero_point", "low", "high")})
    basis = basis_of(fields)
    y = enter(y, basis)
    if "on" in fields:
        return Tensor(leave(jnp.where(fields["on"], fake_quantize(y, grid), y), basis))
    integers = grid.quantize(y).astype(jnp.int8)
    return Tensor(leave(grid.dequantize(integers.astype(jnp.float32)), basis), integers, grid)
