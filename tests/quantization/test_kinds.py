"""Every kind of text model, through every recipe, method and granularity, into integers and into training."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.analysis.capture import measured_sites
from qtx.analysis.metrics import outlier_metrics
from qtx.attention import VARIANTS
from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig, LlamaConfig, ModernBertConfig, OptConfig, RotaryBertConfig
from qtx.quantization import RECIPES, QuantizationConfig, calibrate, make_grid
from qtx.quantization.integer import convert, load, save
from qtx.quantization.methods import METHODS
from qtx.sites import capture, site_shapes
from tests.quantization.test_integer import PRODUCTS, apply, assert_same_answers, off_the_edges
from tests.quantization.test_methods import reference_gptq, without_grids
from tests.training.test_qat import assert_quantized_as_after_training

SMALL = {"num_layers": 2, "width": 16, "num_heads": 2, "mlp_width": 32, "init_std": 0.3, "vocab_size": 23}
SMALL |= {"max_length": 8}
LABELS = {"head": "classification", "num_classes": 3}
BIASES = {"attention_bias": True, "mlp_out_bias": True}
KINDS = {
    "OPT-350m": OptConfig(**SMALL, pre_norm=False, embedding_width=12),
    "GPT-2": OptConfig(**SMALL, activation="gelu_new"),
    "RoBERTa": BertConfig(**SMALL, type_vocab_size=1, head="token_classification", num_classes=3),
    "MPNet": BertConfig(**SMALL, type_vocab_size=0, relative_buckets=8, head="span"),
    "DistilBERT": BertConfig(**SMALL, type_vocab_size=0, pooler_activation="relu", **LABELS),
    "ELECTRA": BertConfig(**SMALL, embedding_width=12),
    "ALBERT": BertConfig(**SMALL, embedding_width=12, shared_layers=True),
    "ModernBERT": ModernBertConfig(**SMALL, local_distance=2, text_pooling="mean", **LABELS),
    "Nomic": RotaryBertConfig(**SMALL),
    "Qwen 3": LlamaConfig(**SMALL, num_kv_heads=1, head_dim=12, qk_norm=True),
    "Gemma 2": LlamaConfig(
        **SMALL,
        num_kv_heads=1,
        branch_norms=True,
        norm_offset=1.0,
        score_cap=5.0,
        logit_cap=3.0,
        embedding_scale=4.0,
        window=3,
        global_layers=(1,),
    ),
    "Mistral": LlamaConfig(**SMALL, num_kv_heads=1, tied=False, window=3, rotary_scaling="linear,factor=2"),
    "GTE": RotaryBertConfig(**SMALL, type_vocab_size=0, rotary_factor=8.0, activation="gelu", **BIASES, **LABELS),
}


@functools.cache
def make(kind, attention="softmax"):
    config = dataclasses.replace(KINDS[kind], attention=VARIANTS[attention].trained_at(8))
    batch = {"tokens": np.random.default_rng(0).integers(0, 23, (4, 8)), "mask": np.arange(8) < [[8], [5], [8], [2]]}
    module = build(config)
    return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"]), batch


def quantized(kind, recipe, scheme, method="static", attention="softmax", **granularities):
    module, params, batch = make(kind, attention)
    options = QuantizationConfig(recipe=recipe, method=method, weight_estimator="minmax", **granularities)
    return calibrate(module, params, options.make_recipe(scheme, module.config), [batch], 1, METHODS[method]())


@functools.cache
def in_floating_point(kind, attention):
    module, params, batch = make(kind, attention)
    return np.asarray(jax.jit(module.apply)({"params": params}, batch))


def difference(kind, attention, result):
    """The error of what real tokens get, as a share of what floating point gives them."""
    expected, batch = in_floating_point(kind, attention), make(kind, attention)[2]
    valid = batch["mask"] if expected.ndim == 3 else ...
    return np.linalg.norm((np.asarray(apply(result, batch)) - expected)[valid]) / np.linalg.norm(expected[valid])


# The projections of each kind, with whether they have a bias.
PROJECTIONS = {
    "OPT-350m": {"embeddings/project_in": False, "project_out": False},
    "DistilBERT": {"head/pooler": True},
    **dict.fromkeys(("ELECTRA", "ALBERT"), {"embeddings/project_in": True, "head/transform": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROJECTIONS)
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


FACTORS = {
    "kind": tuple(KINDS),
    "method": tuple(METHODS),
    "recipe": tuple(RECIPES),
    "attention": ("softmax", "clipped_softmax", "gated_linear"),
    "weight_granularity": ("tensor", "channel", "input_group,size=4"),
    "activation_granularity": ("tensor", "group", "token"),
    "then": ("nothing", "integers", "training"),
}


# Layers that share their kernels cannot be smoothed each in its own way, BERT's recipe is for models with a head, and
# quarot for decoders whose branches begin with an RMSNorm.
IMPOSSIBLE = {("ALBERT", "smoothquant"), *((kind, "quarot") for kind in KINDS.keys() - {"Qwen 3", "Mistral"})} | {
    (kind, "paper_bert") for kind in ("OPT-350m", "GPT-2", "Qwen 3", "Gemma 2", "Mistral")
}


def fits(kind, method, recipe, attention, weight_granularity, activation_granularity, then):
    """Says whether a row is possible. Integers have ranges that are fixed, and of tensors but for weights' channels."""
    static = (
        method not in ("per_token", "dynamic")
        and activation_granularity == "tensor"
        and "group" not in weight_granularity
    )
    return not IMPOSSIBLE & {(kind, method), (kind, recipe)} and (then != "integers" or static)


def pairs(row):
    return set(itertools.combinations(enumerate(row), 2))


def pairwise():
    """Some of the possible rows, in which every pair of values that is possible occurs: of the rows with a pair that is
    left, the one with most of these, and of such the one whose values have occurred least."""
    possible = {row: pairs(row) for row in itertools.product(*FACTORS.values()) if fits(*row)}
    left = dict.fromkeys(pair for found in possible.values() for pair in sorted(found))
    rows, used = [], Counter()
    while left:
        wanted = next(iter(left))
        fitting = [row for row, found in possible.items() if wanted in found]
        row = max(fitting, key=lambda row: (len(possible[row] & left.keys()), -sum(used[x] for x in enumerate(row))))
        left = {pair: None for pair in left if pair not in possible[row]}
        used.update(enumerate(row))
        rows.append(row)
    return rows


@pytest.mark.long
@pytest.mark.parametrize(tuple(FACTORS), pairwise())
def test_every_kind_with_every_recipe_and_method(
    kind, method, recipe, attention, weight_granularity, activation_granularity, then
):
    module, params, batch = make(kind, attention)
    granularities = {"weight_granularity": weight_granularity, "activation_granularity": activation_granularity}
    fine, result = (quantized(kind, recipe, x, method, attention, **granularities) for x in ("w16a16", "w8a8"))
    error = difference(kind, attention, result)
    assert difference(kind, attention, fine) < min(1e-2, error / 10) and error < 0.2
    of_body = {path for path in PROJECTIONS.get(kind, ()) if not path.startswith("head")}
    assert {f"{path}/kernel" for path in of_body} <= {planned.path for planned in result.weight_plan}
    assert recipe == "matmul" or of_body <= result.activation_ranges.keys()  # which leaves what they give as it is
    assert difference(kind, attention, without_grids(result, method, params, batch)) < 1e-4

    if then == "training":
        options, learn = QuantizationConfig(recipe=recipe, **granularities), activation_granularity != "group"
        # Of two programs one may round the zero-point of a token's grid down, the other up: at 16 bits that is little.
        scheme, allowed = ("w4a16", 2e-3) if activation_granularity == "token" else ("w8a8", 0.02)
        rules = options.make_recipe(scheme, module.config)
        assert_quantized_as_after_training(module, params, batch, rules, learn, allowed)
    if then != "integers":
        return
    if (kind, weight_granularity) == ("OPT-350m", "channel"):
        # It multiplies its table, whose columns have scales of their own then.
        with pytest.raises(QtxError, match="the weight 'embeddings/words/embedding' .*set .*weight_granularity=tensor"):
            convert(result)
        return
    result = off_the_edges(result)
    model = convert(result)
    left = {"layers/attention/out"} if (attention, recipe) == ("gated_linear", "paper_opt") else set()
    left |= {f"layers/attention/{name}_product" for name in ("score", "context")} if recipe == "matmul" else set()
    assert set(PRODUCTS) & set(model.in_floating_point) == left
    assert_same_answers(model, result, batch)


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
        ("ALBERT", "softmax", "hadamard"),
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
@pytest.mark.parametrize("kind", PROJECTIONS)
def test_outliers_are_measured_at_the_layers_outputs(kind):
    module, params, batch = make(kind)
    metrics, site = outlier_metrics(module, params, [batch]), measured_sites(module).infinity_norm
    assert site == ("layers/mlp_norm" if kind == "OPT-350m" else "layers/mlp/out")
    assert metrics["max_inf_norm"] == metrics["inf_norms"][site].max() > 0
