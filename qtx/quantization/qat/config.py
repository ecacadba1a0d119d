"""The quantization-aware training section of a config."""

from __future__ import annotations

import dataclasses

from qtx.quantization.config import QuantizationConfig


@dataclasses.dataclass(frozen=True)
class QatConfig:
    """Quantization-aware training: fine-tuning of a trained model, that of `config.start`, through its fake-quantizers.

    Ranges are calibrated as `config.quantization` says (recipe, estimators, granularities; its method is that of
    post-training quantization alone), and then trained with the weights.

    Attributes:
      scheme: bit-widths, w<weight bits>a<activation bits>; empty: no quantization-aware training.
      learn_ranges: train the ranges too, or leave them as calibrated.

    Raises:
      QtxError: for a malformed scheme.
    """

    scheme: str = ""
    learn_ranges: bool = True

    def __post_init__(self):
        if self.scheme:
            QuantizationConfig().quantizers(self.scheme)
