"""A tensor rounded to the grid of its range: an activation, or a weight of one layer."""

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
    """`x` on the grid of its range, in its dtype: it enters the range's basis, is rounded there, and leaves.

    Args:
      x: an activation `[..., D]`, or a weight `[D, F]` or `[D]`.
      r: its range, of one layer.
      planned: what is static of it.
      where: the values that count, for dynamic ranges, broadcasting to `x`; None: all.
      weight: whether `x` is a weight, which enters a basis on its first axis.
    """
    basis = basis_of(r)
    return leave(round_in_basis(enter(x, basis, weight), r, planned, where), basis, weight).astype(x.dtype)


def round_in_basis(x: jax.Array, r: Range, planned: Planned, where: jax.Array | None = None) -> jax.Array:
    """As `round_to_range`, of an `x` that is in the range's basis and stays there; as it is where bits are 0."""
    if isinstance(planned.granularity, Token):
        minimum, maximum = planned.granularity.ends(x, where)
        r = {**r, "minimum": minimum, "maximum": maximum}
    grid = grid_of_range(r, planned)
    return jnp.where(r["bits"] > 0, fake_quantize(x, grid), x)


def grid_of_range(r: Range, planned: Planned) -> Grid:
    """The grid of a range with both ends; where bits are 0 one of 2 bits, for arithmetic's sake."""
    return make_grid(r["minimum"], r["maximum"], jnp.maximum(r["bits"], 2), planned.symmetric)
