"""Which values of a batch's tensors count, by their shapes."""

from __future__ import annotations

import numpy as np
import pytest

from qtx.masks import Mask, counted, without_full_masks

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
