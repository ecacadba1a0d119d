"""Positions that are no embeddings: turned queries and keys, and biases by distance, against plain programs."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from qtx.attention import AttentionSpec, MultiHeadAttention, Rows
from qtx.foundation.errors import QtxError
from qtx.masks import EVERYWHERE, Mask
from qtx.models import ModernBertConfig, RotaryBertConfig
from qtx.models.relative_bias import distance_buckets
from qtx.models.rotary import frequencies, rotation


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_pairs_of_dimensions_are_turned_as_complex_numbers(factor):
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 3, 7, 2, 6))
    turn = [[np.exp(1j * t * (1000 * factor) ** (-2 * i / 6) * factor ** (-2 / 6)) for i in range(3)] for t in range(7)]
    found = rotation(frequencies(6, 1000.0, factor))(query.astype(np.float32), key.astype(np.float32))
    for x, turned in zip((query, key), found, strict=True):
        z = (x[..., :3] + 1j * x[..., 3:]) * np.array(turn)[:, None]
        np.testing.assert_allclose(turned, np.concatenate([z.real, z.imag], -1), atol=1e-5)


def test_a_distance_has_the_bucket_of_t5():
    """One query and key at a time: the nearest 7 distances apart, then ones that double every two buckets up to 128."""
    found = distance_buckets(300, 32)
    pairs = [(0, 0), (9, 2), (2, 9), (50, 42), (50, 41), (50, 38), (50, 39), (0, 63), (0, 64), (0, 90), (299, 0)]
    for query, key in pairs:
        distance, after = abs(key - query), 16 * (key > query)
        bucket = distance if distance < 8 else min(8 + int(math.log2(distance / 8) * 2 + 1e-9), 15)
        assert found[query, key] == after + bucket
    assert found.shape == (300, 300) and set(np.unique(found)) == {*range(32)} - {16}


def test_a_bias_is_added_to_the_scaled_scores():
    rng = np.random.default_rng(0)
    x, bias = rng.normal(size=(1, 5, 8)).astype(np.float32), rng.normal(size=(1, 2, 5, 5)).astype(np.float32)
    module = MultiHeadAttention(AttentionSpec(2, init_std=0.5), deterministic=True)
    params = module.init(jax.random.key(0), x)
    found = module.apply(params, x, Rows(Mask(5), bias=bias), capture_intermediates=True)[1]["intermediates"]
    query, key = (np.asarray(found[name]["__call__"][0]).reshape(5, 2, 4) for name in ("query", "key"))
    expected = np.einsum("thd,shd->hts", query, key) / 2 + bias[0]
    np.testing.assert_allclose(found["scores"]["__call__"][0][0], expected, atol=1e-5)
    probs = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    np.testing.assert_allclose(found["probs"]["__call__"][0][0], probs, atol=1e-6)


def test_a_fused_backend_refuses_a_bias():
    module = MultiHeadAttention(AttentionSpec(2, backend="blockwise"), deterministic=True)
    x = np.ones((1, 5, 8), np.float32)
    with pytest.raises(QtxError, match="'blockwise' does not compute a bias of the scores: set it to 'auto' or"):
        jax.eval_shape(module.init, jax.random.key(0), x, Rows(Mask(5), bias=np.zeros((1, 2, 5, 5), np.float32)))


def test_layers_are_told_what_they_see():
    own = ModernBertConfig(num_layers=5, width=12, num_heads=3, global_every=3, local_distance=64).per_layer
    assert own["window"].tolist() == [EVERYWHERE, 65, 65, EVERYWHERE, 65]  # |i - j| <= 64
    assert own["normed"].tolist() == [False, True, True, True, True]
    np.testing.assert_allclose(own["frequencies"][:, 1], [160_000**-0.5, 0.01, 0.01, 160_000**-0.5, 0.01], rtol=1e-6)
    of_gte = RotaryBertConfig(num_layers=2, width=8, num_heads=2, rotary_base=100.0, rotary_factor=4.0).per_layer
    np.testing.assert_allclose(of_gte["frequencies"], [[0.5, 0.025]] * 2, rtol=1e-6)
