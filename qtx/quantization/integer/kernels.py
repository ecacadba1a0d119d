"""Weights as int8, with the zero-points' terms that depend on weights alone folded into one offset per output."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from qtx.quantization.basis import basis_of, enter
from qtx.quantization.integer.grids import Fields, grid_of, same_basis

Tensors = dict[str, jax.Array]
"""Arrays by path, e.g. `layers/mlp/out/kernel`."""


@jax.jit
def integers_of(weight: jax.Array, grid: Fields) -> jax.Array:
    """Returns the int8 of a weight, which is in the grid's basis, rounded already or not.

    Args:
      weight: `[..., D, F]`.
      grid: has fields of the leading shape `[...]`, or with a trailing `[F]`.
    """
    as_matrices = jax.tree.map(lambda x: _as_matrix(x, weight.ndim), grid_of(grid))
    return as_matrices.quantize(weight).astype(jnp.int8)


def dense_variables(
    kernel: jax.Array, bias: jax.Array | None, grid: Fields | None, entering: Fields | None
) -> Tensors | None:
    """Returns a dense layer's variables, as `products.integer_dense` takes them; None: it stays in floating point.

    Args:
      kernel: rounded to its grid, `[D, F]`, or with a leading layer axis.
      bias: of the layer, if it has one.
      grid: of the kernel; None: the kernel is in floating point.
      entering: grid of the layer's input; None: the input is in floating point.
    """
    integer = grid is not None and entering is not None and same_basis(entering, grid)
    if grid is None or "on" in grid or (basis_of(grid) and not integer):
        return None
    if "shift" in basis_of(grid):
        assert entering is not None
        bias = (0.0 if bias is None else bias) + jnp.einsum(
            "...d,...df->...f", entering["shift"], kernel, precision=jax.lax.Precision.HIGHEST
        )
    if basis_of(grid):
        to_basis = functools.partial(enter, weight=True)
        kernel = (jax.vmap(to_basis) if kernel.ndim == 3 else to_basis)(kernel, basis_of(grid))
    integers = integers_of(kernel, grid)
    bits = jnp.log2(grid["high"] - grid["low"] + 1)
    result = {"kernel": integers, "kernel_scale": grid["scale"], "kernel_bits": bits}
    if bias is not None:
        result["bias"] = bias
    if grid["zero_point"].any():
        result["kernel_zero_point"] = grid["zero_point"]
    if integer:
        assert entering is not None
        result["offset"] = _offset(integers, entering["zero_point"], grid["zero_point"])
        result |= {f"input/{name}": value for name, value in entering.items()}
    return result


@jax.jit
def _offset(kernel: jax.Array, z_x: jax.Array, z_w: jax.Array) -> jax.Array:
    """Computes the zero-points' terms without x, int32 `[..., F]`, of a kernel `[..., D, F]` (see `products`)."""
    z_x = z_x[..., None].astype(jnp.int32)
    z_w = _as_matrix(z_w, kernel.ndim)[..., 0, :].astype(jnp.int32)
    return z_x * (kernel.shape[-2] * z_w - kernel.sum(-2, dtype=jnp.int32))


def _as_matrix(value: jax.Array, ndim: int) -> jax.Array:
    """Reshapes `[...]` to `[..., 1, 1]`, and `[..., F]` to `[..., 1, F]`, of `ndim` axes."""
    leading = ndim - 2
    return value[..., None, :] if value.ndim > leading else value[..., None, None]
