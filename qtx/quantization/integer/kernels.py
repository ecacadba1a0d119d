"""Weights as int8, with the zero-points' terms that depend on weights alone folded into one offset per output."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from qtx.quantization.affine import Grid
from qtx.quantization.basis import basis_of, enter
from qtx.quantization.integer.grids import Fields, Grids
from qtx.quantization.integer.model import Tensors


@jax.jit
def integers_of(weight: jax.Array, grid: Fields) -> jax.Array:
    """The int8 of a weight, in the grid's basis, rounded already or not.

    Args:
      weight: `[..., D, F]`.
      grid: fields of the leading shape `[...]`, or with a trailing `[F]`.
    """
    fields = {name: _as_matrix(grid[name], weight.ndim) for name in ("scale", "zero_point", "low", "high")}
    return Grid(**fields).quantize(weight).astype(jnp.int8)


def dense(site: str, params: Tensors, grids: Grids, source: str) -> Tensors:
    """The variables of a dense layer under `layers/`, as `products.dense` takes them, with the layer axis.

    Args:
      site: its path.
      params: of the whole model, weights rounded to their grids.
      grids: of the whole model.
      source: the site that it multiplies.
    """
    kernel, bias = params[f"{site}/kernel"], params[f"{site}/bias"]
    grid = grids.weights.get(f"{site}/kernel")
    integer = grids.integer(source) and grid is not None and grids.same_basis(source, f"{site}/kernel")
    if grid is None or "on" in grid or (basis_of(grid) and not integer):
        return {f"{site}/kernel": kernel, f"{site}/bias": bias}
    if basis_of(grid):
        kernel = jax.vmap(functools.partial(enter, weight=True))(kernel, basis_of(grid))
    integers = integers_of(kernel, grid)
    bits = jnp.log2(grid["high"] - grid["low"] + 1)
    result = {"kernel": integers, "kernel_scale": grid["scale"], "kernel_bits": bits, "bias": bias}
    if grid["zero_point"].any():
        result["kernel_zero_point"] = grid["zero_point"]
    if integer:
        result["offset"] = _offset(integers, grids.sites[source]["zero_point"], grid["zero_point"])
    return {f"{site}/{name}": value for name, value in result.items()}


@jax.jit
def _offset(kernel: jax.Array, z_x: jax.Array, z_w: jax.Array) -> jax.Array:
    """The zero-points' terms without x, int32 `[L, F]`, of a kernel `[L, D, F]` (see `products`)."""
    z_x = z_x[:, None].astype(jnp.int32)
    z_w = _as_matrix(z_w, kernel.ndim)[:, 0].astype(jnp.int32)
    return z_x * (kernel.shape[-2] * z_w - kernel.sum(-2, dtype=jnp.int32))


def _as_matrix(value: jax.Array, ndim: int) -> jax.Array:
    """`[...]` as `[..., 1, 1]` and `[..., F]` as `[..., 1, F]`, of `ndim` axes."""
    leading = ndim - 2
    return value[..., None, :] if value.ndim > leading else value[..., None, None]
