"""Every kind of checkpoint is read, and written again as it was, bit for bit."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from qtx.attention import VARIANTS
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from tests.interop.kinds import BERT, KINDS


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert (found[name].dtype, found[name].shape) == (expected[name].dtype, expected[name].shape), name
        assert found[name].tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_told_and_written_again_bit_for_bit(tmp_path, name):
    kind = KINDS[name]
    tensors = kind.write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    assert {field: getattr(config, field) for field in kind.fields} == kind.fields
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert 0 < total <= sum(x.size for x in tensors.values())

    save(tmp_path / "again", config, params, original=tmp_path / "original")
    assert_same_bits(load_file(tmp_path / "again/model.safetensors"), tensors)
    assert json.loads((tmp_path / "again/config.json").read_text()) == kind.config
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "again"), (config, params))


@pytest.mark.parametrize("name", KINDS)
def test_what_training_changed_is_written_and_the_rest_is_as_it_was(tmp_path, name):
    """Names come from the original, values from the parameters: also where a copy of them is stored."""
    kind = KINDS[name]
    tensors = kind.write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    trained = jax.tree.map(lambda x: x + 1, params)
    save(tmp_path / "again", dataclasses.replace(config, dropout=0.25), trained, original=tmp_path / "original")
    found = load_file(tmp_path / "again/model.safetensors")
    assert found.keys() == tensors.keys()
    same = {name for name in found if np.array_equal(found[name], tensors[name])}
    unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    unused |= {f"cls.seq_relationship.{part}" for part in ("weight", "bias")}
    if kind.fields.get("head") == "classification":
        unused -= {"pooler.dense.weight", "pooler.dense.bias"}
    assert same == {name for name in found if name.removeprefix("bert.") in unused}
    for name in found.keys() - same:
        np.testing.assert_array_equal(found[name], tensors[name] + 1)
    again, _ = load(tmp_path / "again")
    assert again == dataclasses.replace(config, dropout=0.25)


@pytest.mark.parametrize("name", KINDS)
def test_another_attentions_weights_are_written_too(tmp_path, name):
    KINDS[name].write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    config = dataclasses.replace(config, attention=VARIANTS["gated_linear"])
    gates = {"kernel": np.ones((config.num_layers, config.num_heads, 4)), "bias": np.zeros((config.num_layers, 2))}
    params["layers"]["attention"]["gate_predictor"] = gates
    save(tmp_path / "gated", config, params, original=tmp_path / "original")
    found, written = load(tmp_path / "gated")
    assert found.attention == config.attention
    jax.tree.map(np.testing.assert_array_equal, written, params)
    # And back to an attention without one.
    del params["layers"]["attention"]["gate_predictor"]
    save(tmp_path / "back", dataclasses.replace(config, attention=VARIANTS["softmax"]), params, tmp_path / "gated")
    assert_same_bits(load_file(tmp_path / "back/model.safetensors"), load_file(tmp_path / "original/model.safetensors"))
    assert json.loads((tmp_path / "back/config.json").read_text()) == KINDS[name].config


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


def test_another_models_original_is_refused_and_nothing_is_written(tmp_path):
    KINDS["BertModel"].write(tmp_path / "original")
    KINDS["BertForMaskedLM"].write(tmp_path / "other")
    with pytest.raises(QtxError, match="original is of another model, with head 'none' and not 'mlm'"):
        save(tmp_path / "out", *load(tmp_path / "other"), original=tmp_path / "original")
    assert not (tmp_path / "out").exists()


WRONG = {
    "an unknown head": ({"architectures": ["BertForTokenClassification"]}, "unknown architecture .*did you mean"),
    "architectures no list": ({"architectures": "BertModel"}, "expected a list of one name"),
    "another dropout before the classifier": ({"classifier_dropout": 0.5}, "classifier_dropout is 0.5; .* only 0.1"),
    "pruned heads": ({"pruned_heads": {"0": [1]}}, "has pruned_heads, which qtx does not support"),
    "quantized": ({"quantization_config": {"bits": 4}}, "has quantization_config, which qtx does not support"),
    "a head without weights": ({"architectures": ["BertForSequenceClassification"]}, "weights tell num_classes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_represented_is_refused_by_its_field(tmp_path, case):
    change, message = WRONG[case]
    dataclasses.replace(KINDS["BertModel"], config=BERT | change).write(tmp_path)
    with pytest.raises(QtxError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    kind = KINDS["BertModel"]
    double = kind.shapes | {"bert.encoder.layer.0.output.LayerNorm.gamma": (8,)}
    dataclasses.replace(kind, shapes=double).write(tmp_path)
    with pytest.raises(QtxError, match="has bert.encoder.layer.0.output.LayerNorm.weight twice"):
        load(tmp_path)


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
