"""What a post-training quantization method may change, and the one that changes nothing."""

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
    """The base of post-training quantization methods: three steps, of which a method overrides those that it does
    otherwise than the paper. A frozen dataclass of its options.

    The calibration batches of all steps are the same, and may be iterated over any number of times.
    """

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe to follow."""
        return recipe

    def find_bases(self, module: nn.Module, params: Any, batches: Iterable[dict[str, Any]]) -> Bases:
        """The bases to quantize in, before any range is estimated."""
        return {}

    def round_weights(
        self, module: nn.Module, params: Any, plan: Plan, ranges: Ranges, batches: Iterable[dict[str, Any]]
    ) -> Any:
        """The parameters with every weight in `plan` on the grid of its range, embedding tables as they were."""
        return quantize_weights(plan, params, ranges)


@dataclasses.dataclass(frozen=True)
class Static(Method):
    """The paper's (Bondarenko et al. 2023, eq. 1): nearest rounding on static grids."""
