"""Statistics of attention heads on maps whose answer is known."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.analysis import heads
from qtx.analysis.heads import AttentionSites
from qtx.masks import Mask

GATED_VALUES = AttentionSites("", "probs", "gated_value", "context", "gate", gates_values=True)


def visible_keys(mask, causal):
    return heads.visible_keys(Mask(mask.shape[1], causal, padding=mask), mask)


column_mass, zero_share, dead_row_share = map(jax.jit, (heads.column_mass, heads.zero_share, heads.dead_row_share))
value_norms = jax.jit(heads.value_norms)


def softmax_maps(seed, mask, causal, num_heads=2):
    batch, length = mask.shape
    scores = np.random.default_rng(seed).normal(size=(batch, num_heads, length, length)) * 2
    visible = np.asarray(visible_keys(mask, causal))
    weights = np.exp(scores) * visible
    return (weights / np.maximum(weights.sum(-1, keepdims=True), 1e-9)).astype(np.float32), visible


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.booleans(), st.integers(1, 6))
def test_the_masses_of_a_softmax_head_add_up_to_one(seed, causal, real):
    mask = np.arange(6)[None] < np.array([6, real])[:, None]
    probs, visible = softmax_maps(seed, mask, causal)
    mass = column_mass(probs, visible)
    np.testing.assert_allclose(mass.sum(-1), 1.0, rtol=1e-5)
    assert (np.asarray(mass)[1, :, real:] == 0).all()
    assert (zero_share(probs, visible) == 0).all()
    assert (dead_row_share(probs, visible) == 0).all()


def test_a_perfect_sink_is_seen_whatever_padding_holds():
    mask = np.array([[True, True, True, False]])
    visible = visible_keys(mask, False)
    probs = np.zeros((1, 1, 4, 4), np.float32)
    probs[..., 1] = 1.0
    probs[0, 0, 3] = [0, 0, 0, 1]  # the row of a padded query
    value = np.ones((1, 4, 1, 6), np.float32)
    value[0, 1] *= 0.1
    value[0, 3] = 1e6  # a padded token's value is none of the others
    norms = value_norms(value)
    mass = column_mass(probs, visible)
    np.testing.assert_allclose(mass, [[[0, 1, 0, 0]]])
    np.testing.assert_allclose(heads.value_drain(norms, mass, mask), [[0.1]], rtol=1e-6)


@pytest.mark.parametrize("causal, zeros, dead", [(False, (2 + 3) / 9, 1 / 3), (True, (2 + 1) / 6, 1 / 3)])
def test_exact_zeros_and_dead_rows_count_visible_keys_only(causal, zeros, dead):
    mask = np.array([[True, True, True, False]])
    probs = np.full((1, 1, 4, 4), 0.25, np.float32)
    probs[..., 3] = 0.0  # masked keys are zero by construction
    probs[0, 0, 2, :2] = 0.0
    probs[0, 0, 0 if causal else 1, :] = 0.0
    visible = visible_keys(mask, causal)
    np.testing.assert_allclose(zero_share(probs, visible), [[zeros]], rtol=1e-6)
    np.testing.assert_allclose(dead_row_share(probs, visible), [[dead]], rtol=1e-6)


def test_value_norms_are_per_head():
    value = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    expected = np.linalg.norm(value, axis=-1).transpose(0, 2, 1)
    np.testing.assert_allclose(value_norms(value), expected, rtol=1e-6)


def test_grouped_values_and_gates_count_for_every_head_that_shares_them():
    """4 heads of 3 dimensions on 2 of values: the first two heads read the first, the others the second."""
    rng = np.random.default_rng(0)
    shapes = {"probs": (4, 5, 5), "value": (5, 2 * 3), "gated_value": (5, 2 * 3), "context": (5, 4 * 3), "gate": (5, 2)}
    values = {name: rng.normal(size=(1, 1, *shape)) for name, shape in shapes.items()}
    found = jax.tree.map(lambda x: np.asarray(x)[0, 0], heads.by_head(values, GATED_VALUES))
    value, context, gate = (values[name][0, 0] for name in ("gated_value", "context", "gate"))
    for head in range(4):
        group = head // 2
        np.testing.assert_allclose(found["value"][:, head], value[:, 3 * group : 3 * group + 3], rtol=1e-6)
        np.testing.assert_allclose(found["context"][:, head], context[:, 3 * head : 3 * head + 3], rtol=1e-6)
        np.testing.assert_allclose(found["openness"][:, head], gate[:, group], rtol=1e-6)


def test_head_statistics_weigh_a_padding_sample_with_nothing():
    mask = np.array([[True] * 4, [False] * 4])
    probs, visible = softmax_maps(0, mask, causal=True)
    table = jax.jit(heads.head_statistics)(probs, np.ones((2, 4, 2, 4), np.float32), mask, visible)
    for name, (values, weights) in table.items():
        assert values.shape[:2] == (2, 2), name
        assert weights[0] > 0 and weights[1] == 0, name
        assert np.isfinite(values).all(), name


def test_a_value_that_its_gate_closes_is_drained():
    """All of a head's attention goes to token 0, whose value is as long as the others', and whose gate is closed."""
    values = {
        "probs": np.eye(1, 3, dtype=np.float32)[[0, 0, 0]][None, None, None],
        "value": np.ones((1, 1, 3, 2), np.float32),
        "gate": np.float32([0, 1, 0.5]).reshape(1, 1, 3, 1),
        "context": np.zeros((1, 1, 3, 2), np.float32),
    }
    values["gated_value"] = values["value"] * values["gate"]
    mask = np.ones((1, 3), bool)

    def drain(sites=GATED_VALUES, **values):
        found = heads.by_head(values, sites)
        return heads.head_statistics(found["probs"][0], found["value"][0], mask, visible_keys(mask, False))

    assert float(drain(**values)["value_drain"][0][0, 0]) == 0
    values["gated_value"] = values["value"] * np.float32([0.3, 1, 0.5]).reshape(1, 1, 3, 1)
    assert float(drain(**values)["value_drain"][0][0, 0]) == pytest.approx(0.3 / 0.75)
    ungated = AttentionSites("", "probs", "value", "context")
    assert float(drain(ungated, **values)["value_drain"][0][0, 0]) == 1
