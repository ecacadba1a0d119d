"""Interceptors that calibrate or fake-quantize every site of a model that knows nothing of quantization.

Ranges live in the variable collection `ranges`, estimator states in `calibration`; both are shaped like the module
tree, with a leading layer axis under the scanned `layers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from qtx import masks
from qtx.foundation.batch import Batch
from qtx.masks import Mask
from qtx.quantization.basis import basis_of, enter
from qtx.quantization.granularity import Token
from qtx.quantization.plan import Planned, QuantizerPlan, Range
from qtx.quantization.rounding import round_to_range
from qtx.sites import SITES_AND_TABLES, on_sites, part_of


def to_range(site: Any, y: jax.Array, r: Range, planned: Planned, where: jax.Array | None) -> jax.Array:
    """Rounds the output `y` of a site, or of a table, to the grid of its range, of one layer."""
    return round_to_range(y, r, planned, where)


@contextlib.contextmanager
def fake_quantized(plan: QuantizerPlan, rounding: Callable[..., jax.Array] = to_range) -> Iterator[None]:
    """Rounds the sites and look-ups in `plan`, within the context, by the ranges of the `ranges` collection."""
    by_path = {planned.path: planned for planned in plan}

    def quantize(site, path, y, mask):
        return rounding(site, y, site.get_variable("ranges", "range"), by_path[path], seen(mask))

    with on_sites(quantize, by_path, SITES_AND_TABLES):
        yield


@contextlib.contextmanager
def calibrating(plan: QuantizerPlan, tables: QuantizerPlan, module: nn.Module, batch: Batch) -> Iterator[None]:
    """Calibrates the sites in `plan` on `batch`, which the module sees within the context: each site's range is updated
    with the site's values that count, then the site is rounded to this range. So later sites calibrate on inputs that
    are already quantized, as in the paper's code. Look-ups in `tables` are only rounded."""
    by_path = {planned.path: planned for planned in plan}

    def update(site, path, y, mask):
        planned, r = by_path[path], site.get_variable("ranges", "range")
        if not isinstance(planned.granularity, Token):
            state = planned.granularity.update(
                planned.estimator,
                site.get_variable("calibration", "state"),
                enter(y, basis_of(r)),
                r["bits"],
                planned.symmetric,
                counted(planned, site, y, module, batch, mask),
            )
            minimum, maximum = planned.granularity.result(planned.estimator, state)
            r = {**r, "minimum": minimum, "maximum": maximum}
            site.put_variable("calibration", "state", state)
            site.put_variable("ranges", "range", r)
        return round_to_range(y, r, planned, seen(mask))

    with fake_quantized(tables), on_sites(update, by_path, SITES_AND_TABLES):
        yield


def counted(
    planned: Planned, site: nn.Module, y: jax.Array, module: nn.Module, batch: Batch, mask: Mask | None
) -> jax.Array | None:
    """Says which values of a site's output `y` count for its static range, broadcasting to `y`; None: all."""
    return None if planned.count_padding else masks.counted(y.shape, batch, mask, module, part_of(site))


def seen(mask: Mask | None) -> jax.Array | None:
    """Says which values of a row count for its dynamic range, broadcasting to a site's output; None: all."""
    return None if mask is None else mask.dense()
