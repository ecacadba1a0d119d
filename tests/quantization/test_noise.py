"""Training with quantization noise: half of a batch is what quantization after training computes, the other half what
the model is, and the gradient draws the ends of ranges in."""

from __future__ import annotations

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.experiment import default, read
from qtx.families import FAMILIES, build
from qtx.foundation.errors import QtxError
from qtx.models.vocabulary import factored
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.estimators import MinMax
from qtx.quantization.granularity import Channel, Tensor, Token
from qtx.quantization.plan import Planned
from qtx.quantization.qat.noise import Noise, make_noisy_model, round_to_own_ends
from qtx.sites import capture
from qtx.training import MeshConfig
from qtx.training.sharding import make_mesh, shard_global_batch

SHAPE = {"num_layers": 2, "width": 16, "num_heads": 2, "mlp_width": 32, "init_std": 0.3}
OF_FAMILY = {
    "bert": {"vocab_size": 23, "max_length": 8},
    "opt": {"vocab_size": 23, "max_length": 8},
    "modern_bert": {"vocab_size": 23, "max_length": 8, "local_distance": 2},
    "rotary_bert": {"vocab_size": 23, "max_length": 8, "relative_buckets": 8},
    "llama": {"vocab_size": 23, "max_length": 8, "num_kv_heads": 1},
    "vit": {"image_size": 8, "channels": 3, "num_classes": 5, "patch_size": 4},
}


PER_TENSOR = Tensor()


def make(family, **options):
    rng = np.random.default_rng(0)
    if family == "vit":
        batch = {"images": rng.normal(size=(6, 8, 8, 3)).astype(np.float32)}
    else:
        batch = {"tokens": rng.integers(0, 23, (6, 8))}
    options |= {"dropout": 0.0, "attention_dropout": 0.0}
    module = build(FAMILIES[family].config(**SHAPE, **OF_FAMILY[family], **options))
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"])
    recipe = QuantizationConfig(
        recipe=FAMILIES[family].recipe, weight_estimator="minmax", activation_estimator="minmax"
    ).make_recipe("w8a8", module.config)
    return module, params, batch, recipe


def every_other(batch, first):
    return {name: values[first::2] for name, values in batch.items()}


@pytest.mark.slow
@pytest.mark.parametrize("family, options", [*((x, {}) for x in FAMILIES), ("bert", {"shared_layers": True})])
def test_even_examples_are_quantized_and_odd_ones_are_not(family, options):
    module, params, batch, recipe = make(family, **options)
    model = make_noisy_model(module, recipe, batch)

    def held(apply, *args, **options):
        """Layer 0's values, which are the same but for rounding, and the output, with what else flips at ties."""
        output, sites = jax.jit(lambda: capture(apply, {"*"}, *args, **options))()
        return output, {site: values[0] for site, values in sites.items() if re.search("/(query|key|value)$", site)}

    found, sites = held(model.apply, {"params": params}, batch, train=True)
    static = calibrate(module, params, recipe, [every_other(batch, 0)], 1)
    expected, expected_sites = held(static.apply, every_other(batch, 0))
    as_is = jax.jit(module.apply)({"params": params}, batch)
    assert len(sites) == 3
    for site, values in expected_sites.items():
        np.testing.assert_allclose(sites[site][::2], values, rtol=1e-5, atol=1e-5, err_msg=site)
    noise = np.linalg.norm(as_is[::2] - expected)
    assert np.linalg.norm(found[::2] - expected) < 0.6 * noise < 0.6 * np.linalg.norm(found[::2] - as_is[::2]) * 1.5
    np.testing.assert_allclose(found[1::2], as_is[1::2], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(jax.jit(lambda p: model.apply({"params": p}, batch))(params), as_is)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "opt"])
def test_a_loss_from_factors_sees_each_half_with_its_own_table(family):
    module, params, batch, recipe = make(family)
    model = make_noisy_model(module, recipe, batch)
    expected = model.apply({"params": params}, batch, train=True)
    with factored():
        found = model.apply({"params": params}, batch, train=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_what_is_captured_is_in_the_order_of_the_batch():
    module, params, batch, recipe = make("bert")
    model = make_noisy_model(module, recipe, batch)
    sites = {"layers/mlp/out", "embeddings/sum", "layers/attention/probs"}

    def held(apply, **options):
        return jax.jit(lambda p: capture(apply, sites, {"params": p}, batch, **options)[1])(params)

    noisy, as_is = held(model.apply, train=True), held(module.apply)
    assert noisy.keys() == as_is.keys() and len(noisy) > 1
    for site, values in as_is.items():
        np.testing.assert_allclose(noisy[site][:, 1::2], values[:, 1::2], rtol=1e-5, atol=1e-5, err_msg=site)
        assert not np.allclose(noisy[site][:, ::2], values[:, ::2], rtol=1e-4), site
        # Close enough to be the same examples.
        assert np.corrcoef(noisy[site][:, ::2].ravel(), values[:, ::2].ravel())[0, 1] > 0.7, site


@pytest.mark.slow
def test_on_several_devices_it_is_the_same():
    module, params, batch, recipe = make("bert")
    batch = {"tokens": np.concatenate([batch["tokens"], batch["tokens"][:2]])}
    model = make_noisy_model(module, recipe, batch)
    mesh = make_mesh(MeshConfig(data=4))

    @jax.jit
    def output(batch):
        return model.apply({"params": params}, batch, train=True)

    one, four = output(batch), output(shard_global_batch(mesh, batch))
    np.testing.assert_allclose(four[1::2], one[1::2], rtol=1e-5, atol=1e-5)
    # But for what flips at ties.
    noise = np.linalg.norm(one[::2] - jax.jit(module.apply)({"params": params}, batch)[::2])
    assert np.linalg.norm(four[::2] - one[::2]) < 0.6 * noise


@pytest.mark.slow
def test_noise_that_has_not_begun_leaves_the_model_as_it_is():
    module, params, batch, recipe = make("llama")
    late, always = make_noisy_model(module, recipe, batch, begins=3), make_noisy_model(module, recipe, batch)

    def of(model, step):
        def loss(params):
            output = model.apply({"params": params}, batch, train=True, step=step)
            return (output**2).mean(), output

        (_, output), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return output, gradient

    def same(found, expected):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)

    same(of(late, 2), of(module, 2))
    same(of(late, 3), of(always, 3))
    assert not np.allclose(of(late, 2)[0], of(late, 3)[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1.0, 1e25])
def test_the_gradient_of_the_quantized_half_alone_is_limited(size):
    """Squares of gradients of 1e25 are no numbers of float32."""
    module, params, batch, recipe = make("llama")
    halves = np.arange(6)[:, None, None] % 2

    def gradient(limit, of_even, of_odd):
        model = make_noisy_model(module, recipe, batch, limit=limit)

        def loss(params):
            output = model.apply({"params": params}, batch, train=True)
            return (jnp.where(halves == 0, of_even, of_odd) * output**2).mean()

        return [np.asarray(x, np.float64) for x in jax.tree.leaves(jax.jit(jax.grad(loss))(params))]

    even, odd, both = gradient(None, size, 0.0), gradient(None, 0.0, 1.0), gradient(0.01, size, 1.0)
    norm = np.sqrt(sum((x**2).sum() for x in even))
    assert norm > 0.05
    for found, quantized, as_is in zip(both, even, odd, strict=True):
        np.testing.assert_allclose(found, as_is + 0.01 / norm * quantized, rtol=1e-3, atol=1e-6)
    for found, quantized, as_is in zip(gradient(1e30, 1.0, 1.0), gradient(None, 1.0, 0.0), odd, strict=True):
        np.testing.assert_allclose(found, as_is + quantized, rtol=1e-3, atol=1e-6)


def noise(granularity=PER_TENSOR, bits=8, symmetric=False):
    return Noise(Planned("site", symmetric, MinMax(), granularity, False), bits)


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
def test_an_outlier_is_drawn_in_by_what_its_range_costs(symmetric):
    """Rounding with steps of s adds noise of variance s^2 / 12 to each of N values (Bennett 1948): how fast that grows
    with the largest value is what the gradient of the squared error is, by it."""
    rng = np.random.default_rng(0)
    x, outlier, bits = rng.normal(size=20000).astype(np.float32), 40.0, 8
    steps = 2**bits - 1 if not symmetric else 2 ** (bits - 1) - 1

    def error(outlier):
        rounded = round_to_own_ends(jnp.append(x, outlier), noise(bits=bits, symmetric=symmetric))
        return jnp.sum((rounded[:-1] - x) ** 2)

    s = (outlier - (0 if symmetric else x.min())) / steps
    assert jax.grad(error)(outlier) == pytest.approx(len(x) * s / (6 * steps), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("granularity", [Tensor(), Channel(), Token()])
def test_only_the_ends_of_a_range_feel_the_error_of_others(granularity):
    """With gradients straight through, an error that a value does not make itself reaches it as the end of a range."""
    x = np.float32([[0.1, 5.0, 0.3], [0.7, -0.2, 0.9]])
    weights = np.float32([[1, 0, 0], [0, 0, 0]])

    def felt(x):
        return jnp.sum(weights * round_to_own_ends(x, noise(granularity, 4)))

    found = np.asarray(jax.grad(felt)(x)) - weights
    ends = {Tensor: [(0, 1), (1, 1)], Channel: [(1, 0)], Token: [(0, 1)]}[type(granularity)]
    assert {tuple(at) for at in np.argwhere(np.abs(found) > 1e-7)} <= set(ends)
    assert np.abs(found).max() > 1e-3


def test_values_that_do_not_count_set_no_range():
    x = np.float32([1.0, -1.0, 1000.0])
    rounded = round_to_own_ends(x, noise(), np.array([True, True, False]))
    np.testing.assert_allclose(rounded[:2], x[:2], atol=1 / 255)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": "8"}, "w8a8"),
        ({"noise": "w8a8", "scheme": "w4a4"}, "set one of them to ''"),
        ({"noise": "w8a8", "noise_from": -1}, "noise_from is -1: expected 0 or more"),
        ({"noise": "w8a8", "noise_limit": 0.0}, "noise_limit is 0.0: expected a positive number, e.g. 1.0"),
    ],
)
def test_options_that_do_not_fit(options, said):
    config = default("bert")
    config.qat.update(options)
    with pytest.raises(QtxError, match=said):
        read(config)


def test_half_of_an_odd_batch():
    config = default("bert")
    config.qat.noise = "w8a8"
    config.training.update({"batch_size": 12, "accumulation_steps": 4})
    with pytest.raises(QtxError, match="a batch is of 3 examples"):
        read(config)
    config.training.accumulation_steps = 3
    assert dataclasses.asdict(read(config).qat)["noise"] == "w8a8"
