"""The quantization section of a config: a recipe, a method and the bit-widths to report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from qtx.foundation.errors import QtxError, lookup
from qtx.models import TransformerConfig
from qtx.quantization.estimators import ESTIMATORS, RunningMinMax
from qtx.quantization.granularity import GRANULARITIES, Group
from qtx.quantization.methods import METHODS
from qtx.quantization.recipe import Quantizer, Recipe
from qtx.quantization.recipes import RECIPES, find_recipe
from qtx.quantization.recipes.recorded import as_data


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """Post-training quantization; by default as the paper does it: symmetric weights, asymmetric static activations,
    per tensor.

    Attributes:
      recipe: what is quantized: a name in `RECIPES`, "file.py:function" for one of your own, or "recipe.json", the
        rules of one that a run has recorded.
      schemes: bit-widths to report, each as w<weight bits>a<activation bits>, e.g. "w8a8".
      method: a name in `METHODS`.
      weight_estimator: a name in `ESTIMATORS`, or "auto": min-max at 8 bits and more, MSE below (the paper's BERT and
        ViT).
      weight_granularity: "tensor", or "channel": a range per output channel of every matrix.
      activation_estimator: a name in `ESTIMATORS`.
      activation_granularity: "tensor", "group" (PEG: groups of dimensions, at the sites as wide as the embedding), or
        "token" (dynamic: nothing is calibrated).
      groups: of "group".
      percentile: with running_minmax, activation ranges from this percentile instead of the extremes (the paper's OPT:
        99.99, 99.999).
      momentum: of the running min-max.
      calibration_batches: batches of training data that set the activation ranges.
      sensitivity_batches: held-out batches that `qtx sensitivity` measures every site on.

    Raises:
      QtxError: for an unknown name, a malformed scheme, or options that do not go together.
    """

    recipe: str = "paper_bert"
    schemes: tuple[str, ...] = ("w8a8", "w6a8", "w4a8", "w6a6")
    method: str = "static"
    weight_estimator: str = "auto"
    weight_granularity: str = "tensor"
    activation_estimator: str = "running_minmax"
    activation_granularity: str = "tensor"
    groups: int = 4
    percentile: float | None = None
    momentum: float = 0.9
    calibration_batches: int = 16
    sensitivity_batches: int = 4

    def __post_init__(self):
        find_recipe(self.recipe)
        lookup(METHODS, "method", self.method)
        lookup({"auto": 0, **ESTIMATORS}, "weight_estimator", self.weight_estimator)
        lookup(ESTIMATORS, "activation_estimator", self.activation_estimator)
        for_weights = {name: GRANULARITIES[name] for name in ("tensor", "channel")}
        for_activations = {name: GRANULARITIES[name] for name in ("tensor", "group", "token")}
        lookup(for_weights, "weight_granularity", self.weight_granularity)
        lookup(for_activations, "activation_granularity", self.activation_granularity)
        if self.percentile is not None and self.activation_estimator != "running_minmax":
            raise QtxError(
                f"percentile is {self.percentile}, but activation_estimator is {self.activation_estimator!r}: "
                "percentiles are of 'running_minmax'"
            )
        for name in ("calibration_batches", "sensitivity_batches"):
            if getattr(self, name) < 1:
                raise QtxError(f"{name} is {getattr(self, name)}: expected at least 1, e.g. 16")
        if not self.schemes:
            raise QtxError("schemes is empty: expected at least one, e.g. ('w8a8',)")
        for scheme in self.schemes:
            self.quantizers(scheme)

    def quantizers(self, scheme: str) -> tuple[Quantizer, Quantizer]:
        """The weight and the activation quantizer of a scheme such as "w8a8"."""
        match = re.fullmatch(r"w(\d+)a(\d+)", scheme)
        if match is None:
            raise QtxError(f"scheme {scheme!r}: expected w<weight bits>a<activation bits>, e.g. 'w8a8'")
        weight_bits, activation_bits = int(match[1]), int(match[2])
        name = self.weight_estimator
        if name == "auto":
            name = "minmax" if weight_bits >= 8 else "mse"
        weight = Quantizer(weight_bits, True, ESTIMATORS[name](), GRANULARITIES[self.weight_granularity]())
        activation = Quantizer(activation_bits, False, self._activation_estimator(), self._activation_granularity())
        return weight, activation

    def make_recipe(self, scheme: str, model: TransformerConfig) -> Recipe:
        """The recipe for a model under a scheme."""
        return find_recipe(self.recipe)(model, *self.quantizers(scheme))

    def recorded_rules(self, schemes: Iterable[str], model: TransformerConfig) -> dict[str, Any]:
        """Scheme to the rules of a recipe that is in no registry, for a run to keep (see `recipes.recorded`).

        Empty for a registered recipe; without what cannot be recorded, rules with estimators of the user's own.
        """
        if self.recipe in RECIPES:
            return {}
        entries = {s: as_data(self.make_recipe(s, model), *self.quantizers(s)) for s in dict.fromkeys(schemes)}
        return {scheme: entry for scheme, entry in entries.items() if entry is not None}

    def _activation_estimator(self) -> Any:
        if self.activation_estimator == "running_minmax":
            return RunningMinMax(self.momentum, self.percentile)
        return ESTIMATORS[self.activation_estimator]()

    def _activation_granularity(self) -> Any:
        if self.activation_granularity == "group":
            return Group(self.groups)
        return GRANULARITIES[self.activation_granularity]()
