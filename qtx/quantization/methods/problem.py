"""The problem that a method is given: a model, what is to be quantized in it and how, and the data to look at."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.anatomy import Anatomy
from qtx.quantization.basis import Bases
from qtx.quantization.methods.inputs import Statistic, of_inputs
from qtx.quantization.plan import QuantizerPlan, Ranges, check_finite, make_plan, weights_of
from qtx.quantization.recipe import Quantizer, Recipe, resolve
from qtx.quantization.weights import weight_ranges


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A model to quantize. What follows from the attributes is computed when a method first asks for it.

    Attributes:
      anatomy: what the model is made of.
      module, params: the model, computing in float32, and its parameters in floating point.
      recipe: what to quantize, to how many bits, and which values share a range.
      batches: the calibration batches, which may be iterated over any number of times.
      bases: the bases found so far, of sites and weights, by path.
    """

    anatomy: Anatomy
    module: nn.Module
    params: Any
    recipe: Recipe
    batches: Iterable[dict[str, Any]]
    bases: Bases = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def quantizers(self) -> Mapping[str, Quantizer]:
        """Returns how each weight is quantized, by path.

        Raises:
          QtxError: if the recipe does not fit the model.
        """
        return resolve(self.recipe.weights, weights_of(self.anatomy), "weight")

    @functools.cached_property
    def plan(self) -> QuantizerPlan:
        """Returns the static part of the weights' quantization."""
        return make_plan(self.quantizers)

    @functools.cached_property
    def bits(self) -> dict[str, jax.Array]:
        """Returns the bits of each weight by path, a scalar or `[L]`."""
        leading = self.anatomy.leading
        return {path: jnp.asarray(self.recipe.bits(path, q.bits, leading(path))) for path, q in self.quantizers.items()}

    @functools.cached_property
    def ranges(self) -> Ranges:
        """Returns the ranges of the weights, in the bases found so far.

        Raises:
          QtxError: if one is not finite, or a granularity cannot divide its weight.
        """
        bases = {path: self.bases[path] for path in self.bits if path in self.bases}
        found = weight_ranges(self.plan, self.params, self.bits, bases)
        check_finite(found, "weight")
        return found

    def inputs(
        self, layers: Iterable[str], statistic: Statistic, combine: Callable[[Any, Any], Any], in_bases: bool = False
    ) -> dict[str, Any]:
        """Computes a statistic of what dense layers multiply in the floating-point model; one pass over the batches.

        Args:
          layers: paths of the layers; others than dense layers are left out.
          statistic, combine: as in `of_inputs`.
          in_bases: whether the inputs enter the bases found so far.

        Returns:
          The statistics by path, with a leading `[L]` in a stack of layers.
        """
        layers = tuple(layers)
        bases = {layer: self.bases.get(f"{layer}/kernel", {}) for layer in layers} if in_bases else {}
        return of_inputs(self.module, self.params, self.batches, layers, statistic, combine, bases)

    def with_bases(self, found: Bases) -> Problem:
        """Returns the problem with further bases: a tensor that has one already enters both."""
        bases = {path: {**self.bases.get(path, {}), **found.get(path, {})} for path in {**self.bases, **found}}
        return dataclasses.replace(self, bases=bases)
