"""One linear map from the whole input to all heads."""

from __future__ import annotations

import dataclasses

from qtx.attention.gates.base import Gate


@dataclasses.dataclass(frozen=True)
class AllHeadsLinearGate(Gate):
    """G(x) = W x + b with W `[H * D, H]`: every head sees the whole input; H (H D + 1) parameters (Table 4)."""

    def shapes(self, num_heads, head_dim):
        return {"kernel": (num_heads * head_dim, num_heads), "bias": (num_heads,)}

    def __call__(self, parameters, x):
        return x.reshape(*x.shape[:2], -1) @ parameters["kernel"] + parameters["bias"]
