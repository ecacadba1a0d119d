from __future__ import annotations

import numpy as np
import pytest

from qtx.data import OBJECTIVES, DataConfig, load
from qtx.data.sources.bigram_backcopy import BOS, BigramBackcopy, Chain
from qtx.foundation.errors import QtxError


def triggers_of(data) -> list[int]:
    return [int(t) for t in data.description.split("triggers ")[1].split(", sequences")[0].split(", ")]


def sequences(data, count: int) -> np.ndarray:
    return np.stack([data.training[i] for i in range(count)])


def test_stationary_distribution():
    chain = BigramBackcopy(vocab_size=12).make_chain()
    np.testing.assert_allclose(chain.stationary @ chain.transitions, chain.stationary, atol=1e-12)
    np.testing.assert_allclose(chain.stationary.sum(), 1.0)
    np.testing.assert_allclose(chain.transitions.sum(axis=1), 1.0)


@pytest.mark.parametrize("num_triggers", [1, 3, 5])
def test_the_rules_hold_everywhere(num_triggers):
    data = load(DataConfig(BigramBackcopy(vocab_size=16, num_triggers=num_triggers)), "clm")
    triggers = triggers_of(data)
    assert len(triggers) == num_triggers
    tokens = sequences(data, 200)
    assert tokens.shape == (200, 129) and tokens.dtype == np.int32
    assert (tokens[:, 0] == BOS).all() and (tokens[:, 1:] != BOS).all() and tokens.max() < 16
    is_trigger = np.isin(tokens, triggers)
    assert not is_trigger[:, 1].any()
    after = is_trigger[:, 1:-1]
    assert after.sum() > 200
    assert (tokens[:, 2:][after] == tokens[:, :-2][after]).all()
    assert not (is_trigger[:, 1:] & is_trigger[:, :-1]).any()


def test_other_tokens_follow_the_chain():
    source = BigramBackcopy(vocab_size=6, num_triggers=1, sequence_length=400)
    data, chain = source.load(OBJECTIVES["clm"]), source.make_chain()
    (trigger,) = triggers_of(data)
    tokens = sequences(data, 300)
    counts = np.zeros((6, 6))
    np.add.at(counts, (tokens[:, 1:-1].ravel(), tokens[:, 2:].ravel()), 1)
    for token in set(range(1, 6)) - {trigger}:
        observed = counts[token, 1:] / counts[token].sum()
        tolerance = 5 * np.sqrt(0.25 / counts[token].sum())
        np.testing.assert_allclose(observed, chain.transitions[token - 1], atol=tolerance)


def test_triggers_are_the_most_frequent_tokens():
    source = BigramBackcopy(vocab_size=10, num_triggers=2)
    stationary = source.make_chain().stationary
    assert set(triggers_of(source.load(OBJECTIVES["clm"]))) == set((np.argsort(-stationary)[:2] + 1).tolist())


def test_sequences_depend_on_index_split_and_chain_seed():
    data = load(DataConfig(BigramBackcopy()), "clm")
    again = load(DataConfig(BigramBackcopy()), "clm")
    other = load(DataConfig(BigramBackcopy(chain_seed=1)), "clm")
    np.testing.assert_array_equal(data.training[123456], again.training[123456])
    assert not np.array_equal(data.training[0], data.training[1])
    assert not np.array_equal(data.training[0], data.held_out[0])
    assert not np.array_equal(data.training[0], other.training[0])


def test_chain_from_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abacabadabacabae" * 50 + "f")
    source = BigramBackcopy(vocab_size=6, num_triggers=1, files=(str(path),))
    chain = source.make_chain()
    # a is half of the text, then b; c, d and e follow a alone and are followed by it; f, the rarest, is left out.
    np.testing.assert_allclose(chain.transitions[1:, 0], 1.0)
    assert triggers_of(source.load(OBJECTIVES["clm"])) == [1]
    assert chain.transitions[0, 1] == pytest.approx(400 / 799, rel=0.01)
    with pytest.raises(QtxError, match="6 distinct characters.*at most 7"):
        BigramBackcopy(vocab_size=8, files=(str(path),)).load(OBJECTIVES["clm"])


def test_an_uneven_chain_still_has_a_stationary_distribution():
    chain = Chain(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(chain.stationary, [0.5, 0.5, 0.0], atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(vocab_size=3), "vocab_size is 3"),
        (dict(num_triggers=0), "num_triggers is 0: expected 1 to 61"),
        (dict(num_triggers=62), "num_triggers is 62"),
        (dict(sequence_length=2), "sequence_length is 2"),
        (dict(chain_seed=-1), "chain_seed is -1"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(QtxError, match=message):
        DataConfig(BigramBackcopy(**options))
