"""Streaming statistics against numpy and scipy-style oracles in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.analysis import statistics
from qtx.analysis.statistics import OutlierCounts, WeightedMean
from qtx.foundation.totals import Count, exact

seeds = st.integers(0, 1000)
# One compilation each, whatever hypothesis draws.
infinity_norm, kurtosis = jax.jit(statistics.infinity_norm), jax.jit(statistics.kurtosis)


def random(shape, seed=0, outlier=0.0):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    x.reshape(shape[0], -1)[:, 0] += outlier
    return x


def numpy_kurtosis(x):
    x = x.reshape(len(x), -1).astype(np.float64)
    centered = x - x.mean(1, keepdims=True)
    return (centered**4).mean(1) / (x.std(1, ddof=1) ** 4 + 1e-6)


@settings(deadline=None, max_examples=25)
@given(seeds, st.floats(0.125, 1000.0, width=32), st.sampled_from([0.0, 5.0, 700.0]))
def test_norm_and_kurtosis_match_numpy(seed, scale, outlier):
    x = random((3, 4, 7), seed, outlier) * np.float32(scale)
    np.testing.assert_array_equal(infinity_norm(x), np.abs(x).reshape(len(x), -1).max(1))
    np.testing.assert_allclose(kurtosis(x), numpy_kurtosis(x), rtol=2e-4)


def test_kurtosis_of_known_distributions():
    generator = np.random.default_rng(0)
    normal = generator.normal(size=(1, 400, 500))
    uniform = generator.uniform(size=(1, 400, 500))
    np.testing.assert_allclose(kurtosis(normal.astype(np.float32)), 3.0, rtol=0.03)
    np.testing.assert_allclose(kurtosis(uniform.astype(np.float32)), 1.8, rtol=0.01)


def test_bfloat16_activations_are_measured_in_float32():
    x = jnp.asarray(random((2, 16, 32)), jnp.bfloat16)
    assert kurtosis(x).dtype == jnp.float32
    np.testing.assert_allclose(kurtosis(x), numpy_kurtosis(np.asarray(x, np.float64)), rtol=1e-4)


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), seeds, st.floats(-1e4, 1e4))
def test_weighted_mean_over_batches_is_the_mean_over_samples(batches, seed, offset):
    generator = np.random.default_rng(seed)
    update = jax.jit(WeightedMean.plus)
    state, values, weights = WeightedMean.zero(3), [], []
    for _ in range(batches):
        values.append((generator.normal(size=(4, 3)) + offset).astype(np.float32))
        weights.append(generator.integers(0, 3, size=4).astype(np.float32))
        state = update(state, values[-1], weights[-1])
    values, weights = np.concatenate(values).astype(np.float64), np.concatenate(weights)
    expected = (values * weights[:, None]).sum(0) / weights.sum() if weights.sum() else np.zeros(3)
    np.testing.assert_allclose(state.mean.high, expected, rtol=1e-5, atol=1e-5)


def test_weighted_mean_ignores_what_a_padding_sample_holds():
    state = WeightedMean.zero().plus(jnp.array([2.0, jnp.inf, jnp.nan]), jnp.array([1.0, 0.0, 0.0]))
    assert state.mean.high == 2.0


update_outliers = jax.jit(OutlierCounts.plus)


def numpy_outliers(x, mask):
    found = np.zeros(x.shape, bool)
    for sample in range(len(x)):
        real = x[sample][mask[sample]].astype(np.float64)
        if real.size > 1:
            found[sample] = np.abs(x[sample] - real.mean()) > 6 * real.std(ddof=1)
    return found & mask[..., None]


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(0, 15), st.integers(0, 31))
def test_planted_outliers_are_counted_where_they_are(seed, position, dimension):
    x = random((4, 16, 32), seed)
    x[:, position, dimension] = 40.0
    x[1, 9:] = 1e4  # padding, which must neither count nor hide the outliers of the sample
    mask = np.ones((4, 16), bool)
    mask[1, 9:] = False
    tokens = np.random.default_rng(seed).integers(0, 7, size=(4, 16))
    state = OutlierCounts.zero(width=32, length=16, vocabulary=7)
    for rows in (slice(0, 2), slice(2, 4)):
        state = update_outliers(state, x[rows], mask[rows], tokens[rows])
    counts = exact(state)
    expected = numpy_outliers(x, mask)
    assert expected.sum() >= 2
    np.testing.assert_array_equal(counts.by_dimension, expected.sum((0, 1)))
    np.testing.assert_array_equal(counts.by_position, expected.sum((0, 2)))
    np.testing.assert_array_equal(counts.by_token, np.bincount(tokens.ravel(), expected.sum(2).ravel(), minlength=7))
    np.testing.assert_array_equal(counts.tokens_at_position, mask.sum(0))


def test_a_sample_of_padding_alone_has_no_outliers():
    assert not statistics.is_outlier(random((1, 4, 8)), np.zeros((1, 4), bool)).any()


@pytest.mark.parametrize("bins", [1, 64])
def test_histogram_matches_numpy_and_keeps_the_values_beyond(bins):
    x = random((4, 8, 16))
    mask = np.arange(8)[None, :] < np.array([8, 5, 1, 0])[:, None]
    counts, count = Count.zero(bins), jax.jit(lambda x, mask: statistics.histogram(x, mask, -1.0, 1.5, bins))
    for rows in (slice(0, 2), slice(2, 4)):
        counts = counts.plus(count(x[rows], mask[rows]))
    expected, _ = np.histogram(np.clip(x[mask], -1.0, 1.5), bins=bins, range=(-1.0, 1.5))
    np.testing.assert_array_equal(counts.exact(), expected)


def test_counts_of_layers_are_those_of_each_layer_alone():
    x, mask = random((3, 2, 4, 5)), np.ones((2, 4), bool)
    count = jax.jit(jax.vmap(lambda seen, x: seen.plus(x, mask, sigmas=1.5)))
    got = count(OutlierCounts.zero(3, width=5, length=4), x)
    for layer in range(3):
        alone = OutlierCounts.zero(width=5, length=4).plus(x[layer], mask, sigmas=1.5)
        jax.tree.map(lambda a, b, layer=layer: np.testing.assert_array_equal(a[layer], b), got, alone)


def test_state_does_not_grow_with_the_number_of_batches():
    before = OutlierCounts.zero(width=5, length=4)
    after = update_outliers(before, random((2, 4, 5)), np.ones((2, 4), bool))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), before) == jax.tree.map(lambda a: (a.shape, a.dtype), after)
