"""One openness per head, by a linear map without bias."""

from __future__ import annotations

import dataclasses

from qtx.attention.gates.base import DenseGate


@dataclasses.dataclass(frozen=True)
class HeadwiseGate(DenseGate):
    """Head-wise gate, context * sigmoid(W x), W `[H * D, H]` (Qiu et al. 2025, arXiv 2505.06708, "Gated attention for
    large language models")."""

    def logits_per_head(self, head_dim):
        return 1
