"""One linear map from the whole input to all heads."""

from __future__ import annotations

import dataclasses

from qtx.attention.gates.base import BiasedGate, DenseGate, bias_of


@dataclasses.dataclass(frozen=True)
class AllHeadsLinearGate(BiasedGate, DenseGate):
    """Linear gate G(x) = W x + b, W `[H * D, H]`: every head sees the whole input; H (H D + 1) parameters (Table 4)."""

    @property
    def initial_bias(self):
        return bias_of(self.pi)

    def logits_per_head(self, head_dim):
        return 1
