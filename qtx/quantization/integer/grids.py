"""The int8 grids of a calibrated model, from its ranges."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtx.errors import QtxError
from qtx.quantization.basis import basis_of
from qtx.quantization.calibration import Quantized
from qtx.quantization.integer.tensor import int8_grid
from qtx.quantization.integer.wiring import INPUT, Wiring
from qtx.quantization.weights import STACK, Plan, Ranges, is_table

Fields = dict[str, jax.Array]
"""A grid's fields, each a scalar, `[L]` under `layers/`, or with a trailing `[F]`, and its basis; see `on_grid`."""

MOST_BITS = 8
AFTER_EACH = f"{STACK}mlp_norm"
"""The site whose output enters a post-LN model's other blocks."""


@dataclasses.dataclass(frozen=True)
class Grids:
    """The grids of sites (and of look-ups, by the path of their module) and of weights, by path."""

    sites: dict[str, Fields]
    weights: dict[str, Fields]

    def integer(self, site: str) -> bool:
        """Whether a site's output is integers in every layer."""
        return site in self.sites and "on" not in self.sites[site]

    def same_basis(self, site: str, weight: str) -> bool:
        """Whether a site and a weight that multiplies it are in the same basis, so that their integers may meet."""
        left, right = basis_of(self.sites[site]), basis_of(self.weights[weight])
        return left.keys() == right.keys() and all(jnp.array_equal(left[name], right[name]) for name in left)


def read_grids(quantized: Quantized, wiring: Wiring) -> Grids:
    """All grids.

    Raises:
      QtxError: naming the tensor that int8 cannot hold.
    """
    weights = _grids("weight", quantized.weight_plan, quantized.weight_ranges)
    sites = _grids("activation", quantized.activation_plan, quantized.activation_ranges)
    for site in sorted(wiring.operands & sites.keys()):
        _check_operand(site, sites[site])
    sites |= {path.removesuffix("/embedding"): grid for path, grid in weights.items() if is_table(path)}
    # What enters a post-LN model's first block: OPT-350m has no LayerNorm there.
    first = "embeddings/norm" if "norm" in quantized.params["embeddings"] else "embeddings/sum"
    entering = None if wiring.pre_norm else _entering(sites, first)
    return Grids(sites | ({INPUT: entering} if entering else {}), weights)


def _check_operand(site: str, grid: Fields) -> None:
    """Raises QtxError if a site that products sum over has a scale per channel: in `[L]` or, outside the layers, `()`
    there is one per tensor."""
    if grid["scale"].ndim > site.startswith(STACK):
        raise QtxError(
            f"the activation {site!r} has a range per channel: an integer product can only sum over channels of one "
            "scale, so expected one range per tensor: set config.quantization.activation_granularity=tensor"
        )


def _grids(kind: str, plan: Plan, ranges: Ranges) -> dict[str, Fields]:
    result = {}
    for planned in plan:
        path, r = planned.path, ranges[planned.path]
        if "minimum" not in r:
            raise QtxError(
                f"the {kind} {path!r} has a range per token, made while it runs: integers expect static "
                "ranges, one per tensor"
            )
        bits = jnp.asarray(r["bits"])
        if bits.max() > MOST_BITS:
            raise QtxError(
                f"the {kind} {path!r} has {bits.max():.0f} bits: integers expect 2 to {MOST_BITS}, e.g. those of the "
                "scheme 'w8a8'"
            )
        on = bits > 0
        if on.any():
            result[path] = int8_grid(r["minimum"], r["maximum"], jnp.where(on, bits, MOST_BITS), planned.symmetric)
            result[path] |= basis_of(r)
            if not on.all():
                result[path]["on"] = on
    return result


def _entering(sites: dict[str, Fields], before: str) -> Fields | None:
    """The grid of what enters each layer `[L]`, if it is integers in all of them: that of what left the one before."""
    if not {before, AFTER_EACH} <= sites.keys():
        return None
    first, later = sites[before], sites[AFTER_EACH]
    # The last layer's grid does not enter a block, so whether it is on does not matter.
    if (
        "on" in first
        or not later.get("on", jnp.ones(1, bool))[:-1].all()
        or basis_of(first).keys() != basis_of(later).keys()
    ):
        return None
    _check_operand(before, first)
    if len(later["low"]) == 1:
        return {name: value[None] for name, value in first.items()}
    _check_operand(AFTER_EACH, later)
    return {name: jnp.concatenate([value[None], later[name][:-1]]) for name, value in first.items()}
