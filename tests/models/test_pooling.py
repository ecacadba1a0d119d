"""Pooling, token by token in NumPy, with padding that must not matter."""

from __future__ import annotations

import numpy as np
import pytest

from qtx.foundation.errors import QtxError
from qtx.models import BertConfig
from qtx.models.pooling import POOLINGS, pooled

LENGTHS = (5, 1, 3)
EXPECTED = {
    "cls": lambda x: x[0],
    "max": lambda x: x.max(0),
    "mean": lambda x: x.sum(0) / len(x),
    "mean_sqrt_len_tokens": lambda x: x.sum(0) / len(x) ** 0.5,
    "weightedmean": lambda x: sum(i * row for i, row in enumerate(x, 1)) / (len(x) * (len(x) + 1) / 2),
    "lasttoken": lambda x: x[-1],
}


def test_every_pooling_has_a_row():
    assert EXPECTED.keys() == POOLINGS.keys()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("names", [[name] for name in EXPECTED] + [["cls", "max"]])
def test_of_the_real_tokens_alone(names, normalize):
    hidden = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32) - 2
    real = np.arange(5) < np.array(LENGTHS)[:, None]
    hidden[~real] = 1e4
    found = pooled(hidden, real, "+".join(names), normalize)
    for row, text, length in zip(found, hidden, LENGTHS, strict=True):
        expected = np.concatenate([EXPECTED[name](text[:length].astype(np.float64)) for name in names])
        expected = expected / np.linalg.norm(expected) if normalize else expected
        np.testing.assert_allclose(row, expected, rtol=1e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_row_of_padding_alone_is_finite(name):
    assert np.isfinite(pooled(np.ones((1, 3, 2), np.float32), np.zeros((1, 3), bool), name, True)).all()


def test_a_pooling_that_is_none():
    with pytest.raises(QtxError, match="unknown pooling 'median'"):
        BertConfig(head="none", pooling="mean+median")
