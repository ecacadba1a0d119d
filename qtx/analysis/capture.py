"""This module knows which tensors of a model the paper measures, and captures them in one forward pass."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from qtx import sites
from qtx.families import MeasuredSites, family_of
from qtx.foundation.batch import Batch
from qtx.quantization import Quantized, float32_only


def measured_sites(module: nn.Module) -> MeasuredSites:
    """Returns the sites that the paper measures in the family of a module."""
    return family_of(module.config).measured(module.config)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["module"])
@dataclasses.dataclass(frozen=True)
class FloatingPoint:
    """A module with its unboxed parameters, to compare `qtx.quantization.Quantized` with: in float32 like the quantized
    model, so that the difference is what the integers cost, and not bfloat16."""

    module: nn.Module
    params: Any

    def apply(self, batch: Batch, collections: Mapping[str, Any] = MappingProxyType({}), **kwargs: Any) -> Any:
        """Returns the model's output for a batch; `collections` are further variables of the module, such as a
        cache."""
        return float32_only.apply(self.module, {"params": self.params, **collections}, batch, **kwargs)


Model = FloatingPoint | Quantized
"""A model to be analysed. Both kinds are pytrees with a static module: pass them to compiled functions as arguments."""


def values_at(model: Model, batch: Batch, paths: Collection[str], step: Any = None) -> dict[str, Any]:
    """Runs the model and returns the values of its sites, each with a leading layer axis. To be called under `jax.jit`.

    A site that the model does not have (such as `layers/attention/gate` without a gate) is left out.

    Args:
      model: a model in floating point or quantized; sites of a quantized model hold rounded values.
      batch: the module's input.
      paths: the sites' paths, e.g. `"layers/mlp/out"`.
      step: training step, for normalizers that anneal; None: fully trained.
    """
    return sites.capture(model.apply, paths, dict(batch), train=False, step=step)[1]
