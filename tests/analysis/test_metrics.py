"""The paper's metrics of whole models, against the official implementation's answers and against single tensors."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load_file

import qtx.analysis.metrics as metrics
from qtx import interop
from qtx.analysis import attention_health, heads, official_metrics, outlier_metrics
from qtx.analysis.capture import FloatingPoint, measured_sites, values_at
from qtx.attention import AttentionConfig
from qtx.attention.normalizers import ClippedSoftmax
from qtx.families import FAMILIES, build
from qtx.foundation.errors import QtxError
from tests.analysis.conftest import make_batch

REFERENCE_MODELS = ("bert_clipped_1l", "bert_gate_linear_1l", "opt_gate_all_heads_1l", "opt_vanilla_1l")


@pytest.mark.representative("opt_vanilla_1l")
@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_official_metrics_of_the_reference_models(reference, name):
    expected = json.loads((reference / name / "expected.json").read_text())
    tensors = load_file(reference / name / "expected.safetensors")
    clipped = "clipped(-.03:1.03)" in expected["variant"].values()
    attention = AttentionConfig(ClippedSoftmax(gamma=-0.03, zeta=1.03)) if clipped else None
    config, params = interop.load(reference / name, attention)
    module = build(config)
    batches = [
        {"tokens": tensors[f"eval.{i}.input_ids"].astype(np.int32), "mask": tensors[f"eval.{i}.attention_mask"] > 0}
        for i in range(2)
    ]
    got = official_metrics(module, outlier_metrics(module, params, batches, count_padding=True))
    assert jax.tree.structure(got) == jax.tree.structure(expected["metrics"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected["metrics"])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_and_padding_samples_do_not_change_the_metrics(make_model, family):
    module, params = make_model(family)
    batch = make_batch(family, size=6)
    rows = [np.array([0, 1, 2, 3]), np.array([4, 5, 4, 4])]  # the last two fill up the second batch
    halves = [{name: x[index] for name, x in batch.items()} for index in rows]
    halves[1]["weights"] = halves[1]["weights"].copy()
    halves[1]["weights"][2:] = 0
    got, expected = (outlier_metrics(module, params, b) for b in (halves, [batch]))
    for kind in ("inf_norms", "kurtoses"):
        for site in expected[kind]:
            np.testing.assert_allclose(got[kind][site], expected[kind][site], rtol=1e-5, err_msg=site)
    np.testing.assert_allclose(got["avg_kurtosis"], expected["avg_kurtosis"], rtol=1e-5)
    assert expected["max_inf_norm"] == expected["inf_norms"][measured_sites(module).infinity_norm].max()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "opt"])
def test_what_padding_holds_is_not_measured(make_model, family):
    """Of a padding token as large as an outlier, against the tensors themselves."""
    module, params = make_model(family)
    words = params["embeddings"]["words"]["embedding"].at[0].set(50.0)
    params = {**params, "embeddings": {**params["embeddings"], "words": {"embedding": words}}}
    batch = make_batch(family)
    batch["tokens"] = np.where(batch["mask"], np.maximum(batch["tokens"], 1), 0)
    site = measured_sites(module).infinity_norm
    values = jax.device_get(jax.jit(lambda p: values_at(FloatingPoint(module, p), batch, [site]))(params))[site]
    samples = list(zip(values.swapaxes(0, 1), batch["mask"], strict=True))
    texts = [[x[layer][mask] for x, mask in samples] for layer in range(len(values))]
    for count_padding in (False, True):
        found = outlier_metrics(module, params, [batch], count_padding=count_padding)
        layers = [list(layer) for layer in values] if count_padding else texts
        norms = [np.mean([np.abs(x).max() for x in layer]) for layer in layers]
        np.testing.assert_allclose(found["inf_norms"][site], norms, rtol=1e-5)
        if site in found["kurtoses"]:
            kurtoses = [np.mean([scipy.stats.kurtosis(x.ravel(), fisher=False) for x in layer]) for layer in layers]
            np.testing.assert_allclose(found["kurtoses"][site], kurtoses, rtol=2e-2)


def test_no_batches_is_an_error(make_model):
    with pytest.raises(QtxError, match="no batches"):
        outlier_metrics(*make_model("opt"), [])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ("clipped_softmax", "none"))
def test_health_agrees_with_the_metrics_and_knows_attention_that_is_off(make_model, variant):
    module, params = make_model("opt", variant)
    batch = make_batch("opt")
    health = attention_health(module, params, batch)
    metrics = outlier_metrics(module, params, [batch])
    for name in ("max_inf_norm", "avg_kurtosis"):
        np.testing.assert_allclose(health[name], metrics[name], rtol=1e-5)
    assert (health["zero_share"] > 0) == (variant in ("clipped_softmax", "none"))
    assert (health["dead_row_share"] == 1) == (health["zero_share"] == 1) == (variant == "none")
    assert (health["sink_mass"] == 0) == (variant == "none")


@pytest.mark.slow
def test_health_is_compiled_once(make_model):
    module, params = make_model("bert")
    attention_health(module, params, make_batch("bert"), 0)
    again = type(module)(module.config)
    doubled = jax.tree.map(lambda x: x * 2, params)
    with jax.no_tracing():  # an equal module, other parameters, data and step
        health = attention_health(again, doubled, make_batch("bert", seed=1), 7)
    assert health["max_inf_norm"] > 0


@pytest.mark.slow
def test_health_follows_the_annealing_of_gamma(make_model):
    module, params = make_model("bert")
    attention = AttentionConfig(ClippedSoftmax(alpha=4.0, gamma_warmup_steps=100, length=8))
    module = build(dataclasses.replace(module.config, attention=attention))
    shares = [attention_health(module, params, make_batch("bert"), step)["zero_share"] for step in (0, 50, 100)]
    assert shares[0] == 0 < shares[1] < shares[2]
    assert shares[2] == attention_health(module, params, make_batch("bert"))["zero_share"]


@pytest.mark.slow
def test_health_counts_more_keys_than_int32_holds(make_model, monkeypatch):
    """Weights as those of a large batch: the share stays that of the small one."""
    (module, params), batch = make_model("opt"), make_batch("opt")
    expected = attention_health(module, params, batch)
    original = heads.head_statistics

    def of_many(probs, value, mask, visible):
        found = original(probs, value, mask, visible)
        return {name: (values, weights.astype(np.int32) * 10_000_000) for name, (values, weights) in found.items()}

    monkeypatch.setattr(heads, "head_statistics", of_many)
    metrics._health.clear_cache()
    found = attention_health(module, params, batch)
    metrics._health.clear_cache()
    for name in ("zero_share", "dead_row_share", "sink_mass"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
