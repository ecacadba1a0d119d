"""OPT-350m's kind, post-LN with projected embeddings, through every recipe, method and into integers."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.analysis.capture import measured_sites
from qtx.analysis.metrics import outlier_metrics
from qtx.attention import VARIANTS
from qtx.families import build
from qtx.models import OptConfig
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.integer import convert
from qtx.quantization.methods import METHODS
from qtx.sites import site_shapes
from tests.quantization.test_integer import PRODUCTS, assert_same_answers, off_the_edges

SMALL = {"num_layers": 2, "width": 16, "num_heads": 2, "mlp_width": 32, "init_std": 0.3, "vocab_size": 23}


@functools.cache
def make(attention="softmax"):
    config = OptConfig(
        **SMALL, max_length=8, pre_norm=False, embedding_width=12, attention=VARIANTS[attention].trained_at(8)
    )
    batch = {"tokens": np.random.default_rng(0).integers(0, 23, (4, 8)), "mask": np.arange(8) < [[8], [5], [8], [2]]}
    module = build(config)
    return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"]), batch


def quantized(recipe, scheme, method="static", attention="softmax"):
    module, params, batch = make(attention)
    rules = QuantizationConfig(recipe=recipe, method=method).make_recipe(scheme, module.config)
    return calibrate(module, params, rules, [batch], 1, METHODS[method]())


def difference(result):
    module, params, batch = make()
    expected = np.asarray(module.apply({"params": params}, batch))[batch["mask"]]
    found = np.asarray(result.apply(batch))[batch["mask"]]
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.slow
def test_sites_and_parameters_are_those_of_the_published_kind():
    module, params, batch = make()
    found = site_shapes(module, params, batch)
    assert {"embeddings/project_in", "embeddings/sum", "project_out", "head/logits"} <= found.keys()
    assert "final_norm" not in found and "final_norm" not in params
    assert params["embeddings"]["words"]["embedding"].shape == (23, 12)
    assert "bias" not in params["project_out"] and "bias" not in params["embeddings"]["project_in"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe, method", [("paper_opt", "static"), ("strict", "smoothquant"), ("strict", "hadamard")])
def test_recipes_and_methods_fit(recipe, method):
    result = quantized(recipe, "w8a8", method)
    assert {"embeddings/project_in/kernel", "project_out/kernel"} <= {planned.path for planned in result.weight_plan}
    if method != "per_token":
        assert {"embeddings/project_in", "project_out"} <= result.activation_ranges.keys()
    assert 0 < difference(quantized(recipe, "w16a16", method)) < 1e-2
    assert difference(result) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "method"), [("softmax", "smoothquant"), ("gated_linear", "static")])
def test_integers_compute_what_fake_quantization_simulates(attention, method):
    result = off_the_edges(quantized("strict", "w8a8", method, attention))
    model = convert(result)
    assert not set(PRODUCTS) & set(model.in_floating_point)
    assert_same_answers(model, result, make(attention)[2])


@pytest.mark.slow
def test_outliers_are_measured_at_the_layers_outputs():
    module, params, batch = make()
    metrics = outlier_metrics(module, params, [batch])
    assert measured_sites(module).infinity_norm == "layers/mlp_norm"
    assert metrics["max_inf_norm"] == metrics["inf_norms"]["layers/mlp_norm"].max() > 0
