"""Quantization-aware training: a model run through its fake-quantizers, as something that can be trained.

`QatModel` has the `init` and `apply` of a Flax module, so the training loop can train it like one. Its parameters are
those of the model, in floating point, and the ranges of its quantizers:

    model/layers/mlp/out/kernel                      [L, D, F]
    ranges/weights/layers/mlp/out/kernel/step        [L], [L, F] per channel, [L, G, F] in groups of inputs; and /low
    ranges/activations/layers/mlp/out/step           [L]; and /offset

LSQ's step and LSQ+'s offset of each range are learned (`qtx.quantization.qat.learned_step`); the range's ends follow
from step and offset.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.anatomy import Parameter, Role, read
from qtx.foundation.errors import QtxError
from qtx.parts import Part
from qtx.quantization import float32_only
from qtx.quantization.calibration import Quantized, range_collection, tables_of
from qtx.quantization.granularity import Group, Token
from qtx.quantization.interceptor import fake_quantized
from qtx.quantization.plan import Planned, QuantizerPlan, Ranges, ends_shape, flatten, make_plan, quantizers_of, spread
from qtx.quantization.qat.interceptor import round_to_learned_range, to_learned_range
from qtx.quantization.qat.learned_step import ends, learnable
from qtx.quantization.recipe import Quantizer, Recipe
from qtx.quantization.weights import map_weights, quantize_weights


class Learned(NamedTuple):
    """The static part of a quantizer: its bits, its leading (layer) shape, and the shape of an end, None if dynamic."""

    planned: Planned
    bits: int
    leading: tuple[int, ...]
    shape: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class QatModel:
    """A model whose quantized weights and sites are rounded with straight-through gradients; see `make_qat_model`.

    Attributes:
      module: the model.
      weights, activations: the quantizers of weights and of sites.
      learn_ranges: whether ranges get gradients.
    """

    module: nn.Module
    weights: tuple[Learned, ...]
    activations: tuple[Learned, ...]
    learn_ranges: bool

    @property
    def config(self) -> Any:
        """Returns the module's config."""
        module: Any = self.module
        return module.config

    def init(self, rngs: Any, batch: Any, **options: Any) -> dict[str, Any]:
        """Returns the model's variables and, for shapes and axes, ranges of zeros: training starts from `start`."""
        empty = {
            f"{kind}/{learned.planned.path}/{name}": jnp.zeros(learned.shape)
            for kind, table in self._kinds
            for learned in table
            for name in _names(learned.planned)
            if learned.shape is not None
        }
        params = self.module.init(rngs, batch, **options)["params"]
        return {"params": {"model": params, "ranges": traverse_util.unflatten_dict(empty, sep="/")}}

    def described(self, batch: Any) -> dict[str, Parameter]:
        """Returns what is known of each parameter, by path: those of the model, and the ranges."""
        anatomy = read(self.module, batch)
        ranges = {
            f"ranges/{kind}/{planned.path}/{name}": anatomy.stack_of(planned.path)
            for kind, table in self._kinds
            for planned, *_ in table
            for name in _names(planned)
        }
        found = {path: Parameter(path, (), stack, (), Role.RANGE, Part.OTHER) for path, stack in ranges.items()}
        return found | {f"model/{path}": one for path, one in anatomy.parameters.items()}

    def apply(self, variables: Any, batch: Any, *, step: Any = None, **options: Any) -> Any:
        """Returns what the module's `apply` does, computed on quantized values, in float32, as by `Quantized`: what is
        trained is what will be measured. `step` is ignored: whatever anneals in pre-training is over."""
        params = variables["params"]
        ranges = params["ranges"] if self.learn_ranges else jax.lax.stop_gradient(params["ranges"])
        weight_ranges, activation_ranges = self._learned(ranges)
        rounded = map_weights(self.weight_plan, params["model"], weight_ranges, round_to_learned_range)
        collection = range_collection(activation_ranges, weight_ranges)
        with fake_quantized(self.activation_plan + tables_of(self.weight_plan), to_learned_range):
            return float32_only.apply(self.module, {"params": rounded, "ranges": collection}, batch, **options)

    def start(self, params: Any, calibrated: Quantized) -> dict[str, Any]:
        """Returns the parameters to train from.

        Args:
          params: the model's parameters, in floating point.
          calibrated: the model quantized after training, by the same recipe.
        """
        given = {"weights": calibrated.weight_ranges, "activations": calibrated.activation_ranges}
        started = {
            f"{kind}/{path}/{name}": value
            for kind, table in self._kinds
            for (path, symmetric, *_), bits, _, shape in table
            if shape is not None
            for name, value in learnable(
                given[kind][path]["minimum"], given[kind][path]["maximum"], bits, symmetric
            ).items()
        }
        return {"model": params, "ranges": traverse_util.unflatten_dict(started, sep="/")}

    def quantized(self, params: Any) -> Quantized:
        """Returns the quantized model that `params`, those of `apply`, describe."""
        weight_ranges, activation_ranges = (_with_ends(ranges) for ranges in self._learned(params["ranges"]))
        rounded = quantize_weights(self.weight_plan, params["model"], weight_ranges)
        return Quantized(self.module, rounded, self.weight_plan, self.activation_plan, weight_ranges, activation_ranges)

    @property
    def weight_plan(self) -> QuantizerPlan:
        """Says which weights are quantized, and how."""
        return tuple(learned.planned for learned in self.weights)

    @property
    def activation_plan(self) -> QuantizerPlan:
        """Says which activations are quantized, and how."""
        return tuple(learned.planned for learned in self.activations)

    @property
    def _kinds(self) -> tuple[tuple[str, tuple[Learned, ...]], ...]:
        return ("weights", self.weights), ("activations", self.activations)

    def _learned(self, tree: Any) -> tuple[Ranges, Ranges]:
        """Returns the bits and the learned parts of ranges by path, those of weights and those of activations."""
        flat = flatten(tree)

        def of(kind: str, table: tuple[Learned, ...]) -> Ranges:
            return {
                planned.path: {
                    "bits": spread(bits, leading),
                    **{name: flat[f"{kind}/{planned.path}/{name}"] for name in _names(planned) if shape is not None},
                }
                for planned, bits, leading, shape in table
            }

        weights, activations = (of(kind, table) for kind, table in self._kinds)
        return weights, activations


def _names(planned: Planned) -> tuple[str, str]:
    """Names the parameters of a quantizer; see `qtx.quantization.qat.learned_step.Learnable`."""
    return "step", "low" if planned.symmetric else "offset"


def _with_ends(learned: Ranges) -> Ranges:
    """Computes the ranges that steps and offsets describe; the bits are one value for every layer."""

    def of(bits: jax.Array, **values: jax.Array) -> dict[str, jax.Array]:
        if not values:
            return {"bits": bits}
        minimum, maximum = ends(values, bits.reshape(-1)[0])
        return {"bits": bits, "minimum": minimum, "maximum": maximum}

    return {path: of(**r) for path, r in learned.items()}


def make_qat_model(module: nn.Module, recipe: Recipe, batch: dict[str, Any], learn_ranges: bool = True) -> QatModel:
    """Makes a model to be trained under a recipe.

    Args:
      module: the model.
      recipe: what to quantize, and how.
      batch: gives shapes only.
      learn_ranges: whether to train the ranges with the weights, or leave them as calibrated.

    Raises:
      QtxError: if the recipe does not fit the model, or ranges of groups are to be learned.
    """
    if recipe.exempt:
        raise QtxError("exempt tensors are for quantization after training: set config.quantization.exempt=()")
    anatomy = read(module, batch)
    shapes = {path: one.shape for path, one in anatomy.parameters.items()}
    shapes |= {path: (site.features,) for path, site in anatomy.sites.items()}

    def learned(found: dict[str, Quantizer]) -> tuple[Learned, ...]:
        return tuple(
            _learned(p, found[p.path], anatomy.leading(p.path), shapes[p.path], learn_ranges) for p in make_plan(found)
        )

    weights, activations = map(learned, quantizers_of(anatomy, recipe))
    return QatModel(module, weights, activations, learn_ranges)


def _learned(
    planned: Planned, quantizer: Quantizer, leading: tuple[int, ...], shape: tuple[int, ...], learn_ranges: bool
) -> Learned:
    if isinstance(planned.granularity, Token):
        return Learned(planned, quantizer.bits, leading, None)
    if learn_ranges and isinstance(planned.granularity, Group):
        raise QtxError(
            f"{planned.path!r} is quantized in groups, whose shared ranges cannot be learned: set "
            "config.qat.learn_ranges=False, or another config.quantization.activation_granularity"
        )
    return Learned(planned, quantizer.bits, leading, (*leading, *ends_shape(planned, shape)))
