"""Quantization encodings beside a graph in floating point: whoever rounds the graph as they say has qtx's model.

The graph is rounded here by ONNX's own nodes, inserted where the file says, and not by anything of qtx.
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

from qtx.cli.main import main
from qtx.foundation.errors import QtxError
from tests.interop.test_onnx import ATTENTIONS, MODELS, answers, cosine, examples, expected, of_real, quantized

MISSING = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")

OF_RUN = ["--config.data.sequence_length=32", "--config.mesh.data=1"]


def exported(name, scheme="w8a8", **options):
    """A quantized model, the two graphs, and the encodings."""
    from qtx.onnx.convert import to_onnx
    from qtx.onnx.encodings import encodings_of

    model, params = quantized({**MODELS, **ATTENTIONS}[name], scheme, **options)
    floating, integers = to_onnx(model.module, params), to_onnx(model.module, params, model)
    content = encodings_of(floating, params, integers, model)
    return model, floating.model, integers.model, json.loads(content)


def tensors_of(graph):
    return {name for node in graph.node for name in node.output} | {x.name for x in graph.initializer}


def with_nodes(model, encodings):
    """The graph in floating point, each tensor that has an encoding rounded by ONNX's nodes: below 8 bits the integers
    of 8, cut to the range."""
    from onnx import ModelProto, compose, helper, numpy_helper

    assert callable(compose.add_prefix)
    rounded = ModelProto()
    rounded.CopyFrom(model)
    graph, ends, before, after = rounded.graph, {x.name for x in rounded.graph.output}, [], {}
    makers = {name for node in graph.node for name in node.output}
    for one in encodings:
        name, kind = one["name"], one["output_dtype"]
        bits, signed = int(kind.removeprefix("u").removeprefix("int")), not kind.startswith("u")
        low = -(2 ** (bits - 1)) if signed else 0
        held = np.dtype(f"{'' if signed else 'u'}int{8 if bits <= 8 else 16}")
        scale = np.array(one["y_scale"], np.float32)
        zero = np.broadcast_to(one.get("y_zero_point", 0), scale.shape).astype(held)
        axis = {"axis": one["axis"]} if scale.ndim else {}
        cut = [scale * (np.float32(end) - zero) for end in (low, low + 2**bits - 1)]
        for part, value in (("scale", scale), ("zero", zero), ("low", cut[0].min()), ("high", cut[1].max())):
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{name}?{part}"))
        source, result = (f"{name}?", name) if name in ends else (name, f"{name}?rounded")
        grid = [f"{name}?scale", f"{name}?zero"]
        whole = bits in (8, 16)
        nodes = [] if whole else [helper.make_node("Clip", [source, f"{name}?low", f"{name}?high"], [f"{name}?cut"])]
        nodes += [
            helper.make_node("QuantizeLinear", [source if whole else f"{name}?cut", *grid], [f"{name}?integers"], **axis),
            helper.make_node("DequantizeLinear", [f"{name}?integers", *grid], [result], **axis),
        ]
        after[name] = (source, result, nodes)
        before += [] if name in makers else nodes
    made = before
    for node in graph.node:
        reads = [after[x][1] if x in after else x for x in node.input]
        makes = [after[x][0] if x in after else x for x in node.output]
        node.input[:], node.output[:] = reads, makes
        made.append(node)
        made += [one for x in makes for name in [x.removesuffix("?")] if name in after for one in after[name][2]]
    fresh = [type(node).FromString(node.SerializeToString()) for node in made]
    del graph.node[:]
    graph.node.extend(fresh)
    if any("16" in x["output_dtype"] for x in encodings):
        rounded.opset_import[0].version = 21
        rounded.ir_version = max(rounded.ir_version, 10)
    return rounded


def plain(model):
    """A session that computes node by node what the file says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


CASES = [
    *(("bert none", "w8a8", recipe, grain) for recipe in ("matmul", "paper_bert", "strict") for grain in ("tensor", "channel")),
    ("bert none", "w4a8", "matmul", "channel"),
    ("bert none", "w8a16", "strict", "tensor"),
    ("bert none", "w6a6", "matmul", "tensor"),
    ("bert mlm", "w8a8", "strict", "channel"),
    ("albert", "w8a8", "strict", "channel"),
    ("modernbert mlm", "w8a8", "strict", "channel"),
    ("vit", "w8a8", "strict", "channel"),
    ("opt", "w8a8", "matmul", "channel"),
    ("gated_mlp", "w8a8", "strict", "channel"),
    ("none", "w8a8", "strict", "tensor"),
]


@pytest.mark.parametrize("name, scheme, recipe, grain", CASES)
def test_the_graph_rounded_as_the_encodings_say_computes_what_the_model_does(name, scheme, recipe, grain):
    model, floating, integers, told = exported(name, scheme, recipe=recipe, weight_granularity=grain)
    encodings, names = told["encodings"], [one["name"] for one in told["encodings"]]
    assert told["version"] == "2.0.0" and len(names) == len(set(names)) and set(names) <= tensors_of(floating.graph)
    assert not [name for name in names if name.startswith("constant_")]
    shapes = {x.name: tuple(x.dims) for x in floating.graph.initializer}
    for one in encodings:
        scales = np.shape(one["y_scale"])
        assert scales == (() if "axis" not in one else (shapes[one["name"]][one["axis"]],))
    batch = examples(model.module.config, np.random.default_rng(3), 16, 16)
    sessions = map(plain, (with_nodes(floating, encodings), integers, floating))
    rounded, others, unrounded = (answers(session, batch) for session in sessions)
    for output, values in expected(model.module, model.apply, batch).items():
        there, theirs, original, simulated = (
            of_real(x, batch) for x in (rounded[output], others[output], unrounded[output], values)
        )
        print("COSINES", name, scheme, recipe, grain, len(names), 1 - cosine(there, simulated), 1 - cosine(there, theirs), 1 - cosine(there, original), 1-cosine(theirs,original))
        assert cosine(there, simulated) > 0.99999
        assert cosine(there, theirs) > 0.998  # whose biases are integers too
        assert cosine(there, original) < 0.9999


