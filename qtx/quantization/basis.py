"""Quantizing a tensor in another basis: what SmoothQuant and rotations do, without touching the model.

If x W = (x M) (M^-1 W), the integers may hold x M and M^-1 W instead of x and W. A range that carries M, as "smooth" s
`[D]` (M = diag(1/s)) or "rotation" R `[D, D]` (M = R, orthogonal), is the range of the tensor in that basis: the tensor
enters the basis, is rounded there, and leaves. In floating point nothing changes, for any M.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Basis = Mapping[str, jax.Array]
Bases = Mapping[str, Basis]
"""The basis of each site or weight by path, with a leading `[L]` under `layers/`."""

BASIS_KEYS = ("smooth", "rotation")


def basis_of(r: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns the part of a range that is its basis; empty if that is the tensor's own."""
    return {name: r[name] for name in BASIS_KEYS if name in r}


def enter(x: jax.Array, basis: Basis, weight: bool = False) -> jax.Array:
    """Brings an activation `[..., D]` into a basis, as x M, or a weight `[D, F]`, as M^-1 W. A weight vector `[D]` is
    the scale of the LayerNorm that makes the activation, and enters as the activation does."""
    weight = weight and x.ndim > 1
    if "smooth" in basis:
        return x * basis["smooth"][:, None] if weight else x / basis["smooth"]
    if "rotation" in basis:
        return _product(basis["rotation"].T, x) if weight else _product(x, basis["rotation"])
    return x


def leave(x: jax.Array, basis: Basis, weight: bool = False) -> jax.Array:
    """Brings a tensor out of a basis: the inverse of `enter`."""
    weight = weight and x.ndim > 1
    if "smooth" in basis:
        return x / basis["smooth"][:, None] if weight else x * basis["smooth"]
    if "rotation" in basis:
        return _product(basis["rotation"], x) if weight else _product(x, basis["rotation"].T)
    return x


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    # By default, accelerators multiply float32 in fewer bits, with a larger error than a 16-bit grid's.
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
