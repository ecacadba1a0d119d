"""Matrix products of integers: int8 x int8 -> int32, corrected for zero-points in integers, scaled once.

    sum_d s_x (x_d - z_x) s_y (y_d - z_y) = s_x s_y (sum_d x_d y_d - z_x sum_d y_d - z_y sum_d x_d + D z_x z_y)

(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
eq. 7). The whole bracket is exact in int32, so that the only rounding is that of the final scaling.

On a processor with instructions for bfloat16 but none for tiles of int8, XLA's CPU backend multiplies bfloat16 faster
than int8 (docs/performance.md). bfloat16 holds every int8, and float32 every sum of 1,024 products of two int8, so that
the integers that come out are the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from qtx.foundation.hardware import cpu_instructions
from qtx.quantization.affine import Grid

EXACT = 2**24 // 128**2
"""The number of products of two int8 of which float32 holds every sum."""


def integer_dense(x: jax.Array, grid: Grid | None, node: Mapping[str, jax.Array]) -> jax.Array:
    """Computes x W + b, float32 `[..., F]`.

    Args:
      x: `[..., D]`, int8 on `grid`; or float32, without a grid.
      grid: of x.
      node: "kernel" `[D, F]` int8, with "kernel_scale" (scalar or `[F]`) and, unless all are 0,
        "kernel_zero_point" (same shape); perhaps "bias" `[F]`; and, with a grid, "offset" `[F]` int32: the terms of the
        zero-points that do not depend on x. ("kernel_bits" is for readers of the file.)
    """
    kernel = node["kernel"]
    if grid is None:
        y = _flat_dot(x, node["kernel_scale"] * (kernel.astype(jnp.float32) - node.get("kernel_zero_point", 0)))
    else:
        total = _flat_dot(x, kernel) + node["offset"]
        if "kernel_zero_point" in node:
            total -= node["kernel_zero_point"].astype(jnp.int32) * jnp.sum(x, -1, dtype=jnp.int32, keepdims=True)
        y = total.astype(jnp.float32) * (grid.scale * node["kernel_scale"])
    return y + node.get("bias", 0.0)


def _flat_dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies `[..., D]` by `[D, F]` as one `[N, D] x [D, F]` product; int32 for int8, float32 for float32."""
    rows = x.reshape(-1, x.shape[-1])
    total = multiply("nd,df->nf", rows, kernel) if kernel.dtype == jnp.int8 else rows @ kernel
    return total.reshape(*x.shape[:-1], kernel.shape[-1])


def product(equation: str, x: jax.Array, x_grid: Grid, y: jax.Array, y_grid: Grid) -> jax.Array:
    """Computes the product of two activations, float32.

    Args:
      equation: as in `jnp.einsum`, with one letter an axis, e.g. `"bthd,bshd->bhts"`.
      x, y: int8 on their grids, which have one scale each.
    """
    operands, _, result = equation.partition("->")
    of_x, of_y = operands.split(",")
    z_x, z_y = x_grid.zero_point.astype(jnp.int32), y_grid.zero_point.astype(jnp.int32)
    total = multiply(equation, x, y)
    length = math.prod(size for letter, size in zip(of_x, x.shape, strict=True) if letter not in result)
    total -= z_y * _summed(x, of_x, result) + z_x * _summed(y, of_y, result) - length * z_x * z_y
    return total.astype(jnp.float32) * (x_grid.scale * y_grid.scale)


def multiply(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the exact int32 product of two int8 arrays, with an `equation` as in `jnp.einsum`, one letter an axis;
    both arrays have all axes that are summed over."""
    if faster_in_bfloat16():
        return in_bfloat16(equation, x, y)
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.int32)


def in_bfloat16(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes `multiply` in bfloat16, in pieces of the axes summed over whose sums float32 holds."""
    operands, _, result = equation.partition("->")
    of_x, of_y = operands.split(",")
    summed = {letter: size for letter, size in zip(of_x, x.shape, strict=True) if letter not in result}
    pieces = math.ceil(math.prod(summed.values()) / EXACT)
    if pieces > 1:
        longest = max(summed, key=lambda letter: summed[letter])
        xs, ys = (jnp.array_split(a, pieces, of_a.index(longest)) for a, of_a in ((x, of_x), (y, of_y)))
        return sum((in_bfloat16(equation, *piece) for piece in zip(xs, ys, strict=True)), jnp.int32(0))
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32).astype(jnp.int32)


@functools.cache
def faster_in_bfloat16() -> bool:
    """Says whether JAX runs on a CPU with instructions for bfloat16 and none for tiles of int8."""
    has = cpu_instructions().split()
    return jax.default_backend() == "cpu" and "avx512_bf16" in has and "amx_int8" not in has


def _summed(x: jax.Array, letters: str, result: str) -> jax.Array:
    """Computes the int32 sums over the axes that a product contracts, broadcasting to the product's result."""
    left = "".join(letter for letter in result if letter in letters)
    total = jnp.einsum(f"{letters}->{left}", x, preferred_element_type=jnp.int32)
    return jnp.expand_dims(total, [axis for axis, letter in enumerate(result) if letter not in left])
