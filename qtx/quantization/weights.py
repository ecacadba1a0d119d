"""Quantization of weights: a pure map over the parameter tree."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.quantization.basis import Bases, basis_of, enter, leave
from qtx.quantization.plan import Plan, Planned, Range, Ranges, ends_shape, flatten, is_table, over_layers
from qtx.quantization.rounding import grid_of_range, round_to_range


@functools.partial(jax.jit, static_argnames=("plan",))
def weight_ranges(plan: Plan, params: Any, bits: dict[str, jax.Array], bases: Bases) -> Ranges:
    """Returns the range of every weight in `plan`.

    Args:
      plan: which weights, and how.
      params: the parameter tree.
      bits: the bits of each weight by path, a scalar or `[L]`.
      bases: by path, the bases of the weights that are not quantized in their own.
    """
    flat, result = flatten(params), {}
    for planned in plan:
        path, basis = planned.path, dict(bases.get(planned.path, {}))

        def estimate(weight, b, basis, planned=planned):
            weight = enter(weight, basis, weight=True)
            ends_shape(planned, weight.shape)  # tells the path of a weight that it refuses
            granularity, estimator = planned.granularity, planned.estimator
            state = granularity.init(estimator, weight.shape)
            return granularity.result(estimator, granularity.update(estimator, state, weight, b, planned.symmetric))

        minimum, maximum = over_layers(bits[path], estimate)(flat[path], bits[path], basis)
        result[path] = {"bits": bits[path], "minimum": minimum, "maximum": maximum, **basis}
    return result


@functools.partial(jax.jit, static_argnames=("plan",))
def quantize_weights(plan: Plan, params: Any, ranges: Ranges) -> Any:
    """Returns `params` with every weight in `plan` rounded to the nearest values of its grid.

    Embedding tables are left alone: their look-ups are quantized instead (see `Recipe`).
    """
    return map_weights(plan, params, ranges, functools.partial(round_to_range, weight=True))


def map_weights(plan: Plan, params: Any, ranges: Ranges, rounding: Callable[..., jax.Array]) -> Any:
    """Returns `params` with `rounding(weight, r, planned)`, layer by layer, for every weight in `plan` but tables."""
    flat = dict(flatten(params))
    for planned in plan:
        if not is_table(planned.path):
            rounded = over_layers(ranges[planned.path]["bits"], functools.partial(rounding, planned=planned))
            flat[planned.path] = rounded(flat[planned.path], ranges[planned.path])
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.partial(jax.jit, static_argnames=("planned",))
def to_integers(planned: Planned, weight: jax.Array, r: Range) -> jax.Array:
    """Returns the integers of a weight, of all layers, in the basis of its range `r`, as float32."""

    def of_layer(weight, r):
        return grid_of_range(r, planned).quantize(enter(weight, basis_of(r), weight=True))

    return over_layers(r["bits"], of_layer)(weight, r)


@functools.partial(jax.jit, static_argnames=("planned",))
def from_integers(planned: Planned, integers: jax.Array, r: Range) -> jax.Array:
    """Returns the weight of integers, float32: the inverse of `to_integers` for weights on the grid."""

    def of_layer(q, r):
        return leave(grid_of_range(r, planned).dequantize(q.astype(jnp.float32)), basis_of(r), weight=True)

    return over_layers(r["bits"], of_layer)(integers, r)
