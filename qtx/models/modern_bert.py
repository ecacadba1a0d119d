"""ModernBERT (Warner et al. 2024): pre-LN, rotary positions, local and global attention, gated feed-forward networks,
no biases."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import numpy as np

from qtx.foundation.limits import at_least, one_of, positive
from qtx.masks import EVERYWHERE
from qtx.models.bert import BertConfig
from qtx.models.rotary import frequencies


@dataclasses.dataclass(frozen=True)
class ModernBertConfig(BertConfig):
    """The options of ModernBERT, by default ModernBERT-base. The first layer has no norm before its attention.

    Attributes:
      global_every: one layer in so many, the first among them, sees tokens at any distance.
      local_distance: how far the other layers see, in tokens.
      global_base, local_base: theta in these layers.
      text_pooling: which hidden state a head of whole texts reads, `"cls"` or `"mean"`.
    """

    pre_norm: ClassVar[bool] = True
    gated: ClassVar[bool] = True
    attention_bias: ClassVar[bool] = False
    mlp_bias: ClassVar[bool] = False
    mlp_out_bias: ClassVar[bool] = False
    norm_bias: ClassVar[bool] = False
    learned_positions: ClassVar[bool] = False
    transform_bias: ClassVar[bool] = False
    transforms_all: ClassVar[bool] = True

    num_layers: int = 22
    mlp_width: int = 1152
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5
    max_length: int = 8192
    type_vocab_size: int = 0
    global_every: Annotated[int, at_least(1)] = 3
    local_distance: Annotated[int, at_least(0)] = 64
    global_base: Annotated[float, positive()] = 160_000.0
    local_base: Annotated[float, positive()] = 10_000.0
    text_pooling: Annotated[str, one_of(("cls", "mean"))] = "cls"  # type: ignore[misc]

    @property
    def per_layer(self) -> dict[str, Any]:
        everywhere = np.arange(self.num_layers) % self.global_every == 0
        of_all, of_near = (frequencies(self.width // self.num_heads, x) for x in (self.global_base, self.local_base))
        return {
            "window": np.where(everywhere, EVERYWHERE, self.local_distance + 1).astype(np.int32),
            "frequencies": np.where(everywhere[:, None], of_all, of_near),
            "normed": np.arange(self.num_layers) > 0,
        }
