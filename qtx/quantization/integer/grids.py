"""int8 grids, as arrays by name, and those of a calibrated model."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from qtx.anatomy import Origin
from qtx.foundation.errors import QtxError
from qtx.quantization.affine import Grid, fake_quantize, make_grid
from qtx.quantization.basis import basis_of, enter, leave
from qtx.quantization.calibration import Quantized
from qtx.quantization.plan import TABLE, QuantizerPlan, Ranges, is_table

Fields = dict[str, jax.Array]
"""A grid as arrays: `Grid`'s fields, each a scalar, or `[F]` over a tensor's last axis; the basis to round in, if not
the tensor's own; and "on", a scalar, if the recipe quantizes a site in some layers only: the scanned program, which all
layers share, then carries the site in floating point, rounded where on. All have a leading `[L]` under `layers/`."""

MOST_BITS = 8
SHIFT = 128
"""Subtracted from an unsigned grid's integers and zero-point: [0, 255] becomes [-128, 127], the real values stay."""


@functools.partial(jax.jit, static_argnames=("symmetric",))
def int8_grid(minimum: jax.Array, maximum: jax.Array, bits: jax.Array, symmetric: bool) -> Fields:
    """Makes the grid of `make_grid`, with the integers of an unsigned grid shifted to int8.

    Args:
      minimum, maximum: real ends of the range, of the same shape.
      bits: 2 to 8; broadcasts to `minimum` from the left.
      symmetric: whether the unshifted grid's zero-point is fixed at 0.
    """
    minimum = jnp.asarray(minimum, jnp.float32)
    bits = jnp.asarray(bits, jnp.float32)
    bits = jnp.broadcast_to(bits.reshape(bits.shape + (1,) * (minimum.ndim - bits.ndim)), minimum.shape)
    grid = make_grid(minimum, maximum, bits, symmetric)
    shift = jnp.where(grid.low < 0, 0, SHIFT)
    fields = {
        "scale": grid.scale,
        "zero_point": grid.zero_point - shift,
        "low": grid.low - shift,
        "high": grid.high - shift,
    }
    return {name: jnp.broadcast_to(value, minimum.shape) for name, value in fields.items()}


def grid_of(fields: Fields) -> Grid:
    """Returns the grid alone, without basis and "on"."""
    return Grid(**{name: fields[name] for name in ("scale", "zero_point", "low", "high")})


def on_grid(y: jax.Array, fields: Fields) -> jax.Array:
    """Rounds `y` `[..., F]` to a grid, in the grid's basis, where the grid is on."""
    grid, basis = grid_of(fields), basis_of(fields)
    y = enter(y, basis)
    rounded = fake_quantize(y, grid)
    return leave(jnp.where(fields["on"], rounded, y) if "on" in fields else rounded, basis)


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
        if source is None or fields is None:
            return None
        if source.last:
            return _in_layers(fields, -1)
        if source.later is None or "on" in fields:
            return None if "on" in fields else fields
        first = {name: value[None] for name, value in fields.items()}
        if len(self.sites.get(source.later, {"low": ()})["low"]) == 1:  # a single layer's output enters no layer
            return first
        # Nor does the last layer's, so whether the grid is on there does not matter.
        others = _in_layers(self._one_scale(source.later), slice(-1))
        if others is None or basis_of(first).keys() != basis_of(others).keys():
            return None
        return {name: jnp.concatenate([value, others[name]]) for name, value in first.items()}

    def _one_scale(self, site: str) -> Fields | None:
        fields = self.sites.get(site)
        if fields is not None and fields["scale"].ndim > (site in self.stacked):
            kind, path = ("weight", site + TABLE) if site + TABLE in self.weights else ("activation", site)
            raise QtxError(
                f"the {kind} {path!r} has a range per channel: an integer product can only sum over channels of one "
                f"scale, so expected one range per tensor: set config.quantization.{kind}_granularity=tensor"
            )
        return fields


def _in_layers(fields: Fields | None, layers: int | slice) -> Fields | None:
    """Returns the grids of some layers, without "on"; None if there is none, or it is off in one of these layers."""
    if fields is None or not fields.get("on", jnp.ones(1, bool))[layers].all():
        return None
    return {name: value[layers] for name, value in fields.items() if name != "on"}


def same_basis(left: Fields, right: Fields) -> bool:
    """Says whether the integers of two grids are in the same basis, so that a product may take both. A kernel that all
    layers share has one basis, and what enters has one in each layer."""
    bases = basis_of(left), basis_of(right)
    return bases[0].keys() == bases[1].keys() and all(bool((x == bases[1][name]).all()) for name, x in bases[0].items())


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


def _grids(kind: str, plan: QuantizerPlan, ranges: Ranges) -> dict[str, Fields]:
    result = {}
    for planned in plan:
        path, r = planned.path, ranges[planned.path]
        if "minimum" not in r:
            raise QtxError(
                f"the {kind} {path!r} has ranges that are made while it runs: integers expect static ones, "
                "one per tensor"
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
