"""The int8 grids of a calibrated model, from its ranges."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qtx.anatomy import Origin
from qtx.foundation.errors import QtxError
from qtx.quantization.basis import basis_of
from qtx.quantization.calibration import Quantized
from qtx.quantization.integer.grid import Fields, int8_grid
from qtx.quantization.plan import TABLE, Plan, Ranges, is_table

MOST_BITS = 8


@dataclasses.dataclass(frozen=True)
class Grids:
    """The grids of sites (and of look-ups, by the path of their module) and of weights, by path; and which sites have
    a grid for each layer."""

    sites: dict[str, Fields]
    weights: dict[str, Fields]
    stacked: frozenset[str]

    def of(self, source: Origin | None) -> Fields | None:
        """Returns the grid that a product's operand lies on; None if, in some layer, the operand is in floating point.

        Raises:
          QtxError: if the grid has a scale per channel, over which a product of integers cannot sum.
        """
        fields = None if source is None or source.site is None else self._one_scale(source.site)
        if source is None or fields is None or (source.later is None and not source.last):
            return None if fields is None or "on" in fields else fields
        if source.last:
            on = fields.get("on", jnp.ones(1, bool))[-1]
            return {name: value[-1] for name, value in fields.items() if name != "on"} if on else None
        assert source.later is not None
        if len(self.sites.get(source.later, {"low": ()})["low"]) == 1:  # a single layer's output enters no layer
            return None if "on" in fields else {name: value[None] for name, value in fields.items()}
        later = self._one_scale(source.later)
        # The last layer's grid does not enter a layer, so whether it is on does not matter.
        if later is None or "on" in fields or not later.get("on", jnp.ones(1, bool))[:-1].all():
            return None
        if basis_of(fields).keys() != basis_of(later).keys():
            return None
        return {name: jnp.concatenate([value[None], later[name][:-1]]) for name, value in fields.items()}

    def _one_scale(self, site: str) -> Fields | None:
        fields = self.sites.get(site)
        if fields is not None and fields["scale"].ndim > (site in self.stacked):
            raise QtxError(
                f"the activation {site!r} has a range per channel: an integer product can only sum over channels of "
                "one scale, so expected one range per tensor: set config.quantization.activation_granularity=tensor"
            )
        return fields


def same_basis(left: Fields, right: Fields) -> bool:
    """Says whether the integers of two grids are in the same basis, so that a product may take both."""
    bases = basis_of(left), basis_of(right)
    return bases[0].keys() == bases[1].keys() and all(
        jnp.array_equal(x, bases[1][name]) for name, x in bases[0].items()
    )


def read_grids(quantized: Quantized) -> Grids:
    """Returns the grids of all quantized tensors.

    Raises:
      QtxError: for a tensor that int8 cannot hold, with its name.
    """
    weights = _grids("weight", quantized.weight_plan, quantized.weight_ranges)
    sites = _grids("activation", quantized.activation_plan, quantized.activation_ranges)
    tables = {path.removesuffix(TABLE): grid for path, grid in weights.items() if is_table(path)}
    stacked = frozenset(path for path, r in quantized.activation_ranges.items() if r["bits"].ndim)
    return Grids(sites | tables, weights, stacked)


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
        if jnp.ndim(r["minimum"]) > bits.ndim + 1:
            raise QtxError(
                f"the {kind} {path!r} has a range per group of inputs: an integer product can only sum over inputs of "
                "one scale: set config.quantization.weight_granularity=channel"
            )
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
