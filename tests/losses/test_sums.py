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

from qtx.losses.cross_entropy import cross_entropy_sums, training_sums
from qtx.losses.sums import PredictionSums


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


@pytest.mark.slow
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
    found = PredictionSums(*sums).metrics()
    assert [found[name] for name in ("loss", "perplexity", "accuracy")] == pytest.approx(expected, nan_ok=True)


def optax_targets(batch, classes, smoothing):
    """The targets that `training_sums` means, spelled out: `[..., classes]`."""
    share = batch.get("mixed_share", np.zeros(batch["labels"].shape, np.float32))[..., None]
    one_hot = jax.nn.one_hot(batch["labels"], classes)
    other = jax.nn.one_hot(batch.get("mixed_labels", batch["labels"]), classes)
    return optax.smooth_labels((1 - share) * one_hot + share * other, smoothing)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(4,), (3, 5)]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.booleans(),
)
def test_training_sums_are_those_of_explicit_soft_targets(seed, shape, smoothing, mixed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*shape, 7)).astype(np.float32) * 5
    batch = {
        "labels": rng.integers(0, 7, shape).astype(np.int32),
        "weights": rng.choice([0.0, 1.0, 0.5], shape).astype(np.float32),
    }
    if mixed:
        share = rng.choice([0.0, 1.0, 0.25, 0.7], shape).astype(np.float32)
        batch |= {"mixed_labels": rng.integers(0, 7, shape).astype(np.int32), "mixed_share": share}
    targets = optax_targets(batch, 7, smoothing)

    def ours(logits):
        return training_sums(logits, batch, smoothing).loss

    def expected(logits):
        return (optax.softmax_cross_entropy(logits, targets) * batch["weights"]).sum()

    for f, g in ((ours, expected), (jax.grad(ours), jax.grad(expected))):
        np.testing.assert_allclose(f(jnp.asarray(logits)), g(jnp.asarray(logits)), rtol=1e-5, atol=1e-5)
    sums = training_sums(logits, batch, smoothing)
    share = batch.get("mixed_share", np.zeros(shape))
    best = logits.argmax(-1)
    correct = (1 - share) * (best == batch["labels"]) + share * (best == batch.get("mixed_labels", -1))
    np.testing.assert_allclose(sums.weight, batch["weights"].sum(), rtol=1e-6)
    np.testing.assert_allclose(sums.correct, (batch["weights"] * correct).sum(), rtol=1e-5, atol=1e-6)


def test_plain_training_sums_are_the_evaluation_sums_bit_for_bit():
    logits, labels, weights = random_predictions(0, 4)
    batch = {"labels": labels, "weights": weights}
    plain = jax.make_jaxpr(lambda x: training_sums(x, batch, 0.0))(logits)
    expected = jax.make_jaxpr(lambda x: cross_entropy_sums(x, labels, weights, share_ties=False))(logits)
    assert str(plain) == str(expected)
    assert training_sums(logits, batch) == cross_entropy_sums(logits, labels, weights)


def test_what_has_weight_0_does_not_matter_to_smoothed_mixed_sums():
    logits, labels, weights = random_predictions(0, 4)
    weights[1] = 0
    share = np.full(weights.shape, 0.3, np.float32)
    batch = {"labels": labels, "mixed_labels": labels[::-1], "mixed_share": share, "weights": weights}
    poisoned = jnp.asarray(logits).at[1].set(jnp.inf)
    assert training_sums(poisoned, batch, 0.1).loss == training_sums(logits, batch, 0.1).loss
