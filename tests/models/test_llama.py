"""What decoders after Llama have of their own, against plain programs and the formulas of the papers."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.layers import rms_norm
from qtx.masks import EVERYWHERE
from qtx.models import LlamaConfig
from qtx.models.rope_scaling import scaling_of
from qtx.models.rotary import rotation
from qtx.parts import Part
from qtx.sites import capture

SMALL = dict(num_layers=3, width=8, num_heads=2, num_kv_heads=1, mlp_width=12, init_std=0.5, vocab_size=11)
TOKENS = {"tokens": np.arange(6)[None]}
# Waves of 4, 40, 400 and 4000 positions.
ANGLES = 2 * math.pi / np.array([4.0, 40.0, 400.0, 4000.0])


def test_a_linear_scaling_divides_positions():
    np.testing.assert_allclose(scaling_of("linear,factor=4").scaled(ANGLES, 1e4), ANGLES / 4)


def test_llama_3_keeps_short_waves_slows_long_ones_and_interpolates_between():
    """Of a context of 400: 100, 10, 1 and 0.1 waves fit; from 2 to 20 is between, of which 10 is 8 / 18 of the way."""
    found = scaling_of("llama3,factor=8,low=2,high=20,original=400").scaled(ANGLES, 1e4)
    between = 1 / 8 + (8 / 18) * (7 / 8)
    np.testing.assert_allclose(found / ANGLES, [1, between, 1 / 8, 1 / 8], rtol=1e-12)


def test_yarn_slows_the_dimensions_that_turn_seldom():
    """Base e^2 and 8 dimensions: pair i has the angle e^(-i / 2). In a context of 2 pi e^2, pair 2 turns e times, and
    pair 4, which is none, once; so the ramp from 0 to 4, which ends at whole dimensions, is 0, 1/4, 1/2, 3/4."""
    angles = np.exp(-np.arange(4) / 2)
    text = f"yarn,factor=5,original={round(2 * math.pi * math.e**2)},fast=8,slow=1"
    scaling = scaling_of(text)
    np.testing.assert_allclose(scaling.scaled(angles, math.e**2) / angles, 1 - np.array([0, 0.25, 0.5, 0.75]) * 0.8)
    assert scaling.size == pytest.approx(0.1 * math.log(5) + 1)
    assert scaling_of(text + ",magnitude=1.5").size == 1.5
    assert scaling_of("") is None


def test_unknown_scalings_and_options_are_refused():
    for text, says in (("ntk,factor=2", "unknown rotary scaling 'ntk'"), ("linear,factor=0.5", "factor is 0.5")):
        with pytest.raises(QtxError, match=says):
            LlamaConfig(rotary_scaling=text)


def test_dimensions_beyond_the_share_stay():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 3, 1, 6)).astype(np.float32)
    found = rotation(jnp.array([0.7]), 1.25)(query, key)[0]
    z = (query[..., 0] + 1j * query[..., 1]) * 1.25 * np.exp(0.7j * np.arange(3))[:, None]
    np.testing.assert_allclose(found[..., :2], np.stack([z.real, z.imag], -1), atol=1e-6)
    np.testing.assert_array_equal(found[..., 2:], query[..., 2:])


def test_a_norm_whose_scale_is_beside_one():
    x, scale = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    found = rms_norm(1e-6, jnp.float32, None, Part.NORM, 1.0).apply({"params": {"scale": scale[0]}}, x)
    mean = (x.astype(np.float64) ** 2).mean(-1, keepdims=True)
    np.testing.assert_allclose(found, x / np.sqrt(mean + 1e-6) * (1 + scale[0]), rtol=1e-5)


def made(**options):
    module = build(LlamaConfig(**{**SMALL, "max_length": 6, **options}))
    return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), TOKENS)["params"])


def captured(module, params, *sites):
    return capture(module.apply, sites, {"params": params}, TOKENS)


@pytest.mark.slow
def test_scores_and_logits_are_bounded():
    """By c tanh(x / c), of what the same parameters give without bounds in the first layer, and in the head."""
    sites = ("layers/attention/scores",)
    free, params = made(num_layers=1, score_dim=1)
    capped = build(LlamaConfig(**{**SMALL, "num_layers": 1}, max_length=6, score_dim=1, score_cap=0.5))
    (_, before), (_, after) = (captured(module, params, *sites) for module in (free, capped))
    seen = np.tri(6, dtype=bool)
    before, after = (np.asarray(x[sites[0]], np.float64)[..., seen] for x in (before, after))
    assert np.abs(before).max() > 0.5
    np.testing.assert_allclose(after, 0.5 * np.tanh(before / 0.5), atol=1e-6)
    capped = build(LlamaConfig(**{**SMALL, "num_layers": 1}, max_length=6, score_dim=1, logit_cap=0.1))
    logits, bounded = (np.asarray(x.apply({"params": params}, TOKENS)) for x in (free, capped))
    np.testing.assert_allclose(bounded, 0.1 * np.tanh(logits / 0.1), atol=1e-6)


def test_biases_are_where_the_options_say():
    params = made(attention_bias=True, mlp_out_bias=True)[1]["layers"]
    assert [("bias" in params["attention"][name]) for name in ("query", "key", "value", "out")] == [True] * 3 + [False]
    assert [("bias" in params["mlp"][name]) for name in ("gate", "in", "out")] == [False, False, True]


def test_layers_are_told_their_windows_and_positions():
    config = LlamaConfig(
        **SMALL, rotary_base=100.0, local_base=4.0, window=2, global_layers=(1,), unrotated_layers=(2,)
    )
    own = config.per_layer
    assert own["window"].tolist() == [2, EVERYWHERE, 2]
    np.testing.assert_allclose(own["frequencies"], [[1, 0.5], [1, 0.1], [0, 0]], rtol=1e-6)
    assert "window" not in LlamaConfig(**SMALL).per_layer
