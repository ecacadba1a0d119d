"""The interface of post-training quantization methods, and `Static`, the method that changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn

from qtx.foundation.limits import Checked
from qtx.quantization.basis import Bases
from qtx.quantization.methods.problem import Problem
from qtx.quantization.plan import settled
from qtx.quantization.recipe import Recipe
from qtx.quantization.weights import quantize_weights


@dataclasses.dataclass(frozen=True)
class Method(Checked):
    """The base of post-training quantization methods, which are frozen dataclasses of their options. It has four
    steps; a method overrides those that it does otherwise than the paper.

    Attributes:
      makes: what the method makes, of "recipe", the kinds of `qtx.quantization.basis.BASES` and "weights". In a list,
        each method makes what comes later in this order than all that those before it make. A method that does not
        say what it makes goes alone.
    """

    makes: ClassVar[tuple[str, ...]] = ()

    def adapt(self, recipe: Recipe) -> Recipe:
        """Returns the recipe to follow instead of `recipe`."""
        return recipe

    def rewrite(self, module: nn.Module, params: Any) -> tuple[nn.Module, Any]:
        """Returns the model to quantize instead, and its parameters: another way to compute the same function. Given a
        model that it has made, with the original's parameters, it returns the same."""
        return module, params

    def find_bases(self, problem: Problem) -> Bases:
        """Returns the bases to quantize in, by path, beside those that `problem` has already."""
        return {}

    def round_weights(self, problem: Problem) -> Any:
        """Returns the parameters with every weight on the grid of its range in `problem`, embedding tables as they
        were."""
        return quantize_weights(settled(problem.plan), problem.params, problem.ranges)


@dataclasses.dataclass(frozen=True)
class Static(Method):
    """The paper's method (Bondarenko et al. 2023, eq. 1): rounding to nearest on static grids."""
