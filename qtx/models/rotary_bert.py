"""BERT with rotary positions and gated feed-forward networks: Nomic's BERT (Nussbaum et al. 2024) and GTE (Zhang et al.
2024)."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import numpy as np

from qtx.foundation.limits import at_least, one_of, positive
from qtx.models.activations import ACTIVATIONS
from qtx.models.bert import BertConfig
from qtx.models.rotary import frequencies


@dataclasses.dataclass(frozen=True)
class RotaryBertConfig(BertConfig):
    """The options of a post-LN encoder with rotary positions, by default those of nomic-embed-text-v1.

    Attributes:
      attention_bias, mlp_out_bias: whether the projections of the attention, and the last layer of the feed-forward
        networks, have biases (GTE).
      rotary_base: theta.
      rotary_factor: see `qtx.models.rotary.frequencies`.
    """

    gated: ClassVar[bool] = True
    mlp_bias: ClassVar[bool] = False
    learned_positions: ClassVar[bool] = False

    activation: Annotated[str, one_of(ACTIVATIONS)] = "silu"  # type: ignore[misc]
    dropout: float = 0.0
    attention_dropout: float = 0.0
    max_length: int = 2048
    attention_bias: bool = False  # type: ignore[misc]
    mlp_out_bias: bool = False  # type: ignore[misc]
    rotary_base: Annotated[float, positive()] = 1000.0
    rotary_factor: Annotated[float, at_least(1)] = 1.0

    @property
    def per_layer(self) -> dict[str, Any]:
        turned = frequencies(self.width // self.num_heads, self.rotary_base, self.rotary_factor)
        return {"frequencies": np.tile(turned, (self.num_layers, 1))}
