"""Dynamic activations: one range per token, found while the model runs."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from qtx.quantization.granularity import Token, TokenGroup
from qtx.quantization.methods.base import Method
from qtx.quantization.recipe import Rule


@dataclasses.dataclass(frozen=True)
class PerToken(Method):
    """Token-wise dynamic activations, static weights (ZeroQuant, Yao et al. 2022, section 4.1).

    Row n of an activation x `[N, D]` gets the grid of its own extremes, [min_d x_nd, max_d x_nd] widened to include 0,
    so that an outlier token costs no other token its precision. An outlier dimension, which is large in every token,
    still sets the step of every row. In integers, the rows' scales multiply the product's rows, so a matrix product
    stays one product; each row is read once more, for its extremes. Bits and symmetry are the recipe's; the recipe's
    activation estimators and granularities have no say, but for ranges of
    a row's groups, as a cache's, which are dynamic and finer already.
    """

    makes = ("recipe",)
    granularity: ClassVar[Token] = Token()

    def adapt(self, recipe):
        def dynamic(rule: Rule) -> Rule:
            if rule.quantizer is None or isinstance(rule.quantizer.granularity, TokenGroup):
                return rule
            return dataclasses.replace(
                rule, quantizer=dataclasses.replace(rule.quantizer, granularity=self.granularity)
            )

        return dataclasses.replace(recipe, activations=tuple(dynamic(rule) for rule in recipe.activations))
