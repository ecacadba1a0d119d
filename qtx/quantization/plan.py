"""Plans: what is static of a model's quantization, and the paths and layers of the parameters that it is about.

Parameters and sites under `layers/` carry a leading layer axis, and each layer has its own range.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from qtx.anatomy.flow import TABLE
from qtx.attention.parameters import NORMALIZER
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.quantization.estimators import Estimator, MinMax
from qtx.quantization.granularity import Granularity, Token
from qtx.quantization.recipe import Quantizer, Recipe, resolve
from qtx.sites import SITES_AND_TABLES, SiteShape, site_shapes


class Planned(NamedTuple):
    """What is static of one tensor's quantization; see `Quantizer`. Bits are data, so that every bit-width shares one
    compilation."""

    path: str
    symmetric: bool
    estimator: Estimator
    granularity: Granularity | Token
    count_padding: bool


Plan = tuple[Planned, ...]

Range = dict[str, jax.Array]
"""{"bits", "minimum", "maximum"}: bits a scalar, the ends `()` or `[D]` over the tensor's last axis, all with a leading
`[L]` under `layers/`. Bits 0 leave the tensor in floating point. Dynamic tensors have no ends. A range may also have a
basis (`qtx.quantization.basis`), in which it and the integers are."""

Ranges = dict[str, Range]
"""By path."""


def make_plan(quantizers: dict[str, Quantizer]) -> Plan:
    """The static part of resolved quantizers.

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


def quantizers_of(
    module: nn.Module, params: Any, recipe: Recipe, batch: Batch
) -> tuple[dict[str, Quantizer], dict[str, Quantizer]]:
    """Of a model's weights and of its sites, by path, what a recipe quantizes; `params` and `batch` give shapes only.

    Raises:
      QtxError: if the recipe does not fit the model.
    """
    weights = resolve(recipe.weights, weights_of(params), "weight")
    return weights, resolve(recipe.activations, sites_beside(module, params, batch, weights), "activation")


def sites_beside(module: nn.Module, params: Any, batch: Batch, weights: Iterable[str]) -> dict[str, SiteShape]:
    """The sites of a model whose `weights` of these paths are quantized.

    Raises:
      QtxError: if a weight is named as an embedding table is, and is none.
    """
    shapes = site_shapes(module, params, batch, SITES_AND_TABLES)
    for path in filter(is_table, sorted(weights)):
        if path.removesuffix(TABLE) not in shapes:
            raise QtxError(
                f"{path!r} would be quantized where it is looked up, but no nn.Embed looks it up: give it another name "
                "than 'embedding', or leave it in floating point"
            )
    tables = {path.removesuffix(TABLE) for path in weights_of(params) if is_table(path)}
    return {path: shape for path, shape in shapes.items() if path not in tables}


def settled(plan: Plan) -> Plan:
    """The plan of tensors whose ranges are found, without the estimators, which have no more say: models that differ in
    nothing else share one compiled program."""
    return tuple(planned._replace(estimator=MinMax()) for planned in plan)


def flatten(params: Any) -> dict[str, jax.Array]:
    """A parameter tree as {"layers/mlp/out/kernel": array}."""
    return traverse_util.flatten_dict(params, sep="/")


def weights_of(params: Any) -> dict[str, jax.Array]:
    """What a recipe's weight rules are about: all parameters but those of normalizers, which no product multiplies."""
    return {path: x for path, x in flatten(params).items() if NORMALIZER not in path.split("/")}


def is_table(path: str) -> bool:
    """Whether a parameter path is an embedding table's."""
    return path.endswith(TABLE)


def over_layers(bits: jax.Array, function: Any) -> Any:
    """Maps a function over the layers of a tensor whose `bits` have a leading layer axis."""
    return jax.vmap(function) if bits.ndim else function


def spread(value: float, leading: tuple[int, ...]) -> jax.Array:
    """`value` as a float32 array of the leading (layer) shape."""
    return jnp.full(leading, value, jnp.float32)
