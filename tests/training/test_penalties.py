"""Penalties on activations: each against its formula, their options, and how these are recorded."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.experiment import read, record
from qtx.foundation.errors import QtxError
from qtx.foundation.variants import make_variant, split_variant
from qtx.training import TrainingConfig
from qtx.training.penalties import PENALTIES, Hinge, Square, Tweo, make_penalties

from ..nano_config import get_config

EXAMPLES = {
    "square": ["", ",weight=2,weight_start=0,anneal_steps=8"],
    "hinge": [",tau=.5", ",tau=0", ",tau=.25,tau_start=2,anneal_steps=4"],
    "tweo": ["", ",tau=.5,p=3"],
}
TEXTS = [kind + options for kind, examples in EXAMPLES.items() for options in examples]
STEPS = (0, 1, 3, 4, 100)


def test_every_penalty_has_examples():
    assert EXAMPLES.keys() == PENALTIES.keys()


def linear(start, end, steps, step):
    return end if start is None else start + (end - start) * min(step / steps, 1)


def of_token(penalty, token, step) -> float:
    """What a token's values give, value by value, in float64."""
    match penalty:
        case Square():
            return sum(x**2 for x in token) / len(token)
        case Hinge(tau=tau, tau_start=start, anneal_steps=steps):
            tau = linear(start, tau, steps, step)
            return sum((abs(x) - tau) ** 2 for x in token if abs(x) > tau)
        case Tweo(tau=tau, p=p):
            return sum((abs(x) / tau) ** p for x in token) / len(token)
    raise AssertionError(f"no formula of {penalty}")


@pytest.mark.representative("tweo,tau=.5,p=3", "square")
@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 0.1, 1.0, 30.0]), step=st.sampled_from(STEPS))
def test_values_and_gradients_are_the_formulas(text, seed, scale, step):
    """The gradients by central differences of the formula; where a hinge is, its derivative is continuous."""
    penalty = make_variant(PENALTIES, "penalty", text)
    tokens = (scale * np.random.default_rng(seed).normal(size=(3, 5))).astype(np.float32)
    values = penalty(jnp.asarray(tokens), jnp.int32(step))
    gradient = jax.grad(lambda x: penalty(x, jnp.int32(step)).sum())(jnp.asarray(tokens))
    exact = tokens.astype(np.float64)
    np.testing.assert_allclose(values, [of_token(penalty, token, step) for token in exact], rtol=1e-5, atol=1e-7)
    slopes, h = np.zeros((3, 5)), 1e-5
    for (i, j), moved in itertools.product(np.ndindex(3, 5), (h, -h)):
        token = exact[i].copy()
        token[j] += moved
        slopes[i, j] += np.sign(moved) * of_token(penalty, token, step) / (2 * h)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-3, atol=1e-4 * max(1, np.abs(slopes).max()))


def test_a_relative_hinge_has_a_threshold_of_each_layers_own():
    """As a hinge of a fixed threshold, layer by layer, which the gradient does not see either."""
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32) * np.float32([1, 50])[:, None, None, None]
    relative = make_variant(PENALTIES, "penalty", "hinge,tau=1.5,relative=True")

    def both(penalty, x):
        return penalty(x, jnp.int32(0)), jax.grad(lambda x: penalty(x, jnp.int32(0)).sum())(x)

    values, gradient = both(relative, jnp.asarray(x))
    for layer, found, slopes in zip(x, values, gradient, strict=True):
        expected = both(Hinge(tau=1.5 * float(np.abs(layer.astype(np.float64)).mean())), jnp.asarray(layer))
        for one, other in zip((found, slopes), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        assert 0 < np.mean(np.asarray(slopes) != 0) < 0.5


@pytest.mark.parametrize(
    ("text", "option", "expected"),
    [
        ("square", "weight", [0.01] * 5),
        ("square,weight=2,weight_start=0,anneal_steps=4", "weight", [0, 0.5, 1.5, 2, 2]),
        ("hinge,tau=1,tau_start=9,anneal_steps=4", "tau", [9, 7, 3, 1, 1]),
    ],
)
def test_annealing_is_linear_and_ends(text, option, expected):
    penalty = make_variant(PENALTIES, "penalty", text)
    np.testing.assert_allclose([penalty.annealed(option, jnp.int32(step)) for step in STEPS], expected, rtol=1e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_a_record_has_every_option_at_its_value(text):
    """A run that names a default is the same run, and a default that changes later changes no run."""
    penalty, config = make_variant(PENALTIES, "penalty", text), get_config()
    config.training.penalties = (text,)
    (recorded,) = record(read(config))["training"]["penalties"]
    assert make_variant(PENALTIES, "penalty", recorded) == penalty
    assert {"sites", "weight", "anneal_steps"} <= split_variant(recorded, "penalty")[1].keys()
    config.training.penalties = (recorded,)
    assert record(read(config))["training"]["penalties"] == [recorded]


def test_a_second_one_of_a_kind_has_a_name_of_its_own():
    assert list(make_penalties(("hinge", "tweo", "hinge,tau=3"))) == ["hinge", "tweo", "hinge_2"]


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        ("hing", "did you mean 'hinge'"),
        ("hinge,taus=3", "did you mean 'tau'"),
        ("hinge,tau=-1", "tau is -1.0: expected 0 or more"),
        ("hinge,tau_start=-1,anneal_steps=3", "tau_start is -1.0"),
        ("hinge,tau_start=4", "annealing takes both its steps and a start"),
        ("square,anneal_steps=4", "anneal_steps=4, weight_start=None: annealing takes both"),
        ("square,anneal_steps=-4", "anneal_steps is -4"),
        ("square,weight=-1", "weight is -1.0: expected 0 or more, and finite"),
        ("square,weight_start=-1,anneal_steps=3", "weight_start is -1.0"),
        ("square,sites=layers/mlp/out+", "expected paths joined by"),
        ("tweo,tau=0", "tau is 0.0: expected a positive number"),
        ("tweo,p=1", "p is 1: expected at least 2"),
        ("tweo,p", "is not an option=value"),
        (("hinge",), "expected texts"),
    ],
)
def test_refused_options(penalty, message):
    with pytest.raises(QtxError, match=message) as refusal:
        TrainingConfig(penalties=(penalty,))
    assert "\n" not in str(refusal.value)
