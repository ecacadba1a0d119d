"""The quantization-aware training section of a config."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least, positive
from qtx.quantization.config import QuantizationConfig


@dataclasses.dataclass(frozen=True)
class QatConfig(Checked):
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
      noise_from: the updates that are done before the noise begins, so that what it explodes on may be trained away.
      noise_limit: the norm that the gradient of the quantized half of a batch is scaled down to where it exceeds it,
        apart from that of the other half, which it would drown: in a model that integers ruin it reaches 1e19; None:
        there is no such limit. A microbatch (`training.accumulation_steps`) has it as a batch does.

    Raises:
      QtxError: for malformed bit-widths, or for both scheme and noise.
    """

    scheme: str = ""
    learn_ranges: bool = True
    noise: str = ""
    noise_from: Annotated[int, at_least(0)] = 0
    noise_limit: Annotated[float | None, positive("e.g. 1.0")] = None

    def __post_init__(self):
        super().__post_init__()
        for scheme in filter(None, (self.scheme, self.noise)):
            QuantizationConfig().quantizers(scheme)
        if self.scheme and self.noise:
            raise QtxError(
                f"scheme is {self.scheme!r} and noise is {self.noise!r}: what is trained through fake-quantizers has "
                "their noise already; set one of them to ''"
            )
