"""Attention as one node, where no tensor within is rounded: scores stay in a processor's cache, heads are not moved."""

from __future__ import annotations

import functools

import numpy as np

from qtx.onnx.graph import Graph, Tensor
from qtx.onnx.operations import elementwise

CONTEXT, OPSET = "bhts,bshd->bthd", 23
"""The product that ends attention, and the version of the operators that has `Attention`."""
TURNED = [0, 2, 1, 3], [0, 2, 3, 1]
"""How the product of scores reads queries and keys."""


def fused(graph: Graph, probs: Tensor, value: Tensor) -> Tensor | None:
    """Returns the context `[B, T, H, D]` of probabilities and values `[B, S, H, D]`, if the probabilities are the
    softmax of scaled scores, and of what is added to the scores; None: they are not."""
    softmax = graph.makers.get(probs.name)
    if softmax is None or softmax.op != "Softmax" or value.quantized is not None:
        return None
    scores, added = graph.makers[softmax.inputs[0]], list[Tensor]()
    while scores.op == "Add":
        left, right = scores.inputs
        if left not in graph.makers or right not in graph.shapes:
            return None
        added.append(Tensor(graph.shapes[right], np.dtype(np.float32), right))
        scores = graph.makers[left]
    if scores.op != "MatMul":
        return None
    turned = [graph.makers.get(name) for name in scores.inputs]
    for node, order in zip(turned, TURNED, strict=True):
        if node is None or node.op != "Transpose" or node.attributes["perm"] != order:
            return None
    query, key = (node.inputs[0] for node in turned if node is not None)
    scale, scaled = 1.0, graph.makers.get(query)
    if scaled is not None and scaled.op == "Mul":
        factor = graph.value_of(scaled.inputs[1])
        if factor is not None and factor.size == 1:
            query, scale = scaled.inputs[0], float(factor.item())
    if query not in graph.shapes or key not in graph.shapes:
        return None
    batch, length, heads, _ = graph.shapes[query]
    sides = [Tensor(graph.shapes[name], value.dtype, name) for name in (query, key)]
    flat = [graph.reshaped(x, (*x.shape[:2], heads * x.shape[3])) for x in (*sides, value)]
    inputs = [graph.use(x) for x in flat]
    if added:
        mask = functools.reduce(lambda x, y: elementwise(graph, "Add", [x, y], np.float32), reversed(added))
        inputs.append(graph.use(graph.expanded(mask, (*mask.shape[:2], length, value.shape[1]))))
    graph.opset = max(graph.opset, OPSET)
    options = {"q_num_heads": heads, "kv_num_heads": heads, "scale": scale}
    context = graph.made("Attention", inputs, (batch, length, flat[2].shape[-1]), np.float32, **options)
    return graph.reshaped(context, (batch, length, heads, value.shape[-1]))
