"""Models as ONNX graphs: ONNX Runtime computes what qtx does, in floating point and on the same integers."""

from __future__ import annotations

import collections
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

import qtx
from qtx.attention import VARIANTS, attention_variant
from qtx.cli.main import main
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig, LlamaConfig, ModernBertConfig, OptConfig, RotaryBertConfig, VitConfig
from qtx.models.pooling import POOLINGS, embedding_of
from qtx.quantization import QuantizationConfig, calibrate

ROOT = Path(__file__).parents[2]
MISSING = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")

SHAPE = dict(num_layers=2, width=32, num_heads=2, mlp_width=64, init_std=0.3)
TEXT = dict(**SHAPE, vocab_size=30, max_length=32)
IMAGE = dict(**SHAPE, image_size=16, patch_size=4, channels=3)
DEQUANTIZE = "DequantizeLinear"
HEADS = ("mlm", "classification", "regression", "multi_label", "token_classification", "span", "none")
MODULES = "dense,outputs=16 + normalize + dense,outputs=8,activation=GELU"
MODELS = {
    **{f"bert {head}": BertConfig(**TEXT, head=head, num_classes=3) for head in HEADS},
    **{f"bert {pooling}": BertConfig(**TEXT, head="none", pooling=pooling) for pooling in POOLINGS},
    **{f"bert {x}": BertConfig(**TEXT, head="none", activation=x) for x in ("relu", "silu", "quick_gelu", "tanh")},
    "bert modules": BertConfig(**TEXT, head="none", modules=MODULES, normalize=True, pooling="cls+mean"),
    "mpnet": BertConfig(**TEXT, head="none", relative_buckets=32, type_vocab_size=0, normalize=True),
    "albert": BertConfig(**TEXT, embedding_width=16, shared_layers=True, activation="gelu_new"),
    **{f"modernbert {x}": ModernBertConfig(**TEXT, head=x, num_classes=3, local_distance=3) for x in ("mlm", "none")},
    "modernbert mean": ModernBertConfig(**TEXT, head="classification", num_classes=3, text_pooling="mean"),
    **{f"nomic {head}": RotaryBertConfig(**TEXT, head=head, num_classes=3) for head in ("mlm", "classification")},
    "opt": OptConfig(**TEXT),
    "opt-350m": OptConfig(**TEXT, embedding_width=16, pre_norm=False),
    "llama": LlamaConfig(**TEXT, num_kv_heads=1, tied=False),
    "qwen3 embedding": LlamaConfig(**TEXT, num_kv_heads=1, qk_norm=True, head="none", normalize=True),
    "gemma": LlamaConfig(**TEXT, num_kv_heads=1, branch_norms=True, score_cap=5.0, logit_cap=3.0, norm_offset=1.0),
    "vit": VitConfig(**IMAGE, num_classes=5, patch_norm=True),
    "vit without a head": VitConfig(**IMAGE, head="none"),
}
ATTENTIONS = {
    name: BertConfig(**TEXT, head="none", attention=attention_variant(name).trained_at(16)) for name in VARIANTS
}
QUANTIZED = [
    *((name, recipe) for name in MODELS for recipe in ("matmul", "strict")),
    *((name, recipe) for name in ATTENTIONS for recipe in ("paper_bert", "strict")),
]


def examples(config, rng, number, length):
    if config.reads == "images":
        return {"images": rng.normal(size=(number, 16, 16, 3)).astype(np.float32)}
    batch = {"tokens": rng.integers(0, 30, (number, length)), "mask": np.ones((number, length), np.int64)}
    batch["mask"][0, length - 4 :] = 0
    if number > 1:
        batch["mask"][1, :2] = 0
    if getattr(config, "type_vocab_size", 0) > 1:
        batch["token_types"] = rng.integers(0, 2, (number, length))
    return batch


def made(config):
    """A model with random parameters, none of which is at a round number."""
    rng, module = np.random.default_rng(0), build(config)
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), config.example())["params"])
    return module, jax.tree.map(lambda x: np.asarray(x) + rng.normal(size=x.shape).astype(np.float32) / 20, params)


def session(model, file=None, precise=False):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if file is not None:
        options.optimized_model_filepath = str(file)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(run, batch):
    given = {"input_ids": "tokens", "attention_mask": "mask", "token_type_ids": "token_types"}
    feeds = {x.name: batch[given[x.name]] for x in run.get_inputs() if x.name in given}
    feeds |= {"pixel_values": batch["images"].transpose(0, 3, 1, 2)} if "images" in batch else {}
    return dict(zip([x.name for x in run.get_outputs()], run.run(None, feeds), strict=True))


def expected(module, apply, batch):
    """What qtx computes, by the names of the graph's outputs; of padding, which means nothing, zeros."""
    config, found = module.config, np.asarray(apply(batch))
    head, hidden = getattr(config, "head", None), found.ndim == 3
    if head == "span":
        return {"start_logits": found[..., 0], "end_logits": found[..., 1]}
    if head != "none":
        return {"logits": found}
    outputs = {"last_hidden_state": found} if hidden else {"sentence_embedding": found}
    if hidden and hasattr(config, "pooling"):
        real = batch["mask"].astype(bool) if "mask" in batch else np.ones(found.shape[:2], bool)
        outputs["sentence_embedding"] = np.asarray(embedding_of(found, real, batch, config))
    return outputs


def script(folder, texts, file):
    """The ten lines of docs/onnx.md, for other texts; they keep what they find."""
    [lines] = re.findall(r"```python\n(import numpy.*?)```", (ROOT / "docs/onnx.md").read_text(), re.DOTALL)
    lines, changed = re.subn("folder, texts = .*", f"folder, texts = {str(folder)!r}, {texts!r}", lines)
    assert changed == 1 and lines.count("model_quantized.onnx") == 1
    return lines.replace("model_quantized.onnx", file) + f"np.save({str(folder / 'found.npy')!r}, embeddings)\n"


def of_real(x, batch):
    mask = batch.get("mask")
    if mask is None or x.ndim < 2 or x.shape[:2] != mask.shape:
        return x
    return x * mask.reshape(mask.shape + (1,) * (x.ndim - 2))


@pytest.mark.parametrize("name", [*MODELS, *ATTENTIONS])
def test_a_graph_in_floating_point_computes_what_the_model_does(name):
    from qtx.onnx.convert import to_onnx

    config = {**MODELS, **ATTENTIONS}[name]
    module, params = made(config)
    run, rng = session(to_onnx(module, params).model), np.random.default_rng(1)
    for number, length in ((3, 11), (1, 32)):  # one graph for all sizes
        batch = examples(config, rng, number, length)
        found = answers(run, batch)
        for output, values in expected(module, lambda x: module.apply({"params": params}, x), batch).items():
            scale = np.abs(values).max()
            np.testing.assert_allclose(of_real(found[output], batch), of_real(values, batch), atol=2e-5 * scale)


def cosine(x, y):
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def quantized(config, scheme="w8a8", batches=4, **options):
    module, params = made(config)
    rng, options = np.random.default_rng(2), {"weight_estimator": "minmax", **options}
    chosen = QuantizationConfig(**options)
    data = [examples(config, rng, 8, 16) for _ in range(batches)]
    return calibrate(module, params, chosen.make_recipe(scheme, config), data, batches, chosen.make_method()), params


@pytest.mark.slow
@pytest.mark.parametrize("name, recipe", QUANTIZED)
def test_a_quantized_graph_computes_what_the_simulation_does(name, recipe, tmp_path):
    import onnx

    from qtx.onnx.convert import to_onnx

    config = {**MODELS, **ATTENTIONS}[name]
    model, params = quantized(config, recipe=recipe)
    graph = to_onnx(model.module, params, model)
    batch = examples(config, np.random.default_rng(3), 16, 16)
    found = answers(session(graph.model, tmp_path / "optimized.onnx"), batch)
    for output, values in expected(model.module, model.apply, batch).items():
        original = expected(model.module, lambda x: model.module.apply({"params": params}, x), batch)[output]
        there, simulated, floating = (of_real(x, batch) for x in (found[output], values, original))
        assert cosine(there, simulated) > 0.995
        assert cosine(there, floating) == pytest.approx(cosine(simulated, floating), abs=2e-3)
    makers = {name: node for node in graph.model.graph.node for name in node.output}
    gemms = [node for node in graph.model.graph.node if node.op_type == "Gemm"]
    on_integers = [
        node for node in gemms if all(name in makers and makers[name].op_type == DEQUANTIZE for name in node.input)
    ]
    assert len(on_integers) >= 4 * config.num_layers and len(gemms) - len(on_integers) == len(graph.in_floating_point)
    ops = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert ops["QGemm"] == len(on_integers) and not ops["QLinearSoftmax"]


@pytest.mark.slow
@pytest.mark.parametrize("name, granularity", [("bert none", "tensor"), ("bert none", "channel"), ("albert", "tensor")])
def test_products_without_loss_are_to_be_had_on_every_processor(name, granularity):
    """As docs/onnx.md says; on a processor that has them anyway nothing changes."""
    from qtx.onnx.convert import to_onnx

    model, params = quantized(MODELS[name], recipe="strict", weight_granularity=granularity)
    graph, batch = (
        to_onnx(model.module, params, model).model,
        examples(model.module.config, np.random.default_rng(3), 4, 16),
    )
    (found, *_), (precise, *_) = (answers(session(graph, **x), batch).values() for x in ({}, {"precise": True}))
    assert cosine(of_real(found, batch), of_real(precise, batch)) > 0.999


EMULATED = """
import sys, numpy as np, onnxruntime
folder, precise = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.x64quantprecision", precise)
session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options)
np.save(f"{folder}/found_{precise}.npy", session.run(None, dict(np.load(f"{folder}/batch.npz")))[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user")
def test_a_processor_without_vnni_gives_the_same_numbers_if_it_is_asked_to(tmp_path):
    import onnx

    from qtx.onnx.convert import to_onnx

    model, params = quantized(MODELS["bert none"], recipe="matmul")
    graph, batch = (
        to_onnx(model.module, params, model).model,
        examples(model.module.config, np.random.default_rng(3), 4, 16),
    )
    onnx.save(graph, tmp_path / "model.onnx")
    np.savez(
        tmp_path / "batch.npz",
        input_ids=batch["tokens"],
        attention_mask=batch["mask"],
        token_type_ids=batch["token_types"],
    )
    python, packages = Path(sys.executable).resolve(), Path(np.__file__).parents[1]
    for precise in "01":
        command = ["qemu-x86_64", "-cpu", "Haswell", python, "-c", EMULATED, tmp_path, precise]
        subprocess.run(command, check=True, env={"PYTHONPATH": str(packages)})
    cut, precise = (np.load(tmp_path / f"found_{x}.npy") for x in "01")
    here = next(iter(answers(session(graph, precise=True), batch).values()))
    np.testing.assert_allclose(of_real(precise, batch), of_real(here, batch), atol=1e-5)
    assert np.abs(of_real(cut - here, batch)).max() > 1e-3  # so there was something to ask for


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_linear_layer_gives_the_integers_that_its_integers_make(granularity):
    """Sums of products in 64 bits, from what the file and the runtime say of the layer's integers."""
    import onnx

    from qtx.onnx.convert import to_onnx

    model, params = quantized(MODELS["bert none"], recipe="strict", weight_granularity=granularity)
    graph = to_onnx(model.module, params, model).model
    makers = {name: node for node in graph.graph.node for name in node.output}
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    integers = {node.output[0] for node in graph.graph.node if node.op_type == "QuantizeLinear"}
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, 2, None) for name in sorted(integers))
    found = answers(session(graph), examples(model.module.config, np.random.default_rng(3), 16, 16))

    def read(name):
        """The integers, the scale and the zero-point of what a node dequantizes."""
        x, scale, *zero = makers[name].input
        while x not in known and x not in found:  # moved since it was quantized
            x = makers[x].input[0]
        return known.get(x, found.get(x)).astype(np.int64), known[scale].astype(np.float64), known[zero[0]]

    layers = 0
    for name in sorted(integers):
        _, scale, zero = makers[name].input
        product = makers[makers[name].input[0]]
        product = makers[product.input[0]] if product.op_type == "Reshape" else product
        if product.op_type != "Gemm":
            continue
        (x, of_x, zero_x), (kernel, of_kernel, zero_kernel), (bias, *_) = map(read, product.input)
        sums = (x - zero_x).reshape(-1, x.shape[-1]) @ (kernel - zero_kernel) + bias
        expected = np.clip(np.rint(sums * (of_x * of_kernel) / known[scale]) + known[zero], 0, 255)
        off = np.abs(found[name].reshape(expected.shape) - expected)
        assert off.max() <= 1 and (off > 0).mean() <= 1e-3
        layers += 1
    assert layers == 2 * 6  # of each layer four of the attention, and two of the feed-forward network


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheme, options, least",
    [
        ("w8a8", {"weight_granularity": "channel"}, 0.995),
        ("w8a8", {"activation_granularity": "group,num_groups=4", "recipe": "paper_bert"}, 0.995),
        ("w8a8", {"method": "gptq", "recipe": "strict"}, 0.995),
        ("w8a8", {"method": "dynamic", "recipe": "matmul", "weight_granularity": "channel"}, 0.999),
        ("w8a16", {}, 0.999),
        ("w16a8", {"recipe": "matmul"}, 0.999),
        ("w8a2", {"recipe": "matmul"}, 0.999),
        ("w4a8", {"recipe": "matmul"}, 0.995),
        (
            "w8a8",
            {"exempt": ("layers/mlp/out/kernel[1]=float", "layers/mlp/hidden[0]=float"), "recipe": "matmul"},
            0.995,
        ),
        ("w8a8", {"exempt": ("layers/attention/query/kernel[1]=16", "layers/mlp/hidden=16")}, 0.995),
        ("w8a8", {"exempt": ("layers/mlp/hidden[1]=float",), "method": "dynamic", "recipe": "matmul"}, 0.999),
        ("w6a6", {}, 0.98),  # a tie that is broken otherwise costs a larger step
    ],
)
def test_other_grids_are_exported(scheme, options, least):
    from qtx.onnx.convert import to_onnx

    model, params = quantized(MODELS["bert none"], scheme, **options)
    batch = examples(model.module.config, np.random.default_rng(3), 16, 16)
    found = answers(session(to_onnx(model.module, params, model).model), batch)["last_hidden_state"]
    assert cosine(of_real(found, batch), of_real(np.asarray(model.apply(batch)), batch)) > least


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("recipe", ["matmul", "strict"])
def test_no_matrix_is_in_floating_point_in_the_file(recipe, granularity):
    from onnx import TensorProto

    from qtx.onnx.convert import to_onnx

    model, params = quantized(MODELS["bert none"], recipe=recipe, weight_granularity=granularity)
    held = to_onnx(model.module, params, model).model.graph.initializer
    assert sum(len(x.dims) == 2 for x in held) == 2 * 6 + 3  # of each layer, and tables
    assert not [x.name for x in held if len(x.dims) == 2 and x.data_type == TensorProto.FLOAT]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_exempt_layers_alone_are_in_floating_point(method):
    from qtx.onnx.convert import to_onnx

    exempt = ("layers/mlp/out/kernel[1]=float", "layers/mlp/hidden[0]=float", "layers/attention/value/kernel[0]=float")
    model, params = quantized(MODELS["bert none"], recipe="matmul", method=method, exempt=exempt)
    assert sorted(to_onnx(model.module, params, model).in_floating_point) == [
        "layers.0.attention.value", "layers.0.mlp.out", "layers.1.mlp.out"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("scheme, floating", [("w8a16", 2 * 6), ("w16a8", 2 * 6), ("w8a8", 0), ("w4a4", 0)])
def test_layers_of_16_bits_count_as_those_in_floating_point(scheme, floating, tmp_path):
    """They are what the runtime computes in floating point."""
    import onnx

    from qtx.onnx.convert import to_onnx

    model, params = quantized(MODELS["bert none"], scheme, recipe="matmul")
    graph = to_onnx(model.module, params, model)
    session(graph.model, tmp_path / "optimized.onnx")
    ops = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert len(graph.in_floating_point) == floating == 2 * 6 - ops["QGemm"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert none", "mpnet", "opt", "vit", "nomic mlm", "modernbert mlm", "clipped_softmax"])
def test_attention_is_one_node_where_no_tensor_within_is_rounded(name):
    from qtx.onnx.convert import to_onnx

    config = {**MODELS, **ATTENTIONS}[name]
    found = {}
    for recipe in ("matmul", "strict"):
        model, params = quantized(config, recipe=recipe)
        graph = to_onnx(model.module, params, model).model
        nodes = collections.Counter(node.op_type for node in graph.graph.node)
        found[recipe] = (nodes["Attention"], nodes["Softmax"], graph.opset_import[0].version)
    layers = config.num_layers
    whole = (0, layers, 20) if name == "clipped_softmax" else (layers, 0, 23)
    assert found == {"matmul": whole, "strict": (0, layers, 20)}


@pytest.mark.slow
def test_an_export_is_run_by_ten_lines_without_qtx(tmp_path, capsys):
    texts = ["A short text.", "Another one, which is somewhat longer than the first text is.", "It rains."]
    run = f"--workdir={tmp_path / 'run'}"
    assert main(["import", "builtin:minilm-2l", run, "--config.data.sequence_length=32", "--config.mesh.data=1"]) == 0
    assert main(["export", "--format=onnx", run, "--config.quantization.recipe=matmul"]) == 0
    told, folder = capsys.readouterr().out, tmp_path / "run/export/onnx"
    assert "linear layers in floating point: none" in told
    original = qtx.load(tmp_path / "run").encode(texts)
    for file, least in (("model.onnx", 0.9999), ("model_quantized.onnx", 0.9)):
        subprocess.run([sys.executable, "-c", script(folder, texts, file)], check=True, env={"PATH": ""})
        assert (np.load(folder / "found.npy") * original).sum(-1).min() > least
        size = (folder / "onnx" / file).stat().st_size / 1e6
        assert f"{file}: {size:.1f} MB" in told
    assert size < 0.3 * (folder / "onnx/model.onnx").stat().st_size / 1e6
    assert not list(folder.rglob("*.safetensors")) and (folder / "modules.json").is_file()


def test_constants_beyond_what_a_file_may_hold_are_beside_it(tmp_path, monkeypatch):
    import onnxruntime

    from qtx.onnx import files
    from qtx.onnx.convert import to_onnx

    module, params = made(MODELS["bert none"])
    monkeypatch.setattr(files, "MOST_BYTES", 1000)
    graph = to_onnx(module, params).model
    sizes = files.save({"model.onnx": graph}, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx_data"}
    assert sizes == {"model.onnx": sum(file.stat().st_size for file in tmp_path.iterdir())}
    batch = examples(module.config, np.random.default_rng(3), 2, 8)
    found, whole = (
        answers(one, batch)["last_hidden_state"]
        for one in (onnxruntime.InferenceSession(tmp_path / "model.onnx"), session(to_onnx(module, params).model))
    )
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"method": "per_token"}, "has a range for each token, which no node of ONNX"),
        ({"method": "hadamard"}, "is rounded in another basis"),
        ({"weight_granularity": "input_group,size=8", "recipe": "matmul"}, "ranges of groups of inputs"),
    ],
)
def test_what_has_no_form_in_onnx_is_told(options, told):
    from qtx.onnx.convert import to_onnx

    model, params = quantized(MODELS["bert none"], **options)
    with pytest.raises(QtxError, match=told) as refused:
        to_onnx(model.module, params, model)
    assert "\n" not in str(refused.value)
