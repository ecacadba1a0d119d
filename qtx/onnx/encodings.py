"""Quantization encodings: qtx's grids for the graph in floating point, in a file that AIMET and QNN's tools read.

The file is JSON, AIMET's format of version 2.0.0: of each tensor its name in the graph, and its grid as ONNX's
`QuantizeLinear` has it.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from qtx.foundation.errors import QtxError
from qtx.onnx.convert import Converted
from qtx.onnx.grids import Rounded
from qtx.quantization import Quantized
from qtx.quantization.granularity import Call
from qtx.quantization.plan import flatten
from qtx.quantization.weights import quantize_weights

VERSION, MOVES = "2.0.0", ("Reshape", "Transpose", "Squeeze", "Unsqueeze")


def encodings_of(floating: Converted, params: Any, quantized: Converted, model: Quantized) -> bytes:
    """Returns the content of a file of encodings: a graph in floating point that is rounded as it says computes what
    the quantized graph does.

    Args:
      floating: the graph in floating point.
      params: its parameters.
      quantized: the quantized graph.
      model: the model that it is of.

    Raises:
      QtxError: if the format has no place for how the model is quantized; the message says why.
    """
    if any(isinstance(planned.granularity, Call) for planned in model.activation_plan):
        raise QtxError("ranges of activations are found at each call")
    if not _rounds_to_nearest(params, model):
        raise QtxError("the method does not round weights to the nearest integer, which is what encodings mean")
    graph = floating.model.graph
    found: dict[str, dict[str, Any]] = {}
    axes, reads, sites = {x.name: len(x.dims) for x in graph.initializer}, _reads(graph), set()
    for one in quantized.rounded:
        if "" in (quantized.labelled.get(one.label), floating.labelled.get(one.label)):
            continue  # no output needs it
        name = floating.labelled.get(one.label)
        if not name or one.label in sites:
            raise QtxError(f"{one.label} is not one tensor of the graph in floating point")
        encoding = _encoding(one, axes.get(name, 0) - 1)
        if found.setdefault(name, encoding) != encoding:
            raise QtxError(f"{name} is rounded to different grids")
        if not one.weight:
            sites.add(one.label)
            found |= {other: encoding for other in _moved_to(name, reads) if other not in found}
    told = [{"name": name, **encoding} for name, encoding in found.items()]
    return json.dumps({"version": VERSION, "encodings": told}, indent=1).encode()


Reads = Mapping[str, tuple[str, bool]]
"""Nodes that only move values, by the tensor that each makes: the tensor that it reads, and whether it alone does."""


def _reads(graph: onnx.GraphProto) -> Reads:
    number = collections.Counter([*(x for node in graph.node for x in node.input), *(x.name for x in graph.output)])
    return {node.output[0]: (node.input[0], number[node.input[0]] == 1) for node in graph.node if node.op_type in MOVES}


def _moved_to(name: str, reads: Reads) -> list[str]:
    """Returns the tensors whose values a tensor has, in another order or shape, and that nothing else reads. They have
    the tensor's grid too: AIMET and QNN round what a product makes, and not what has been moved."""
    found = []
    while name in reads and reads[name][1]:
        name = reads[name][0]
        found.append(name)
    return found


def _rounds_to_nearest(params: Any, model: Quantized) -> bool:
    """Says whether a model's weights are the nearest on their grids to the parameters."""
    nearest = flatten(quantize_weights(model.weight_plan, params, model.weight_ranges))
    return all(np.array_equal(nearest[path], value) for path, value in flatten(model.params).items())


def _encoding(rounded: Rounded, last: int) -> dict[str, Any]:
    """Returns the encoding of a tensor, without its name: activations unsigned, and weights signed where their integers
    lie evenly around 0. Several grids are along the tensor's `last` axis.

    Raises:
      QtxError: if the tensor is an activation with several ranges.
    """
    grid = rounded.grid
    if grid.scale.ndim and not rounded.weight:
        raise QtxError(f"{rounded.label} is an activation with several ranges")
    bits = (grid.high - grid.low).bit_length()
    zero = grid.zero_point.astype(np.int64) - grid.low
    signed = rounded.weight and bool((zero == 2 ** (bits - 1)).all())
    told = {"output_dtype": f"{'int' if signed else 'uint'}{bits}", "y_scale": grid.scale.tolist()}
    told |= {"y_zero_point": zero.tolist()} if zero.any() and not signed else {}
    return {**told, "axis": last} if grid.scale.ndim else told
