"""Rounding with gradients: what `qtx.quantization.rounding` and `qtx.quantization.interceptor` do, for training."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax

from qtx.quantization.affine import make_grid, tiled
from qtx.quantization.granularity import Token
from qtx.quantization.plan import Planned, Range
from qtx.quantization.qat.learned_step import fake_quantize_learned, fake_quantize_straight_through


def round_to_learned_range(
    x: jax.Array, r: Range, planned: Planned, size: float | None = None, where: jax.Array | None = None
) -> jax.Array:
    """Rounds as `round_to_range` does without a basis, with gradients.

    Args:
      x, planned, where: as in `round_to_range`.
      r: the bits and the learned part of the range (see `learned_step.Learnable`), of one layer.
      size: how many values the tensor counts as having, which share its ranges; None: as many as `x` has.
    """
    if isinstance(planned.granularity, Token):
        minimum, maximum = planned.granularity.ends(x, where)
        return fake_quantize_straight_through(x, make_grid(minimum, maximum, r["bits"], planned.symmetric))
    learned = {name: tiled(value, x.shape) for name, value in r.items() if name != "bits"}
    share = (x.size if size is None else size) / math.prod(r["step"].shape)
    return fake_quantize_learned(x, learned, r["bits"], share)


def to_learned_range(site: Any, y: jax.Array, r: Range, planned: Planned, where: jax.Array | None) -> jax.Array:
    """Rounds the output `y` of a site, or of a table, as `to_range` does, with gradients."""
    # All weights of a table count, but of an activation only the values of one example: the gradient must not depend on
    # how a batch is divided into microbatches.
    size = site.num_embeddings * site.features if isinstance(site, nn.Embed) else y.size / len(y)
    return round_to_learned_range(y, r, planned, size, where)
