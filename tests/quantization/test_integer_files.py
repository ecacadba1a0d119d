"""The files of integer models: what comes back is what was written, and nothing else is taken for it."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from qtx.families import FAMILIES, build
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_json, sealed_safetensors
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.integer import convert, load, save
from tests.quantization.test_integer import CLIPPED, apply, make, quantized


@pytest.mark.long
@pytest.mark.representative("opt")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_files_give_the_model_back(family, tmp_path):
    attention, options = {"bert": ("softmax", {}), "opt": ("gated_mlp", {"recipe": "strict"})}.get(family, CLIPPED)
    result, batch = quantized(family, attention, **options)
    model = convert(result)
    save(model, tmp_path)
    save(model, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["integer.json", "model.safetensors"]
    again = load(result.module, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, model)
    np.testing.assert_array_equal(apply(again, batch), apply(model, batch))
    described = json.loads((tmp_path / "integer.json").read_text())
    assert described["bits"]["weights"] == [8] and described["model"] == FAMILIES[family].config.__name__
    assert described["in_floating_point"] == list(model.in_floating_point)


@pytest.mark.slow
def test_an_interrupted_save_leaves_the_old_model(tmp_path, monkeypatch):
    model = convert(quantized("bert")[0])
    save(model, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("qtx.foundation.storage.whole.os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(dataclasses.replace(model, in_floating_point=()), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_layers_take_a_quarter_of_float32(tmp_path):
    wide = {"width": 256, "mlp_width": 1024, "vocab_size": 23, "max_length": 8}
    module = build(FAMILIES["bert"].config(num_layers=1, num_heads=2, **wide))
    batch = {"tokens": np.zeros((1, 8), np.int32)}
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"])
    result = calibrate(module, params, QuantizationConfig().make_recipe("w8a8", module.config), [batch], 1)
    model = convert(result)
    save(model, tmp_path)
    written = (tmp_path / "model.safetensors").stat().st_size
    in_float = sum(x.nbytes for x in model.params.values())
    layers = sum(x.nbytes for x in jax.tree.leaves(params["layers"]))
    assert 0.25 < (written - in_float) / layers < 0.28


def truncate(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])


def drop_brace(folder):
    (folder / "integer.json").write_text((folder / "integer.json").read_text()[:-3])


def newer(folder):
    values = json.loads((folder / "integer.json").read_text())
    values.pop("checksum")
    (folder / "integer.json").write_bytes(sealed_json(values | {"format": 99}))


def edited(folder):
    values = json.loads((folder / "integer.json").read_text())
    (folder / "integer.json").write_text(json.dumps(values | {"in_floating_point": []}))


def other_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(sealed_safetensors({name: 2 * x for name, x in load_file(path).items()}))


def of_another_width(folder):
    values = json.loads((folder / "integer.json").read_text())
    values["config"]["width"] = 32
    values.pop("checksum")
    (folder / "integer.json").write_bytes(sealed_json(values))


DAMAGE = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "there is no file .*model.safetensors"),
    "no description": (lambda folder: (folder / "integer.json").unlink(), "there is no file .*integer.json"),
    "truncated": (truncate, "not a whole safetensors file"),
    "not JSON": (drop_brace, "integer.json is not .*not JSON"),
    "edited": (edited, "checksum does not fit"),
    "other weights": (other_weights, "not the file that integer.json describes"),
    "another format": (newer, "has format 99"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_damaged_files_are_refused(damage, tmp_path):
    result, _ = quantized("bert")
    save(convert(result), tmp_path)
    spoil, says = DAMAGE[damage]
    spoil(tmp_path)
    with pytest.raises(QtxError, match=says):
        load(result.module, tmp_path)


@pytest.mark.slow
def test_an_option_that_an_earlier_version_did_not_write_is_the_models(tmp_path):
    result, batch = quantized("bert", "clipped_softmax")
    model = convert(result)
    save(model, tmp_path)
    values = json.loads((tmp_path / "integer.json").read_text())
    del values["checksum"], values["config"]["activation"], values["config"]["attention"]["length"]
    (tmp_path / "integer.json").write_bytes(sealed_json(values))
    np.testing.assert_array_equal(apply(load(result.module, tmp_path), batch), apply(model, batch))


@pytest.mark.slow
def test_files_of_another_model_are_refused(tmp_path):
    result, _ = quantized("bert")
    save(convert(result), tmp_path)
    other = make("bert", "clipped_softmax")[0]
    with pytest.raises(QtxError, match="holds another model: its attention is"):
        load(other, tmp_path)
    of_another_width(tmp_path)
    with pytest.raises(QtxError, match=r"'params/embeddings/.*' has shape \(16,\), but the model's is \(32,\)"):
        load(make("bert", width=32)[0], tmp_path)
