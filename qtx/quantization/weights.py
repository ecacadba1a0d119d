"""Weight quantization: a pure map over the parameter tree.

Weights under `layers/` carry a leading layer axis, and each layer has its own range.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.foundation.errors import QtxError
from qtx.quantization.affine import Grid, fake_quantize, make_grid
from qtx.quantization.basis import Bases, basis_of, enter, leave
from qtx.quantization.granularity import Token
from qtx.quantization.recipe import Quantizer
from qtx.sites import STACK


class Planned(NamedTuple):
    """What is static of one tensor's quantization; see `Quantizer`. Bits are data, so that every bit-width shares one
    compilation."""

    path: str
    symmetric: bool
    estimator: Any
    granularity: Any
    ignore_masked: bool


Plan = tuple[Planned, ...]

Ranges = dict[str, dict[str, jax.Array]]
"""Path to {"bits", "minimum", "maximum"}: bits a scalar, the ends `()` or `[D]` over the tensor's last axis, all with a
leading `[L]` under `layers/`. Bits 0 leave the tensor in floating point. Dynamic tensors have no ends. A range may also
have a basis (`qtx.quantization.basis`), in which it and the integers are."""

NORMALIZER = "layers/attention/normalizer/"


def make_plan(quantizers: dict[str, Quantizer]) -> Plan:
    """The static part of resolved quantizers."""
    return tuple(
        Planned(name, q.symmetric, q.estimator, q.granularity, q.ignore_masked)
        for name, q in sorted(quantizers.items())
    )


def round_to_grid(x: jax.Array, r: dict[str, jax.Array], planned: Planned, where: jax.Array | None = None) -> jax.Array:
    """`x` on the grid of its range `r`; as it is where bits are 0.

    Args:
      x: a weight or an activation of one layer, in the basis of its range.
      r: its entry of `Ranges`, of that layer.
      planned: its static part.
      where: the values that count, for dynamic ranges; None: all.
    """
    if isinstance(planned.granularity, Token):
        minimum, maximum = planned.granularity.ends(x, where)
    else:
        minimum, maximum = r["minimum"], r["maximum"]
    grid = make_grid(minimum, maximum, jnp.maximum(r["bits"], 2), planned.symmetric)
    return jnp.where(r["bits"] > 0, fake_quantize(x, grid), x)


def flatten(params: Any) -> dict[str, jax.Array]:
    """A parameter tree as {"layers/mlp/out/kernel": array}."""
    return traverse_util.flatten_dict(params, sep="/")


def weights_of(params: Any) -> dict[str, jax.Array]:
    """What a recipe's weight rules are about: all parameters but those of normalizers, which no product multiplies."""
    return {path: x for path, x in flatten(params).items() if not path.startswith(NORMALIZER)}


def over_layers(path: str, function: Any) -> Any:
    """`function`, mapped over the leading layer axis if `path` is stacked."""
    return jax.vmap(function) if path.startswith(STACK) else function


@functools.partial(jax.jit, static_argnames=("plan",))
def weight_ranges(plan: Plan, params: Any, bits: dict[str, jax.Array], bases: Bases) -> Ranges:
    """The range of every weight in `plan`.

    Args:
      plan: which weights, and how.
      params: the parameter tree.
      bits: path to bits, a scalar or `[L]`.
      bases: path to the basis that the weight is quantized in, for those that are not in their own.
    """
    flat, result = flatten(params), {}
    for planned in plan:
        if isinstance(planned.granularity, Token):
            raise QtxError(f"granularity 'token' is for activations: choose another for the weight {planned.path!r}")

        def estimate(weight, b, basis, planned=planned):
            weight = enter(weight, basis, weight=True)
            granularity, estimator = planned.granularity, planned.estimator
            state = granularity.init(estimator, weight.shape[-1])
            return granularity.result(estimator, granularity.update(estimator, state, weight, b, planned.symmetric))

        path, basis = planned.path, dict(bases.get(planned.path, {}))
        minimum, maximum = over_layers(path, estimate)(flat[path], bits[path], basis)
        result[path] = {"bits": bits[path], "minimum": minimum, "maximum": maximum, **basis}
    return result


@functools.partial(jax.jit, static_argnames=("plan",))
def quantize_weights(plan: Plan, params: Any, ranges: Ranges) -> Any:
    """`params` with every weight in `plan` rounded to its grid.

    Embedding tables are left alone: their look-ups are quantized instead (see `Recipe`).
    """
    return map_weights(plan, params, ranges, round_weight)


def map_weights(plan: Plan, params: Any, ranges: Ranges, rounding: Callable[..., jax.Array]) -> Any:
    """`params` with `rounding(weight, r, planned)`, of one layer, in place of every weight in `plan` but tables."""
    flat = dict(flatten(params))
    for planned in plan:
        if not is_table(planned.path):
            rounded = over_layers(planned.path, functools.partial(rounding, planned=planned))
            flat[planned.path] = rounded(flat[planned.path], ranges[planned.path])
    return traverse_util.unflatten_dict(flat, sep="/")


def round_weight(weight: jax.Array, r: dict[str, jax.Array], planned: Planned) -> jax.Array:
    """A weight of one layer, rounded in the basis of its range `r`."""
    basis = basis_of(r)
    return leave(round_to_grid(enter(weight, basis, weight=True), r, planned), basis, weight=True)


@functools.partial(jax.jit, static_argnames=("planned",))
def to_integers(planned: Planned, weight: jax.Array, r: dict[str, jax.Array]) -> jax.Array:
    """The integers of a weight, all layers, in the basis of its range `r`; as float32."""

    def of_layer(weight, r):
        return _grid_of(r, planned).quantize(enter(weight, basis_of(r), weight=True))

    return over_layers(planned.path, of_layer)(weight, r)


@functools.partial(jax.jit, static_argnames=("planned",))
def from_integers(planned: Planned, integers: jax.Array, r: dict[str, jax.Array]) -> jax.Array:
    """The inverse of `to_integers` for what is on the grid, float32."""

    def of_layer(q, r):
        return leave(_grid_of(r, planned).dequantize(q.astype(jnp.float32)), basis_of(r), weight=True)

    return over_layers(planned.path, of_layer)(integers, r)


def _grid_of(r: dict[str, jax.Array], planned: Planned) -> Grid:
    return make_grid(r["minimum"], r["maximum"], jnp.maximum(r["bits"], 2), planned.symmetric)


def is_table(path: str) -> bool:
    """Whether a parameter path is an embedding table's."""
    return path.endswith("/embedding")


def spread(value: float, leading: tuple[int, ...]) -> jax.Array:
    """`value` as a float32 array of the leading (layer) shape."""
    return jnp.full(leading, value, jnp.float32)
