"""What every normalizer in the registry must do, and clipped softmax against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.attention import NORMALIZERS
from qtx.attention.normalizers import ClippedSoftmax, Softmax, softmax
from qtx.errors import QtxError

EXAMPLES = {
    "softmax": [{}],
    "clipped_softmax": [
        {"gamma": 0.0},
        {"gamma": -0.03},
        {"gamma": -0.03, "zeta": 1.03},
        {"gamma": 0.0, "zeta": 1.03},
        {"alpha": 4.0},
        {"gamma": -20.0},
    ],
    "none": [{}],
}
CASES = [pytest.param(NORMALIZERS[n](**o), id=f"{n}-{o}") for n, options in EXAMPLES.items() for o in options]


def test_every_normalizer_has_examples():
    assert EXAMPLES.keys() == NORMALIZERS.keys()


def scores_and_mask(seed, rows=5, keys=7):
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=rng.choice([0.1, 3.0, 300.0]), size=(2, 3, rows, keys)).astype(np.float32)
    mask = rng.random((2, 1, rows, keys)) < 0.7
    mask[:, :, 0] = False
    return scores, mask


@pytest.mark.parametrize("normalizer", CASES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_masked_keys_are_exactly_zero_and_the_rest_is_a_probability(normalizer, seed):
    scores, mask = scores_and_mask(seed)
    probs = np.asarray(normalizer(scores, mask))
    assert probs.shape == scores.shape and probs.dtype == np.float32
    assert np.all(probs[~np.broadcast_to(mask, probs.shape)] == 0)
    assert np.all((probs >= 0) & (probs <= 1))


@pytest.mark.parametrize("normalizer", CASES)
def test_masked_scores_do_not_matter(normalizer):
    scores, mask = scores_and_mask(0)
    other = np.where(mask, scores, 1e9).astype(np.float32)
    np.testing.assert_array_equal(normalizer(scores, mask), normalizer(other, mask))


@pytest.mark.parametrize("normalizer", CASES)
def test_gradients_are_finite_and_zero_at_masked_scores(normalizer):
    scores, mask = scores_and_mask(3)
    weights = np.random.default_rng(0).normal(size=scores.shape).astype(np.float32)
    gradient = np.asarray(jax.grad(lambda s: (normalizer(s, mask) * weights).sum())(jnp.asarray(scores)))
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[~np.broadcast_to(mask, gradient.shape)] == 0)


@pytest.mark.parametrize("normalizer", CASES)
def test_float32_under_bfloat16(normalizer):
    assert normalizer(jnp.ones((1, 1, 2, 2), jnp.bfloat16)).dtype == jnp.float32


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gamma=st.floats(-1, 0), zeta=st.floats(1, 1.5))
def test_clipped_softmax_is_the_papers_equation(seed, gamma, zeta):
    scores = np.random.default_rng(seed).normal(scale=4, size=(1, 1, 3, 9))
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.clip((zeta - gamma) * exponentials / exponentials.sum(-1, keepdims=True) + gamma, 0, 1)
    actual = ClippedSoftmax(gamma=gamma, zeta=zeta)(scores.astype(np.float32))
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_clipping_gives_exact_zeros_and_ones_at_finite_scores():
    probs = np.asarray(ClippedSoftmax(gamma=-0.03, zeta=1.03)(np.array([[[[9.0, 0.0, 0.0]]]], np.float32)))
    assert probs.tolist() == [[[[1.0, 0.0, 0.0]]]]
    assert np.all(np.asarray(softmax(np.array([[9.0, 0.0, 0.0]], np.float32))) % 1 != 0)


def test_gamma_zero_and_zeta_one_is_the_softmax():
    scores, mask = scores_and_mask(1)
    np.testing.assert_allclose(ClippedSoftmax(gamma=0.0)(scores, mask), Softmax()(scores, mask), atol=1e-7)


@pytest.mark.parametrize("keys", [8, 32, 128])
def test_alpha_sets_gamma_by_the_number_of_keys(keys):
    scores = np.random.default_rng(0).normal(size=(1, 1, 2, keys)).astype(np.float32)
    np.testing.assert_array_equal(ClippedSoftmax(alpha=2.0)(scores), ClippedSoftmax(gamma=-2.0 / keys)(scores))


@pytest.mark.parametrize("step, share", [(0, 0.0), (25, 0.25), (100, 1.0), (500, 1.0), (None, 1.0)])
def test_gamma_grows_linearly_during_its_warmup(step, share):
    scores = np.random.default_rng(0).normal(size=(1, 1, 2, 8)).astype(np.float32)
    annealed = ClippedSoftmax(gamma=-0.1, gamma_warmup_steps=100)(scores, None, step)
    np.testing.assert_allclose(annealed, ClippedSoftmax(gamma=-0.1 * share)(scores), atol=1e-7)


@pytest.mark.parametrize(
    "options, says",
    [
        ({}, "neither"),
        ({"gamma": -0.1, "alpha": 1.0}, "both"),
        ({"gamma": 0.1}, "gamma <= 0"),
        ({"gamma": float("nan")}, "gamma <= 0"),
        ({"alpha": -1.0}, "alpha >= 0"),
        ({"gamma": -0.1, "zeta": 0.9}, "zeta >= 1"),
        ({"gamma": -0.1, "gamma_warmup_steps": -1}, "0 or more"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(QtxError, match=says):
        ClippedSoftmax(**options)
