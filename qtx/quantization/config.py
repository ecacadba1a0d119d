"""The quantization section of a config: a recipe, a method and the bit-widths to report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least
from qtx.foundation.variants import make_variant
from qtx.models import TransformerConfig
from qtx.quantization.estimators import ESTIMATORS, MinMax, Mse
from qtx.quantization.granularity import GRANULARITIES, Granularity, Token
from qtx.quantization.methods import Method, make_method
from qtx.quantization.recipe import Quantizer, Recipe, read_exempt
from qtx.quantization.recipes import RECIPES, find_recipe
from qtx.quantization.recipes.cache import SCHEME, with_cache
from qtx.quantization.recipes.recorded import as_data

Granularities = dict[str, Callable[..., Granularity | Token]]


@dataclasses.dataclass(frozen=True)
class QuantizationConfig(Checked):
    """The options of post-training quantization, by default the paper's: symmetric weights, asymmetric static
    activations, per tensor.

    Attributes:
      recipe: what is quantized: a name in `RECIPES`, "file.py:function" for one of your own, or "recipe.json"
        for the rules that a run has recorded.
      schemes: bit-widths to report, each as w<weight bits>a<activation bits>, e.g. "w8a8"; and kv<bits> behind it,
        e.g. "w8a8kv4", gives keys and values as a cache holds them other bits, dynamic for each token and head.
      method: a name in `METHODS`, with options after commas, or several in turn: "smoothquant,alpha=0.6 + gptq". The
        next four take options too.
      weight_estimator: a name in `ESTIMATORS`, or "auto": min-max from 8 bits on, MSE below (the paper's BERT and ViT).
      weight_granularity: "tensor", or "channel": a range per output channel of every matrix; or "input_group": a range
        per output channel and group of 128 inputs of every kernel (tables: per output channel).
      activation_estimator: a name in `ESTIMATORS`, e.g. "running_minmax,percentile=99.99" (the paper's OPT).
      activation_granularity: "tensor", "group" (PEG: groups of dimensions, at the sites as wide as the embedding), or
        "token" (dynamic: nothing is calibrated).
      calibration_batches: how many batches of training data set the activation ranges.
      exempt: tensors of other bits than the scheme's, each as "layers/mlp/out[5]=float" or "layers/mlp/out/kernel=16";
        `qtx quantize --target` finds them.
      sensitivity_batches: how many held-out batches `qtx sensitivity` measures every site on.

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
    calibration_batches: Annotated[int, at_least(1, "e.g. 16")] = 16
    sensitivity_batches: Annotated[int, at_least(1, "e.g. 16")] = 4
    exempt: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        find_recipe(self.recipe)
        self.make_method()
        if isinstance(self.exempt, str) or not all(isinstance(text, str) for text in self.exempt):
            raise QtxError(f"exempt is {self.exempt!r}: expected a tuple of texts, e.g. ('layers/mlp/out[5]=float',)")
        for text in self.exempt:
            read_exempt(text)
        if not self.schemes:
            raise QtxError("schemes is empty: expected at least one, e.g. ('w8a8',)")
        for scheme in self.schemes:
            self.quantizers(scheme)

    def quantizers(self, scheme: str) -> tuple[Quantizer, Quantizer]:
        """Makes the weight and the activation quantizer of a scheme such as "w8a8"."""
        match = re.fullmatch(SCHEME, scheme)
        if match is None:
            raise QtxError(
                f"scheme {scheme!r}: expected w<weight bits>a<activation bits>, e.g. 'w8a8', and perhaps kv<bits of "
                "keys and values, 2 to 16>, e.g. 'w8a8kv4'"
            )
        weight_bits, activation_bits = int(match[1]), int(match[2])
        weight_estimators = {"auto": MinMax if weight_bits >= 8 else Mse, **ESTIMATORS}
        of_weights: Granularities = {name: cls for name, cls in GRANULARITIES.items() if cls.of_weights}
        of_activations: Granularities = {name: cls for name, cls in GRANULARITIES.items() if cls.of_activations}
        weight = Quantizer(
            weight_bits,
            True,
            make_variant(weight_estimators, "weight_estimator", self.weight_estimator),
            make_variant(of_weights, "weight_granularity", self.weight_granularity),
        )
        activation = Quantizer(
            activation_bits,
            False,
            make_variant(ESTIMATORS, "activation_estimator", self.activation_estimator),
            make_variant(of_activations, "activation_granularity", self.activation_granularity),
        )
        return weight, activation

    def make_method(self) -> Method:
        """Makes the method that the config names."""
        return make_method(self.method)

    def make_recipe(self, scheme: str, model: TransformerConfig) -> Recipe:
        """Makes the recipe for a model under a scheme."""
        recipe = find_recipe(self.recipe)(model, *self.quantizers(scheme))
        return dataclasses.replace(with_cache(recipe, model, scheme), exempt=tuple(map(read_exempt, self.exempt)))

    def recorded_rules(self, schemes: Iterable[str], model: TransformerConfig) -> dict[str, Any]:
        """Returns the rules of a recipe that is in no registry, by scheme, for a run to keep (see `recipes.recorded`).

        A registered recipe gives none. A scheme whose rules have parts in no registry, such as the user's own
        estimators, cannot be recorded and is left out.
        """
        if self.recipe in RECIPES:
            return {}
        schemes = dict.fromkeys(scheme.partition("kv")[0] for scheme in schemes)  # `make_recipe` adds the cache's rules
        entries = {s: as_data(self.make_recipe(s, model), *self.quantizers(s)) for s in schemes}
        return {scheme: entry for scheme, entry in entries.items() if entry is not None}
