"""Saved ranges: what comes back is what was calibrated, and nothing else is taken for it."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qtx.errors import QtxError
from qtx.models import OptConfig, build
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.files import load_ranges, save_ranges

CONFIG = OptConfig(num_layers=2, width=16, num_heads=2, mlp_width=32, init_std=0.3, vocab_size=23, max_length=8)


def recipe_of(scheme="w8a8", config=CONFIG, **options):
    return QuantizationConfig(recipe="paper_opt", weight_estimator="minmax", **options).make_recipe(scheme, config)


@pytest.fixture(scope="module")
def calibrated():
    module, batch = build(CONFIG), {"tokens": np.random.default_rng(0).integers(0, 23, (4, 8))}
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"])
    return calibrate(module, params, recipe_of(), [batch], 1), params, batch


@pytest.fixture
def file(calibrated, tmp_path):
    path = tmp_path / "ranges" / "w8a8.safetensors"
    save_ranges(calibrated[0], path)
    return path


def test_saved_ranges_give_the_same_model(calibrated, file):
    quantized, params, batch = calibrated
    loaded = load_ranges(quantized.module, params, recipe_of(), batch, file)
    jax.tree.map(np.testing.assert_array_equal, loaded, quantized)
    assert [path.name for path in file.parent.iterdir()] == ["w8a8.safetensors"]


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def edit(change):
    def damage(file):
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return damage


DAMAGES = {
    "absent": (lambda file: file.unlink(), "there is no file of ranges"),
    "truncated": (truncate, "not a whole safetensors file"),
    "site missing": (
        edit(lambda t: t.pop("activations/layers/mlp/out/maximum")),
        "has no activations/layers/mlp/out/max",
    ),
    "site too many": (edit(lambda t: t.update({"weights/gate/bits": np.ones(1)})), "has weights/gate/bits, which this"),
    "another depth": (
        edit(lambda t: t.update({"activations/layers/mlp/out/maximum": np.ones(3, np.float32)})),
        r"shape \(3,\), expected \(2,\)",
    ),
    "not finite": (
        edit(lambda t: t["activations/final_norm/maximum"].fill(np.nan)),
        "activation range of 'final_norm' is not finite",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_ranges_are_refused(calibrated, file, name):
    damage, says = DAMAGES[name]
    damage(file)
    quantized, params, batch = calibrated
    with pytest.raises(QtxError, match=says):
        load_ranges(quantized.module, params, recipe_of(), batch, file)


def test_ranges_of_another_scheme_are_refused(calibrated, file):
    quantized, params, batch = calibrated
    with pytest.raises(QtxError, match="bits is 8, expected 4"):
        load_ranges(quantized.module, params, recipe_of("w4a8"), batch, file)
