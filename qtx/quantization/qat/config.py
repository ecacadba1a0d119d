"""The quantization-aware training section of a config."""

from __future__ import annotations

import dataclasses

from qtx.foundation.errors import QtxError
from qtx.quantization.config import QuantizationConfig


@dataclasses.dataclass(frozen=True)
class QatConfig:
    """The options of training that knows of quantization.

    `scheme` fine-tunes a trained model, that of `config.start`, through its fake-quantizers. Ranges are calibrated as
    `config.quantization` says (recipe, estimators, granularities; its method is for post-training quantization alone),
    and then trained with the weights.

    `noise` trains an ordinary model, but computes half of every batch quantized, so that quantization after training
    will cost the model less; see `qtx.quantization.qat.noise`. The noise is that of the family's recipe with a range
    per tensor, whatever `config.quantization` says.

    Attributes:
      scheme: bit-widths, w<weight bits>a<activation bits>; empty: no fake-quantizers.
      learn_ranges: whether to train the ranges too, or leave them as calibrated.
      noise: bit-widths of the noise, as in `scheme`; empty: no noise.

    Raises:
      QtxError: for malformed bit-widths, or for both scheme and noise.
    """

    scheme: str = ""
    learn_ranges: bool = True
    noise: str = ""

    def __post_init__(self):
        for scheme in filter(None, (self.scheme, self.noise)):
            QuantizationConfig().quantizers(scheme)
        if self.scheme and self.noise:
            raise QtxError(
                f"scheme is {self.scheme!r} and noise is {self.noise!r}: what is trained through fake-quantizers has "
                "their noise already; set one of them to ''"
            )
