"""One linear map from the whole input to all heads."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from qtx.attention.gates.base import OPENNESS, DenseGate, bias_of


@dataclasses.dataclass(frozen=True)
class AllHeadsLinearGate(DenseGate):
    """Linear gate G(x) = W x + b, W `[H * D, H]`: every head sees the whole input; H (H D + 1) parameters (Table 4).

    Attributes:
      pi: the initial openness; the bias starts at `bias_of(pi)`.
    """

    pi: Annotated[float, OPENNESS] = 0.5

    @property
    def initial_openness(self):
        return self.pi

    @property
    def initial_bias(self):
        return bias_of(self.pi)

    def logits_per_head(self, head_dim):
        return 1
