"""Exempt tensors: how they are written, which there are, and what becomes of them."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.files import load_ranges, read_ranges, save_ranges
from qtx.quantization.qat.model import make_qat_model
from qtx.quantization.recipe import Exempt, read_exempt

CONFIG = BertConfig(num_layers=2, width=8, num_heads=2, mlp_width=16, vocab_size=11, max_length=8, init_std=0.3)
OUT, KERNEL, TABLE = "layers/mlp/out", "layers/mlp/out/kernel", "embeddings/words/embedding"


@pytest.mark.parametrize(
    "text, expected",
    {
        "layers/mlp/out[5]=float": Exempt(OUT, 5, 0),
        "layers/mlp/out/kernel=16": Exempt(KERNEL, None, 16),
    }.items(),
)
def test_an_exempt_tensor_is_read_as_it_is_written(text, expected):
    assert read_exempt(text) == expected and str(expected) == text


@pytest.mark.parametrize(
    "text, told",
    {
        "layers/mlp/out": "expected TENSOR",
        "layers/mlp/out[x]=float": "expected TENSOR",
        "=16": "expected TENSOR",
        "layers/mlp/out=1": "expected 2 to 16, or float",
        "layers/mlp/out=17": "expected 2 to 16, or float",
    }.items(),
)
def test_other_texts_are_refused_with_the_config(text, told):
    with pytest.raises(QtxError, match=told):
        QuantizationConfig(exempt=(text,))


@pytest.fixture(scope="module")
def model():
    module, batch = build(CONFIG), CONFIG.example()
    return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"]), batch


def quantized(model, *exempt, **options):
    module, params, batch = model
    config = QuantizationConfig(recipe="strict", exempt=exempt, **options)
    return calibrate(module, params, config.make_recipe("w4a8", CONFIG), [batch], 1, config.make_method())


@pytest.mark.parametrize(
    "exempt, told",
    [
        ("layers/mlp/out[2]=float", r"did you mean 'layers/mlp/out\[\d\]'"),
        ("layers/mlp/ut=float", "did you mean 'layers/mlp/out'"),
        ("layers/mlp/out/bias=float", "the recipe quantizes no 'layers/mlp/out/bias'"),
        ("embeddings/norm[0]=16", "qtx sensitivity lists"),
    ],
)
def test_a_tensor_that_is_not_there_or_not_quantized_is_refused(exempt, told, model):
    with pytest.raises(QtxError, match=told):
        quantized(model, exempt)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"weight_estimator": "minmax"},
        {"weight_estimator": "mse", "activation_estimator": "mse"},
        {"weight_estimator": "minmax", "weight_granularity": "channel"},
        {"weight_estimator": "minmax", "method": "per_token"},
        {"weight_estimator": "minmax", "method": "gptq"},
        {"weight_estimator": "minmax", "method": "smoothquant"},
    ],
    ids=str,
)
def test_exempt_tensors_are_left_and_the_others_are_as_without(options, model, tmp_path):
    module, params, batch = model
    exempt = (f"{KERNEL}[1]=float", f"{OUT}[0]=float", f"{TABLE}=16", "layers/mlp/hidden=16")
    usual, found = quantized(model, **options), quantized(model, *exempt, **options)
    given = np.asarray(params["layers"]["mlp"]["out"]["kernel"])
    before, after = (np.asarray(x.params["layers"]["mlp"]["out"]["kernel"]) for x in (usual, found))
    np.testing.assert_allclose(after[1], given[1], atol=1e-6)
    assert np.abs(before[1] - given[1]).max() > 1e-3 and np.abs(after[0] - given[0]).max() > 1e-3
    bits = {path: r["bits"].tolist() for path, r in (found.weight_ranges | found.activation_ranges).items()}
    assert (bits[KERNEL], bits[OUT], bits[TABLE], bits["layers/mlp/hidden"]) == ([4, 0], [0, 8], 16, [16, 16])
    assert {path for path, b in bits.items() if np.ravel(b).tolist() not in ([4], [4, 4], [8], [8, 8])} == {
        KERNEL, OUT, TABLE, "layers/mlp/hidden",
    }  # fmt: skip
    every = [*usual.weight_ranges, *usual.activation_ranges]
    nothing = quantized(model, *(f"{path}=float" for path in every), **options)
    exact, left, rounded = (
        np.asarray(jax.jit(one)(batch))
        for one in (lambda b: module.apply({"params": params}, b), nothing.apply, found.apply)
    )
    np.testing.assert_allclose(left, exact, atol=2e-5)
    assert np.linalg.norm(rounded - exact) > 1e-2
    file = tmp_path / "w4a8.safetensors"
    config = QuantizationConfig(recipe="strict", exempt=exempt, **options)
    save_ranges(found, params, file, config.method, "w4a8")
    recipe = config.make_recipe("w4a8", CONFIG)
    again = load_ranges(module, params, recipe, batch, read_ranges(file))
    jax.tree.map(
        np.testing.assert_array_equal, (found.params, found.activation_ranges), (again.params, again.activation_ranges)
    )


def test_ranges_that_are_trained_have_no_exempt_tensors(model):
    module, _, batch = model
    recipe = QuantizationConfig(recipe="strict").make_recipe("w8a8", CONFIG)
    with pytest.raises(QtxError, match=r"config.quantization.exempt=\(\)"):
        make_qat_model(module, dataclasses.replace(recipe, exempt=(Exempt(OUT, None, 0),)), batch)
