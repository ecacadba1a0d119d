"""An orthogonal matrix R `[D, D]`: the integers hold x R and R^T W."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from qtx.quantization.basis.base import Kind

# By default, accelerators multiply float32 in fewer bits, with a larger error than a 16-bit grid's.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

ROTATION = Kind(
    2,
    enter=_product,
    leave=lambda x, r: _product(x, r.T),
    enter_weight=lambda w, r: _product(r.T, w),
    leave_weight=lambda w, r: _product(r, w),
)
