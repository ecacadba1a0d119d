"""Activations are their formulas, in everything that depends on them."""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig, OptConfig, VitConfig
from qtx.models.activations import ACTIVATIONS
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.integer import convert
from qtx.sites import capture

SHAPE = {"num_layers": 1, "width": 8, "num_heads": 2, "mlp_width": 12, "init_std": 0.5}
TEXT = {"vocab_size": 23, "max_length": 8}
CONFIGS = {
    "bert": BertConfig(**SHAPE, **TEXT),
    "opt": OptConfig(**SHAPE, **TEXT),
    "vit": VitConfig(**SHAPE, image_size=8, patch_size=4, channels=1, num_classes=3),
}


def logistic(x):
    return 1 / (1 + math.exp(-x))


def normal(x):
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def tanh(x):
    return x / 2 * (1 + math.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


FORMULAS = {
    "gelu": normal,
    "gelu_python": normal,
    "gelu_new": tanh,
    "gelu_fast": tanh,
    "gelu_pytorch_tanh": tanh,
    "quick_gelu": lambda x: x * logistic(1.702 * x),
    "relu": lambda x: max(x, 0),
    "silu": lambda x: x * logistic(x),
    "swish": lambda x: x * logistic(x),
    "tanh": math.tanh,
}
OTHERS = {"bert": "silu", "opt": "quick_gelu", "vit": "gelu_new"}


def batch_of(family):
    rng = np.random.default_rng(0)
    if family == "vit":
        return {"images": rng.normal(size=(2, 8, 8, 1)).astype(np.float32)}
    return {"tokens": rng.integers(0, 23, (2, 8)).astype(np.int32), "mask": np.ones((2, 8), bool)}


def made(family, activation, **options):
    module = build(dataclasses.replace(CONFIGS[family], activation=activation, **options))
    params = nn.unbox(module.init(jax.random.key(0), batch_of(family))["params"])
    return module, params


def captured(module, params, batch, *sites):
    return jax.jit(lambda params: capture(module.apply, sites, {"params": params}, batch)[1])(params)


def test_every_activation_has_a_formula():
    assert FORMULAS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_its_formula(name):
    x = np.concatenate([np.linspace(-8, 8, 101), [-90.0, 90.0]])
    found = np.asarray(ACTIVATIONS[name](x.astype(np.float32)))
    np.testing.assert_allclose(found, [FORMULAS[name](value) for value in x], rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_a_family_has_the_one_that_it_is_given(family):
    module, params = made(family, OTHERS[family])
    values = captured(module, params, batch_of(family), "layers/mlp/in", "layers/mlp/hidden")
    before, after = (np.asarray(values[f"layers/mlp/{site}"], np.float64) for site in ("in", "hidden"))
    np.testing.assert_allclose(after, np.vectorize(FORMULAS[OTHERS[family]])(before), rtol=0, atol=1e-5)
    with pytest.raises(QtxError, match="unknown activation 'gelu_10'"):
        made(family, "gelu_10")


@pytest.mark.slow
def test_the_masked_language_head_has_it_and_the_pooler_keeps_its_own():
    module, params = made("bert", "silu")
    values = captured(module, params, batch_of("bert"), "head/*")
    x = np.vectorize(FORMULAS["silu"])(np.asarray(values["head/transform"], np.float64))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(np.asarray(values["head/norm"]), x, atol=1e-4)
    module, params = made("bert", "silu", head="classification", num_classes=3)
    values = captured(module, params, batch_of("bert"), "head/*")
    np.testing.assert_allclose(values["head/pooled"], np.tanh(values["head/pooler"]), atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("family", ["opt", "vit"])
def test_integers_are_those_of_the_quantized_model(family):
    batch = batch_of(family)
    module, params = made(family, OTHERS[family])
    recipe = QuantizationConfig(recipe="strict").make_recipe("w8a8", module.config)
    quantized = calibrate(module, params, recipe, [batch], 1)
    expected = np.asarray(quantized.apply(batch))
    np.testing.assert_allclose(convert(quantized).apply(batch), expected, atol=0.02 * np.abs(expected).max())
