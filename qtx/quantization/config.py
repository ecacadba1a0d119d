"""The quantization section of a config: a recipe and the bit-widths to report."""

from __future__ import annotations

import dataclasses
import re

from qtx.errors import QtxError, lookup
from qtx.models import TransformerConfig
from qtx.quantization.estimators import MinMax, Mse, RunningMinMax
from qtx.quantization.recipe import Quantizer, Recipe
from qtx.quantization.recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """Post-training quantization as the paper does it: symmetric weights, asymmetric static activations, per tensor.

    Attributes:
      recipe: what is quantized: a name in `RECIPES`.
      schemes: bit-widths to report, each as w<weight bits>a<activation bits>, e.g. "w8a8".
      weight_estimator: "minmax", "mse", or "auto": min-max at 8 bits and more, MSE below (the paper's BERT and ViT).
      percentile: activation ranges from this percentile instead of the extremes (the paper's OPT: 99.99, 99.999).
      momentum: of the running min-max.
      calibration_batches: batches of training data that set the activation ranges.

    Raises:
      QtxError: for an unknown recipe or estimator, or a malformed scheme.
    """

    recipe: str = "paper_bert"
    schemes: tuple[str, ...] = ("w8a8", "w6a8", "w4a8", "w6a6")
    weight_estimator: str = "auto"
    percentile: float | None = None
    momentum: float = 0.9
    calibration_batches: int = 16

    def __post_init__(self):
        lookup(RECIPES, "recipe", self.recipe)
        lookup({"auto": 0, "minmax": 0, "mse": 0}, "weight_estimator", self.weight_estimator)
        if self.calibration_batches < 1:
            raise QtxError(f"calibration_batches is {self.calibration_batches}: expected at least 1, e.g. 16")
        for scheme in self.schemes:
            self.quantizers(scheme)

    def quantizers(self, scheme: str) -> tuple[Quantizer, Quantizer]:
        """The weight and the activation quantizer of a scheme such as "w8a8"."""
        match = re.fullmatch(r"w(\d+)a(\d+)", scheme)
        if match is None:
            raise QtxError(f"scheme {scheme!r}: expected w<weight bits>a<activation bits>, e.g. 'w8a8'")
        weight_bits, activation_bits = int(match[1]), int(match[2])
        minmax = self.weight_estimator == "minmax" or (self.weight_estimator == "auto" and weight_bits >= 8)
        weight = Quantizer(weight_bits, symmetric=True, estimator=MinMax() if minmax else Mse())
        activation = Quantizer(
            activation_bits, symmetric=False, estimator=RunningMinMax(self.momentum, self.percentile)
        )
        return weight, activation

    def make_recipe(self, scheme: str, model: TransformerConfig) -> Recipe:
        """The recipe for a model under a scheme."""
        return RECIPES[self.recipe](model, *self.quantizers(scheme))
