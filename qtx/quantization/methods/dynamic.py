"""Dynamic activations: one range per tensor, found while the model runs."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from qtx.quantization.granularity import Call, Token
from qtx.quantization.methods.per_token import PerToken


@dataclasses.dataclass(frozen=True)
class Dynamic(PerToken):
    """Tensor-wise dynamic activations, static weights, as in the dynamic quantization of PyTorch and ONNX Runtime.

    An activation gets the grid of the smallest and the largest of all its values at a call: nothing is calibrated, and
    no value is cut off, but an outlier costs every other value of the call its precision, those of other examples too.
    """

    granularity: ClassVar[Token] = Call()
