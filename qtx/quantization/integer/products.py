"""Matrix products of integers: int8 x int8 -> int32, corrected for zero-points in integers, scaled once.

    sum_d s_x (x_d - z_x) s_w (w_d - z_w) = s_x s_w (sum_d x_d w_d - z_x sum_d w_d - z_w sum_d x_d + D z_x z_w)

(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
eq. 7). All of the bracket is exact in int32, so that the only rounding is that of the final scaling.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from qtx.quantization.integer.tensor import Tensor


def dense(x: Tensor, node: Mapping[str, jax.Array]) -> jax.Array:
    """x W + b, float32 `[..., F]`.

    Args:
      x: `[..., D]`.
      node: "kernel" `[D, F]`, int8 with "kernel_scale" (scalar or `[F]`) and, unless they are all 0,
        "kernel_zero_point" (same), or float32; "bias" `[F]`; and, where `x` and the kernel are both integers, "offset"
        `[F]` int32: the terms of the zero-points that do not depend on x. ("kernel_bits" is for readers of the file.)
    """
    kernel = node["kernel"]
    rows = x.real if x.integers is None or "offset" not in node else x.integers
    if rows is x.real:
        if "kernel_scale" in node:
            kernel = node["kernel_scale"] * (kernel.astype(jnp.float32) - node.get("kernel_zero_point", 0))
        y = _flat_dot(rows, kernel)
    else:
        assert x.grid is not None
        total = _flat_dot(rows, kernel) + node["offset"]
        if "kernel_zero_point" in node:
            total -= node["kernel_zero_point"].astype(jnp.int32) * _sum(rows, -1)
        y = total.astype(jnp.float32) * (x.grid.scale * node["kernel_scale"])
    return y + node["bias"]


def _flat_dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[..., D]` with `[D, F]` as one `[N, D] x [D, F]` product; int32 for int8, float32 for float32."""
    kind = jnp.int32 if kernel.dtype == jnp.int8 else jnp.float32
    rows = x.reshape(-1, x.shape[-1])
    total = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), preferred_element_type=kind)
    return total.reshape(*x.shape[:-1], kernel.shape[-1])


def scores(query: Tensor, key: Tensor, heads: int) -> jax.Array:
    """query . key of each head, scaled by D^-0.5: `[B, T, H * D]` and `[B, S, H * D]` -> float32 `[B, H, T, S]`."""
    width = query.real.shape[-1] // heads
    if query.integers is None or key.integers is None:
        return jnp.einsum("bthd,bshd->bhts", _split(query.real, heads) * width**-0.5, _split(key.real, heads))
    assert query.grid is not None and key.grid is not None
    q, k = _split(query.integers, heads), _split(key.integers, heads)
    total = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.int32)
    z_q, z_k = (grid.zero_point.astype(jnp.int32) for grid in (query.grid, key.grid))
    # Each sum is [B, T, H, 1]: turned to lie along the queries, or along the keys.
    total -= z_k * _sum(q, -1).transpose(0, 2, 1, 3) + z_q * _sum(k, -1).transpose(0, 2, 3, 1) - width * z_q * z_k
    return total.astype(jnp.float32) * (query.grid.scale * key.grid.scale * width**-0.5)


def context(probs: Tensor, value: Tensor, heads: int) -> jax.Array:
    """probs x value: `[B, H, T, S]` and `[B, S, H * D]` -> float32 `[B, T, H * D]`."""
    batch, _, length, keys = probs.real.shape
    shape = (batch, length, value.real.shape[-1])
    if probs.integers is None or value.integers is None:
        return jnp.einsum("bhts,bshd->bthd", probs.real, _split(value.real, heads)).reshape(shape)
    assert probs.grid is not None and value.grid is not None
    p, v = probs.integers, _split(value.integers, heads)
    total = jnp.einsum("bhts,bshd->bthd", p, v, preferred_element_type=jnp.int32)
    z_p, z_v = (grid.zero_point.astype(jnp.int32) for grid in (probs.grid, value.grid))
    total -= z_v * _sum(p, -1).transpose(0, 2, 1, 3) + z_p * _sum(v, 1) - keys * z_p * z_v
    return (total.astype(jnp.float32) * (probs.grid.scale * value.grid.scale)).reshape(shape)


def _split(x: jax.Array, heads: int) -> jax.Array:
    """`[B, T, H * D]` -> `[B, T, H, D]`."""
    return x.reshape(*x.shape[:-1], heads, -1)


def _sum(integers: jax.Array, axis: int) -> jax.Array:
    """The int32 sum over an axis, kept with length 1."""
    return jnp.sum(integers, axis, dtype=jnp.int32, keepdims=True)
