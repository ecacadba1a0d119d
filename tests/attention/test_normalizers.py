"""What every normalizer in the registry must do, and each against its formula in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.attention import NORMALIZERS, Rows
from qtx.attention.normalizers import (
    ClippedSoftmax,
    Elastic,
    Entmax15,
    NormalizedClippedSoftmax,
    Normalizer,
    Relu,
    ScalableSoftmax,
    Sigmoid,
    Sink,
    Softmax,
    Softmax1,
    SoftmaxLike,
    Softpick,
    Sparsemax,
)
from qtx.foundation.errors import QtxError
from qtx.masks import Mask

EXAMPLES = {
    "softmax": [{}],
    "clipped_softmax": [
        {"gamma": 0.0},
        {"gamma": -0.03},
        {"gamma": -0.03, "zeta": 1.03},
        {"gamma": 0.0, "zeta": 1.03},
        {"alpha": 4.0, "length": 9},
        {"alpha_visible": 0.5},
        {"gamma": -20.0},
    ],
    "normalized_clipped_softmax": [{}, {"beta": 0.9, "eta": 1.5}],
    "softmax1": [{}],
    "sink": [{}],
    "elastic": [{}, {"tau_weight": 0.3}],
    "softpick": [{}],
    "sigmoid": [{}],
    "relu": [{}],
    "scalable_softmax": [{}],
    "sparsemax": [{}],
    "entmax15": [{}],
    "none": [{}],
}
CASES = [pytest.param(NORMALIZERS[n](**o), id=f"{n}-{o}") for n, options in EXAMPLES.items() for o in options]
B, H, T = 2, 3, 6


def test_every_normalizer_has_examples():
    assert EXAMPLES.keys() == NORMALIZERS.keys()


def with_threshold(probs, largest):
    """The probabilities at the threshold, within 1 of the largest score, at which they sum to 1, by bisection."""
    low, high = np.float64(largest) - 1, np.float64(largest)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probs(middle).sum() > 1 else (low, middle)
    return probs(middle)


def exact(normalizer, row, parameters):
    """The probabilities of one row of visible scores, from the formula, in float64; of one head's
    parameters."""
    e = np.exp(row.astype(np.float64))
    n = len(row)
    match normalizer:
        case Softmax():
            return e / e.sum()
        case Softmax1():
            return e / (1 + e.sum())
        case Sink():
            return e / (np.exp(parameters["sinks"]) + e.sum())
        case Elastic(tau_weight=weight):
            return np.maximum(e / e.sum() + weight * parameters["tau"] / n, 0)
        case Softpick():
            return np.maximum(e - 1, 0) / np.abs(e - 1).sum()
        case Sigmoid():
            return e / (n + e)
        case Relu():
            return np.maximum(row.astype(np.float64), 0) / n
        case ScalableSoftmax():
            e = np.exp(parameters["scale"] * np.log(n) * row.astype(np.float64))
            return e / e.sum()
        case Sparsemax():
            return with_threshold(lambda tau: np.maximum(row.astype(np.float64) - tau, 0), row.max())
        case Entmax15():
            return with_threshold(lambda tau: np.maximum(row / np.float64(2) - tau, 0) ** 2, row.max() / 2)
        case NormalizedClippedSoftmax(beta=beta, eta=eta):
            p = e / e.sum()
            return beta * p if n == 1 else np.clip((n * eta - beta) / (n - 1) * p + (beta - eta) / (n - 1), 0, 1)
        case ClippedSoftmax(gamma=gamma, alpha=alpha, alpha_visible=by_visible, length=length, zeta=zeta):
            gamma = next(g for g in (gamma, alpha and -alpha / length, by_visible and -by_visible / n) if g is not None)
            return np.clip((zeta - gamma) * e / e.sum() + gamma, 0, 1)
    return np.zeros(n)


def of_head(parameters, h):
    """Those of a head, of parameters that each head has, or all share."""
    return {name: x[h] if np.shape(x)[:1] == (H,) else x for name, x in parameters.items()}


def masks(seed):
    """Masks of all kinds, with rows that see nothing."""
    rng = np.random.default_rng(seed)
    keys = rng.random((B, T)) < 0.7
    keys[0, 0] = False
    segments = np.sort(rng.integers(0, 3, (B, T)), axis=1)
    padding, documents = {"padding": jnp.asarray(keys)}, {"segments": jnp.asarray(segments)}
    kinds = [{}, {"causal": True}, {"causal": True, **padding}, documents, {"window": jnp.int32(2), **padding}]
    return [Mask(T, **kind) for kind in [*kinds, {"causal": True, "window": 3, **padding, **documents}]]


def visible(mask):
    """Which keys each query sees, `[B, T, T]`, by the rules."""
    seen = np.zeros((B, T, T), bool)
    for b, i, j in np.ndindex(B, T, T):
        seen[b, i, j] = (
            not (mask.causal and j > i)
            and not (mask.window is not None and abs(i - j) >= mask.window)
            and (mask.padding is None or bool(mask.padding[b, j]))
            and (mask.segments is None or mask.segments[b, i] == mask.segments[b, j])
        )
    return seen


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mask_shows_what_its_rules_say(seed):
    for mask in masks(seed):
        dense = mask.dense()
        expected = visible(mask)
        found = np.ones((B, 1, T, T), bool) if dense is None else np.broadcast_to(dense, (B, 1, T, T))
        np.testing.assert_array_equal(found[:, 0], expected)
        counts = mask.visible()
        assert counts.shape in ((B, 1, T, 1), (1, 1, T, 1))
        np.testing.assert_array_equal(np.broadcast_to(counts, (B, 1, T, 1))[:, 0, :, 0], expected.sum(-1))


def sample(normalizer, seed, scale=None):
    rng = np.random.default_rng(seed)
    scale = scale or rng.choice([0.1, 3.0, 300.0])
    scores = rng.normal(scale=scale, size=(B, H, T, T)).astype(np.float32)
    shapes = {name: p.shape for name, p in normalizer.parameters(H).items()}
    parameters = {name: rng.normal(scale=2, size=shape).astype(np.float32) for name, shape in shapes.items()}
    return parameters, scores


@pytest.mark.parametrize("normalizer", CASES)
@pytest.mark.parametrize("scale", [0.5, 30.0])
def test_equals_its_formula(normalizer, scale):
    parameters, scores = sample(normalizer, 5, scale)
    for mask in masks(2):
        probs = np.asarray(normalizer(parameters, scores, Rows(mask)))
        seen = visible(mask)
        for b, h, i in np.ndindex(B, H, T):
            row = scores[b, h, i, seen[b, i]]
            expected = np.zeros(T)
            if len(row):
                expected[seen[b, i]] = exact(normalizer, row, of_head(parameters, h))
            np.testing.assert_allclose(probs[b, h, i], expected, atol=3e-6)


@pytest.mark.parametrize("normalizer", CASES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_masked_keys_are_exactly_zero_and_the_rest_is_a_probability(normalizer, seed):
    parameters, scores = sample(normalizer, seed)
    mask = masks(seed)[-1]
    probs = np.asarray(normalizer(parameters, scores, Rows(mask)))
    assert probs.shape == scores.shape and probs.dtype == np.float32
    assert np.all(probs[~np.broadcast_to(mask.dense(), probs.shape)] == 0)
    assert np.all((probs >= 0) & (probs <= normalizer.largest))


@pytest.mark.parametrize("normalizer", CASES)
def test_masked_scores_do_not_matter(normalizer):
    parameters, scores = sample(normalizer, 0)
    for mask in masks(0)[1:]:
        other = np.where(mask.dense(), scores, 1e9).astype(np.float32)
        rows = Rows(mask)
        np.testing.assert_array_equal(normalizer(parameters, scores, rows), normalizer(parameters, other, rows))


@pytest.mark.parametrize("normalizer", CASES)
def test_gradients_are_those_of_finite_differences(normalizer):
    """In float64, of scores and parameters, at masked scores exactly 0."""
    parameters, scores = sample(normalizer, 3, 1.0)
    weights = np.random.default_rng(0).normal(size=scores.shape)
    mask = masks(3)[2]

    def loss(parameters, scores):
        return (normalizer(parameters, scores, Rows(mask)) * weights).sum()

    gradients = jax.grad(loss, (0, 1))(parameters, jnp.asarray(scores))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.all(np.asarray(gradients[1])[~np.broadcast_to(mask.dense(), scores.shape)] == 0)
    seen = visible(mask)

    def by_formula(parameters, scores):
        total = 0.0
        for b, h, i in np.ndindex(B, H, T):
            if seen[b, i].any():
                probs = exact(normalizer, scores[b, h, i, seen[b, i]], of_head(parameters, h))
                total += probs @ weights[b, h, i, seen[b, i]]
        return total

    rng = np.random.default_rng(1)
    for _ in range(4):
        direction = rng.normal(size=scores.shape)
        along = {name: rng.normal(size=x.shape) for name, x in parameters.items()}
        step = 1e-6
        ends = [
            by_formula({n: x + s * along[n] for n, x in parameters.items()}, scores + s * direction)
            for s in (-step, step)
        ]
        slope = sum((np.asarray(gradients[0][n]) * along[n]).sum() for n in parameters)
        slope += (np.asarray(gradients[1]) * direction).sum()
        np.testing.assert_allclose(slope, (ends[1] - ends[0]) / (2 * step), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalizer", CASES)
def test_float32_under_bfloat16(normalizer):
    parameters, _ = sample(normalizer, 0)
    assert normalizer(parameters, jnp.ones((1, H, 2, 2), jnp.bfloat16), Rows(Mask(2))).dtype == jnp.float32


@pytest.mark.parametrize("normalizer", [case for case in CASES if isinstance(case.values[0], SoftmaxLike)])
def test_two_hooks_are_all_of_a_softmax_like_one(normalizer):
    """What a fused kernel computes: the logarithm of the sum of exponentials, then finish."""
    parameters, scores = sample(normalizer, 7, 1.0)
    mask = masks(7)[2]
    rows, seen = Rows(mask), np.broadcast_to(mask.dense(), scores.shape)
    empty = normalizer.empty(parameters, rows)
    hidden = jnp.where(seen, scores, -jnp.inf)
    total = jax.nn.logsumexp(hidden, axis=-1, keepdims=True)
    total = total if empty is None else jnp.logaddexp(total, empty)
    probs = jnp.where(seen, jnp.exp(hidden - jnp.where(jnp.isfinite(total), total, 0.0)), 0.0)
    found = normalizer.finish(parameters, probs, rows)
    np.testing.assert_allclose(found, normalizer(parameters, scores, rows), atol=1e-6)


def rows_of(length):
    return Rows(Mask(length))


def test_clipping_gives_exact_zeros_and_ones_at_finite_scores():
    scores = np.array([[[[9.0, 0.0, 0.0]]]], np.float32)
    assert np.asarray(ClippedSoftmax(gamma=-0.03, zeta=1.03)({}, scores, rows_of(3))).tolist() == [[[[1.0, 0.0, 0.0]]]]
    assert np.all(np.asarray(Softmax()({}, scores, rows_of(3))) % 1 != 0)


@pytest.mark.representative("False-*")
@pytest.mark.parametrize("normalizer", CASES)
@pytest.mark.parametrize("causal", [False, True])
def test_padding_and_what_follows_change_nothing(normalizer, causal):
    parameters, scores = sample(normalizer, 7, 1.0)
    for length in (1, 4):
        alone = normalizer(parameters, scores[:, :, :length, :length], Rows(Mask(length, causal)))
        padded = normalizer(parameters, scores, Rows(Mask(T, causal, padding=jnp.arange(T)[None] < length)))
        np.testing.assert_allclose(padded[:, :, :length, :length], alone, atol=1e-6)
        assert not np.any(padded[:, :, :length, length:])
        if causal:
            followed = normalizer(parameters, scores, Rows(Mask(T, causal)))
            np.testing.assert_allclose(followed[:, :, :length, :length], alone, atol=1e-6)


def test_alpha_needs_a_length_that_it_is_relative_to():
    scores = np.zeros((1, 1, 4, 4), np.float32)
    with pytest.raises(QtxError, match="name it, e.g. clipped_softmax,alpha=2,length=128"):
        ClippedSoftmax(alpha=2.0)({}, scores, rows_of(4))
    told = ClippedSoftmax(alpha=2.0).trained_at(8)
    assert told == ClippedSoftmax(alpha=2.0, length=8) == told.trained_at(4) == told.at(3)
    for other in (ClippedSoftmax(gamma=-0.1), ClippedSoftmax(alpha_visible=1.0), Softmax()):
        assert other.trained_at(8) == other and other.length is None


def test_softmax1_attends_to_nothing_at_low_scores_and_does_not_overflow_at_high_ones():
    low, high = (Softmax1()({}, np.full((1, 1, 1, 4), x, np.float32), rows_of(4)) for x in (-80.0, 200.0))
    assert np.all(np.asarray(low) < 1e-30)
    np.testing.assert_allclose(high, 0.25)


@pytest.mark.representative("8")
@pytest.mark.parametrize("length", [8, 32, 128])
def test_alpha_sets_gamma_by_the_length_of_training_and_alpha_visible_by_the_keys_in_sight(length):
    scores = np.random.default_rng(0).normal(size=(1, 1, length, length)).astype(np.float32)
    causal = Rows(Mask(length, causal=True))
    by_alpha = ClippedSoftmax(alpha=2.0, length=16)({}, scores, causal)
    np.testing.assert_array_equal(by_alpha, ClippedSoftmax(gamma=-2.0 / 16)({}, scores, causal))
    by_visible = np.asarray(ClippedSoftmax(alpha_visible=0.5)({}, scores, causal))
    for row in (0, 1, length - 1):
        alone = ClippedSoftmax(gamma=-0.5 / (row + 1))({}, scores[:, :, row : row + 1, : row + 1], rows_of(row + 1))
        np.testing.assert_allclose(by_visible[:, :, row, : row + 1], alone[:, :, 0], atol=1e-7)


def test_a_uniform_row_dies_from_alpha_visible_of_one_on():
    scores = np.zeros((1, 1, 16, 16), np.float32)
    for alpha, alive in ((0.5, True), (1.5, False)):
        probs = ClippedSoftmax(alpha_visible=alpha)({}, scores, Rows(Mask(16, causal=True)))
        assert np.all(np.asarray(probs).sum(-1)[..., 1:] > 0) == alive


LOGIT = 1.5


def empty_key(weight):
    """A sink of a weight, which its logit is the logarithm of."""
    return {"sinks": np.log(weight) if weight else -np.inf}


# What grows during the warm-up, and the formula when a share of it is over: a normalizer, and a head's parameters;
# those of what grows are all LOGIT.
WARMUPS = {
    "gamma": (
        ClippedSoftmax(gamma=-0.1, gamma_warmup_steps=100),
        lambda share: (ClippedSoftmax(gamma=-0.1 * share), {}),
    ),
    "by length": (
        ClippedSoftmax(alpha=0.9, gamma_warmup_steps=100, length=7),
        lambda share: (ClippedSoftmax(alpha=0.9 * share, length=7), {}),
    ),
    "by visible": (
        ClippedSoftmax(alpha_visible=0.5, gamma_warmup_steps=100),
        lambda share: (ClippedSoftmax(alpha_visible=0.5 * share), {}),
    ),
    "eta": (
        NormalizedClippedSoftmax(beta=0.9, eta=1.4, eta_warmup_steps=100),
        lambda share: (NormalizedClippedSoftmax(beta=0.9, eta=0.9 + 0.5 * share), {}),
    ),
    "softmax1": (Softmax1(empty_warmup_steps=100), lambda share: (Sink(), empty_key(share))),
    "tau": (Elastic(tau_warmup_steps=100), lambda share: (Elastic(), {"tau": LOGIT * share})),
    "sink": (Sink(empty_warmup_steps=100), lambda share: (Sink(), empty_key(share * np.exp(LOGIT)))),
}


def test_every_warmup_has_an_example():
    assert {type(n) for n, _ in WARMUPS.values()} == {n for n in NORMALIZERS.values() if n.warmup is not None}


def test_a_checkpoint_within_a_warmup_that_says_nothing_of_it_is_refused():
    class Silent(Softmax1):
        grown_to = Normalizer.grown_to

    assert Silent(empty_warmup_steps=4).at(4) == Silent(empty_warmup_steps=4)
    with pytest.raises(QtxError, match="choose a checkpoint after empty_warmup_steps, or give it `grown_to`"):
        Silent(empty_warmup_steps=4).at(3)


@pytest.mark.parametrize("step, share", [(0, 0.0), (25, 0.25), (100, 1.0), (500, 1.0), (None, 1.0)])
@pytest.mark.parametrize("warmed, formula", WARMUPS.values(), ids=WARMUPS)
def test_a_warmup_is_linear_and_its_gradients_are_finite(warmed, formula, step, share):
    """Where a row sees nothing too."""
    _, scores = sample(warmed, 0, 1.0)
    parameters = {name: np.full(p.shape, LOGIT, np.float32) for name, p in warmed.parameters(H).items()}
    mask = masks(2)[2]
    seen, rows = visible(mask), Rows(mask, None if step is None else jnp.int32(step))
    expected, (normalizer, of_one) = np.zeros_like(scores), formula(share)
    for b, h, i in np.ndindex(B, H, T):
        if seen[b, i].any():
            expected[b, h, i, seen[b, i]] = exact(normalizer, scores[b, h, i, seen[b, i]], of_one)
    np.testing.assert_allclose(warmed(parameters, scores, rows), expected, atol=1e-6)
    there = warmed if step is None else warmed.at(step)
    np.testing.assert_allclose(there(parameters, scores, Rows(mask)), expected, atol=1e-6)
    gradients = jax.grad(lambda *inputs: (scores * warmed(*inputs, rows)).sum(), (0, 1))(parameters, scores)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert all(np.all((leaf != 0) == (share > 0)) for leaf in jax.tree.leaves(gradients[0]))


@pytest.mark.parametrize(
    "normalizer, options, says",
    [
        (ClippedSoftmax, {}, "got none"),
        (ClippedSoftmax, {"gamma": -0.1, "alpha": 1.0}, "got gamma and alpha"),
        (ClippedSoftmax, {"gamma": 0.1}, "gamma <= 0"),
        (ClippedSoftmax, {"gamma": float("nan")}, "gamma <= 0"),
        (ClippedSoftmax, {"alpha": -1.0}, "alpha >= 0"),
        (ClippedSoftmax, {"alpha_visible": -1.0}, "alpha_visible >= 0"),
        (ClippedSoftmax, {"gamma": -0.1, "zeta": 0.9}, "zeta >= 1"),
        (
            ClippedSoftmax,
            {"gamma": -0.1, "length": 8},
            "which only alpha is relative to: set alpha, or leave length out",
        ),
        (ClippedSoftmax, {"alpha": 1.0, "length": 0}, "length is 0: expected at least 1"),
        (ClippedSoftmax, {"gamma": -0.1, "gamma_warmup_steps": -1}, "0 or more"),
        (NormalizedClippedSoftmax, {"eta_warmup_steps": -1}, "eta_warmup_steps is -1: expected 0 or more"),
        (Sink, {"empty_warmup_steps": -1}, "empty_warmup_steps is -1: expected 0 or more"),
        (NormalizedClippedSoftmax, {"beta": 0.0}, "beta is 0.0"),
        (NormalizedClippedSoftmax, {"eta": 0.5}, "at least beta"),
    ],
)
def test_bad_options_are_refused(normalizer, options, says):
    with pytest.raises(QtxError, match=says):
        normalizer(**options)
