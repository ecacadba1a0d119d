"""Two towers in one model, each a stack of layers of its own name: what is said of every layer is said in both."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.analysis.capture import FloatingPoint
from qtx.analysis.heads import attentions, look_at_heads
from qtx.analysis.observation import observe_model
from qtx.anatomy import Stack, read
from qtx.attention import Rows
from qtx.foundation.errors import QtxError
from qtx.layers import embedding
from qtx.losses.divergences import matched
from qtx.masks import Mask
from qtx.models import OptConfig
from qtx.models.block import layers
from qtx.quantization import Quantizer, Recipe, Rule, calibrate
from qtx.quantization.estimators import MinMax
from qtx.quantization.methods import METHODS, Problem, make_method
from qtx.sites import Site, capture

DEPTH, WIDTH = 2, 16
CONFIG = OptConfig(
    num_layers=DEPTH, width=WIDTH, num_heads=2, mlp_width=32, vocab_size=11, max_length=8, init_std=0.3,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
TOWERS = ("text", "vision")


class Tower(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = embedding(11, WIDTH, "vocab", 0.3, jnp.float32, "tokens")(tokens)
        return layers(CONFIG, deterministic=True)(x, Rows(Mask(x.shape[1], True)))[0].mean(axis=1)


class TwoTowers(nn.Module):
    config: OptConfig = CONFIG

    @nn.compact
    def __call__(self, batch, *, train=False, step=None):
        one, other = (Tower(name=name)(batch["tokens"]) for name in TOWERS)
        return one @ other.T


@functools.cache
def make():
    """The model, its parameters, of which the second layer's are a hundred times the first one's, and a batch."""
    module, batch = TwoTowers(), {"tokens": np.arange(16, dtype=np.int32).reshape(2, 8) % 11}
    params = nn.unbox(module.init(jax.random.key(0), batch)["params"])
    for tower in TOWERS:
        mlp = params[tower]["layers"]["mlp"]
        mlp["out"]["kernel"] = mlp["out"]["kernel"] * jnp.array([1.0, 100.0])[:, None, None]
    return module, params, batch


@pytest.mark.slow
def test_each_tower_is_a_stack():
    module, _, batch = make()
    anatomy = read(module, batch)
    assert anatomy.stacks == tuple(Stack(f"{tower}/layers", DEPTH) for tower in TOWERS)
    kernel = anatomy.parameters["vision/layers/mlp/out/kernel"]
    assert (kernel.shape, kernel.stack, kernel.axes) == ((32, WIDTH), anatomy.stacks[1], ("mlp", "embed"))
    assert anatomy.parameters["text/tokens/embedding"].stack is None
    assert anatomy.sites["text/layers/mlp_residual"].leading == (DEPTH,)


@pytest.mark.slow
def test_every_layer_of_both_has_a_weight_range_of_its_own():
    module, params, batch = make()
    weight, activation = Quantizer(8, True, MinMax()), Quantizer(8, False, MinMax())
    recipe = Recipe((Rule("*layers/*kernel", weight), Rule("*", None)), (Rule("*mlp/out", activation), Rule("*", None)))
    quantized = calibrate(module, params, recipe, [batch], 1)
    for tower in TOWERS:
        kernel = np.asarray(params[tower]["layers"]["mlp"]["out"]["kernel"])
        found = quantized.weight_ranges[f"{tower}/layers/mlp/out/kernel"]
        np.testing.assert_allclose(found["maximum"], np.maximum(kernel.max(axis=(1, 2)), 0), rtol=1e-6)
        rounded = np.asarray(quantized.params[tower]["layers"]["mlp"]["out"]["kernel"])
        steps = np.abs(kernel).max(axis=(1, 2), keepdims=True) / 127
        assert (np.abs(rounded - kernel) <= 0.51 * steps).all(), "the first layer has a grid as fine as its weights are"
        assert quantized.activation_ranges[f"{tower}/layers/mlp/out"]["maximum"].shape == (DEPTH,)


@pytest.mark.slow
def test_what_is_captured_has_one_layer_axis():
    module, params, batch = make()
    patterns = ("*layers/mlp/out", "other")
    _, values = jax.jit(lambda p: capture(module.apply, patterns, {"params": p}, batch))(params)
    assert {path: x.shape for path, x in values.items()} == {
        f"{tower}/layers/mlp/out": (DEPTH, 2, 8, WIDTH) for tower in TOWERS
    }


@pytest.mark.slow
def test_methods_find_the_same_in_both():
    module, params, batch = make()
    problem = Problem(read(module, batch), module, params, Recipe((), ()), [batch])
    smooth, rotated = (METHODS[method]().find_bases(problem) for method in ("smoothquant", "hadamard"))
    for tower in TOWERS:
        block = f"{tower}/layers"
        attention = np.asarray(smooth[f"{block}/attention_norm"]["smooth"])
        assert attention.shape == (DEPTH, WIDTH)
        for name in ("query", "key", "value"):
            np.testing.assert_array_equal(smooth[f"{block}/attention/{name}/kernel"]["smooth"], attention)
        mlp = smooth[f"{block}/mlp_norm/scale"]["smooth"]
        np.testing.assert_array_equal(smooth[f"{block}/mlp/in/kernel"]["smooth"], mlp)
        assert rotated[f"{block}/mlp/out/kernel"]["hadamard"].shape == (DEPTH, 32)
        assert rotated[f"{block}/mlp_residual"]["hadamard"].shape == (DEPTH, WIDTH)
    assert {path.split("/")[0] for path in smooth} == {path.split("/")[0] for path in rotated} == set(TOWERS)


@pytest.mark.slow
def test_attention_and_what_distillation_compares_are_found_in_both():
    module, _, batch = make()
    assert [one.path for one in attentions(module, batch)] == [f"{tower}/layers/attention" for tower in TOWERS]
    assert matched(module, batch) == tuple(f"{tower}/layers/mlp_norm" for tower in TOWERS)


@pytest.mark.slow
def test_the_heads_of_both_are_looked_at():
    module, params, batch = make()
    sites = [f"{tower}/layers/attention/probs" for tower in TOWERS]
    values, heads = jax.jit(lambda m: look_at_heads(m, batch, sites))(FloatingPoint(module, params))
    probs = np.concatenate([values[site] for site in sites])
    np.testing.assert_array_equal(heads.tensors["probs"], probs)
    mass, weights = heads.statistics["column_mass"]
    np.testing.assert_allclose(mass, probs.mean(axis=3), rtol=1e-5, atol=1e-7)
    assert weights.shape == (2 * DEPTH, 2)
    seen = observe_model(FloatingPoint(module, params), [batch])
    assert seen.layers == tuple(f"{tower}/layers/attention[{layer}]" for tower in TOWERS for layer in range(DEPTH))


class Undeclared(nn.Module):
    """A model of which nothing is declared."""

    @nn.compact
    def __call__(self, batch):
        x = nn.Embed(11, 8, name="tokens")(batch["tokens"])
        return Site(name="out")(nn.relu(x * self.param("factor", nn.initializers.ones, (8,))))


@pytest.mark.parametrize("method", ["smoothquant", "hadamard", "gptq", "hadamard + gptq"])
def test_a_method_that_finds_nothing_to_do_says_so(method):
    module, batch = Undeclared(), {"tokens": np.zeros((1, 2), np.int32)}
    params = module.init(jax.random.key(0), batch)["params"]
    quantizer = Quantizer(8, True, MinMax())
    recipe = Recipe((Rule("*", quantizer),), (Rule("*", quantizer),))
    with pytest.raises(QtxError, match=f"{'hadamard' if 'hadamard' in method else method} finds no"):
        calibrate(module, params, recipe, [batch], 1, make_method(method))
