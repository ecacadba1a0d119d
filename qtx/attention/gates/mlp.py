"""One small MLP per head."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.attention.gates.base import Gate
from qtx.errors import QtxError


@dataclasses.dataclass(frozen=True)
class MlpGate(Gate):
    """G_h(x) = v_h . relu(W_h x_h + c_h) + b_h: H (n (D + 2) + 1) parameters for n hidden units (the paper's Table 4).

    Attributes:
      hidden: hidden units n per head. The paper's Table 5 has 4 and 64; its official code uses D / 4 (16 in BERT-base).

    Raises:
      QtxError: if hidden < 1.
    """

    hidden: int = 16

    def __post_init__(self):
        super().__post_init__()
        if self.hidden < 1:
            raise QtxError(f"gate_hidden is {self.hidden}: expected at least 1 hidden unit, e.g. 16")

    def shapes(self, num_heads, head_dim):
        return {
            "hidden_kernel": (num_heads, head_dim, self.hidden),
            "hidden_bias": (num_heads, self.hidden),
            "kernel": (num_heads, self.hidden),
            "bias": (num_heads,),
        }

    def __call__(self, parameters, x):
        hidden = jnp.einsum("bthd,hdn->bthn", x, parameters["hidden_kernel"]) + parameters["hidden_bias"]
        return jnp.einsum("bthn,hn->bth", jax.nn.relu(hidden), parameters["kernel"]) + parameters["bias"]
