"""One openness per head and dimension, by a linear map without bias."""

from __future__ import annotations

import dataclasses

from qtx.attention.gates.base import DenseGate


@dataclasses.dataclass(frozen=True)
class ElementwiseGate(DenseGate):
    """Element-wise gate context * sigmoid(W x), W `[H * D, H * D]`: the best of Qiu et al. 2025 (arXiv 2505.06708)."""

    def logits_per_head(self, head_dim):
        return head_dim
