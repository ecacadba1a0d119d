"""Weight quantization: a pure map over the parameter tree.

Weights under `layers/` carry a leading layer axis, and each layer has its own range.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.quantization.affine import fake_quantize, make_grid
from qtx.quantization.recipe import Quantizer

Plan = tuple[tuple[str, bool, Any], ...]
"""(path, symmetric, estimator) of each quantized tensor: all that is static. Bits are data, so that every bit-width
shares one compilation."""

Ranges = dict[str, dict[str, jax.Array]]
"""Path to {"bits", "minimum", "maximum"}, each a scalar, or `[L]` under `layers/`."""

STACK = "layers/"
"""Prefix of the paths whose arrays carry a leading layer axis."""


def make_plan(quantizers: dict[str, Quantizer]) -> Plan:
    """The static part of resolved quantizers."""
    return tuple((name, q.symmetric, q.estimator) for name, q in sorted(quantizers.items()))


def flatten(params: Any) -> dict[str, jax.Array]:
    """A parameter tree as {"layers/mlp/out/kernel": array}."""
    return traverse_util.flatten_dict(params, sep="/")


def over_layers(path: str, function: Any) -> Any:
    """`function`, mapped over the leading layer axis if `path` is stacked."""
    return jax.vmap(function) if path.startswith(STACK) else function


@functools.partial(jax.jit, static_argnames=("plan",))
def weight_ranges(plan: Plan, params: Any, bits: dict[str, jax.Array]) -> Ranges:
    """The range of every weight in `plan`.

    Args:
      plan: which weights, and how.
      params: the parameter tree.
      bits: path to bits, a scalar or `[L]`.
    """
    flat, result = flatten(params), {}
    for path, symmetric, estimator in plan:

        def estimate(weight, b, symmetric=symmetric, estimator=estimator):
            return estimator.result(estimator.update(estimator.init(), weight, b, symmetric))

        minimum, maximum = over_layers(path, estimate)(flat[path], bits[path])
        result[path] = {"bits": bits[path], "minimum": minimum, "maximum": maximum}
    return result


@functools.partial(jax.jit, static_argnames=("plan",))
def quantize_weights(plan: Plan, params: Any, ranges: Ranges) -> Any:
    """`params` with every weight in `plan` rounded to its grid.

    Embedding tables are left alone: their look-ups are quantized instead (see `Recipe`).
    """
    flat = dict(flatten(params))
    for path, symmetric, _ in plan:
        if not is_table(path):

            def quantize(weight, r, symmetric=symmetric):
                return fake_quantize(weight, make_grid(r["minimum"], r["maximum"], r["bits"], symmetric))

            flat[path] = over_layers(path, quantize)(flat[path], ranges[path])
    return traverse_util.unflatten_dict(flat, sep="/")


def is_table(path: str) -> bool:
    """Whether a parameter path is an embedding table's."""
    return path.endswith("/embedding")


def spread(value: float, leading: tuple[int, ...]) -> jax.Array:
    """`value` as a float32 array of the leading (layer) shape."""
    return jnp.full(leading, value, jnp.float32)
