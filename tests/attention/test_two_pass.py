"""Sums of exponentials by mantissa and exponent, against NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qtx.attention.fused import two_pass

SCORES = arrays.arrays(np.float32, (3, 16), elements=st.floats(-2000, 2000, width=32))


def exact(scores):
    scores = scores.astype(np.float64)
    largest = scores.max(axis=-1, keepdims=True)
    total = np.exp(scores - largest).sum(axis=-1, keepdims=True)
    return largest + np.log(total), np.exp(scores - largest) / total


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(SCORES, st.sampled_from([1, 4, 16]))
def test_no_maximum_is_needed(scores, block):
    lse, probs = exact(scores)
    np.testing.assert_allclose(two_pass.log_sum_exp(jnp.asarray(scores), block), lse, rtol=1e-6, atol=1e-5)
    # A score of 2,000 has 1.2e-4 of its own to lose: what is compared is the softmax of what it holds.
    np.testing.assert_allclose(two_pass.softmax(jnp.asarray(scores)), probs, atol=3e-4)


def test_the_softmax_is_exact_to_float32_at_usual_scores():
    scores = np.random.default_rng(0).normal(scale=5, size=(64, 256)).astype(np.float32)
    np.testing.assert_allclose(two_pass.softmax(jnp.asarray(scores)), exact(scores)[1], rtol=3e-6)


@pytest.mark.parametrize("x", [-1e4, -88.0, 0.0, 1.0, 88.8, 1e4])
def test_the_mantissa_is_near_one(x):
    mantissa, exponent = two_pass.exponential(jnp.float32(x))
    assert 0.7 < mantissa < 1.42
    np.testing.assert_allclose(np.log(np.float64(mantissa)) + float(exponent) * np.log(2), x, rtol=2e-7, atol=1e-6)


def test_what_vanishes_beside_a_sum_leaves_it():
    nothing = two_pass.Scaled(jnp.float32(0), jnp.float32(two_pass.NONE))
    one = two_pass.exponential(jnp.float32(-500))
    assert two_pass.add(nothing, one) == one and two_pass.add(one, nothing) == one
    assert two_pass.add(two_pass.exponential(jnp.float32(500)), one) == two_pass.exponential(jnp.float32(500))
