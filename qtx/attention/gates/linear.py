"""One linear map per head."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qtx.attention.gates.base import PerHeadGate, bias_of, module_per_head
from qtx.attention.parameters import Parameter


@dataclasses.dataclass(frozen=True)
class LinearGate(PerHeadGate):
    """Linear gate, G_h(x) = w_h . x_h + b_h on the head's own slice x_h: H (D + 1) parameters (the paper's Table 4)."""

    def parameters(self, num_heads, head_dim):
        return {"kernel": Parameter((num_heads, head_dim)), "bias": Parameter((num_heads,), bias_of(self.pi))}

    def __call__(self, parameters, x):
        return (jnp.einsum("bthd,hd->bth", x, parameters["kernel"]) + parameters["bias"])[..., None]

    def pytorch(self, own):
        return module_per_head(own)
