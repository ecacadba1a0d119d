"""Attention within documents: the segments of a block, and that models keep to them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from qtx.data import DataConfig, load
from qtx.data.packing import document_segments
from qtx.data.sources import TextFiles
from qtx.families import build
from qtx.models.bert import BertConfig
from qtx.models.opt import OptConfig

from .samples import prose

END = 9


@pytest.mark.parametrize(
    ("block", "ends_document", "expected"),
    [
        ([1, 5, 5, END, 6, 6, END, 7], True, [0, 0, 0, 0, 1, 1, 1, 2]),
        ([END, 5, 5, END, 6, 6, END, 7], False, [0, 0, 0, 1, 1, 1, 2, 2]),
        ([END, END, 5, 6], True, [0, 0, 1, 1]),
        ([1, 5, 6, END], True, [0, 0, 0, 0]),
    ],
)
def test_segments(block, ends_document, expected):
    segments = document_segments(np.array(block, np.int32), END, ends_document)
    assert segments.dtype == np.int32
    np.testing.assert_array_equal(segments, expected)


MODEL = dict(num_layers=2, width=16, num_heads=2, mlp_width=32, max_length=32, dropout=0.0, attention_dropout=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "config", "vocab_size"), [("mlm", BertConfig(**MODEL), 100), ("clm", OptConfig(**MODEL), 280)]
)
def test_a_document_does_not_see_another(tmp_path, objective, config, vocab_size):
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(prose(i, 3))
    options = DataConfig(
        TextFiles(
            files=(f"{tmp_path}/*.txt",),
            held_out_fraction=0.5,
            sequence_length=32,
            vocab_size=vocab_size,
            document_attention=True,
        )
    )
    data = load(options, objective)
    batch = next(iter(data.evaluation(1)))
    segments = batch["segments"][0]
    assert segments.shape == (32,) and segments[-1] >= 1
    batch = {name: value for name, value in batch.items() if name != "positions"}
    module = build(config, data)
    params = jax.jit(module.init)(jax.random.key(0), batch)
    apply = jax.jit(module.apply)
    logits = apply(params, batch)[0]
    for document in (0, 1):
        inside = segments == document
        # Ordinary tokens change, those between documents stay: the segments are given, not read from the tokens.
        other = np.where(inside, batch["tokens"], (batch["tokens"] + 7) % data.vocab_size)
        changed = apply(params, batch | {"tokens": other.astype(np.int32)})[0]
        np.testing.assert_array_equal(changed[inside], logits[inside])
        assert not np.array_equal(changed[~inside], logits[~inside])
        without = {name: value for name, value in batch.items() if name != "segments"}
        if document == 1 or objective == "mlm":  # a causal first document never sees what follows it
            assert not np.array_equal(apply(params, without)[0][inside], logits[inside])
