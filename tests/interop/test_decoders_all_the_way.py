"""Every kind of decoder after Llama: read, measured, quantized, run on integers, and written again."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from qtx.analysis.metrics import outlier_metrics
from qtx.families import FAMILIES, build
from qtx.interop import load, save
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.integer import convert
from tests.interop.kinds import KINDS, LENGTH, VOCABULARY

TYPES = {name for checkpoint in FAMILIES["llama"].checkpoints for name in checkpoint.model_types}
NAMES = [name for name, kind in KINDS.items() if kind.config.get("model_type") in TYPES]


def test_every_kind_is_among_them():
    assert {KINDS[name].config["model_type"] for name in NAMES} == TYPES


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_goes_all_the_way(tmp_path, name):
    KINDS[name].write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    module, rng = build(config), np.random.default_rng(0)
    batch = {"tokens": rng.integers(0, VOCABULARY, (4, LENGTH)), "mask": np.arange(LENGTH) < [[6], [4], [6], [2]]}
    assert np.isfinite(outlier_metrics(module, params, [batch])["max_inf_norm"])
    recipe = QuantizationConfig(recipe="paper_llama", weight_estimator="minmax").make_recipe("w8a8", config)
    quantized = calibrate(module, params, recipe, [batch], 1)
    simulated, integers = (np.asarray(jax.jit(x.apply)(batch))[batch["mask"]] for x in (quantized, convert(quantized)))
    assert np.linalg.norm(integers - simulated) < 0.05 * np.linalg.norm(simulated)
    save(tmp_path / "again", config, params, original=tmp_path / "original")
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "again"), (config, params))
