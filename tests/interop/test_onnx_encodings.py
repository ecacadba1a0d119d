"""Quantization encodings beside a graph in floating point: whoever rounds the graph as they say has qtx's model.

The graph is rounded here by ONNX's own nodes, inserted where the file says, and not by anything of qtx.
"""

from __future__ import annotations

import errno
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from qtx.cli.main import main
from qtx.foundation.errors import QtxError
from tests.interop.test_onnx import ATTENTIONS, MODELS, answers, cosine, examples, expected, of_real, quantized

MISSING = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


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


def grid_of(one):
    """The scale, the zero-point, and both ends of an encoding's values, and the axis of its channels."""
    kind = one["output_dtype"]
    bits, signed = int(kind.removeprefix("u").removeprefix("int")), not kind.startswith("u")
    low = -(2 ** (bits - 1)) if signed else 0
    held = np.dtype(f"{'' if signed else 'u'}int{8 if bits <= 8 else 16}")
    scale = np.array(one["y_scale"], np.float32)
    zero = np.broadcast_to(one.get("y_zero_point", 0), scale.shape).astype(held)
    ends = [np.float32(scale * (np.float32(end) - zero)) for end in (low, low + 2**bits - 1)]
    return scale, zero, ends, {"axis": one["axis"]} if scale.ndim else {}


def with_nodes(model, encodings):
    """The graph in floating point, each tensor that has an encoding rounded by ONNX's nodes. Fewer bits than 8 are the
    integers of 8, cut to the range beforehand."""
    from onnx import ModelProto, helper, numpy_helper

    rounded = ModelProto()
    rounded.CopyFrom(model)
    graph, told = rounded.graph, {one["name"]: one for one in encodings}
    ends, parameters = {x.name for x in graph.output}, {x.name for x in graph.initializer}
    made_as = {name: f"{name}?" if name in ends else name for name in told}
    read_as = {name: name if name in ends else f"{name}?rounded" for name in told}

    def rounding(name):
        scale, zero, (low, high), axis = grid_of(told[name])
        values = {"scale": scale, "zero": zero, "low": low.min(), "high": high.max()}
        graph.initializer.extend(numpy_helper.from_array(np.asarray(x), f"{name}?{part}") for part, x in values.items())
        grid, cut = [f"{name}?scale", f"{name}?zero"], [f"{name}?low", f"{name}?high"]
        source = made_as[name]
        if scale.ndim == 0:  # a grid per channel that is narrower than its type ends where its weights do
            yield helper.make_node("Clip", [source, *cut], [f"{name}?cut"])
            source = f"{name}?cut"
        yield helper.make_node("QuantizeLinear", [source, *grid], [f"{name}?integers"], **axis)
        yield helper.make_node("DequantizeLinear", [f"{name}?integers", *grid], [read_as[name]], **axis)

    nodes = [one for name in told if name in parameters for one in rounding(name)]
    for node in graph.node:
        made = [name for name in node.output if name in told]
        node.input[:] = [read_as.get(x, x) for x in node.input]
        node.output[:] = [made_as.get(x, x) for x in node.output]
        nodes += [type(node).FromString(node.SerializeToString()), *(one for name in made for one in rounding(name))]
    del graph.node[:]
    graph.node.extend(nodes)
    if any(one["output_dtype"].endswith("16") for one in encodings):
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


GRAINS, RECIPES = ("tensor", "channel"), ("matmul", "paper_bert", "strict")
CASES = [
    *(("bert none", "w8a8", recipe, grain) for recipe in RECIPES for grain in GRAINS),
    ("bert none", "w8a16", "strict", "tensor"),
    ("bert none", "w4a8", "matmul", "channel"),
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
    shapes = {x.name: tuple(x.dims) for x in floating.graph.initializer}
    for one in encodings:
        assert np.shape(one["y_scale"]) == (() if "axis" not in one else (shapes[one["name"]][one["axis"]],))
    weights = [one for one in encodings if one["name"] in shapes]
    assert not [one["name"] for one in weights if one["name"].startswith("constant_")]
    assert any("axis" in one for one in weights) == (grain == "channel")
    assert all("axis" not in one and one["output_dtype"][0] == "u" for one in encodings if one not in weights)
    batch = examples(model.module.config, np.random.default_rng(3), 16, 16)
    sessions = map(plain, (with_nodes(floating, encodings), integers, floating))
    rounded, others, unrounded = (answers(session, batch) for session in sessions)
    for output, values in expected(model.module, model.apply, batch).items():
        there, theirs, original, simulated = (
            of_real(x, batch) for x in (rounded[output], others[output], unrounded[output], values)
        )
        assert cosine(there, simulated) > 0.99998
        assert cosine(there, theirs) > 0.998  # whose biases are integers too
        assert cosine(there, original) < 0.99995


def test_the_names_are_those_of_sites_and_weights():
    _, floating, integers, told = exported("bert none", recipe="strict", weight_granularity="channel")
    found = {one["name"]: one for one in told["encodings"]}
    for name in ("embeddings.words.embedding", "layers.0.attention.query.kernel", "layers.1.mlp.out.kernel"):
        assert found[name]["axis"] == 1
    assert found["layers.0.mlp.out.kernel"]["output_dtype"] == "int8"
    assert "y_zero_point" not in found["layers.0.mlp.out.kernel"]
    assert found["layers.0.mlp.out"]["output_dtype"] == "uint8"
    makers = {name: node for node in integers.graph.node for name in node.output}
    known = {x.name: x for x in integers.graph.initializer}
    [rounding] = [x for x in integers.graph.node if x.op_type == "QuantizeLinear" and x.input[0] == "layers.0.mlp.out"]
    from onnx import numpy_helper

    scale, zero = (numpy_helper.to_array(known[name]) for name in rounding.input[1:3])
    assert "layers.0.mlp.out" in makers and scale == np.float32(found["layers.0.mlp.out"]["y_scale"])
    assert zero == found["layers.0.mlp.out"]["y_zero_point"]


@pytest.mark.parametrize(
    "options, told",
    [
        ({"method": "dynamic"}, "ranges of activations are found at each call"),
        ({"method": "gptq", "recipe": "matmul"}, "does not round weights to the nearest integer"),
        ({"activation_granularity": "group,num_groups=4", "recipe": "paper_bert"}, "an activation with several ranges"),
    ],
)
def test_why_there_are_none_is_told_in_one_line(options, told):
    with pytest.raises(QtxError, match=told) as refused:
        exported("bert none", **options)
    assert "\n" not in str(refused.value)


def test_encodings_of_an_earlier_export_do_not_stay(tmp_path):
    from onnx import helper

    from qtx.pipeline.export_onnx import Graphs, write_graphs

    empty = helper.make_model(helper.make_graph([], "empty", [], []))
    file = tmp_path / "onnx/model.encodings"
    write_graphs(Graphs({"model.onnx": empty}, b"{}"), tmp_path)
    assert file.read_bytes() == b"{}"
    write_graphs(Graphs({"model.onnx": empty}, None), tmp_path)
    assert not file.exists() and (tmp_path / "onnx/model.onnx").exists()


def test_a_full_disk_leaves_an_earlier_export_as_it_was(tmp_path, monkeypatch):
    import onnx

    from qtx.pipeline.export_onnx import Graphs, write_graphs

    def graphs(name):
        return {"model.onnx": onnx.helper.make_model(onnx.helper.make_graph([], name, [], []))}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_graphs(Graphs(graphs("one"), b"{}"), tmp_path)
    before = {file.name: file.read_bytes() for file in (tmp_path / "onnx").iterdir()}
    for place, name in ((onnx, "save_model"), (Path, "write_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(QtxError, match="cannot write .*: No space left on device"):
                write_graphs(Graphs(graphs("other"), b"[]"), tmp_path)
        assert {file.name: file.read_bytes() for file in (tmp_path / "onnx").iterdir()} == before


@pytest.mark.slow
def test_an_export_has_encodings_beside_it_or_says_why_not(tmp_path, capsys):
    run = f"--workdir={tmp_path / 'run'}"
    of_data = ["--config.data.sequence_length=32", "--config.mesh.data=1"]
    assert main(["import", "builtin:minilm-2l", run, *of_data]) == 0
    export, file = ["export", "--format=onnx", run], tmp_path / "run/export/onnx/onnx/model.encodings"
    assert main([*export, "--config.quantization.recipe=matmul"]) == 0
    assert f"{file}: " in capsys.readouterr().out
    assert {one["name"] for one in json.loads(file.read_bytes())["encodings"]} >= {"layers.0.mlp.in.kernel"}
    assert main([*export, "--method=dynamic"]) == 0
    assert "no model.encodings: ranges of activations are found at each call" in capsys.readouterr().out
    assert not file.exists()


@pytest.mark.skipif(find_spec("aimet_onnx") is None, reason="needs aimet-onnx")
@pytest.mark.parametrize("recipe", RECIPES)
def test_aimet_reads_them(recipe):
    from aimet_onnx.quantsim import encodings_to_onnx_qdq

    model, floating, _, told = exported("bert none", recipe=recipe, weight_granularity="channel")
    batch = examples(model.module.config, np.random.default_rng(3), 16, 16)
    found = answers(plain(encodings_to_onnx_qdq(floating, told)), batch)["last_hidden_state"]
    assert cosine(of_real(found, batch), of_real(np.asarray(model.apply(batch)), batch)) > 0.99998
