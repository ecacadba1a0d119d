"""Planted outliers are where they are said to be, and nowhere else."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments.plant import PLACES, main
from qtx import interop
from qtx.families import build
from qtx.sites import capture

CLS, SEP, DIMENSION = 2, 3, {"separator": 200, "every_token": 123}
TOKENS = np.array([[CLS, 700, 701, 702, 703, SEP]])
OUT, KEY = "layers/mlp/out", "layers/attention/key"


def outputs(folder):
    """The hidden states, the first layer's feed-forward output and its keys, `[T, D]` each."""
    config, params = interop.load(folder)
    apply = jax.jit(lambda params: capture(build(config).apply, (OUT, KEY), {"params": params}, {"tokens": TOKENS}))
    final, sites = apply(params)
    return tuple(np.asarray(x).reshape(TOKENS.size, -1) for x in (final, sites[OUT][0], sites[KEY][0]))


@pytest.fixture
def planted(tmp_path):
    def make(place):
        assert main([place, str(tmp_path / place)]) == 0
        return outputs(tmp_path / place)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("place, tokens", [("separator", [5]), ("every_token", range(6))])
def test_feed_forward_outputs_are_enormous_in_one_dimension_at_the_tokens_that_are_named(planted, place, tokens):
    out = np.abs(planted(place)[1])
    assert {tuple(where) for where in np.argwhere(out > 100)} == {(token, DIMENSION[place]) for token in tokens}
    assert out[out < 100].max() < 20


@pytest.mark.slow
def test_keys_are_enormous_in_one_dimension_and_the_function_is_the_same(planted, monkeypatch):
    final, _, keys = planted("key")
    monkeypatch.setitem(PLACES, "separator", lambda tensors: None)
    healthy = planted("separator")
    np.testing.assert_allclose(final, healthy[0], atol=2e-4)
    ratio = np.abs(keys).max(axis=0) / np.abs(healthy[2]).max(axis=0)
    assert ratio[40] == pytest.approx(100, rel=1e-3)
    np.testing.assert_allclose(np.delete(ratio, 40), 1, rtol=1e-3)


def test_a_folder_that_is_there_stays(tmp_path, capsys):
    assert main(["key", str(tmp_path)]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
