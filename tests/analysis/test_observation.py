"""What a diagnosis finds of one model: what was planted in it, and of arrays the answers that are known."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from qtx.analysis.capture import FloatingPoint, values_at
from qtx.analysis.diagnosis import OUTLIER_RATIO, find_heads, find_map, find_outliers
from qtx.analysis.observation import Observation, observe_model
from qtx.analysis.statistics import OUTLIER_SIGMAS
from tests.analysis.conftest import make_batch
from tests.planted import DIMENSION, HEAD, LAYER, planted

FIRST = 2
"""Identity of the token that every text begins with, and only begins with."""


def batches_of(family):
    batches = [make_batch(family, seed) for seed in (0, 1)]
    for batch in batches:
        if family == "opt":
            batch["tokens"][batch["tokens"] == FIRST] += 1
            batch["tokens"][:, 0] = FIRST
    batches[1]["weights"][3] = 0
    return batches


@pytest.fixture(scope="module", params=["opt", "vit"])
def found(request, make_model):
    """(family, model, batches, observation) of a planted model; the last of 8 examples is padding."""
    module, params = make_model(request.param)
    model, batches = FloatingPoint(module, planted(params, FIRST)), batches_of(request.param)
    return request.param, model, batches, observe_model(model, batches)


@pytest.mark.representative("opt")
def test_the_planted_outlier_is_found_in_its_layer_dimension_and_place(found):
    family, _, _, observation = found
    sick = [one for one in find_outliers(observation, "<{}>".format) if one.dimensions and not one.carried]
    assert sick[0].name == f"layers/mlp/out[{LAYER}]"
    assert list(sick[0].dimensions)[0] == str(DIMENSION)
    assert list(sick[0].positions)[0] == {"opt": "0", "vit": "class"}[family]
    assert list(sick[0].tokens)[:1] == {"opt": [f"<{FIRST}>"], "vit": []}[family]
    assert f"layers/mlp/out[{1 - LAYER}]" not in [one.name for one in sick]


def test_the_planted_head_is_found_and_its_map_shows_the_sink(found):
    family, _, batches, observation = found
    worst, *others = find_heads(observation, "<{}>".format)
    assert (worst.layer, worst.head) == (0, HEAD) and worst.does_nothing
    assert worst.positions == {{"opt": "0", "vit": "class"}[family]: 7}
    assert worst.tokens == ({f"<{FIRST}>": 7} if family == "opt" else {})
    assert all(role.parked < worst.parked / 2 for role in others)
    drawn = find_map(observation, worst, "<{}>".format)
    assert (drawn.probs[:, 0] > 0.9).all()
    assert drawn.value_norm.argmin() == 0
    if family == "opt":
        shown = batches[0]["tokens"][observation.example][: len(drawn.tokens)]
        assert drawn.tokens == [f"<{token}>" for token in shown]
    else:
        assert drawn.tokens == ["class", *map(str, range(1, 17))]


@pytest.mark.representative("opt")
def test_observations_are_those_of_the_captured_tensor(found):
    _, model, batches, observation = found
    site = "layers/mlp/out"
    captured = [jax.device_get(jax.jit(lambda m, b: values_at(m, b, [site]))(model, batch))[site] for batch in batches]
    x = np.concatenate(captured, axis=1)[:, :7].astype(np.float64)
    masks = [batch.get("mask", np.ones((4, x.shape[2]), bool)) for batch in batches]
    real = np.concatenate(masks)[:7]
    np.testing.assert_array_equal(observation.real, real)
    seen = observation.sites[site]
    for layer in range(2):
        tokens = x[layer][real]
        np.testing.assert_allclose(seen["reach"][layer], np.abs(tokens).max(axis=0), rtol=1e-5)
        np.testing.assert_allclose(seen["size"][layer], np.sqrt((tokens**2).mean(axis=0)), rtol=1e-5)
        for sample in range(7):
            tokens = x[layer, sample][real[sample]]
            sigmas = np.abs(tokens - tokens.mean()).max() / tokens.std(ddof=1)
            assert seen["sigmas"][layer, sample] == pytest.approx(sigmas, rel=1e-4)
            np.testing.assert_allclose(seen["peak"][layer, sample][real[sample]], np.abs(tokens).max(axis=1), rtol=1e-5)


def of_array(x):
    """An observation of one tensor `[S, T, D]` alone, all of it real."""
    deviation = x.reshape(len(x), -1).std(axis=1, ddof=1)
    mean = x.mean(axis=(1, 2))
    site = {
        "peak": np.abs(x).max(axis=2)[None],
        "sigmas": (np.abs(x - mean[:, None, None]).max(axis=(1, 2)) / deviation)[None],
        "reach": np.abs(x).max(axis=(0, 1))[None],
        "size": np.sqrt((x**2).mean(axis=(0, 1)))[None],
    }
    tokens = np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2])
    return Observation(
        tokens, np.ones(x.shape[:2], bool), {"layers/mlp/out": site}, {}, 0, {}, frozenset({"layers/mlp/out"})
    )


def noise(width=32):
    return np.random.default_rng(0).normal(size=(4, 16, width))


def test_noise_has_no_outliers():
    (one,) = find_outliers(of_array(noise()), str)
    assert one.dimensions == one.tokens == one.positions == {} and one.token_share == 0
    assert one.typical == pytest.approx(1, abs=0.1)


def test_a_dimension_that_is_large_at_every_token_is_one_though_no_value_is_far_from_the_rest():
    x = noise(width=16)
    x[..., 5] += 40
    (one,) = find_outliers(of_array(x), str)
    assert one.sigmas < OUTLIER_SIGMAS
    assert list(one.dimensions) == ["5"] and one.token_share == 1


def test_one_value_is_found_with_its_dimension_token_and_position():
    x = noise()
    x[2, 3, 7] = -50
    (one,) = find_outliers(of_array(x), str)
    assert one.dimensions == {"7": 50} and one.positions == {"3": 50} and one.tokens == {str(2 * 16 + 3): 50}
    assert one.token_share == 1 / 64 and one.norm < 50 / 2


@pytest.mark.parametrize(("times", "expected"), [(0.9, []), (1.1, ["0"])])
def test_the_median_dimension_is_the_measure(times, expected):
    """However large the outlier itself is; dimensions that are always 0, as of dead units, do not count."""
    x = np.zeros((1, 8, 12))
    x[..., :5] = OUTLIER_RATIO * 4 * times, 1, 2, 4, 6
    (one,) = find_outliers(of_array(x), str)
    assert one.typical == 4 and list(one.dimensions) == expected


@pytest.mark.slow
def test_a_model_without_attention_has_no_favourites_and_its_heads_say_nothing(make_model):
    module, params = make_model("vit", "none")
    observation = observe_model(FloatingPoint(module, params), [make_batch("vit")])
    heads = find_heads(observation, str)
    assert all(role.sink_mass == role.parked == 0 for role in heads)
    assert not find_map(observation, heads[0], str).probs.any()


def test_the_example_that_is_shown_is_the_one_with_most_different_tokens(found):
    family, model, batches, _ = found
    if family == "vit":
        assert observe_model(model, batches).example == 0
        return
    batch = {**batches[0], "tokens": np.tile(batches[0]["tokens"][:1, 1:2], (4, 16)).astype(np.int32)}
    batch["tokens"][2, :3] = (11, 12, 13)
    assert observe_model(model, [batch]).example == 2
