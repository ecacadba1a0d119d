"""Learning from a teacher, which adds its outputs to each batch (`qtx.losses.distillation` compares with them).

Distillation (Hinton et al. 2015) here changes how a model computes, not what: the teacher is the model as it was.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.foundation.batch import Batch
from qtx.losses.divergences import HIDDEN, LOGITS, OF_LAYERS, matched
from qtx.sites import capture

LAYERS = ("all", "last")


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen model whose outputs are the targets.

    Attributes:
      module: the model, with or without a head.
      load: returns the model's parameters, on the devices; called when they are first needed.
      layers: the layers whose outputs are given, a name in `LAYERS`.
    """

    module: nn.Module
    load: Callable[[], Any]
    layers: str = "all"

    @functools.cached_property
    def params(self) -> Any:
        """Returns the parameters, which are loaded once."""
        return self.load()

    def outputs(self, batch: Batch) -> Batch:
        """Returns a batch with the teacher's final outputs added, to measure by: `teacher_logits` or, if it has no
        head, `teacher_hidden`, the hidden states `[B, T, width]` or the embedding `[B, D]` that it makes."""
        return with_targets(self.module, "none", self.params, dict(batch))

    def targets(self, batch: Batch) -> Batch:
        """Returns the batch of `outputs` with `teacher_layers/` and the path of each compared site added,
        `[B, L, T, width]`, to train by."""
        return with_targets(self.module, self.layers, self.params, dict(batch))


@functools.partial(jax.jit, static_argnums=(0, 1))
def with_targets(module: nn.Module, layers: str, params: Any, batch: Batch) -> Batch:
    """Returns a batch with a module's final outputs added, and its outputs of `layers`, in `LAYERS` or "none"."""
    config: Any = module.config
    last = layers == "last"
    sites = () if layers == "none" else matched(module, batch)[-1 if last else 0 :]
    final, captured = capture(module.apply, sites, {"params": params}, batch)
    name = HIDDEN if getattr(config, "head", None) == "none" else LOGITS
    of_layers = {OF_LAYERS + site: jnp.moveaxis(captured[site][-1 if last else 0 :], 0, 1) for site in sites}
    return {**batch, name: final, **of_layers}
