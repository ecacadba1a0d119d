"""Post-training quantization: calibrate ranges on data, then run the model with every tensor on its integer grid."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util

from qtx.errors import QtxError
from qtx.quantization.interceptor import calibrating, fake_quantized, sites
from qtx.quantization.recipe import Recipe, resolve
from qtx.quantization.weights import (
    Plan,
    Ranges,
    flatten,
    is_table,
    make_plan,
    over_layers,
    quantize_weights,
    spread,
    weight_ranges,
)


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A model with fixed ranges.

    Attributes:
      module: the model, unchanged.
      params: with quantized weights (embedding tables as they were).
      weight_plan, activation_plan: what is quantized, and how.
      weight_ranges, activation_ranges: path to {"bits", "minimum", "maximum"}; `[L]` under `layers/`.
    """

    module: nn.Module
    params: Any
    weight_plan: Plan
    activation_plan: Plan
    weight_ranges: Ranges
    activation_ranges: Ranges

    def apply(self, batch: dict[str, jax.Array], **kwargs: Any) -> Any:
        """What `module.apply` returns for `batch`, computed on quantized values. Traceable; compile it with `jit`."""
        plan = self.activation_plan + _tables(self.weight_plan)
        with fake_quantized(plan):
            return self.module.apply(
                {"params": self.params, "ranges": _collection(self.activation_ranges, self.weight_ranges)},
                batch,
                **kwargs,
            )


jax.tree_util.register_dataclass(
    Quantized,
    data_fields=["params", "weight_ranges", "activation_ranges"],
    meta_fields=["module", "weight_plan", "activation_plan"],
)


def calibrate(
    module: nn.Module, params: Any, recipe: Recipe, batches: Iterable[dict[str, jax.Array]], num_batches: int
) -> Quantized:
    """Quantizes `module` after training.

    Weight ranges come from the weights; activation ranges from `num_batches` batches of training data, every quantizer
    active while the later ones calibrate. One compilation serves all bit-widths.

    Args:
      module, params: a model and its parameters.
      recipe: what to quantize, and how.
      batches: at least `num_batches` batches.
      num_batches: how many to use (the paper: 16).

    Raises:
      QtxError: if the recipe does not fit the model, there are too few batches, or a range is not finite.
    """
    batches = list(itertools.islice(batches, num_batches))
    if len(batches) < num_batches:
        raise QtxError(
            f"calibration got {len(batches)} batches, expected {num_batches}: lower calibration_batches or add data"
        )
    flat = flatten(params)
    weights = resolve(recipe.weights, flat, "weight")
    weight_plan = make_plan(weights)
    leading = {path: flat[path].shape[:1] if path.startswith("layers/") else () for path in weights}
    bits = {path: spread(weights[path].bits, leading[path]) for path in weights}
    estimated = weight_ranges(weight_plan, params, bits)
    quantized_params = quantize_weights(weight_plan, params, estimated)

    shapes = sites(module, params, batches[0])
    activations = resolve(recipe.activations, shapes, "activation")
    plan = make_plan(activations)
    ranges = {
        path: {
            "bits": spread(q.bits, shapes[path]),
            "minimum": spread(0, shapes[path]),
            "maximum": spread(0, shapes[path]),
        }
        for path, q in activations.items()
    }
    collection = _collection(ranges, {path: estimated[path] for path, *_ in weight_plan if is_table(path)})
    states = {
        f"{path}/state": jax.tree.map(
            lambda x, path=path: over_layers(path, lambda _: x)(spread(0, shapes[path])), q.estimator.init()
        )
        for path, q in activations.items()
    }
    state = {"ranges": collection, "calibration": traverse_util.unflatten_dict(states, sep="/")}
    for batch in batches:
        state = _calibration_step(module, plan, _tables(weight_plan), quantized_params, state, batch)
    activation_ranges = {path: _at(state["ranges"], path)["range"] for path in activations}
    for kind, ranges in (("weight", estimated), ("activation", activation_ranges)):
        for path, r in ranges.items():
            if not all(jax.numpy.isfinite(r[end]).all() for end in ("minimum", "maximum")):
                raise QtxError(
                    f"the calibrated {kind} range of {path!r} is not finite: check the checkpoint for NaN or Inf"
                )
    return Quantized(module, quantized_params, weight_plan, plan, estimated, activation_ranges)


@functools.partial(jax.jit, static_argnames=("module", "plan", "tables"))
def _calibration_step(module: nn.Module, plan: Plan, tables: Plan, params: Any, state: Any, batch: Any) -> Any:
    with calibrating(plan, tables):
        return module.apply({"params": params, **state}, batch, mutable=["ranges", "calibration"])[1]


def _tables(weight_plan: Plan) -> Plan:
    """The look-ups that stand for the embedding tables of a weight plan."""
    return tuple(
        (path.removesuffix("/embedding"), symmetric, e) for path, symmetric, e in weight_plan if is_table(path)
    )


def _collection(activation_ranges: Ranges, weight_ranges: Ranges) -> Any:
    """The `ranges` variable collection: every activation's range, and each embedding table's at its look-up."""
    tables = {path.removesuffix("/embedding"): r for path, r in weight_ranges.items() if is_table(path)}
    return traverse_util.unflatten_dict(
        {f"{path}/range": r for path, r in {**activation_ranges, **tables}.items()}, sep="/"
    )


def _at(tree: Any, path: str) -> Any:
    for key in path.split("/"):
        tree = tree[key]
    return tree
