"""Attention within documents: what counts keys counts those of a token's own document, as each alone would have."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.analysis.analysis import measure_outliers
from qtx.analysis.heads import head_statistics, visible_keys
from qtx.analysis.metrics import attention_health
from qtx.families import build
from qtx.masks import Mask
from qtx.models import BertConfig, OptConfig

SHAPE = dict(num_layers=2, width=16, num_heads=2, mlp_width=32, init_std=0.3, vocab_size=30, max_length=12)
LENGTHS = ((5, 7), (3, 4, 5))
"""Of the documents in two blocks of 12; of the last one two tokens may be padding."""


def packed(padding: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    segments = np.zeros((2, 12), np.int32)
    for row, lengths in enumerate(LENGTHS):
        ends = np.cumsum(lengths)
        segments[row] = np.searchsorted(ends, np.arange(12), side="right")
    batch = {
        "tokens": rng.integers(0, 30, (2, 12)).astype(np.int32),
        "segments": segments,
        "labels": np.zeros((2, 12), np.int32),
        "weights": np.ones((2, 12), np.float32),
    }
    return batch | ({"mask": np.arange(12)[None] < np.array([[12], [10]])} if padding else {})


@pytest.mark.slow
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("config", [BertConfig(**SHAPE), OptConfig(**SHAPE)], ids=["bert", "opt"])
def test_softmax_within_documents_has_no_zeros_and_no_dead_rows(config, padding):
    module, batch = build(config), packed(padding)
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"])
    found = attention_health(module, params, batch)
    assert found["zero_share"] == 0 and found["dead_row_share"] == 0
    assert measure_outliers(module, params, [batch]).metrics["zero_share"] == 0


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("config", [BertConfig(**SHAPE), OptConfig(**SHAPE)], ids=["bert", "opt"])
def test_statistics_are_those_of_each_document_alone(config, padding):
    """In NumPy, document by document, of the probabilities that the model captured: some of them set to zero."""
    batch, causal = packed(padding), config.causal
    rng = np.random.default_rng(1)
    real = batch.get("mask", np.ones((2, 12), bool))
    same = batch["segments"][:, :, None] == batch["segments"][:, None, :]
    probs = rng.random((2, 2, 12, 12)).astype(np.float32) * (rng.random((2, 2, 12, 12)) < 0.4)
    probs *= same[:, None]
    zeros, keys, dead, queries = (np.zeros((2, 2)) for _ in range(4))
    for row, lengths in enumerate(LENGTHS):
        for head in range(2):
            begin = 0
            for length in lengths:
                for query in range(begin, begin + length):
                    seen = [k for k in range(begin, query + 1 if causal else begin + length) if real[row, k]]
                    if not real[row, query]:
                        continue
                    row_of_probs = [probs[row, head, query, key] for key in seen]
                    zeros[row, head] += row_of_probs.count(0)
                    keys[row, head] += len(seen)
                    dead[row, head] += not any(row_of_probs)
                    queries[row, head] += 1
                begin += length
    visible = visible_keys(Mask.of_batch(batch, 12, causal), real)
    table = head_statistics(probs, np.ones((2, 12, 2, 8), np.float32), real, visible)
    np.testing.assert_allclose(table["zero_share"][0], zeros / keys, rtol=1e-6)
    np.testing.assert_allclose(table["zero_share"][1], keys[:, 0])
    np.testing.assert_allclose(table["dead_row_share"][0], dead / queries, rtol=1e-6)
    assert zeros.min() > 0 and dead.max() > 0
