"""Pairs of texts, as rerankers read them, from a file to the scores: those of transformers, token types included."""

from __future__ import annotations

import json
import os

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.data import DataConfig, load
from qtx.data.sources import TextLabels
from qtx.families import build
from qtx.interop import save
from qtx.models import BertConfig

try:
    import transformers
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs transformers (pip install qtx[hf]): {error}", allow_module_level=True)

from tests.interop.test_tokenizers import MAKERS, PAIRS  # noqa: E402 (it skips without transformers, too)


def test_scores_of_pairs_are_those_of_transformers(tmp_path):
    import torch

    MAKERS["BERT's"](tmp_path)
    rows = [{"a": a, "b": b, "score": i / 2} for i, (a, b) in enumerate(PAIRS) if a]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = (str(tmp_path / "a.jsonl"),)
    columns = dict(text_column="a", text_pair_column="b", label_column="score")
    source = TextLabels(files=files, validation_files=files, tokenizer=str(tmp_path), sequence_length=24, **columns)
    data = load(DataConfig(source), "sequence_regression")
    shape = dict(num_layers=2, width=16, num_heads=2, mlp_width=32, max_length=24, init_std=0.3)
    module = build(BertConfig(**shape, head="regression"), data)
    batch = next(iter(data.evaluation(len(rows))))
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), module.config.example())["params"])
    found = dict(
        zip(batch["labels"][:, 0].tolist(), module.apply({"params": params}, batch)[:, 0].tolist(), strict=True)
    )
    save(tmp_path / "model", module.config, params)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [row["a"] for row in rows], [row["b"] for row in rows]
    inputs = tokenizer(*texts, truncation=True, max_length=24, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs).logits[:, 0].numpy()
        untyped = theirs(**{**inputs, "token_type_ids": 0 * inputs["token_type_ids"]}).logits[:, 0].numpy()
    np.testing.assert_allclose([found[row["score"]] for row in rows], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(untyped - expected).max() > 1e-2
