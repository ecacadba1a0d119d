"""Rounding a tensor to the grid of its range: an activation, or a weight of one layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qtx.quantization.affine import Grid, fake_quantize, make_grid
from qtx.quantization.basis import basis_of, enter, leave
from qtx.quantization.granularity import Token
from qtx.quantization.plan import Planned, Range


def round_to_range(
    x: jax.Array, r: Range, planned: Planned, where: jax.Array | None = None, *, weight: bool = False
) -> jax.Array:
    """Rounds `x` to the grid of its range, in its dtype: `x` enters the range's basis, is rounded there, and leaves.

    Args:
      x: an activation `[..., D]`, or a weight `[D, F]` or `[D]`.
      r: the range of `x`, of one layer.
      planned: the static part of the quantization of `x`.
      where: the values that count for a dynamic range, broadcasting to `x`; None: all.
      weight: whether `x` is a weight, which enters a basis on its first axis.
    """
    basis = basis_of(r)
    return leave(round_in_basis(enter(x, basis, weight), r, planned, where), basis, weight).astype(x.dtype)


def round_in_basis(x: jax.Array, r: Range, planned: Planned, where: jax.Array | None = None) -> jax.Array:
    """Rounds an `x` that is in the range's basis already, and stays there; 0 bits leave `x` as it is."""
    if isinstance(planned.granularity, Token):
        minimum, maximum = planned.granularity.ends(x, where)
        r = {**r, "minimum": minimum, "maximum": maximum}
    grid = grid_of_range(r, planned)
    return jnp.where(r["bits"] > 0, fake_quantize(x, grid), x)


def grid_of_range(r: Range, planned: Planned) -> Grid:
    """Returns the grid of a range with both ends; 0 bits get a grid of 2 bits, for arithmetic's sake."""
    return make_grid(r["minimum"], r["maximum"], jnp.maximum(r["bits"], 2), planned.symmetric)
