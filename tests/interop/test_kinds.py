"""Every kind of checkpoint is read, and written again as it was, bit for bit."""

from __future__ import annotations

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from qtx.attention import VARIANTS
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.foundation.storage.stored_tensors import open_safetensors
from qtx.interop import load, modeling, save
from qtx.interop.stored import ATTENTION_KEY, open_folder
from qtx.interop.weight_files import EXPECTED, INDEX
from qtx.models import LlamaConfig
from tests.interop.kinds import HEADS, IMAGE, KINDS, LAYERS, PATCH, WIDTH, shard

# Kinds whose own attention is that of `Kind.fields`, and kinds that code of another attention is not made for.
OF_THEIR_OWN = ("qwen3_next", "gpt_oss")
WITHOUT_CODE = ("smollm3", "gemma2", "gemma3_text")


def has_code(kind):
    """Says whether a kind's attention is one that its classes do not have."""
    return "attention" in kind.fields and kind.config["model_type"] not in OF_THEIR_OWN


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert (found[name].dtype, found[name].shape) == (expected[name].dtype, expected[name].shape), name
        assert found[name].tobytes() == expected[name].tobytes(), name


@pytest.mark.representative("[!ADE]*", "AlbertForMaskedLM", "DistilBertForS*", "ElectraForPre*")
@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_told_and_written_again_bit_for_bit(tmp_path, name):
    kind = KINDS[name]
    tensors = kind.write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    assert {field: getattr(config, field) for field in kind.fields} == kind.fields
    left_out = open_folder(tmp_path / "original").left_out(config)
    assert left_out == sorted({weight.rpartition(".")[0] for weight in kind.unused})
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert 0 < total <= sum(x.size for x in tensors.values()) + kind.made

    save(tmp_path / "again", config, params, original=tmp_path / "original")
    assert_same_bits(load_file(tmp_path / "again/model.safetensors"), tensors)
    values = json.loads((tmp_path / "again/config.json").read_text())
    more = {ATTENTION_KEY, *modeling.KEYS} if has_code(kind) else set()
    assert values == kind.config | {key: values[key] for key in more}
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "again"), (config, params))


@pytest.mark.representative("BertModel*", "BertForMaskedLM, of*", "OPTForCausalLM", "timm's ViT", "ViTModel")
@pytest.mark.parametrize("name", KINDS)
def test_what_training_changed_is_written_and_the_rest_is_as_it_was(tmp_path, name):
    """Names come from the original, values from the parameters: also where a copy of them is stored."""
    kind = KINDS[name]
    tensors = kind.write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    if "model_type" in kind.config:  # timm's tells no dropout, and decoders after Llama only the attention's
        option = "attention_dropout" if isinstance(config, LlamaConfig) else "dropout"
        config = dataclasses.replace(config, **{option: 0.25})
    save(tmp_path / "again", config, jax.tree.map(lambda x: x + 1, params), original=tmp_path / "original")
    kept = {*kind.unused, *kind.others}
    expected = {key: x if key in kept else x + 1 for key, x in tensors.items()}
    for key, rows in kind.unused_rows.items():
        expected[key][:rows] = tensors[key][:rows]
    assert_same_bits(load_file(tmp_path / "again/model.safetensors"), expected)
    assert load(tmp_path / "again")[0] == config


# timm computes no other attention, and there is no code of a ViT without its head, and of some decoders.
SOFTMAX = [
    name
    for name, kind in KINDS.items()
    if "attention" not in kind.fields
    and kind.config.get("model_type") not in (None, *WITHOUT_CODE)
    and not name.startswith("ViTModel")
]


def of_heads(config):
    """The shape of a parameter that each head of a model has."""
    return (HEADS,) if config.shared_layers else (LAYERS, HEADS)


@pytest.mark.representative("BertModel", "OPTForCausalLM, post-LN", "ViTForImageClassification")
@pytest.mark.parametrize("name", SOFTMAX)
def test_another_attentions_weights_are_written_too(tmp_path, name):
    KINDS[name].write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    config = dataclasses.replace(config, attention=VARIANTS["gated_linear"])
    heads = of_heads(config)
    gates = {"kernel": np.ones((*heads, WIDTH // HEADS), np.float32), "bias": np.zeros(heads)}
    params["layers"]["attention"]["gate_predictor"] = gates
    save(tmp_path / "gated", config, params, original=tmp_path / "original")
    found, written = load(tmp_path / "gated")
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, written, params)
    # And back to an attention without one.
    del params["layers"]["attention"]["gate_predictor"]
    save(tmp_path / "back", dataclasses.replace(config, attention=VARIANTS["softmax"]), params, tmp_path / "gated")
    assert_same_bits(load_file(tmp_path / "back/model.safetensors"), load_file(tmp_path / "original/model.safetensors"))
    assert json.loads((tmp_path / "back/config.json").read_text()) == KINDS[name].config


@pytest.mark.representative("BertForMaskedLM-*", "timm's ViT-*")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", KINDS)
def test_half_precision_is_read_and_written_again_bit_for_bit(tmp_path, name, dtype):
    """The parameters are those of the same weights in float32, rounded, which NumPy does."""
    KINDS[name].write(tmp_path / "whole")
    tensors = KINDS[name].write(tmp_path / "original", dtype)
    expected_config, expected = load(tmp_path / "whole")
    config, params = load(tmp_path / "original")
    assert config == expected_config
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, np.asarray(y).astype(dtype)), params, expected)
    save(tmp_path / "again", config, params, original=tmp_path / "original")
    found = open_safetensors(tmp_path / "again/model.safetensors", EXPECTED)[0]
    assert_same_bits({key: np.asarray(x) for key, x in found.items()}, tensors)


@pytest.mark.representative("BertForMaskedLM", "OPTForCausalLM", "timm's ViT")
@pytest.mark.parametrize("name", KINDS)
def test_shards_are_read_and_written_again(tmp_path, name):
    tensors = KINDS[name].write(tmp_path / "original")
    whole = load(tmp_path / "original")
    shard(tmp_path / "original")
    config, params = load(tmp_path / "original")
    jax.tree.map(np.testing.assert_array_equal, (config, params), whole)

    save(tmp_path / "again", config, params, original=tmp_path / "original")
    files = [path.name for path in (tmp_path / "original").iterdir()]
    code = {modeling.FILE} if has_code(KINDS[name]) else set()
    assert {path.name for path in (tmp_path / "again").iterdir()} == {*files, *code}
    for file in files:
        if file.endswith(".safetensors"):
            assert_same_bits(load_file(tmp_path / "again" / file), load_file(tmp_path / "original" / file))
    index = json.loads((tmp_path / "again" / INDEX).read_text())
    assert index == json.loads((tmp_path / "original" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())

    if name not in SOFTMAX:
        return
    config = dataclasses.replace(config, attention=VARIANTS["sink"])
    params["layers"]["attention"]["normalizer"] = {"sinks": np.ones(of_heads(config), np.float32)}
    save(tmp_path / "sink", config, params, original=tmp_path / "original")
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "sink"), (config, params))


def test_the_files_of_the_tokenizer_and_the_modules_are_carried_over(tmp_path):
    original = tmp_path / "original"
    KINDS["BertModel"].write(original)
    (original / "1_Pooling").mkdir()
    modules = [{"idx": 0, "name": "0", "path": "", "type": "x"}, {"idx": 1, "path": "1_Pooling", "type": "y"}]
    modules.append({"idx": 2, "path": "2_Normalize", "type": "z"})
    files = {"vocab.txt": "a", "1_Pooling/config.json": "{}", "modules.json": json.dumps(modules)}
    for name, text in files.items():
        (original / name).write_text(text)
    (original / "README.md").write_text("numbers of the original")
    save(tmp_path / "again", *load(original), original=original)
    written = {str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert written == {*files, "config.json", "model.safetensors"}
    assert {name: (tmp_path / "again" / name).read_text() for name in files} == files


def test_another_attention_is_refused_where_there_is_no_code_for_it(tmp_path):
    KINDS["ViTModel"].write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    config = dataclasses.replace(config, attention=VARIANTS["clipped_softmax"])
    with pytest.raises(QtxError, match="a ViTModel has no code for an attention that is no plain softmax"):
        save(tmp_path / "out", config, params, original=tmp_path / "original")


@pytest.mark.slow
def test_a_vit_without_a_head_gives_what_its_head_would_read(tmp_path):
    """The classifier is a linear map of the class token, the first of the last hidden states."""
    tensors = KINDS["ViTForImageClassification"].write(tmp_path)
    config, params = load(tmp_path)
    batch = {"images": np.random.default_rng(0).normal(size=(2, IMAGE, IMAGE, 3)).astype(np.float32)}
    encoder = build(dataclasses.replace(config, head="none", num_classes=None))
    hidden = encoder.apply({"params": {name: x for name, x in params.items() if name != "head"}}, batch)
    assert hidden.shape == (2, (IMAGE // PATCH) ** 2 + 1, WIDTH)
    expected = hidden[:, 0] @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(build(config).apply({"params": params}, batch), expected, rtol=1e-5, atol=1e-5)


def test_timms_format_is_refused_for_an_attention_that_timm_does_not_compute(tmp_path):
    KINDS["timm's ViT"].write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    config = dataclasses.replace(config, attention=VARIANTS["clipped_softmax"].trained_at(10))
    with pytest.raises(QtxError, match="timm's VisionTransformer has no code .* as bert, .* have: leave"):
        save(tmp_path / "out", config, params, original=tmp_path / "original")
    save(tmp_path / "out", config, params)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "out"), (config, params))


def test_timms_config_gets_the_names_of_classes_that_were_learned(tmp_path):
    kind = KINDS["timm's ViT"]
    kind.write(tmp_path / "original")
    names = [f"class {i}" for i in range(kind.config["num_classes"])]
    for learned, expected in ((False, kind.config), (True, {**kind.config, "label_names": names})):
        model = load(tmp_path / "original")
        save(tmp_path / "out", *model, tmp_path / "original", classes=names, learned=learned)
        assert json.loads((tmp_path / "out" / "config.json").read_text()) == expected


def test_another_models_original_is_refused_and_nothing_is_written(tmp_path):
    KINDS["BertModel"].write(tmp_path / "original")
    KINDS["BertForMaskedLM"].write(tmp_path / "other")
    with pytest.raises(QtxError, match="original is of another model, with head 'none' and not 'mlm'"):
        save(tmp_path / "out", *load(tmp_path / "other"), original=tmp_path / "original")
    assert not (tmp_path / "out").exists()


def test_a_classifier_is_that_of_the_pooled_first_token(tmp_path):
    """The formula of Devlin et al.'s release, with weights that leave only the pooler and the classifier to be seen."""
    tensors = KINDS["BertForSequenceClassification"].write(tmp_path)
    config, params = load(tmp_path)
    batch = {"tokens": np.array([[2, 3, 4]])}
    encoder = build(dataclasses.replace(config, head="none", num_classes=None))
    hidden = encoder.apply({"params": {key: params[key] for key in ("embeddings", "layers")}}, batch)[:, 0]
    pooled = np.tanh(hidden @ tensors["bert.pooler.dense.weight"].T + tensors["bert.pooler.dense.bias"])
    expected = pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(build(config).apply({"params": params}, batch), expected, rtol=1e-5, atol=1e-6)
