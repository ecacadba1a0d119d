"""What decays, and what every optimizer must do."""

from __future__ import annotations

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from qtx.anatomy import read
from qtx.attention import VARIANTS
from qtx.attention.multi_head import WithParameters
from qtx.attention.parameters import NORMALIZER, Parameter
from qtx.models import Bert, BertConfig, Opt, OptConfig, Vit, VitConfig
from qtx.training import MeshConfig, TrainingConfig
from qtx.training.optimizer import OPTIMIZERS, decay_mask
from qtx.training.sharding import make_mesh, optimizer_shardings, replicated
from tests.training.described import describe

SMALL = dict(num_layers=1, width=16, num_heads=2, mlp_width=32)
CONSTANT = dict(steps=10, warmup_steps=0, schedule="constant")
TEXT = {"tokens": np.zeros((1, 8), np.int32)}
FAMILIES = {
    "bert": (Bert, BertConfig(**SMALL, vocab_size=11, max_length=8), TEXT),
    "opt": (Opt, OptConfig(**SMALL, vocab_size=11, max_length=8), TEXT),
    "vit": (
        Vit,
        VitConfig(**SMALL, image_size=8, channels=1, num_classes=3, patch_size=4),
        {"images": np.zeros((1, 8, 8, 1), np.float32)},
    ),
}


def mask_of(family: str, variant: str, decay_norm_scale: bool) -> dict[str, bool]:
    model, config, batch = FAMILIES[family]
    module = model(dataclasses.replace(config, attention=VARIANTS[variant].trained_at(8)))
    params = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), batch)["params"])
    leaves = jax.tree_util.tree_leaves_with_path(decay_mask(read(module, batch).parameters, decay_norm_scale)(params))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): value for path, value in leaves}


MASKED = [
    case
    for number, case in enumerate(itertools.product(FAMILIES, VARIANTS, [False, True]))
    if number % 3 == 0 or case[1] in ("gated_mlp", "softmax")
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "variant", "decay_norm_scale"), MASKED)
def test_decay_mask_of_every_model(family, variant, decay_norm_scale):
    mask = mask_of(family, variant, decay_norm_scale)
    for name, decays in mask.items():
        last = name.split("/")[-1]
        if "/normalizer/" in name:
            assert not decays, name
        elif "norm/" in name and last == "scale":
            assert decays == decay_norm_scale, name
        elif "/gate_predictor/" in name:
            assert decays == last.endswith("kernel"), name
        else:
            assert decays == (last not in ("bias", "class_token", "positions")), name
    assert {True, False} <= set(mask.values())


def test_the_parameters_that_the_rule_is_about_are_there():
    mask = mask_of("bert", "gated_mlp", False)
    assert mask["embeddings/words/embedding"] and mask["layers/mlp/in/kernel"]
    assert not mask["layers/attention/query/bias"] and not mask["layers/mlp_norm/scale"]
    assert mask["embeddings/positions/embedding"]
    vit = mask_of("vit", "softmax", False)
    assert vit["embeddings/patches/kernel"] and not vit["embeddings/class_token"] and not vit["embeddings/positions"]
    gates = {name: decays for name, decays in mask.items() if "gate" in name}
    assert len(gates) == 4 and sum(gates.values()) == 2


@pytest.mark.parametrize("name", ["scale", "kernel", "embedding"])
def test_what_a_normalizer_learns_does_not_decay_whatever_it_is_called(name):
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, batch):
            held = WithParameters({name: Parameter((3,), 0.0)}, 0.02, name=NORMALIZER)
            return held(lambda parameters, x: x + parameters[name], nn.Dense(3, name="out")(batch["x"]))

    module, batch = Attention(), {"x": np.zeros((1, 3), np.float32)}
    params = jax.eval_shape(module.init, jax.random.key(0), batch)["params"]
    assert decay_mask(read(module, batch).parameters, True)(params) == {
        "normalizer": {name: False},
        "out": {"kernel": True, "bias": False},
    }


@pytest.mark.representative("adamw", "muon")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_without_gradient_only_decays(name):
    one = jnp.ones(3)
    params = {"dense": {"kernel": one, "bias": one}, "norm": {"scale": one, "bias": one}}
    config = TrainingConfig(**CONSTANT, optimizer=name, learning_rate=0.1, weight_decay=0.5)
    optimizer = config.make_optimizer(describe(params))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)
    # LAMB's update has the norm of the parameter, whatever the decay.
    np.testing.assert_allclose(new["dense"]["kernel"], 1 - 0.1 * (1.0 if name == "lamb" else 0.5), rtol=1e-6)
    for untouched in (new["dense"]["bias"], new["norm"]["scale"], new["norm"]["bias"]):
        np.testing.assert_array_equal(untouched, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_finds_a_minimum(name):
    # Of a matrix of 3 x 4, whose largest singular value tells its updates' size, Muon's are small.
    rate = 0.5 if name == "muon" else 0.05
    config = TrainingConfig(steps=200, warmup_steps=10, optimizer=name, learning_rate=rate, weight_decay=0.0)
    params = {"kernel": jnp.full((3, 4), 2.0)}
    optimizer = config.make_optimizer(describe(params))
    target = jnp.linspace(-1, 1, 12).reshape(3, 4)

    def loss(params):
        return jnp.mean((params["kernel"] - target) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    before, state = loss(params), optimizer.init(params)
    for _ in range(200):
        params, state = step(params, state)
    assert loss(params) < 0.02 * before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_state_lies_on_a_mesh(name):
    """Moments with their parameter; Adafactor's rows and columns, which are smaller, everywhere."""
    mesh = make_mesh(MeshConfig(1, 2, 2))
    split = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    params = {"kernel": jax.device_put(jnp.ones((256, 128)), split)}
    optimizer = TrainingConfig(**CONSTANT, optimizer=name).make_optimizer(describe(params))
    shardings = optimizer_shardings(mesh, optimizer, params, {"kernel": split})
    state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    arrays = jax.tree.leaves(state)
    assert all(x.sharding == (split if x.shape == (256, 128) else replicated(mesh)) for x in arrays)
    # Besides counters: two moments of AdamW and LAMB, one of Lion, SGD and Muon, a row and a column of Adafactor.
    size = sum(x.size for x in arrays if x.ndim == 2 or name == "adafactor")
    moments = {"adamw": 2, "lamb": 2, "lion": 1, "sgd": 1, "muon": 1}
    assert size == moments[name] * 256 * 128 if name in moments else size < 1000


# The optimizers from optax as they are, for parameters that are not stacked.
PLAIN = {
    "adamw": lambda c, mask: optax.adamw(1e-2, c.beta1, c.beta2, c.epsilon, weight_decay=c.weight_decay, mask=mask),
    "lamb": lambda c, mask: optax.lamb(1e-2, c.beta1, c.beta2, c.epsilon, weight_decay=c.weight_decay, mask=mask),
    "lion": lambda c, mask: optax.lion(1e-2, c.beta1, c.beta2, weight_decay=c.weight_decay, mask=mask),
    "adafactor": lambda c, mask: optax.adafactor(
        1e-2, multiply_by_parameter_scale=False, weight_decay_rate=None, weight_decay_mask=mask
    ),
    "sgd": lambda c, mask: optax.sgd(1e-2, c.beta1),
    "muon": lambda c, mask: optax.partition(
        {
            "muon": optax.contrib.muon(1e-2, beta=c.beta1, consistent_rms=0.2),
            "adam": optax.adam(1e-2, c.beta1, c.beta2, c.epsilon),
        },
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: "muon" if path[-1].key == "kernel" else "adam", params
        ),
    ),
}
DEPTH = 4


def stacked_parameters(rng, scale: float) -> dict:
    """`[L, ...]` under layers, every layer of another size: a norm over all of them would be that of the largest."""
    size = np.float32(np.geomspace(1e-2, 10, DEPTH))

    def layers(*shape):
        return rng.normal(size=(DEPTH, *shape)).astype(np.float32) * scale * size.reshape(-1, *[1] * len(shape))

    dense = {"kernel": layers(130, 140), "bias": layers(140)}
    return {
        "embeddings": {"words": {"embedding": rng.normal(size=(150, 130)).astype(np.float32) * scale}},
        "layers": {"mlp": dense, "mlp_norm": {"scale": layers(130)}},
    }


def unstacked(params: dict) -> dict:
    """The same parameters, each layer's a tensor of its own."""
    layers = {str(i): jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(DEPTH)}
    return {"embeddings": params["embeddings"], **layers}


@pytest.mark.representative("adafactor")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_stacked_layer_is_a_tensor_of_its_own(name):
    decay = 0.0 if name in ("adafactor", "sgd", "muon") else 0.1  # where optax's own decay is another
    config = TrainingConfig(
        **CONSTANT, optimizer=name, learning_rate=1e-2, weight_decay=decay, clip_norm=None, epsilon=1e-6
    )
    rng = np.random.default_rng(0)
    params = stacked_parameters(rng, 1.0)
    apart = unstacked(params)
    ours = config.make_optimizer(describe(params))
    plain = PLAIN[name](config, decay_mask(describe(apart), False))
    states = [ours.init(params), plain.init(apart)]
    ours_update, plain_update = jax.jit(ours.update), jax.jit(plain.update)
    # Muon's five products of matrices round in another order over several layers.
    exact = dict(rtol=2e-5, atol=1e-7 if name == "muon" else 1e-9)
    for _ in range(3):
        gradient = stacked_parameters(rng, 0.1)
        updates, states[0] = ours_update(gradient, states[0], params)
        expected, states[1] = plain_update(unstacked(gradient), states[1], apart)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **exact), unstacked(updates), dict(expected))
        params, apart = optax.apply_updates(params, updates), optax.apply_updates(apart, expected)


def test_adafactor_never_factors_the_axis_of_the_layers():
    """Of as many layers as it asks of an axis that it factors: a bias is of one axis, however many layers have one."""
    params = {"layers": {"mlp": {"bias": jnp.zeros((130, 200)), "kernel": jnp.zeros((130, 200, 300))}}}
    optimizer = TrainingConfig(**CONSTANT, optimizer="adafactor").make_optimizer(describe(params))
    shapes = {x.shape for x in jax.tree.leaves(jax.eval_shape(optimizer.init, params)) if x.size > 1}
    assert shapes == {(130, 200), (130, 300)}
    sizes = [x.size for x in jax.tree.leaves(jax.eval_shape(optimizer.init, params))]
    assert sum(sizes) == pytest.approx(130 * 200 * 2 + 130 * 300, abs=20)  # the bias whole, the kernel's rows, columns


@pytest.mark.parametrize(("clip_norm", "scale"), [(None, 1.0), (1.0, 0.2), (10.0, 1.0)])
def test_clipping_by_the_global_norm(clip_norm, scale):
    # Epsilon is so large that AdamW's first update is proportional to the gradient, here of norm 5.
    config = TrainingConfig(**CONSTANT, learning_rate=1.0, weight_decay=0.0, epsilon=1e6, clip_norm=clip_norm)
    params = {"a": {"kernel": jnp.zeros(1)}, "b": {"kernel": jnp.zeros(1)}}
    optimizer = config.make_optimizer(describe(params))
    gradient = {"a": {"kernel": jnp.array([3.0])}, "b": {"kernel": jnp.array([4.0])}}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"]["kernel"] * -1e6, 3 * scale, rtol=1e-4)
    np.testing.assert_allclose(updates["b"]["kernel"] * -1e6, 4 * scale, rtol=1e-4)


@pytest.mark.slow
def test_large_weights_shrink_to_the_limit_and_no_others():
    """Of one tensor without a gradient: 99 weights of 1 and one of 100, whose limit is 4 root mean squares."""
    config = TrainingConfig(**CONSTANT, learning_rate=1e-3, weight_decay=0.0, clip_weights=4.0)
    weights = jnp.ones((10, 10)).at[3, 4].set(100.0)
    # Two layers of a stacked kernel: the second has no weight beyond its own limit, though both together have.
    params = {
        "layers": {"kernel": jnp.stack([weights, jnp.full((10, 10), 50.0)]), "bias": weights},
        "embedding": -weights,
        "norm": {"scale": weights},
    }
    optimizer = config.make_optimizer(describe(params))
    start, state, update = params, optimizer.init(params), jax.jit(optimizer.update)
    largest = []
    for _ in range(90):
        updates, state = update(jax.tree.map(jnp.zeros_like, params), state, params)
        params = optax.apply_updates(params, updates)
        largest.append(float(params["layers"]["kernel"][0].max()))
    np.testing.assert_allclose(largest[:3], [95.0, 90.25, 85.7375], rtol=1e-5)
    # Within the limit when c^2 = 16 (99 + c^2) / 100, so c = sqrt(16 * 99 / 84).
    np.testing.assert_allclose(largest[-1], np.sqrt(16 * 99 / 84), rtol=1e-3)
    np.testing.assert_allclose(params["embedding"].min(), -largest[-1], rtol=1e-6)
    np.testing.assert_array_equal(params["layers"]["kernel"].at[0, 3, 4].set(100.0), start["layers"]["kernel"])
    np.testing.assert_array_equal(params["layers"]["bias"], start["layers"]["bias"])
    np.testing.assert_array_equal(params["norm"]["scale"], start["norm"]["scale"])
