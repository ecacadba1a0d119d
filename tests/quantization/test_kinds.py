"""Kinds of models that are options of a family, through every recipe, method and into integers."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.analysis.capture import measured_sites
from qtx.analysis.metrics import outlier_metrics
from qtx.attention import VARIANTS
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig, OptConfig
from qtx.quantization import QuantizationConfig, calibrate, make_grid
from qtx.quantization.integer import convert, load, save
from qtx.quantization.methods import METHODS
from qtx.sites import capture, site_shapes
from tests.quantization.test_integer import PRODUCTS, assert_same_answers, off_the_edges
from tests.quantization.test_methods import reference_gptq

SMALL = {"num_layers": 2, "width": 16, "num_heads": 2, "mlp_width": 32, "init_std": 0.3, "vocab_size": 23}
LABELS = {"head": "classification", "num_classes": 3}
KINDS = {
    "OPT-350m": OptConfig(**SMALL, max_length=8, pre_norm=False, embedding_width=12),
    "DistilBERT": BertConfig(**SMALL, max_length=8, type_vocab_size=0, pooler_activation="relu", **LABELS),
    "ELECTRA": BertConfig(**SMALL, max_length=8, embedding_width=12),
    "ALBERT": BertConfig(**SMALL, max_length=8, embedding_width=12, shared_layers=True),
}


@functools.cache
def make(kind, attention="softmax"):
    config = dataclasses.replace(KINDS[kind], attention=VARIANTS[attention].trained_at(8))
    batch = {"tokens": np.random.default_rng(0).integers(0, 23, (4, 8)), "mask": np.arange(8) < [[8], [5], [8], [2]]}
    module = build(config)
    return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"]), batch


def quantized(kind, recipe, scheme, method="static", attention="softmax"):
    module, params, batch = make(kind, attention)
    rules = QuantizationConfig(recipe=recipe, method=method).make_recipe(scheme, module.config)
    return calibrate(module, params, rules, [batch], 1, METHODS[method]())


def difference(kind, result):
    module, params, batch = make(kind)
    expected, found = np.asarray(module.apply({"params": params}, batch)), np.asarray(result.apply(batch))
    valid = batch["mask"] if expected.ndim == 3 else ...
    return np.linalg.norm((found - expected)[valid]) / np.linalg.norm(expected[valid])


# The projections of each kind, with whether they have a bias.
PROJECTIONS = {
    "OPT-350m": {"embeddings/project_in": False, "project_out": False},
    "DistilBERT": {"head/pooler": True},
    **dict.fromkeys(("ELECTRA", "ALBERT"), {"embeddings/project_in": True, "head/transform": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sites_and_parameters_are_those_of_the_published_kind(kind):
    module, params, batch = make(kind)
    found = site_shapes(module, params, batch)
    assert {*PROJECTIONS[kind], "embeddings/sum", "head/logits"} <= found.keys()
    assert params["embeddings"]["words"]["embedding"].shape == (23, module.config.embedding_width or 16)
    assert params["layers"]["mlp"]["in"]["kernel"].shape == ((16, 32) if kind == "ALBERT" else (2, 16, 32))
    assert ("final_norm" in found) == ("final_norm" in params) is False
    typed = kind in ("ELECTRA", "ALBERT")
    assert ("embeddings/token_type_sum" in found) == ("token_types" in params["embeddings"]) == typed
    for path, biased in PROJECTIONS[kind].items():
        layer = functools.reduce(dict.__getitem__, path.split("/"), params)
        assert ("bias" in layer) == biased


@pytest.mark.long
@pytest.mark.parametrize(
    "kind, recipe, method",
    [
        ("OPT-350m", "paper_opt", "static"),
        ("OPT-350m", "strict", "smoothquant"),
        ("OPT-350m", "strict", "hadamard"),
        ("DistilBERT", "paper_bert", "static"),
        ("DistilBERT", "strict", "hadamard"),
        ("DistilBERT", "strict", "gptq"),
        ("ELECTRA", "strict", "static"),
        ("ELECTRA", "paper_bert", "smoothquant"),
        ("ELECTRA", "strict", "per_token"),
        ("ELECTRA", "paper_bert", "gptq"),
        ("ALBERT", "paper_bert", "static"),
        ("ALBERT", "strict", "hadamard"),
        ("ALBERT", "strict", "gptq"),
        ("ALBERT", "strict", "per_token"),
    ],
)
def test_recipes_and_methods_fit(kind, recipe, method):
    result = quantized(kind, recipe, "w8a8", method)
    assert {f"{path}/kernel" for path in PROJECTIONS[kind] if not path.startswith("head")} <= {
        planned.path for planned in result.weight_plan
    }
    if method != "per_token":
        assert {path for path in PROJECTIONS[kind] if not path.startswith("head")} <= result.activation_ranges.keys()
    assert 0 < difference(kind, quantized(kind, recipe, "w16a16", method)) < 1e-2
    assert difference(kind, result) < 0.2


@pytest.mark.slow
def test_layers_that_share_their_kernels_cannot_be_smoothed_each_in_its_own_way():
    with pytest.raises(QtxError, match="smoothquant finds no norm in a stack of layers whose output dense layers"):
        quantized("ALBERT", "strict", "w8a8", "smoothquant")


@pytest.mark.slow
def test_gptq_rounds_a_shared_kernel_for_the_inputs_of_all_layers():
    """The paper's algorithm, by the Hessian of both layers' inputs; that of either alone gives other integers."""
    module, params, batch = make("ALBERT")
    site, path = "layers/attention_norm", "layers/mlp/in/kernel"
    x = jax.jit(lambda p: capture(module.apply, {site}, {"params": p}, batch)[1][site])(params)
    rows = np.asarray(x, np.float64)[:, batch["mask"]]
    result = quantized("ALBERT", "strict", "w3a16", "gptq")
    r, kernel = result.weight_ranges[path], np.asarray(params["layers"]["mlp"]["in"]["kernel"], np.float64)
    assert r["minimum"].shape == () and rows.shape == (2, batch["mask"].sum(), 16)
    grid = make_grid(r["minimum"], r["maximum"], r["bits"], symmetric=True)
    scale, low, high = (float(x) for x in (grid.scale, grid.low, grid.high))
    rounded = np.asarray(result.params["layers"]["mlp"]["in"]["kernel"])

    def equal(*layers):
        hessian = sum(rows[layer].T @ rows[layer] for layer in layers)
        return np.isclose(rounded, reference_gptq(kernel, hessian, 0.01, scale, low, high), atol=1e-5).mean()

    assert equal(0, 1) > 0.99 > max(equal(0), equal(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "attention", "method"),
    [
        ("OPT-350m", "softmax", "smoothquant"),
        ("OPT-350m", "gated_linear", "static"),
        ("DistilBERT", "clipped_softmax", "static"),
        ("ELECTRA", "gated_linear", "static"),
        ("ELECTRA", "softmax", "smoothquant"),
        ("ALBERT", "softmax", "static"),
        ("ALBERT", "gated_linear", "gptq"),
    ],
)
def test_integers_compute_what_fake_quantization_simulates(tmp_path, kind, attention, method):
    result = off_the_edges(quantized(kind, "strict", "w8a8", method, attention))
    model = convert(result)
    assert not set(PRODUCTS) & set(model.in_floating_point)
    assert_same_answers(model, result, make(kind, attention)[2])
    save(model, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, load(result.module, tmp_path), model)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_outliers_are_measured_at_the_layers_outputs(kind):
    module, params, batch = make(kind)
    metrics, site = outlier_metrics(module, params, [batch]), measured_sites(module).infinity_norm
    assert site == ("layers/mlp_norm" if kind == "OPT-350m" else "layers/mlp/out")
    assert metrics["max_inf_norm"] == metrics["inf_norms"][site].max() > 0
