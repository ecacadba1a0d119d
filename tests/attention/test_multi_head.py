"""MultiHeadAttention over every variant: against a plain reference, its sites, its parameter counts, its precision."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.attention import GATES, VARIANTS, AttentionConfig, MultiHeadAttention
from qtx.attention.config import GATE_OPTIONS, NORMALIZER_OPTIONS
from qtx.errors import QtxError

VARIANT_NAMES = sorted(VARIANTS)
B, T, H, D = 2, 6, 3, 4


def make(config, **kwargs):
    options = {"dropout": 0.0, "init_std": 0.5, "dtype": jnp.dtype("float32"), "deterministic": True} | kwargs
    module = MultiHeadAttention(H, config, **options)
    x = jax.random.normal(jax.random.key(0), (B, T, H * D))
    return module, nn.unbox(module.init(jax.random.key(1), x)), x


def reference(params, x, config, mask):
    """The paper's equations head by head, in NumPy."""
    p, x = jax.tree.map(np.asarray, params), np.asarray(x)
    heads = {n: (x @ p[n]["kernel"] + p[n]["bias"]).reshape(B, T, H, D) for n in ("query", "key", "value")}
    context = np.zeros((B, T, H, D))
    for b in range(B):
        for h in range(H):
            scores = heads["query"][b, :, h] @ heads["key"][b, :, h].T / np.sqrt(D)
            probs = np.asarray(config.make_normalizer()(scores[None, None], mask[b][None, None]))[0, 0]
            context[b, :, h] = probs @ heads["value"][b, :, h]
            if config.gate != "none":
                g = p["gate_predictor"]
                x_head = x[b, :, h * D : (h + 1) * D]
                if config.gate == "linear":
                    logit = x_head @ g["kernel"][h] + g["bias"][h]
                elif config.gate == "mlp":
                    hidden = np.maximum(x_head @ g["hidden_kernel"][h] + g["hidden_bias"][h], 0)
                    logit = hidden @ g["kernel"][h] + g["bias"][h]
                else:
                    logit = x[b] @ g["kernel"][:, h] + g["bias"][h]
                context[b, :, h] *= (config.gate_scale or 1.0) / (1 + np.exp(-logit))[:, None]
    return context.reshape(B, T, H * D) @ p["out"]["kernel"] + p["out"]["bias"]


@pytest.mark.parametrize("name", VARIANT_NAMES)
@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_reference(name, causal):
    config = VARIANTS[name]
    if config.gate != "none":
        config = dataclasses.replace(config, gate_scale=2.0)
    module, variables, x = make(config)
    mask = np.tril(np.ones((T, T), bool)) if causal else np.ones((T, T), bool)
    mask = np.stack([mask, mask & (np.arange(T) < T - 2)])
    np.testing.assert_allclose(
        module.apply(variables, x, mask[:, None]), reference(variables["params"], x, config, mask), atol=2e-5
    )


@pytest.mark.parametrize("name", VARIANT_NAMES)
def test_sites(name):
    module, variables, x = make(VARIANTS[name])
    _, captured = module.apply(variables, x, capture_intermediates=True)
    shapes = {k: v["__call__"][0].shape for k, v in captured["intermediates"].items() if isinstance(v, dict)}
    expected = {k: (B, T, H * D) for k in ("query", "key", "value", "context", "out")}
    expected |= {"scores": (B, H, T, T), "probs": (B, H, T, T)}
    if VARIANTS[name].gate != "none":
        expected |= {"gate": (B, T, H), "gated_context": (B, T, H * D)}
    assert {k: shapes[k] for k in expected} == expected


@pytest.mark.parametrize(
    "gate, options, count",
    # The paper's Table 4, per layer of BERT-base: H = 12 heads of d_h = 64, width 768.
    [("linear", {}, 12 * (64 + 1)), ("mlp", {"gate_hidden": 4}, 12 * (4 * (64 + 2) + 1))]
    + [("mlp", {"gate_hidden": 64}, 12 * (64 * (64 + 2) + 1)), ("all_heads_linear", {}, 12 * (768 + 1))],
)
def test_gate_parameter_counts_are_those_of_table_4(gate, options, count):
    shapes = AttentionConfig(gate=gate, **options).make_gate().shapes(12, 64)
    assert sum(np.prod(shape) for shape in shapes.values()) == count


@pytest.mark.parametrize("gate", sorted(GATES))
@pytest.mark.parametrize("pi", [0.1, 0.25, 0.5, 0.9])
def test_gates_start_open_by_pi(gate, pi):
    module, variables, x = make(AttentionConfig(gate=gate, gate_pi=pi))
    _, captured = module.apply(variables, 0 * x, capture_intermediates=True)
    np.testing.assert_allclose(captured["intermediates"]["gate"]["__call__"][0], pi, rtol=1e-6)


def test_dropout_follows_the_clip():
    config = AttentionConfig(normalizer="clipped_softmax", gamma=-0.05)
    module, variables, x = make(config, dropout=0.5, deterministic=False)
    rngs = {"dropout": jax.random.key(2)}
    _, captured = module.apply(variables, x, rngs=rngs, capture_intermediates=True)
    probs = captured["intermediates"]["probs"]["__call__"][0]
    dropped = captured["intermediates"]["Dropout_0"]["__call__"][0]
    kept = np.asarray(dropped) != 0
    np.testing.assert_allclose(np.asarray(dropped)[kept], 2 * np.asarray(probs)[kept], rtol=1e-6)
    assert 0.2 < kept.mean() < 0.8


@pytest.mark.parametrize("name", VARIANT_NAMES)
def test_probabilities_and_gates_are_float32_under_bfloat16(name):
    module, variables, x = make(VARIANTS[name], dtype=jnp.dtype("bfloat16"))
    y, captured = module.apply(variables, x, capture_intermediates=True)
    assert y.dtype == jnp.bfloat16
    for site in {"scores", "probs", "gate"} & captured["intermediates"].keys():
        assert captured["intermediates"][site]["__call__"][0].dtype == jnp.float32


def test_the_flat_config_offers_every_registered_option():
    fields = {f.name for f in dataclasses.fields(AttentionConfig)}
    for options in (*NORMALIZER_OPTIONS.values(), *GATE_OPTIONS.values()):
        assert options.keys() <= fields


@pytest.mark.parametrize(
    "options, says",
    [
        ({"normalizer": "clipped"}, "clipped_softmax"),
        ({"gate": "linaer"}, "did you mean 'linear'"),
        ({"alpha": 4.0}, "belongs to clipped_softmax"),
        ({"gate_pi": 0.5}, "gate_pi is set"),
        ({"gate": "linear", "gate_hidden": 3}, "belongs to mlp"),
        ({"gate": "linear", "gate_pi": 1.0}, "between 0 and 1"),
        ({"gate": "linear", "gate_scale": 0.0}, "positive"),
        ({"gate": "mlp", "gate_hidden": 0}, "at least 1"),
    ],
)
def test_bad_configs_are_refused(options, says):
    with pytest.raises(QtxError, match=says):
        AttentionConfig(**options)
