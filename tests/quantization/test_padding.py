"""What padding holds changes no range: short texts and the same ones padded give the same."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from qtx.analysis.sensitivity import signal_to_noise
from qtx.families import FAMILIES, build
from qtx.quantization import RECIPES, QuantizationConfig, calibrate
from qtx.quantization.methods import Gptq, SmoothQuant
from qtx.quantization.methods.inputs import absmax, gram, of_inputs
from qtx.quantization.qat.model import make_qat_model
from qtx.quantization.qat.noise import make_noisy_model

PAD, LARGE = 0, 40.0
TEXTS = [[5, 3, 9, 7, 2], [1, 8, 4, 6, 3, 7, 9, 2]]


@pytest.fixture(scope="module", params=["bert", "opt"])
def model(request):
    """A model whose padding token is larger than all others; nothing that a text has ever looks at it."""
    config = FAMILIES[request.param].config(
        num_layers=1, width=16, num_heads=2, mlp_width=32, init_std=0.3, vocab_size=11, max_length=16
    )
    module = build(config)
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch(TEXTS, 8))["params"])
    words = params["embeddings"]["words"]
    words["embedding"] = words["embedding"].at[PAD].set(LARGE * jax.random.normal(jax.random.key(1), (16,)))
    return module, params


def batch(texts, length, fill=0):
    """Texts padded to a length, and as many samples of padding tokens, which only fill the batch up."""
    tokens = np.full((len(texts) + fill, length), PAD, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], mask[row, : len(text)] = text, True
    mask[len(texts) :] = True
    return {"tokens": tokens, "mask": mask, "weights": np.float32([1] * len(texts) + [0] * fill)}


# The same texts, in the same batches.
SHORT = [batch(TEXTS, 8), batch(TEXTS[:1], 5)]
PADDED = [batch(TEXTS, 16, fill=1), batch(TEXTS[:1], 16, fill=2)]

OPTIONS = {
    "minmax": {"activation_estimator": "minmax"},
    "mse": {"activation_estimator": "mse,margin=0"},
    "groups": {"activation_granularity": "group"},
    "strict percentile": {"recipe": "strict", "activation_estimator": "running_minmax,percentile=90"},
}


def made(module, **options):
    recipe = {"recipe": f"paper_{'opt' if module.config.causal else 'bert'}", "weight_estimator": "minmax", **options}
    return QuantizationConfig(**recipe).make_recipe("w16a16", module.config)


def same(found, expected, tolerance=1e-4):
    """All arrays, to a share of the largest value of each; in 16 bits ties move a value by less."""
    found, expected = (traverse_util.flatten_dict(x, sep="/") for x in (found, expected))
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, atol=tolerance * np.abs(x).max() + 1e-7, err_msg=name)


PAIRED = [("bert", "minmax"), ("bert", "strict percentile"), ("opt", "mse"), ("opt", "groups")]


@pytest.mark.long
@pytest.mark.parametrize(("model", "name"), PAIRED, indirect=["model"])
def test_short_and_padded_batches_have_the_same_ranges(model, name):
    module, params = model
    recipe = made(module, **OPTIONS[name])
    short, padded = (calibrate(module, params, recipe, batches, 2) for batches in (SHORT, PADDED))
    same(padded.activation_ranges, short.activation_ranges)
    # By hand, of the one tensor that only rounded look-ups lie before.
    table = np.asarray(params["embeddings"]["words"]["embedding"])
    largest = np.abs(table[1:]).max() + np.abs(np.asarray(params["embeddings"]["positions"]["embedding"])).max() + 1
    assert short.activation_ranges["embeddings/sum"]["maximum"].max() < largest < 0.5 * np.abs(table[PAD]).max()


@pytest.mark.slow
def test_the_papers_code_counts_padding_and_keys_that_are_not_seen(model):
    module, params = model
    quantizers = QuantizationConfig(activation_estimator="minmax").quantizers("w16a16")
    recipe = RECIPES[f"paper_{'opt' if module.config.causal else 'bert'}"](
        module.config, *quantizers, count_padding=True
    )
    ranges = calibrate(module, params, recipe, [batch(TEXTS, 16)], 1).activation_ranges
    seen = jax.jit(lambda p, b: module.apply({"params": p}, b, capture_intermediates=True)[1])(params, batch(TEXTS, 16))
    sites = seen["intermediates"]
    for path, x in {
        "embeddings/sum": sites["embeddings"]["sum"]["__call__"][0],
        "layers/attention/scores": sites["layers"]["attention"]["scores"]["__call__"][0],
    }.items():
        np.testing.assert_allclose(ranges[path]["maximum"].max(), x.max(), rtol=3e-2)


@pytest.mark.slow
def test_methods_see_real_tokens(model):
    module, params = model
    paths = ("layers/attention/query", "layers/mlp/out")
    for statistic, combine in ((absmax, jnp.maximum), (gram, jnp.add)):
        short, padded = (of_inputs(module, params, x, paths, statistic, combine, {}) for x in (SHORT, PADDED))
        same(padded, short, 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("method", [SmoothQuant(), Gptq()], ids=["smoothquant", "gptq"])
def test_methods_round_alike(model, method):
    module, params = model
    recipe = made(module)
    short, padded = (calibrate(module, params, recipe, batches, 2, method) for batches in (SHORT, PADDED))
    same(padded.params, short.params)
    same(padded.activation_ranges, short.activation_ranges)


@pytest.mark.slow
def test_signals_and_their_noise_are_of_real_tokens(model):
    module, params = model
    quantized = calibrate(module, params, made(module), SHORT, 2)
    short, padded = (signal_to_noise(quantized, params, batches) for batches in (SHORT, PADDED))
    assert short.keys() == padded.keys()
    for key, decibels in short.items():
        np.testing.assert_allclose(padded[key], decibels, atol=0.3, err_msg=str(key))


@pytest.mark.slow
def test_noise_is_that_of_real_tokens(model):
    module, params = model
    without_dropout = dataclasses.replace(module.config, dropout=0.0, attention_dropout=0.0)
    noisy = make_noisy_model(build(without_dropout), made(module), SHORT[0])

    def output(texts, length):
        """Of an example that is computed quantized."""
        found = jax.jit(lambda b: noisy.apply({"params": params}, b, train=True))(batch(texts, length))
        return np.asarray(found)[0, : len(texts[0])]

    short, padded = (output([TEXTS[0], TEXTS[0]], length) for length in (5, 16))
    np.testing.assert_allclose(padded, short, atol=1e-3 * np.abs(short).max())


@pytest.mark.slow
def test_padding_does_not_pull_at_learned_ranges(model):
    """Whatever stands at padding, within its range or beyond it, the gradients are the same."""
    module, params = model
    recipe = made(module)
    qat = make_qat_model(module, recipe, SHORT[0])
    start = qat.start(params, calibrate(module, params, recipe, SHORT, 2))

    @jax.jit
    def gradients(start, tokens):
        def loss(start):
            y = qat.apply({"params": start}, {**SHORT[0], "tokens": tokens})
            return jnp.sum(jnp.where(SHORT[0]["mask"][..., None], y, 0.0) ** 2)

        return jax.grad(loss)(start)["ranges"]["activations"]

    tokens = SHORT[0]["tokens"]
    assert (tokens == PAD).any()
    same(gradients(start, np.where(SHORT[0]["mask"], tokens, 5)), gradients(start, tokens))
