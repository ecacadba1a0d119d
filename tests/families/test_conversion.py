"""A trained softmax model with another attention: the same model at step 0, and one that learns from there."""

from __future__ import annotations

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from qtx import interop
from qtx.attention import GATES, VARIANTS, AttentionConfig, converted_attention
from qtx.attention.gates import AllHeadsLinearGate, LinearGate, PerHeadGate
from qtx.attention.gates.base import bias_of
from qtx.attention.parameters import Parameter
from qtx.families import FAMILIES, build
from qtx.families.conversion import converted_params
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig, LlamaConfig, ModernBertConfig, OptConfig, RotaryBertConfig, VitConfig
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.integer import convert

WARMUP = 10
SHAPE = {"num_layers": 2, "width": 16, "num_heads": 2, "mlp_width": 24, "init_std": 0.3}
CONFIGS = {
    "bert": BertConfig(**SHAPE, vocab_size=23, max_length=8),
    "modern_bert": ModernBertConfig(**SHAPE, vocab_size=23, max_length=8, local_distance=2),
    "rotary_bert": RotaryBertConfig(**SHAPE, vocab_size=23, max_length=8, relative_buckets=8),
    "opt": OptConfig(**SHAPE, vocab_size=23, max_length=8),
    "llama": LlamaConfig(**SHAPE, vocab_size=23, max_length=8, num_kv_heads=1, qk_norm=True),
    "vit": VitConfig(**SHAPE, image_size=8, patch_size=4, channels=3, num_classes=5),
}
ATTENTIONS = {
    name: attention.trained_at(8) for name, attention in VARIANTS.items() if name not in ("softmax", "none")
} | {
    f"{name} of the residual, on the values": AttentionConfig(gate=gate(input="residual", place="values"))
    for name, gate in GATES.items()
}
ATTENTIONS["all of them"] = AttentionConfig(
    VARIANTS["clipped_softmax"].trained_at(8).normalizer, AllHeadsLinearGate(pi=0.9, input="residual")
)


def test_every_family_is_converted():
    assert CONFIGS.keys() == FAMILIES.keys()


@functools.cache
def original(family):
    """A model of random parameters, no two alike, a batch with padding, and the model's answers."""
    module, rng = build(CONFIGS[family]), np.random.default_rng(0)
    batch = {"tokens": rng.integers(0, 23, (3, 8)), "mask": np.arange(8) < np.array([[8], [5], [1]])}
    if family == "vit":
        batch = {"images": rng.normal(size=(3, 8, 8, 3)).astype(np.float32)}
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), batch)["params"])
    params = jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)
    return params, batch, np.asarray(jax.jit(module.apply)({"params": params}, batch))


def converted(family, attention, **options):
    attention = converted_attention(attention, AttentionConfig(), WARMUP)
    module = build(dataclasses.replace(CONFIGS[family], attention=attention, **options))
    return module, converted_params(module, original(family)[0], seed=0)


def distance(found, expected):
    """The largest, of the largest value."""
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


# Every attention in one family, for what is converted is the same in all: in turn.
PAIRS = {(attention, list(FAMILIES)[i % len(FAMILIES)]) for i, attention in enumerate(ATTENTIONS)}
PAIRS |= {("gated_mlp", "opt"), ("clipped_softmax", "bert"), ("sink", "opt"), ("all of them", "vit")}


@pytest.mark.long
@pytest.mark.parametrize(("attention", "family"), sorted(PAIRS))
def test_it_is_the_same_model_and_learns_to_be_another(family, attention):
    start, batch, expected = original(family)
    module, params = converted(family, ATTENTIONS[attention])
    aim = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)

    def loss(params, step):
        logits = module.apply({"params": params}, batch, step=step)
        return (aim * logits).sum(), logits

    at = jax.jit(jax.grad(loss, has_aux=True))
    gradients, logits = at(params, 0)
    assert distance(logits, expected) < 1e-5
    flat = traverse_util.flatten_dict(params)
    there = traverse_util.flatten_dict(start)
    assert all(np.array_equal(flat[path], value) for path, value in there.items())

    moved = jax.tree.map(lambda x, gradient: x - 0.01 * gradient, params, gradients)
    new = {path: jnp.where(path in there, x, traverse_util.flatten_dict(moved)[path]) for path, x in flat.items()}
    later, logits = at(traverse_util.unflatten_dict(new), WARMUP)
    assert distance(logits, expected) > 1e-3
    for gradient in (gradients, later):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    first, second = traverse_util.flatten_dict(gradients), traverse_util.flatten_dict(later)
    for path in flat.keys() - there.keys():
        # Layer by layer. What precedes a gate's last kernel learns as soon as that is no longer 0.
        assert all(np.any(first[path][i]) or np.any(second[path][i]) for i in range(SHAPE["num_layers"])), path


@pytest.mark.long
@pytest.mark.parametrize("attention", list(ATTENTIONS)[::4])
def test_it_is_quantized_run_on_integers_and_saved_as_what_it_is(attention, tmp_path):
    _, batch, expected = original("opt")
    module, params = converted("opt", ATTENTIONS[attention])
    gate = module.config.attention.gate
    result = calibrate(
        module, params, QuantizationConfig(recipe="paper_opt").make_recipe("w8a8", module.config), [batch], 1
    )
    simulated = jax.jit(result.apply)(batch)
    if module.config.attention.normalizer == VARIANTS["softmax"].normalizer:
        assert distance(simulated, expected) < 0.1
        assert gate.scale * gate.initial_openness == pytest.approx(1.0)
    assert distance(jax.jit(convert(result).apply)(batch), np.asarray(simulated)) < 0.05
    interop.save(tmp_path, module.config, params)
    noted = json.loads((tmp_path / "config.json").read_text())["qtx_attention"]
    assert noted.get("gate_scale") == (gate and gate.scale)
    config, loaded = interop.load(tmp_path)
    assert config.attention == module.config.attention
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.slow
def test_parameters_without_a_place_or_of_another_shape_are_refused():
    start = original("opt")[0]
    module = converted("opt", ATTENTIONS["gated_linear"])[0]
    with pytest.raises(QtxError, match="has layers/mlp/gate, other/bias, which the new one does not have"):
        mlp = {**start["layers"]["mlp"], "gate": 1}
        converted_params(module, {**start, "other": {"bias": 1}, "layers": {**start["layers"], "mlp": mlp}}, 0)
    wider = build(dataclasses.replace(module.config, mlp_width=32))
    with pytest.raises(QtxError, match=r"layers/mlp/in/bias has shape \(2, 24\) .* \(2, 32\) in the new one"):
        converted_params(wider, start, 0)


def test_a_gate_that_does_not_multiply_by_one_is_refused(monkeypatch):
    """Its last layer has other names than those that conversion puts to 0."""

    @dataclasses.dataclass(frozen=True)
    class Slope(PerHeadGate):
        def parameters(self, num_heads, head_dim):
            shape = num_heads, head_dim
            return {"slope": Parameter(shape, 0.5), "bias": Parameter(shape, bias_of(self.pi))}

        def __call__(self, parameters, x):
            return parameters["slope"] * x + parameters["bias"]

    monkeypatch.setitem(GATES, "slope", Slope)
    with pytest.raises(QtxError, match=r"gate of Slope would multiply by 0\.\d+ to 1\.\d+ at first.* `kernel` is 0"):
        converted("opt", AttentionConfig(gate=Slope()))


@pytest.mark.slow
def test_a_converted_model_is_converted_to_itself():
    """Its gate stays as it was trained."""
    module, params = converted("opt", AttentionConfig(gate=LinearGate()))
    trained = jax.tree.map(lambda x: x + 1, params)
    jax.tree.map(np.testing.assert_array_equal, converted_params(module, trained, 0), trained)
