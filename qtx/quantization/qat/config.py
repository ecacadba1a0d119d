"""The quantization-aware training section of a config."""

from __future__ import annotations

import dataclasses

from qtx.quantization.config import QuantizationConfig


@dataclasses.dataclass(frozen=True)
class QatConfig:
    """Quantization-aware training: fine-tuning of a trained model through its fake-quantizers.

    Ranges are calibrated as `config.quantization` says (recipe, estimators, granularities; its method is that of
    post-training quantization alone), and then trained with the weights.

    Attributes:
      start: the folder of the run whose last checkpoint to start from; empty: no quantization-aware training.
      scheme: bit-widths, w<weight bits>a<activation bits>.
      learn_ranges: train the ranges too, or leave them as calibrated.

    Raises:
      QtxError: for a malformed scheme.
    """

    start: str = ""
    scheme: str = "w4a8"
    learn_ranges: bool = True

    def __post_init__(self):
        QuantizationConfig().quantizers(self.scheme)
