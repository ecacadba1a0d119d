"""The interface of post-training quantization methods, and `Static`, the method that changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import flax.linen as nn

from qtx.quantization.basis import Bases
from qtx.quantization.plan import Plan, Ranges
from qtx.quantization.recipe import Recipe
from qtx.quantization.weights import quantize_weights


@dataclasses.dataclass(frozen=True)
class Method:
    """The base of post-training quantization methods, which are frozen dataclasses of their options. It has three
    steps; a method overrides those that it does otherwise than the paper.

    The calibration batches of all steps are the same, and may be iterated over any number of times.
    """

    def adapt(self, recipe: Recipe) -> Recipe:
        """Returns the recipe to follow instead of `recipe`."""
        return recipe

    def find_bases(self, module: nn.Module, params: Any, batches: Iterable[dict[str, Any]]) -> Bases:
        """Returns the bases to quantize in; called before any range is estimated."""
        return {}

    def round_weights(
        self, module: nn.Module, params: Any, plan: Plan, ranges: Ranges, batches: Iterable[dict[str, Any]]
    ) -> Any:
        """Returns the parameters with every weight in `plan` on its range's grid, embedding tables as they were."""
        return quantize_weights(plan, params, ranges)


@dataclasses.dataclass(frozen=True)
class Static(Method):
    """The paper's method (Bondarenko et al. 2023, eq. 1): rounding to nearest on static grids."""
