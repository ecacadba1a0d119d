"""Which values of a batch's tensors count, by their shapes."""

from __future__ import annotations

import types

import jax.numpy as jnp
import numpy as np
import pytest

from qtx.foundation.errors import QtxError
from qtx.masks import EVERYWHERE, Mask, counted, token_mask, without_full_masks
from qtx.parts import Part

# Three texts of 2, 4 and 3 tokens, of which the last only fills the batch up.
TOKENS = {"tokens": np.ones((3, 4), int), "mask": np.arange(4) < np.array([[2], [4], [3]])}
WEIGHTS = np.float32([1, 1, 0])
BATCH = {**TOKENS, "weights": WEIGHTS}
PREDICTED = {**TOKENS, "positions": np.array([[1, 0], [3, 2], [0, 1]]), "weights": np.float32([[1, 0], [1, 1], [0, 0]])}
IMAGES = {"images": np.ones((3, 6, 6, 1)), "weights": WEIGHTS}
REAL = [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
PAIRS = [np.outer(row, row) for row in REAL]
CAUSAL = [np.tril(pairs) for pairs in PAIRS]
SAMPLES = [[[1]], [[1]], [[0]]]


@pytest.mark.parametrize(
    ("shape", "batch", "mask", "expected"),
    {
        "tokens": ((3, 4, 5), BATCH, None, np.reshape(REAL, (3, 4, 1))),
        "as many heads as tokens": ((3, 4, 4, 4), BATCH, None, np.reshape(PAIRS, (3, 1, 4, 4))),
        "scores": ((3, 2, 4, 4), BATCH, None, np.reshape(PAIRS, (3, 1, 4, 4))),
        "causal scores": ((3, 2, 4, 4), BATCH, Mask(4, True), np.reshape(CAUSAL, (3, 1, 4, 4))),
        "causal scores without padding": ((3, 2, 4, 4), {"tokens": TOKENS["tokens"]}, Mask(4, True), np.tri(4)),
        "at predicted positions": ((3, 2, 5), PREDICTED, None, [[[1], [0]], [[1], [1]], [[0], [0]]]),
        "pooled, as wide as there are tokens": ((3, 4), BATCH, None, np.reshape(SAMPLES, (3, 1))),
        "patches": ((3, 9, 5), IMAGES, None, SAMPLES),
        "patches, after the class token": ((3, 2, 10, 10), IMAGES, None, np.reshape(SAMPLES, (3, 1, 1, 1))),
        "of no example": ((1, 4, 5), BATCH, None, None),
        "of nothing": ((), BATCH, None, None),
        "no padding": ((3, 4, 5), {"tokens": TOKENS["tokens"]}, None, None),
        "of another model": ((3, 5), {"x": np.ones(3)}, None, None),
    }.values(),
)
def test_what_counts_is_read_from_the_shape(shape, batch, mask, expected):
    found = counted(shape, batch, mask)
    assert (found is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(found, np.asarray(expected, bool))


@pytest.mark.parametrize(
    ("batch", "left"),
    [
        ({"mask": np.ones((3, 4), bool), "weights": np.float32([1, 1, 1])}, set()),
        ({"mask": np.ones((3, 4), bool), "weights": WEIGHTS}, {"weights"}),
        ({"mask": TOKENS["mask"], "weights": np.eye(3)}, {"mask"}),
        (
            {"positions": np.ones((3, 2), int), "weights": np.float32([[1, 1], [1, 0], [1, 1]])},
            {"positions", "weights"},
        ),
    ],
)
def test_masks_that_leave_nothing_out_are_left_out(batch, left):
    assert without_full_masks({**batch, "tokens": TOKENS["tokens"]}).keys() == {"tokens", *left}


PADDING = np.arange(7) != np.array([[0], [5]])
SEGMENTS = np.array([[0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 0, 3, 3, 3]])
RULES = [{}, {"causal": True}, {"window": 2}, {"causal": True, "window": jnp.int32(3)}, {"window": EVERYWHERE}]


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("offset", [None, 1, jnp.int32(2)])
def test_keys_need_not_be_as_many_as_queries(rules, offset):
    """Three queries on seven keys: the last three, or at any other place."""
    first = 4 if offset is None else int(offset)
    for more in ({}, {"padding": PADDING}, {"segments": SEGMENTS}, {"padding": PADDING, "segments": SEGMENTS}):
        mask = Mask(3, keys=7, offset=offset, **rules, **more)
        expected = np.ones((2, 1, 3, 7), bool)
        for b, i, j in np.ndindex(2, 3, 7):
            at = first + i
            expected[b, 0, i, j] = (
                (j <= at or "causal" not in rules)
                and abs(j - at) < int(rules.get("window", 99))
                and ("padding" not in more or PADDING[b, j])
                and ("segments" not in more or SEGMENTS[b, j] == SEGMENTS[b, at])
            )
        dense = mask.dense()
        found = np.ones((3, 7), bool) if dense is None else dense
        np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)
        np.testing.assert_array_equal(np.broadcast_to(mask.visible(), (2, 1, 3, 1)), expected.sum(-1, keepdims=True))
        of_part = mask.block(1, 2, 3, 4)
        found = np.ones((2, 4), bool) if of_part is None else of_part
        np.testing.assert_array_equal(np.broadcast_to(found, (2, 1, 2, 4)), expected[:, :, 1:, 3:])
        counts = counted((2, 5, 3, 7), {"tokens": np.ones((2, 3), int)}, mask)
        assert (counts is None) == (dense is None)
        assert counts is None or (np.broadcast_to(counts, expected.shape) == expected).all()


class TwoRegisters:
    """The config of a model that puts two registers before the tokens."""

    def real_positions(self, batch, length):
        return {4: batch["mask"], 6: np.pad(batch["mask"], ((0, 0), (2, 0)))}.get(length)


def test_which_positions_count_is_the_models_to_say():
    model = types.SimpleNamespace(config=TwoRegisters())
    real = np.pad(REAL, ((0, 0), (2, 0))).astype(bool)
    np.testing.assert_array_equal(token_mask(BATCH, 6, model), real)
    np.testing.assert_array_equal(token_mask(BATCH, 4, model), real[:, 2:])
    np.testing.assert_array_equal(counted((3, 6, 5), BATCH, None, model), real[:, :, None])
    np.testing.assert_array_equal(counted((3, 4, 5), BATCH, None, model), real[:, 2:, None])
    np.testing.assert_array_equal(counted((3, 5, 5), BATCH, None, model), np.reshape(SAMPLES, (3, 1, 1)))
    seen = counted((3, 2, 6, 6), BATCH, Mask(6, True), model)  # registers that a token sees, too
    np.testing.assert_array_equal(seen[:, 0], real[:, :, None] & np.tri(6, dtype=bool))
    with pytest.raises(QtxError, match="sequences of 6 positions for texts of 4 tokens: give its config"):
        token_mask(BATCH, 6)


def test_what_a_head_computes_is_of_the_predicted_positions_though_they_are_as_many_as_tokens():
    positions = np.array([[3, 0, 1, 2], [0, 1, 2, 3], [1, 0, 3, 2]])
    weights = np.float32([[1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]])
    batch = {**TOKENS, "positions": positions, "weights": weights}
    expected = np.take_along_axis(TOKENS["mask"], positions, axis=1) & (weights > 0)
    np.testing.assert_array_equal(counted((3, 4, 5), batch, part=Part.HEAD), expected[..., None])
    np.testing.assert_array_equal(counted((3, 4, 5), batch, part=Part.NORM), np.reshape(REAL, (3, 4, 1)).astype(bool))
