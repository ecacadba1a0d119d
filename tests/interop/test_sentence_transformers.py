"""The vectors of sentence-transformers' models and of qtx's, through a folder on disk."""

from __future__ import annotations

import os

import jax
import numpy as np
import pytest

from qtx.families import build
from qtx.interop import load, save
from qtx.interop.sentence import Modules, read_modules
from qtx.models.pooling import POOLINGS, pooled

try:
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs torch and sentence-transformers: {error}", allow_module_level=True)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "a", "dog", "."]
TEXTS = ["The cat sat on the mat.", "A dog.", "a cat on a dog on a mat"]


def embedded(folder, texts):
    """The vectors `[B, width]` that qtx makes of a folder."""
    config, params = load(folder)
    modules = read_modules(folder)
    batch = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
    tokens, mask = batch["input_ids"].astype(np.int32), batch["attention_mask"].astype(bool)
    with jax.default_matmul_precision("highest"):
        hidden = np.asarray(build(config).apply({"params": params}, {"tokens": tokens, "mask": mask}))
    assert (config.pooling, config.normalize) == modules[:2]
    return np.asarray(pooled(hidden, mask, config.pooling, config.normalize))


def made(folder, modules):
    """A small model with random weights."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    (folder / "encoder").mkdir()
    (folder / "encoder/vocab.txt").write_text("\n".join(WORDS))
    transformers.BertModel(config).save_pretrained(folder / "encoder")
    transformers.BertTokenizerFast(str(folder / "encoder/vocab.txt")).save_pretrained(folder / "encoder")
    parts = [Transformer(str(folder / "encoder")), Pooling(16, modules.pooling)]
    model = SentenceTransformer(modules=[*parts, Normalize()] if modules.normalize else parts, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def check(folder, texts, modules, again):
    assert read_modules(folder) == modules
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    found = embedded(folder, texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    save(again, *load(folder), original=folder)
    np.testing.assert_array_equal(SentenceTransformer(str(again), device="cpu").encode(texts), expected)


@pytest.mark.parametrize("modules", [Modules(name, name == "mean") for name in POOLINGS])
def test_vectors_equal_those_of_the_library(tmp_path, modules):
    check(made(tmp_path, modules), TEXTS, modules, tmp_path / "again")


def test_vectors_of_a_published_model(tmp_path, whole_patient):
    check(whole_patient, [*TEXTS, "Quantization is a map to a finite set."], Modules("mean", True), tmp_path)
