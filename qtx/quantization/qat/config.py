"""The quantization-aware training section of a config."""

from __future__ import annotations

import dataclasses

from qtx.foundation.errors import QtxError
from qtx.quantization.config import QuantizationConfig


@dataclasses.dataclass(frozen=True)
class QatConfig:
    """Training that knows of quantization.

    With `scheme`: fine-tuning of a trained model, that of `config.start`, through its fake-quantizers. Ranges are
    calibrated as `config.quantization` says (recipe, estimators, granularities; its method is that of post-training
    quantization alone), and then trained with the weights.

    With `noise`: training of an ordinary model, half of every batch of which is computed quantized, so that
    quantization after training will cost it less; see `qtx.quantization.qat.noise`. It is that of the family's recipe
    with a range per tensor, whatever `config.quantization` says.

    Attributes:
      scheme: bit-widths, w<weight bits>a<activation bits>; empty: no fake-quantizers.
      learn_ranges: train the ranges too, or leave them as calibrated.
      noise: bit-widths; empty: no noise.

    Raises:
      QtxError: for a malformed scheme, or both.
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
