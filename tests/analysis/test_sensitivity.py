"""Sensitivity sweeps: which quantizers are on, what is measured, and that nothing is compiled twice."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.analysis.capture import FloatingPoint
from qtx.analysis.sensitivity import (
    Sweep,
    costliest,
    load_sweep,
    save_sweep,
    signal_to_noise,
    sweep,
    table_rows,
    targets,
)
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_json
from qtx.models import BertConfig
from qtx.pages.sensitivity_figure import save_sensitivity_plot, sensitivity_section
from qtx.quantization import QuantizationConfig, calibrate

# Every test compiles a quantized model of which any tensor can be left out.
pytestmark = pytest.mark.slow

CONFIG = BertConfig(
    num_layers=2, width=16, num_heads=2, mlp_width=32, init_std=0.3, vocab_size=23, max_length=8, dropout=0.0
)


@jax.jit
def logits(model, batch):
    return model.apply(batch)


@pytest.fixture(scope="module")
def model():
    """(quantized at W8A8 but a two-bit site in layer 1, FP parameters, batch)."""
    module, batch = build(CONFIG), {"tokens": np.random.default_rng(0).integers(0, 23, (4, 8))}
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"])
    recipe = QuantizationConfig(weight_estimator="minmax").make_recipe("w8a8", CONFIG)
    quantized = calibrate(module, params, recipe, [batch], 1)
    coarse = {**quantized.activation_ranges["layers/mlp/hidden"]}
    coarse["bits"] = coarse["bits"].at[1].set(2)
    ranges = {**quantized.activation_ranges, "layers/mlp/hidden": coarse}
    return dataclasses.replace(quantized, activation_ranges=ranges), params, batch


def error_to_floating_point(quantized, params, batch):
    exact = np.asarray(logits(FloatingPoint(quantized.module, params), batch))
    return lambda setting: float(np.linalg.norm(np.asarray(logits(setting, batch)) - exact))


@pytest.fixture(scope="module")
def swept(model):
    quantized, params, batch = model
    error = error_to_floating_point(*model)
    before = logits._cache_size()
    every = targets(quantized)
    found = sweep(quantized, params, [batch], error, every, scheme="w8a8", metric="perplexity", lower_is_better=True)
    return found, logits._cache_size() - before


def test_one_compilation_serves_the_whole_sweep(swept):
    found, compilations = swept
    assert len(found.rows) > 40  # each measured twice
    assert compilations == 1


def test_the_coarse_tensor_is_found(swept, model):
    found, _ = swept
    assert {(row.kind, row.path, row.layer) for row in found.rows} == set(targets(model[0]))
    first = found.rows[0]
    assert (first.name, first.kind, first.bits) == ("layers/mlp/hidden[1]", "activation", 2)
    assert first.sqnr == min(row.sqnr for row in found.rows)
    assert found.fp == pytest.approx(0, abs=1e-4)
    assert first.without < 0.5 * found.quantized < found.quantized
    assert all(row.alone <= first.alone for row in found.rows)


def test_signal_to_noise_ratio_by_hand(model):
    quantized, params, batch = model
    ratios = signal_to_noise(quantized, params, [batch, batch])
    kernel = np.asarray(params["layers"]["mlp"]["out"]["kernel"], np.float64)
    rounded = np.asarray(quantized.params["layers"]["mlp"]["out"]["kernel"], np.float64)
    expected = 10 * np.log10((kernel**2).sum(axis=(1, 2)) / ((kernel - rounded) ** 2).sum(axis=(1, 2)))
    np.testing.assert_allclose(ratios["weight", "layers/mlp/out/kernel"], expected, rtol=1e-3)
    assert np.isfinite(ratios["weight", "embeddings/words/embedding"])
    # Six decibels a bit: two bits hold 36 dB less than eight.
    hidden = ratios["activation", "layers/mlp/hidden"]
    assert 25 < hidden[0] - hidden[1] < 45


def test_halving_finds_what_measuring_every_tensor_finds(swept, model):
    (quantized, params, _), error = model, error_to_floating_point(*model)
    first = swept[0].rows[0]
    order = list(costliest(quantized, params, error, True))
    assert order[0] == (first.kind, first.path, first.layer)
    assert sorted(order, key=str) == sorted(targets(quantized), key=str)
    nothing = dataclasses.replace(quantized, weight_ranges={}, activation_ranges={})
    assert list(costliest(nothing, params, error, True)) == []


def test_a_sweep_comes_back_from_its_file(swept, tmp_path):
    assert load_sweep(tmp_path) is None
    save_sweep(swept[0], tmp_path)
    assert load_sweep(tmp_path) == swept[0]
    (tmp_path / "sensitivity.json").write_text('{"rows": 1}')
    with pytest.raises(QtxError, match="run qtx sensitivity again"):
        load_sweep(tmp_path)
    row = {**dataclasses.asdict(swept[0].rows[0]), "alone": "much"}
    (tmp_path / "sensitivity.json").write_bytes(sealed_json({**dataclasses.asdict(swept[0]), "rows": [row]}))
    with pytest.raises(QtxError, match="str in the place of .*float.*: run qtx sensitivity again"):
        load_sweep(tmp_path)


def test_table_plot_and_section_show_the_worst_first(swept, tmp_path):
    found: Sweep = swept[0]
    rows = table_rows(found, 3)
    assert [row[0] for row in rows] == ["everything", *(row.name for row in found.rows[:3])]
    assert save_sensitivity_plot(found, tmp_path).read_bytes().startswith(b"\x89PNG")
    section = "".join(sensitivity_section({"softmax": found}))
    assert "Which tensor costs the most" in section and "layers/mlp/hidden[1]" in section
    assert sensitivity_section({}) == []
