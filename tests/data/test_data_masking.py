from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.data.masking import Masking, mask_tokens, num_predictions
from qtx.foundation.errors import QtxError

VOCABULARY, MASK = 50, 4
IS_SPECIAL = np.arange(VOCABULARY) < 5


@pytest.mark.parametrize(
    ("probability", "length", "expected"), [(0.15, 128, 20), (0.15, 20, 3), (0.07, 100, 7), (0.5, 4, 2), (0.01, 8, 1)]
)
def test_num_predictions_is_the_ceiling(probability, length, expected):
    assert num_predictions(probability, length) == expected


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1])
def test_num_predictions_refuses(probability):
    with pytest.raises(QtxError, match="mask_probability"):
        num_predictions(probability, 128)


@settings(deadline=None)
@given(
    tokens=st.lists(st.integers(0, VOCABULARY - 1), min_size=4, max_size=40),
    predictions=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_invariants(tokens, predictions, seed):
    tokens = np.array(tokens, np.int32)
    masking = Masking(predictions, MASK, IS_SPECIAL)
    original = tokens.copy()
    result = mask_tokens(tokens, masking, np.random.default_rng(seed))
    again = mask_tokens(tokens, masking, np.random.default_rng(seed))
    np.testing.assert_array_equal(tokens, original)  # the argument is left alone
    for name, array in result.items():
        np.testing.assert_array_equal(array, again[name])
    real = result["weights"] > 0
    assert real.sum() == min(predictions, (~IS_SPECIAL[tokens]).sum())
    positions = result["positions"][real]
    assert (np.diff(positions) > 0).all()
    assert not IS_SPECIAL[tokens[positions]].any()
    np.testing.assert_array_equal(result["labels"], tokens[result["positions"]])
    elsewhere = np.delete(np.arange(len(tokens)), positions)
    np.testing.assert_array_equal(result["tokens"][elsewhere], tokens[elsewhere])
    replaced = result["tokens"][positions]
    assert ((replaced == MASK) | ~IS_SPECIAL[replaced]).all()
    assert {name: (array.dtype, array.shape) for name, array in result.items()} == {
        "tokens": (np.int32, tokens.shape),
        "positions": (np.int32, (predictions,)),
        "labels": (np.int32, (predictions,)),
        "weights": (np.float32, (predictions,)),
    }


def test_shares_are_80_10_10_and_positions_uniform():
    vocabulary = 10_000
    is_special = np.arange(vocabulary) < 5
    tokens = np.concatenate([[2], np.full(100, 77)]).astype(np.int32)
    masking = Masking(20, MASK, is_special)
    rng = np.random.default_rng(0)
    masked = random = 0
    hits = np.zeros(len(tokens))
    for _ in range(1000):
        result = mask_tokens(tokens, masking, rng)
        replaced = result["tokens"][result["positions"]]
        hits[result["positions"]] += 1
        masked += (replaced == MASK).sum()
        random += ((replaced != MASK) & (replaced != 77)).sum()
    # 20,000 draws: a standard deviation of 0.003 on .8 and .002 on .1.
    assert abs(masked / 20_000 - 0.8) < 0.012
    assert abs(random / 20_000 - 0.1) < 0.009
    assert hits[0] == 0
    assert abs(hits[1:] - 200).max() < 70  # 5 standard deviations of 12.6 and some
