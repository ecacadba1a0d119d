"""The conversion of a model, in floating point or quantized after training: `to_onnx`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx

from qtx.foundation.errors import QtxError
from qtx.models import TransformerConfig
from qtx.models.embedding import EmbeddingHead
from qtx.models.pooling import embedding_of
from qtx.onnx.graph import Graph, Tensor, describe
from qtx.onnx.grids import Grid, Grids, Rounded
from qtx.onnx.marks import marked
from qtx.onnx.modules import Place
from qtx.onnx.operations import cast
from qtx.onnx.walk import known, walk
from qtx.quantization import Quantized
from qtx.quantization.basis import basis_of
from qtx.quantization.granularity import Call, Token
from qtx.quantization.integer.convert import for_inference
from qtx.quantization.plan import Planned, Range, flatten, is_table
from qtx.quantization.rounding import grid_of_range

OPSET, WIDE_OPSET = 20, 21
"""The version of the operators that runtimes have had since early 2024; integers of 16 bits need the next."""
BITS_AT_CALL = 8
HIDDEN, EMBEDDING, LOGITS, SPANS = "last_hidden_state", "sentence_embedding", "logits", ("start_logits", "end_logits")


class Converted(NamedTuple):
    """A model as an ONNX graph.

    Attributes:
      model: the graph.
      in_floating_point: its dense layers that do not run on integers.
      labelled: the names that tensors at sites and weights have in the graph, by label, as `layers.0.mlp.out`; empty:
        the outputs do not need the tensor.
      rounded: the tensors that are rounded.
    """

    model: onnx.ModelProto
    in_floating_point: Sequence[str]
    labelled: Mapping[str, str]
    rounded: Sequence[Rounded]


def to_onnx(
    module: Any, params: Any, quantized: Quantized | None = None, metadata: Mapping[str, str] | None = None
) -> Converted:
    """Returns a model as an ONNX graph, of any number of examples and any length.

    Args:
      module: the model.
      params: its parameters, in floating point.
      quantized: the model quantized after training, whose integers and grids the graph has; None: floating point.
      metadata: what the file says of itself.

    Raises:
      QtxError: for an operation, or a way to quantize, that has no form in ONNX.
    """
    module = for_inference(module)
    config = module.config
    weights, sites = ({}, {}) if quantized is None else grids_of(quantized)
    at_call = frozenset() if quantized is None else at_call_of(quantized)
    wide = any(grid.zero_point.dtype.itemsize > 1 for grid in (*weights.values(), *sites.values()))
    inputs, sizes = _inputs(config)
    graph = Graph(WIDE_OPSET if wide else OPSET, sizes)
    values = jax.tree.map(np.asarray, nn.unbox(params if quantized is None else quantized.params))

    def compute(params: Any, given: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return _outputs(module, params, _batch(config, given))

    traced = {name: jax.ShapeDtypeStruct(shape, kind) for name, (shape, kind) in inputs.items()}
    with jax.default_matmul_precision("highest"):
        jaxpr, shapes = jax.make_jaxpr(compute, return_shape=True)(values, traced)
    entering = [
        cast(graph, Tensor(shape, np.dtype(_stored(kind)), name), kind)
        for name, (shape, kind) in sorted(inputs.items())
    ]
    place = Place(weights, sites, at_call, fused=quantized is not None)
    parameters = {path: np.asarray(x) for path, x in flatten(values).items()}
    for path, value in parameters.items():
        if not is_table(path):  # a table that is multiplied is not the one that is looked up, and rounded
            graph.parameter(value, place.label(path))
    held = [known(value, path) for path, value in sorted(parameters.items(), key=lambda one: one[0].split("/"))]
    found = walk(graph, place, jaxpr.jaxpr, jaxpr.consts, [*held, *entering])
    graph.rounded += _rounded_before(place, graph.rounded)
    described = [describe(name, _stored(kind), shape) for name, (shape, kind) in inputs.items()]
    model, labelled = graph.model(described, dict(zip(sorted(shapes), found, strict=True)), dict(metadata or {}))
    return Converted(model, graph.in_floating_point, labelled, graph.rounded)


def _rounded_before(place: Place, rounded: Sequence[Rounded]) -> list[Rounded]:
    """Returns the weights that are rounded before they enter a graph: those that no mark has."""
    seen = {one.path for one in rounded}
    return [
        Rounded(dataclasses.replace(place, layer=layer).label(path), path, grid, weight=True)
        for (path, layer), grid in place.weights.items()
        if path not in seen
    ]


def _stored(kind: Any) -> Any:
    """Returns the type of an input in the graph: runtimes have token numbers in 64 bits."""
    return np.int64 if kind == np.int32 else kind


def _inputs(config: TransformerConfig) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[str, int]]]:
    """Returns the inputs, by the names that runtimes know, shape and type, and where the open sizes are found."""
    if config.reads == "images":
        of_images: Any = config
        sides = (of_images.channels, of_images.image_size, of_images.image_size)
        return {"pixel_values": ((*jax.export.symbolic_shape("batch"), *sides), np.float32)}, {
            "batch": ("pixel_values", 0)
        }
    shape = jax.export.symbolic_shape("batch, length")
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if getattr(config, "type_vocab_size", 0) > 1 else [])]
    return dict.fromkeys(names, (shape, np.int32)), {"batch": ("input_ids", 0), "length": ("input_ids", 1)}


def _batch(config: TransformerConfig, given: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the model's batch of what a runtime gives."""
    if config.reads == "images":
        return {"images": given["pixel_values"].transpose(0, 2, 3, 1)}
    batch = {"tokens": given["input_ids"], "mask": given["attention_mask"]}
    return batch | ({"token_types": given["token_type_ids"]} if "token_type_ids" in given else {})


def _outputs(module: Any, params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the outputs by the names that runtimes know."""
    config, pooled = module.config, []

    def keep(next_function, args, kwargs, context):
        if isinstance(context.module, EmbeddingHead) and context.method_name == "__call__":
            pooled.append(args[0])
        return next_function(*args, **kwargs)

    with marked(), nn.intercept_methods(keep):
        found = module.apply({"params": params}, batch)
    head = getattr(config, "head", None)
    if head == "span":
        return {name: found[..., i] for i, name in enumerate(SPANS)}
    if head != "none":
        return {LOGITS: found}
    hidden = pooled[0] if pooled else found
    if not hasattr(config, "pooling") or not getattr(config, "include_prompt", True):
        return {HIDDEN: hidden}
    real = batch["mask"].astype(bool) if "mask" in batch else jnp.ones(hidden.shape[:2], bool)
    return {HIDDEN: hidden, EMBEDDING: embedding_of(found, real, batch, config)}


def grids_of(quantized: Quantized) -> tuple[Grids, Grids]:
    """Returns the grids of a quantized model's weights, and of its sites.

    Raises:
      QtxError: for ranges that ONNX's integers do not have.
    """
    kinds = (quantized.weight_plan, quantized.weight_ranges), (quantized.activation_plan, quantized.activation_ranges)
    weights, sites = (
        {key: grid for planned in plan for key, grid in _by_layer(planned, ranges[planned.path]).items()}
        for plan, ranges in kinds
    )
    # What a product reads has no sign, nor has what is looked up; kernels may have one.
    tables = {key for key in weights if is_table(key[0])}
    weights |= {key: weights[key].unsigned for key in tables}
    return weights, {key: grid.unsigned for key, grid in sites.items()}


def at_call_of(quantized: Quantized) -> frozenset[tuple[str, int | None]]:
    """Returns the sites, path and layer, that have the grid of their values at a call."""
    found: list[tuple[str, int | None]] = []
    for planned in filter(_at_call, quantized.activation_plan):
        bits = np.asarray(quantized.activation_ranges[planned.path]["bits"])
        if planned.symmetric or not set(bits.ravel()) <= {0, BITS_AT_CALL}:
            raise QtxError(f"{planned.path} has no asymmetric grid of 8 bits, as a range of a call has in ONNX")
        found += [(planned.path, i if bits.ndim else None) for i, b in enumerate(bits.ravel()) if b]
    return frozenset(found)


def _at_call(planned: Planned) -> bool:
    return isinstance(planned.granularity, Call)


def _by_layer(planned: Planned, r: Range) -> dict[tuple[str, int | None], Grid]:
    bits = np.asarray(r["bits"])
    if _at_call(planned):
        return {}
    if isinstance(planned.granularity, Token):
        raise QtxError(
            f"{planned.path} has a range for each token, which no node of ONNX computes as one: export another method"
        )
    if basis_of(r):
        raise QtxError(f"{planned.path} is rounded in another basis, as by hadamard, which has no form in ONNX yet")
    if bits.ndim == 0:
        grid = _grid(planned, r)
        return {} if grid is None else {(planned.path, None): grid}
    layers = {(planned.path, i): _grid(planned, {name: x[i] for name, x in r.items()}) for i in range(len(bits))}
    return {key: grid for key, grid in layers.items() if grid is not None}


def _grid(planned: Planned, r: Range) -> Grid | None:
    """Returns the grid of one layer's range; None: the tensor is in floating point."""
    if not float(r["bits"]):
        return None
    grid = grid_of_range(r, planned)
    scale, zero_point, low, high = (np.asarray(x) for x in (grid.scale, grid.zero_point, grid.low, grid.high))
    if scale.size > 1 and scale.ndim > 1 and scale.shape[0] > 1:
        raise QtxError(
            f"{planned.path} has ranges of groups of inputs, which no runtime multiplies: use one per channel"
        )
    if low.min() < low.max():  # channels with and without negative values: as offsets from their ends they are alike
        zero_point, low, high = zero_point - low, low - low, high - low
    scale, zero_point = (x.reshape(() if x.size == 1 else -1) for x in (scale, zero_point))
    lowest, highest = int(low.min()), int(high.max())
    kinds = (np.uint8, np.int8, np.uint16, np.int16)
    kind = next(k for k in kinds if np.iinfo(k).min <= lowest and highest <= np.iinfo(k).max)
    return Grid(scale.astype(np.float32), zero_point.astype(kind), lowest, highest)
