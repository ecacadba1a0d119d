"""Rounding of weights and sites with gradients: what `qtx.quantization.weights` and `interceptor` do, for training."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax

from qtx.quantization.affine import make_grid
from qtx.quantization.granularity import Token
from qtx.quantization.interceptor import SITES_AND_TABLES, counted
from qtx.quantization.qat.learned_step import fake_quantize_ste, round_ste
from qtx.quantization.weights import Plan, Planned, Ranges, map_weights
from qtx.sites import on_sites


def round_straight_through(
    x: jax.Array, r: dict[str, jax.Array], planned: Planned, size: float, where: jax.Array | None = None
) -> jax.Array:
    """As `round_to_grid`, with gradients.

    Args:
      x, planned, where: as there.
      r: the bits and what is learned (see `ste.Learnable`).
      size: how many values count as a tensor's, which its ranges share.
    """
    if isinstance(planned.granularity, Token):
        minimum, maximum = planned.granularity.ends(x, where)
        return round_ste(x, make_grid(minimum, maximum, r["bits"], planned.symmetric))
    learned = {name: value for name, value in r.items() if name != "bits"}
    return fake_quantize_ste(x, learned, r["bits"], size / math.prod(r["step"].shape))


def round_weights(plan: Plan, params: Any, ranges: Ranges) -> Any:
    """As `quantize_weights`, with gradients."""
    return map_weights(
        plan, params, ranges, lambda weight, r, planned: round_straight_through(weight, r, planned, weight.size)
    )


@contextlib.contextmanager
def straight_through(plan: Plan) -> Iterator[None]:
    """As `fake_quantized`, with gradients."""
    by_path = {planned.path: planned for planned in plan}

    def quantize(site, path, y, mask):
        # Of a table all its weights count; of an activation those of one example, since the gradient must not depend on
        # how a batch is divided into microbatches.
        size = site.num_embeddings * site.features if isinstance(site, nn.Embed) else y.size / len(y)
        planned, r = by_path[path], site.get_variable("ranges", "range")
        return round_straight_through(y, r, planned, size, counted(planned, mask))

    with on_sites(quantize, by_path, SITES_AND_TABLES):
        yield
