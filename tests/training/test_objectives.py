"""Weighted cross entropy as sums."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.training.objectives import cross_entropy_sums, metrics


def random_predictions(seed: int, examples: int, classes: int = 7):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(examples, 3, classes)).astype(np.float32) * 5
    labels = rng.integers(0, classes, (examples, 3)).astype(np.int32)
    weights = rng.choice([0.0, 1.0, 0.5], (examples, 3)).astype(np.float32)
    return logits, labels, weights


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_sums_are_those_of_optax_and_of_argmax(seed):
    logits, labels, weights = random_predictions(seed, 4)
    sums = cross_entropy_sums(logits, labels, weights)
    expected = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(sums.loss, (expected * weights).sum(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums.weight, weights.sum())
    np.testing.assert_allclose(sums.correct, (weights * (logits.argmax(-1) == labels)).sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_parts_add_up_to_the_whole(seed):
    logits, labels, weights = random_predictions(seed, 4)
    first = np.random.default_rng(seed).random(weights.shape) < 0.3
    whole = cross_entropy_sums(logits, labels, weights)
    parts = [cross_entropy_sums(logits, labels, weights * part) for part in (first, ~first)]
    for total, *terms in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(total, sum(terms), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [-100, 7, 0])
def test_entries_of_weight_0_do_not_matter(label):
    logits, labels, weights = random_predictions(0, 4)
    labels, weights = labels.copy(), weights.copy()
    weights[1] = 0

    def loss(logits, labels):
        return cross_entropy_sums(logits, labels, weights).loss

    before = loss(logits, labels)
    labels[1] = label
    poisoned = jnp.asarray(logits).at[1].set(jnp.inf)
    assert loss(logits, labels) == before
    assert np.isfinite(jax.grad(loss)(jnp.asarray(logits), labels)).all()
    assert loss(poisoned, labels) == before


def test_a_tie_counts_as_guessing():
    sums = cross_entropy_sums(jnp.zeros((5, 4)), jnp.arange(5) % 4, jnp.ones(5))
    np.testing.assert_allclose(sums.correct, 5 / 4)


def test_sums_are_float32_under_bfloat16():
    sums = cross_entropy_sums(jnp.zeros((3, 4), jnp.bfloat16), jnp.zeros(3, jnp.int32), jnp.ones(3, jnp.bfloat16))
    assert [x.dtype for x in sums] == [jnp.float32] * 3


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ((6.0, 3.0, 1.5), (2.0, math.e**2, 0.5)),
        ((3000.0, 1.0, 0.0), (3000.0, math.inf, 0.0)),
        ((0.0, 0.0, 0.0), (math.nan, math.nan, math.nan)),
        ((math.nan, 2.0, 1.0), (math.nan, math.nan, 0.5)),
    ],
)
def test_metrics(sums, expected):
    assert tuple(metrics(*sums).values()) == pytest.approx(expected, nan_ok=True)
