"""One openness per head and dimension, by a linear map without bias."""

from __future__ import annotations

import dataclasses

from qtx.attention.gates.base import DenseGate


@dataclasses.dataclass(frozen=True)
class ElementwiseGate(DenseGate):
    """context * sigmoid(W x), W `[H * D, H * D]`, element by element (Qiu et al. 2025, arXiv 2505.06708, whose best
    variant it is)."""

    def logits_per_head(self, head_dim):
        return head_dim
