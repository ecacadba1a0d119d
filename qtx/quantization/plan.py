"""Plans: the static part of a model's quantization, and the paths and layers of the parameters concerned.

Parameters and sites of a stack of layers carry a leading layer axis, and each layer has its own range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from qtx.anatomy import Anatomy, Parameter, Role, SiteInfo
from qtx.anatomy.flow import TABLE
from qtx.foundation.errors import QtxError
from qtx.quantization.estimators import Estimator, MinMax
from qtx.quantization.granularity import Granularity, InputGroup, Token
from qtx.quantization.recipe import Quantizer, Recipe, check_exempt, resolve


class Planned(NamedTuple):
    """The static part of one tensor's quantization; see `Quantizer`. Bits are data instead, so that every bit-width
    shares one compilation."""

    path: str
    symmetric: bool
    estimator: Estimator
    granularity: Granularity | Token
    count_padding: bool


QuantizerPlan = tuple[Planned, ...]

Range = dict[str, jax.Array]
"""{"bits", "minimum", "maximum"}: bits are a scalar, the ends broadcast to the tensor by tiles (`affine.tiled`), all
with a leading `[L]` in a stack of layers. 0 bits leave the tensor in floating point. Dynamic tensors have no ends. A
range may also have a basis (`qtx.quantization.basis`): then its ends and the integers are in this basis."""

Ranges = dict[str, Range]
"""Ranges by the path of their tensor."""


def make_plan(quantizers: Mapping[str, Quantizer]) -> QuantizerPlan:
    """Returns the static part of resolved quantizers.

    Raises:
      QtxError: for an estimator whose state is not finite before the first tensor.
    """
    for estimator in {q.estimator for q in quantizers.values()}:
        for name, value in estimator.init().items():
            if not np.isfinite(value).all():
                raise QtxError(
                    f"{type(estimator).__name__}.init() has {value} for {name!r}: expected finite numbers, since "
                    "others tell that a tensor was not finite; begin with 0 and a count of what was seen"
                )
    return tuple(
        Planned(name, q.symmetric, q.estimator, q.granularity, q.count_padding)
        for name, q in sorted(quantizers.items())
    )


def ends_shape(planned: Planned, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of the ends of a static range, of one layer; `shape` as in `Granularity.ranges`.

    Raises:
      QtxError: if the granularity cannot divide the tensor.
    """
    path, granularity = planned.path, planned.granularity
    if isinstance(granularity, Token):
        raise QtxError(f"granularity 'token' is for activations: choose another for the weight {path!r}")
    if isinstance(granularity, InputGroup) and is_table(path):
        raise QtxError(f"granularity 'input_group' is for kernels: choose another for the embedding table {path!r}")
    try:
        return granularity.ranges(shape)
    except QtxError as error:
        raise QtxError(f"{path!r}: {error}") from None


def quantizers_of(anatomy: Anatomy, recipe: Recipe) -> tuple[dict[str, Quantizer], dict[str, Quantizer]]:
    """Returns a recipe's quantizers of a model's weights and of its sites.

    Raises:
      QtxError: if the recipe does not fit the model.
    """
    weights = resolve(recipe.weights, weights_of(anatomy), "weight")
    sites = resolve(recipe.activations, sites_beside(anatomy, weights), "activation")
    check_exempt(recipe, {path: anatomy.leading(path) for path in (*weights, *sites)})
    return weights, sites


def weights_of(anatomy: Anatomy) -> dict[str, Parameter]:
    """Returns the parameters that weight rules match: all but those of normalizers, which no product multiplies, and
    prefixes, which stand in floating point before every text."""
    left = (Role.NORMALIZER, Role.PREFIX)
    return {path: one for path, one in anatomy.parameters.items() if one.role not in left}


def sites_beside(anatomy: Anatomy, weights: Iterable[str]) -> dict[str, SiteInfo]:
    """Returns the sites of a model by path, without look-ups; `weights` are the paths of the quantized weights.

    Raises:
      QtxError: if a weight is named as an embedding table is, but no `nn.Embed` looks it up.
    """
    for path in filter(is_table, sorted(weights)):
        if path.removesuffix(TABLE) not in anatomy.sites:
            raise QtxError(
                f"{path!r} would be quantized where it is looked up, but no nn.Embed looks it up: give it another name "
                "than 'embedding', or leave it in floating point"
            )
    tables = {path.removesuffix(TABLE) for path in anatomy.parameters if is_table(path)}
    return {path: site for path, site in anatomy.sites.items() if path not in tables}


def check_finite(ranges: Ranges, kind: str) -> None:
    """Raises a QtxError that names the first range with a NaN or infinite value, or a minimum above its maximum."""
    for path, r in ranges.items():
        if not all(jnp.isfinite(value).all() for value in r.values()):
            raise QtxError(
                f"the calibrated {kind} range of {path!r} is not finite: check checkpoint and data for NaN or Inf"
            )
        if "minimum" in r and not (r["minimum"] <= r["maximum"]).all():
            raise QtxError(
                f"the calibrated {kind} range of {path!r} has a minimum above its maximum: an estimator's `result` is "
                "(minimum, maximum)"
            )


def settled(plan: QuantizerPlan) -> QuantizerPlan:
    """Returns a plan for ranges that are already found, with one estimator for all: estimators have no more say, and
    models that differ in nothing else share one compiled program."""
    return tuple(planned._replace(estimator=MinMax()) for planned in plan)


def flatten(params: Any) -> dict[str, jax.Array]:
    """Returns a parameter tree as {"layers/mlp/out/kernel": array}."""
    return traverse_util.flatten_dict(params, sep="/")


def is_table(path: str) -> bool:
    """Says whether a parameter path is an embedding table's."""
    return path.endswith(TABLE)


def over_layers(bits: jax.Array, function: Any) -> Any:
    """Maps a function over the layers of a tensor whose `bits` have a leading layer axis."""
    return jax.vmap(function) if bits.ndim else function


def spread(value: float, leading: tuple[int, ...]) -> jax.Array:
    """Returns `value` as a float32 array of the leading (layer) shape."""
    return jnp.full(leading, value, jnp.float32)
