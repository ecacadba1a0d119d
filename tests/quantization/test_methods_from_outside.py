"""The documented method, registered from outside: it does what it says, alone and among others, to the last file."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from qtx.anatomy import read
from qtx.foundation.errors import QtxError
from qtx.quantization import QuantizationConfig, Recipe, Rule, calibrate
from qtx.quantization.basis import basis_of
from qtx.quantization.files import load_ranges, read_ranges, save_ranges
from qtx.quantization.integer.convert import convert
from qtx.quantization.methods import METHODS, Problem, make_method
from qtx.quantization.plan import flatten
from tests.quantization.test_calibration import apply, difference, make
from tests.strangers import documented

QUERY, NORM = "layers/attention/query/kernel", "layers/attention_norm"


@pytest.fixture(autouse=True)
def shifting(monkeypatch):
    monkeypatch.setitem(METHODS, "shifting", documented("adding-a-variant.md")["Shifting"])


@functools.cache
def shifted_model():
    """A model whose norms put out values far from 0, which differ from channel to channel."""
    module, params, batches = make("opt")
    flat = flatten(params)
    for path in (f"{NORM}/bias", "layers/mlp_norm/bias"):
        flat[path] = flat[path] + jnp.linspace(-20, 30, flat[path].shape[-1])
    return module, traverse_util.unflatten_dict(flat, sep="/"), batches


def recipe_of(scheme="w8a5"):
    weight, activation = QuantizationConfig(weight_estimator="minmax").quantizers(scheme)
    return Recipe((Rule("*kernel", weight), Rule("*", None)), (Rule("layers/*_norm", activation), Rule("*", None)))


def quantized(method, scheme="w8a5"):
    module, params, (batch, *_) = shifted_model()
    return calibrate(module, params, recipe_of(scheme), [batch], 1, make_method(method))


def held():
    """Returns what the first norm of each layer holds, `[L, N, D]`."""
    module, params, (batch, *_) = shifted_model()
    found = jax.jit(lambda b: module.apply({"params": params}, b, capture_intermediates=True)[1])(batch)
    x = np.asarray(found["intermediates"]["layers"]["attention_norm"]["__call__"][0])
    return x.reshape(len(x), -1, x.shape[-1])


@pytest.mark.slow
def test_each_method_is_given_what_those_before_it_have_made():
    module, params, (batch, *_) = shifted_model()
    problem = Problem(read(module, batch), module, params, recipe_of(), [batch])
    bases = make_method("shifting,share=0.5 + smoothquant,alpha=1").find_bases(problem)
    x = held()
    z = (x.max(axis=1) + x.min(axis=1)) / 4
    for path in (QUERY, NORM):
        np.testing.assert_allclose(bases[path]["shift"], z, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(bases[path]["smooth"], np.abs(x - z[:, None]).max(axis=1), rtol=1e-4)
    assert "shift" not in bases[f"{NORM}/scale"]


def test_its_mistakes_are_told():
    with pytest.raises(QtxError, match="share is 2.0: expected 0 to 1"):
        make_method("shifting,share=2")
    with pytest.raises(QtxError, match="unknown key in method 'shifting,shar=1': 'shar': did you mean 'share'"):
        make_method("shifting,shar=1")
    with pytest.raises(QtxError, match="shifting has to come before smoothquant: write 'shifting [+] smoothquant'"):
        make_method("smoothquant + shifting")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["shifting", "shifting + smoothquant + gptq"])
def test_it_goes_all_the_way(method, tmp_path):
    """Few bits are better for it; many leave the function alone; files and integers are the same model."""
    module, params, batches = shifted_model()
    result, before = quantized(method), quantized(method.removeprefix("shifting").removeprefix(" + ") or "static")
    assert difference(result, params, batches[0]) < 0.6 * difference(before, params, batches[0])
    assert difference(quantized(method, "w16a16"), params, batches[0]) < 1e-2
    file = tmp_path / "w8a5.safetensors"
    save_ranges(result, params, file, method, "w8a5")
    loaded = load_ranges(module, params, recipe_of(), batches[1], read_ranges(file))
    jax.tree.map(np.testing.assert_array_equal, loaded, result)
    assert "shift" in basis_of(loaded.activation_ranges[NORM])
    integers = convert(result)
    assert not any("query" in path or "mlp/in" in path for path in integers.in_floating_point)
    answers = np.asarray(jax.jit(integers.apply)(batches[0])), np.asarray(apply(result, batches[0]))
    assert np.linalg.norm(answers[0] - answers[1]) < 0.02 * np.linalg.norm(answers[1])
