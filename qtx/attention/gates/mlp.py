"""One small MLP per head."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from qtx.attention.gates.base import PerHeadGate, bias_of, module_per_head
from qtx.attention.parameters import Parameter
from qtx.foundation.limits import at_least


@dataclasses.dataclass(frozen=True)
class MlpGate(PerHeadGate):
    """MLP gate, G_h(x) = v_h . relu(W_h x_h + c_h) + b_h: H (n (D + 2) + 1) parameters (the paper's Table 4).

    Attributes:
      hidden: n hidden units per head; 4 and 64 in the paper's Table 5, D / 4 in its official code (16 in BERT-base).
    """

    hidden: Annotated[int, at_least(1, "e.g. 16")] = 16

    def parameters(self, num_heads, head_dim):
        return {
            "hidden_kernel": Parameter((num_heads, head_dim, self.hidden)),
            "hidden_bias": Parameter((num_heads, self.hidden), 0.0),
            "kernel": Parameter((num_heads, self.hidden)),
            "bias": Parameter((num_heads,), bias_of(self.pi)),
        }

    def __call__(self, parameters, x):
        hidden = jnp.einsum("bthd,hdn->bthn", x, parameters["hidden_kernel"]) + parameters["hidden_bias"]
        logits = jnp.einsum("bthn,hn->bth", jax.nn.relu(hidden), parameters["kernel"]) + parameters["bias"]
        return logits[..., None]

    def pytorch(self, own):
        return module_per_head(own)
