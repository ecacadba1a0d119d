"""One linear map per head."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qtx.attention.gates.base import Gate


@dataclasses.dataclass(frozen=True)
class LinearGate(Gate):
    """G_h(x) = w_h . x_h + b_h on the head's own slice of the input: H (D + 1) parameters (the paper's Table 4)."""

    def shapes(self, num_heads, head_dim):
        return {"kernel": (num_heads, head_dim), "bias": (num_heads,)}

    def __call__(self, parameters, x):
        return jnp.einsum("bthd,hd->bth", x, parameters["kernel"]) + parameters["bias"]
