"""Post-training quantization: calibrate ranges on data, then run the model with every tensor on its integer grid."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from qtx.anatomy import Anatomy, read
from qtx.foundation.errors import QtxError
from qtx.masks import without_full_masks
from qtx.quantization import float32_only
from qtx.quantization.basis import Bases
from qtx.quantization.granularity import Token
from qtx.quantization.interceptor import calibrating, fake_quantized
from qtx.quantization.methods import Method, Problem, Static
from qtx.quantization.plan import (
    TABLE,
    QuantizerPlan,
    Ranges,
    check_finite,
    is_table,
    make_plan,
    settled,
    sites_beside,
)
from qtx.quantization.recipe import Recipe, check_exempt, resolve

STATIC = Static()


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized model: its weights are rounded, and its ranges fixed.

    Attributes:
      module: the model, as its method rewrites it (`Method.rewrite`), by default unchanged.
      params: its parameters, with quantized weights (embedding tables as they were).
      weight_plan, activation_plan: which tensors are quantized, and how.
      weight_ranges, activation_ranges: the tensors' ranges, see `Ranges`.
    """

    module: nn.Module
    params: Any
    weight_plan: QuantizerPlan
    activation_plan: QuantizerPlan
    weight_ranges: Ranges
    activation_ranges: Ranges

    def apply(
        self, batch: dict[str, jax.Array], collections: Mapping[str, Any] = MappingProxyType({}), **kwargs: Any
    ) -> Any:
        """Returns what `module.apply` does for `batch`, computed on quantized values, in float32 (see
        `qtx.quantization.float32_only`). The call is traceable: compile it with `jit`. `collections` are further
        variables of the module, such as a cache."""
        plan = self.activation_plan + tables_of(self.weight_plan)
        variables = {"params": self.params, "ranges": self.range_collection, **collections}
        with fake_quantized(plan):
            return float32_only.apply(self.module, variables, batch, **kwargs)

    @property
    def range_collection(self) -> Any:
        """Returns the `ranges` variable collection that the module's sites read."""
        return range_collection(self.activation_ranges, self.weight_ranges)

    def ranges(self, kind: str) -> Ranges:
        """Returns the ranges of a kind, "weight" or "activation"."""
        return {"weight": self.weight_ranges, "activation": self.activation_ranges}[kind]


jax.tree_util.register_dataclass(
    Quantized,
    data_fields=["params", "weight_ranges", "activation_ranges"],
    meta_fields=["module", "weight_plan", "activation_plan"],
)


@float32_only.exactly
def calibrate(
    module: nn.Module,
    params: Any,
    recipe: Recipe,
    batches: Iterable[dict[str, jax.Array]],
    num_batches: int,
    method: Method = STATIC,
) -> Quantized:
    """Quantizes `module` after training.

    Weight ranges come from the weights, activation ranges from `num_batches` batches of training data. Every quantizer
    is active while the later ones calibrate. Batches are streamed, but for those of an iterator, which are kept. One
    compilation serves all bit-widths.

    Args:
      module, params: a model and its parameters.
      recipe: what to quantize, and how.
      batches: at least `num_batches` batches, the same at every iteration.
      num_batches: how many batches to use (the paper: 16).
      method: the quantization method, from `qtx.quantization.methods`; by default the paper's.

    Raises:
      QtxError: if the recipe does not fit the model, there are too few batches, or a range is not finite.
    """
    if num_batches < 1:
        raise QtxError(f"calibration asks for {num_batches} batches: expected at least 1, e.g. 16")
    if isinstance(batches, Iterator):  # which gives each batch once
        batches = list(itertools.islice(batches, num_batches))
    used = FirstBatches(batches, num_batches)
    first = next(iter(used))
    module, params = method.rewrite(module, params)
    problem = Problem(read(module, first), float32_only.float32(module), params, method.adapt(recipe), used)
    problem = problem.with_bases(method.find_bases(problem))
    quantized_params = method.round_weights(problem)

    plan, state = initial_state(problem.anatomy, problem.recipe, problem.ranges, problem.bases)
    state, tables = _beside(params, state), tables_of(settled(problem.plan))
    for batch in used:
        state = calibration_step(module, plan, tables, quantized_params, state, without_full_masks(batch))
    ranges = site_ranges(plan, state)
    check_finite(ranges, "activation")
    return Quantized(module, quantized_params, problem.plan, plan, problem.ranges, ranges)


@dataclasses.dataclass(frozen=True)
class FirstBatches:
    """The first `count` of `batches`, at every iteration. Iterating raises a QtxError if there are fewer."""

    batches: Iterable[dict[str, jax.Array]]
    count: int

    def __iter__(self) -> Iterator[dict[str, jax.Array]]:
        found = 0
        for batch in itertools.islice(self.batches, self.count):
            found += 1
            yield batch
        if found < self.count:
            raise QtxError(
                f"calibration got {found} batches, expected {self.count}: lower calibration_batches or add data"
            )


def site_ranges(plan: QuantizerPlan, state: Any) -> Ranges:
    """Returns the activation ranges, from the `ranges` collection of a calibration's state."""
    return {planned.path: _at(state["ranges"], planned.path)["range"] for planned in plan}


def initial_state(anatomy: Anatomy, recipe: Recipe, weight_ranges: Ranges, bases: Bases) -> tuple[QuantizerPlan, Any]:
    """Returns the plan of the activations, and the variable collections before the first batch."""
    quantizers = resolve(recipe.activations, sites_beside(anatomy, weight_ranges), "activation")
    check_exempt(recipe, {path: anatomy.leading(path) for path in (*weight_ranges, *quantizers)})
    plan, ranges, states = make_plan(quantizers), {}, {}
    for planned in plan:
        path, leading, features = planned.path, anatomy.leading(planned.path), anatomy.sites[planned.path].features
        ranges[path] = {"bits": jnp.asarray(recipe.bits(path, quantizers[path].bits, leading)), **bases.get(path, {})}
        if isinstance(planned.granularity, Token):
            continue
        state = planned.granularity.init(planned.estimator, (features,))
        ends = dict(zip(("minimum", "maximum"), planned.granularity.result(planned.estimator, state), strict=True))
        states[f"{path}/state"], zeros = jax.tree.map(
            lambda x, leading=leading: jnp.broadcast_to(x, (*leading, *jnp.shape(x))), (state, ends)
        )
        ranges[path] |= zeros
    collection = range_collection(ranges, weight_ranges)
    return plan, {"ranges": collection, "calibration": traverse_util.unflatten_dict(states, sep="/")}


def _beside(params: Any, state: Any) -> Any:
    """Puts the state on the parameters' devices, where a step returns it; else the second step would compile anew."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return state
    return jax.device_put(state, NamedSharding(sharding.mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnames=("module", "plan", "tables"))
def calibration_step(
    module: nn.Module, plan: QuantizerPlan, tables: QuantizerPlan, params: Any, state: Any, batch: Any
) -> Any:
    """Returns the `ranges` and `calibration` collections after one more batch; `state` holds both before it."""
    with calibrating(plan, tables, module, batch):
        return float32_only.apply(module, {"params": params, **state}, batch, mutable=["ranges", "calibration"])[1]


def tables_of(weight_plan: QuantizerPlan) -> QuantizerPlan:
    """Returns the plan of the look-ups that stand for the embedding tables of a weight plan."""
    return tuple(
        planned._replace(path=planned.path.removesuffix(TABLE)) for planned in weight_plan if is_table(planned.path)
    )


def range_collection(activation_ranges: Ranges, weight_ranges: Ranges) -> Any:
    """Returns the `ranges` collection: every activation's range, and each embedding table's at its look-up."""
    tables = {path.removesuffix(TABLE): r for path, r in weight_ranges.items() if is_table(path)}
    return traverse_util.unflatten_dict(
        {f"{path}/range": r for path, r in {**activation_ranges, **tables}.items()}, sep="/"
    )


def _at(tree: Any, path: str) -> Any:
    for key in path.split("/"):
        tree = tree[key]
    return tree
